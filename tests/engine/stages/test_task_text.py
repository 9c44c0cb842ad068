"""BTF and self-training read one choice of the target's text: each text once, and of a cap the same draw."""

from typing import Any

import numpy as np
import pytest

from xlt_engine.engine.runs.graph import make_plan
from xlt_engine.engine.runs.prepare import make_context
from xlt_engine.engine.stages.masked_lm import btf_text
from xlt_engine.engine.stages.pool import load_pool
from xlt_engine.engine.storage.run_folder import RunDir
from xlt_engine.engine.training.progress import Progress

COUNT, CAP = 400, 120


def texts(number: int) -> str:
    return f"Satz {number}, gesprochen in Wien (Nr. {number * 7})."


@pytest.mark.parametrize("task", ["ner", "classification"])
def test_a_cap_draws_the_same_texts(tiny: Any, task: str) -> None:
    """One text in a hundred stands twice, once with other white space: positions after it must not shift."""
    run = tiny(task)
    lines = [texts(i) for i in range(COUNT)]
    for i in range(0, COUNT, 100):
        lines.insert(i + 50, texts(i) if i else texts(i).replace(" (", "   ("))
    path = run.folder / "de.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run.run(stage="pretrain")
    config = run.resolved(f"btf.cap={CAP}", f"selftrain.cap={CAP}").config
    with RunDir(run.folder / "run") as home:
        context = make_context(config, home, Progress())
        stages = {stage.id.rpartition("/")[2]: stage for stage in make_plan(config)}
        corpus = btf_text(context, stages["btf"]).corpora[-1]
        pool = context.data.target_pool(config.targets[0])
        chosen = load_pool(context, stages["soft1"]).target

    def text(name: str) -> str:
        return lines[int(name.rpartition(":")[2]) - 1]

    fitted = [text(corpus.name(i)) for i in range(len(corpus))]
    trained = [text(pool.example_ids[i]) for i in chosen]
    assert len(pool) == COUNT
    assert len(fitted) == len(set(fitted)) == CAP
    assert set(fitted) == set(trained)
    assert not np.array_equal(chosen, np.arange(CAP))
