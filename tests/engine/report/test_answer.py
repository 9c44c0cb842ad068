import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xlt_engine.engine import answers, write_report
from xlt_engine.engine.stages.against_teacher import compare
from xlt_engine.engine.summary.answer import command

from .identities import identity

GOOD = {"rate": 0.1, "teacher_rate": 0.1, "largest": 0.5, "teacher_largest": 0.5, "agreement": 0.9}
TRAIL = ("finetune", "soft1", "hard1", "soft2", "hard2")


def make_run(folder: Path, changed: dict[str, dict[str, Any] | None], seed: int = 0, last: str = "hard2") -> Path:
    """A run whose students have good figures but where `changed` says otherwise; None: a stage without figures."""
    (folder / "run.json").write_text(json.dumps({"targets": ["de"]}), "utf-8")
    teacher = ""
    for name in TRAIL[: TRAIL.index(last) + 1]:
        stage, figures = f"seed-{seed}/de/{name}", changed.get(name, {})
        record: dict[str, Any] = {**identity(name), "inputs": {"teacher": teacher} if teacher else {}}
        if teacher and figures is not None:
            record["against_teacher"] = GOOD | figures
        (folder / stage).mkdir(parents=True)
        (folder / stage / "stage.json").write_text(json.dumps(record), "utf-8")
        teacher = stage
    return folder


NOTHING = {"rate": 0.0, "largest": None, "agreement": 0.0}
BESIDE = {"stage": "seed-0/de/finetune", "agreement": 0.3}
APART = {"stage": "seed-0/de/soft1", "agreement": 0.15}
AFTER_NOTHING = {"rate": 0.0, "teacher_rate": 0.0, "largest": None, "teacher_largest": None, "agreement": None}


@pytest.mark.parametrize(
    ("changed", "chosen", "why"),
    [
        ({}, "hard2", "hard 2, the last sound student: agrees with its teacher on 90% of what that one names"),
        (
            {"hard2": NOTHING},
            "soft2",
            "hard 2 has collapsed: names 0.0% of the target's items, a teacher before it 10.0%",
        ),
        ({"hard2": {"agreement": 0.1}}, "soft2", "hard 2 has collapsed: agrees with its teacher on 10.0%"),
        ({"hard2": {"largest": 1.0}}, "soft2", "hard 2 has collapsed: one class has 100.0% of its labels"),
        (dict.fromkeys(TRAIL, NOTHING), "finetune", "BTF, what self-training starts from; soft 1 has collapsed"),
        ({"soft1": NOTHING} | dict.fromkeys(TRAIL[2:], AFTER_NOTHING), "finetune", "soft 1 has collapsed"),
        (
            {"soft1": NOTHING, "hard1": {"teacher_rate": 0.0, "agreement": 0.0, "last_sound": BESIDE}},
            "hard2",
            "hard 2, the last sound student",
        ),
        ({"hard1": {"agreement": 0.1}, "soft2": {"last_sound": BESIDE}}, "hard2", "on 90% of what that one names"),
        (
            {"hard1": {"agreement": 0.1}, "soft2": {"last_sound": BESIDE}, "hard2": {"agreement": 0.1}},
            "soft2",
            "soft 2, the last sound student: agrees with finetune on 30% of what that one names; hard 2 has collapsed",
        ),
        # A student of a collapsed teacher that agrees with it, and not with the last sound model.
        ({"hard1": {"agreement": 0.1}, "soft2": {"last_sound": APART}}, "soft1", "hard 1 has collapsed: agrees with"),
        ({"soft1": {"agreement": 0.1}}, "finetune", "BTF, what self-training starts from; soft 1 has collapsed"),
        # The first teacher gives one class to all, and so do all students.
        (dict.fromkeys(TRAIL, {"largest": 1.0, "teacher_largest": 1.0}), "finetune", "no model is sound, and no"),
        ({"soft1": {"teacher_largest": 0.995}}, "finetune", "BTF: one class has 99.5% of its labels"),
        ({"soft1": {"teacher_rate": 0.0, "agreement": None}}, "finetune", "BTF: names none of the target's items"),
        (dict.fromkeys(TRAIL, None), "hard2", "hard 2, the last student"),
    ],
)
def test_the_last_student_that_has_not_collapsed(tmp_path: Path, changed: Any, chosen: str, why: str) -> None:
    run = make_run(tmp_path, changed)
    (language, found) = next(iter(answers(run).items()))
    assert (language, found.stage, found.folder) == ("de", f"seed-0/de/{chosen}", run / f"seed-0/de/{chosen}")
    assert why in found.reason


