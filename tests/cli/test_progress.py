"""`run --progress module:Class`, with the examples for W&B and MLflow and stand-ins for both."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder of the examples; what is imported from there is forgotten afterwards."""
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", sys.path[:])
    for name in ("wandb_progress", "mlflow_progress"):
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]


def trackers(logged: dict[tuple[str, int], float], scores: dict[str, float]) -> dict[str, Any]:
    """Stand-ins that keep what they are told: by name and step, and scores by name."""

    def log(values: dict[str, float]) -> None:
        (at,) = (int(value) for name, value in values.items() if name.endswith("/step"))
        logged.update({(name, at): value for name, value in values.items() if not name.endswith("/step")})

    def log_metric(name: str, value: float, step: int | None = None) -> None:
        if step is None:
            scores[name] = value
        else:
            logged[name, step] = value

    run = SimpleNamespace(define_metric=lambda name, step_metric: None, log=log, summary=scores)
    nothing = {name: lambda *_: None for name in ("set_experiment", "start_run", "end_run")}
    return {
        "wandb": SimpleNamespace(init=lambda project: run, finish=lambda: None),
        "mlflow": SimpleNamespace(log_metric=log_metric, **nothing),
    }


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_hears_losses_rates_and_scores(name: str, here: Any, cli: Any, files: Path, monkeypatch: Any) -> None:
    logged: dict[tuple[str, int], float] = {}
    scores: dict[str, float] = {}
    monkeypatch.setitem(sys.modules, name, trackers(logged, scores)[name])
    place = files / "run"
    listener = f"{name}_progress:{name.capitalize()}Progress"
    options = ["--stage", "finetune", "--set", "btf.on=false", "--set", "finetune.epochs=1", "--run-dir", place]
    answer = cli("run", files / "tiny.toml", *options, "--progress", listener)
    assert answer.code == 0, answer.err
    assert "seed-0/baseline: 4 steps" in answer.err, "the lines of the console"
    expected, marks = {}, {}
    for path in place.glob("seed-0/**/trace.json"):
        stage, trace = path.parent.relative_to(place).as_posix(), json.loads(path.read_bytes())
        for key in ("loss", "lr"):
            expected |= {(f"{stage}/{key}", s): v for s, v in zip(trace["steps"], trace[key], strict=True)}
        if (path.parent / "scores.json").exists():
            rows = json.loads((path.parent / "scores.json").read_bytes())["scores"]
            marks |= {f"{stage}/{r['language']}/{r['metric']}": r["value"] for r in rows}
    assert logged == expected
    assert len({value for (key, _), value in logged.items() if key.endswith("lr")}) > 1
    assert scores == marks
    assert scores


@pytest.mark.parametrize(
    ("listener", "message"),
    [
        ("wandb_progress", "give module:Class"),
        ("no_such_module:Tracker", "No module named 'no_such_module'; install it, or call from the folder of"),
        ("wandb_progress:Tracker", "has no attribute 'Tracker'; give the name of a class"),
        ("json:JSONDecoder", "is not a subclass of xlt_engine.engine.Progress"),
    ],
)
def test_a_wrong_listener_is_an_error(listener: str, message: str, here: None, cli: Any, files: Path) -> None:
    answer = cli("run", files / "tiny.toml", "--run-dir", files / "run", "--progress", listener)
    assert (answer.code, message in answer.err) == (2, True), answer.err
    assert not (files / "run").exists()
