"""The first 20 losses of each kind of stage, as they were when the results of the project were made.

A change of the numbers is a change of every result: raise `plan.NUMERICS`, say so in the changelog, and write the
files again with `XLT_REGENERATE=1 pytest tests/engine/runs/test_golden.py`. The runs use fp32 and one thread;
processors differ in the last bits, hence the tolerance of 1e-4. No item is filtered, so that no bit decides about a
label.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden"
STEPS, TOLERANCE = 20, 1e-4
KINDS = {"btf": "de/btf", "finetune": "de/finetune", "soft": "de/soft1", "hard": "de/hard1"}
OVERRIDES = (
    "selftrain.rounds=1",
    "selftrain.target_filter=none",
    "selftrain.source_filter=none",
    "arms.baseline=false",
    "checkpoint.seconds=60",
    # 48 examples an epoch where two languages meet, 24 elsewhere, in batches of 8.
    f"btf.epochs={STEPS / 6}",
    f"finetune.epochs={STEPS / 3}",
    f"selftrain.soft.epochs={STEPS / 3}",
    f"selftrain.hard.epochs={STEPS / 6}",
    "btf.lr=1e-3",
    "finetune.lr=2e-3",
    "selftrain.soft.lr=2e-3",
    "selftrain.hard.lr=1e-3",
)


@pytest.mark.parametrize("task", ["ner", "classification"])
def test_losses(tiny: Any, task: str) -> None:
    run = tiny(task)
    run.run(*OVERRIDES)
    found = {}
    for kind, stage in KINDS.items():
        trace = run.json(f"{stage}/trace.json")
        assert trace["steps"] == list(range(1, STEPS + 1))
        found[kind] = {name: trace[name] for name in ("loss", "grad_norm", "lr", "tokens", "valid")}
    file = GOLDEN / f"{task}.json"
    if os.environ.get("XLT_REGENERATE") == "1":
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(file.read_bytes())
    assert golden.keys() == found.keys()
    for kind, columns in golden.items():
        assert found[kind]["tokens"] == columns["tokens"], kind
        assert found[kind]["valid"] == columns["valid"], kind
        assert found[kind]["lr"] == pytest.approx(columns["lr"], rel=1e-12, abs=0), kind
        for name in ("loss", "grad_norm"):
            assert found[kind][name] == pytest.approx(columns[name], rel=TOLERANCE, abs=0), (kind, name)