def test_of_several_seeds_the_first_that_came_as_far(tmp_path: Path) -> None:
    make_run(tmp_path, {"hard2": NOTHING})
    make_run(tmp_path, {}, seed=1)
    make_run(tmp_path, {}, seed=2)
    found = answers(tmp_path)["de"]
    assert found.stage == "seed-1/de/hard2"
    assert "Of 3 seeds the first" in found.reason


def test_left_out_stages_are_no_answer_though_they_lie_there(tmp_path: Path) -> None:
    run = make_run(tmp_path, {})
    failure = {"folder": "seed-0/de/hard1", "reason": "none accepted", "exit_code": 3}
    failure["left_out"] = ["seed-0/de/soft2", "seed-0/de/hard2"]
    (run / "failed.json").write_text(json.dumps({"failed": [failure]}), "utf-8")
    (run / "seed-0/de/hard1/stage.json").unlink()
    assert answers(run)["de"].stage == "seed-0/de/soft1"
    page = write_report(run).read_text("utf-8")
    assert "seed-0/de/hard1 has failed" in page
    assert "none accepted" in page
    assert page.index("Model for de") < page.index("has failed") < page.index("What happened")


def test_link_is_relative_and_goes_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, {})
    write_report(run)
    assert (run / "models" / "de").readlink() == Path("../seed-0/de/hard2")
    (run / "seed-0/de/hard2/stage.json").unlink()
    write_report(run)
    assert (run / "models" / "de").resolve() == (run / "seed-0/de/soft2").resolve()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError

    monkeypatch.setattr(Path, "symlink_to", refuse)
    write_report(run)
    assert json.loads((run / "models" / "de.json").read_bytes()) == {"model": "../seed-0/de/soft2"}
    assert not (run / "models" / "de").exists()
    assert command(run, "de", answers(run)["de"]) == f"xlt-engine predict {run / 'seed-0/de/soft2'} new.txt"


def test_card_lies_in_the_model_that_is_named_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path, {})
    last = run / "seed-0/de/hard2"
    score = {"language": "de", "role": "target", "metric": "entity_f1", "value": 61.25, "count": 500}
    (last / "scores.json").write_text(json.dumps({"scores": [score]}), "utf-8")
    (last / "xlt.json").write_text(json.dumps({"labels": ["O", "B-PER"]}), "utf-8")
    write_report(run)
    card = (last / "README.md").read_text("utf-8")
    assert card.startswith('---\nlanguage: ["de"]\nlicense: "FILL-IN"\n')
    for part in (
        "| de | target | entity F1 | 61.2 | 500 |",
        "`O`, `B-PER`",
        "hard 2, the last sound student",
        "Not used",
    ):
        assert part in card
    (last / "stage.json").unlink()
    write_report(run)
    assert [path.parent.name for path in run.rglob("README.md")] == ["soft2"]
    filled = run / "seed-0/de/soft2/README.md"
    filled.write_text(filled.read_text("utf-8").replace("FILL-IN", "mit"), "utf-8")
    write_report(run)
    assert 'license: "mit"' in filled.read_text("utf-8")


def test_figures_of_two_models() -> None:
    student, teacher = np.array([0, 1, 1, 0]), np.array([0, 1, 2, 2])
    expected = {"items": 4, "rate": 0.5, "teacher_rate": 0.75, "largest": 1.0, "teacher_largest": 2 / 3}
    assert compare(student, teacher, 0) == expected | {"agreement": 1 / 3}
    of_classes = compare(student, teacher, -1)
    assert (of_classes["rate"], of_classes["agreement"]) == (1.0, 0.5)
    assert compare(student[:1], teacher[:1], 0)["agreement"] is None
