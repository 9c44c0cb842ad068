import json
from pathlib import Path
from typing import Any

import pytest

from xlt_engine.kernels import dispatch


def test_bench_kernels(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    with dispatch.using("reference"):
        answer = cli(
            "bench", "kernels", "--quick", "--op", "dropout", "--op", "votes", "--device", "cpu", "--json", file
        )
    assert answer.code == 0, answer.err
    result = json.loads(file.read_text())
    assert [case["op"] for case in result["cases"]] == ["votes", "dropout"]
    assert "\nvotes\n" in answer.out
    assert "\ndropout\n" in answer.out
    assert "the reference path against eager torch" in answer.out
    assert "[2/2, " in answer.err


def test_errors_of_bench(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = cli("bench", "kernels", "--op", "vote")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: there is no operation 'vote'; did you mean votes?")
    assert cli("bench", "walk").code == 2

    from xlt_engine.engine.bench import kernels as bench

    monkeypatch.setattr(bench, "own_failures", lambda result: ["votes, a case, xlt-engine: RuntimeError: x"])
    with dispatch.using("reference"):
        answer = cli("bench", "kernels", "--quick", "--op", "votes", "--device", "cpu")
    assert answer.code == 1
    assert "\nvotes\n" in answer.out, "what was measured is shown all the same"
    assert answer.err.splitlines()[-1] == (
        "error: 1 rows of this package failed: votes, a case, xlt-engine: RuntimeError: x"
    )
