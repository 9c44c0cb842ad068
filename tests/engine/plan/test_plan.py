"""The stage graph: which stages a recipe asks for, and who learns from whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from xlt_engine import ConfigError
from xlt_engine.engine.plan import Stage, digest, fingerprint
from xlt_engine.engine.runs.graph import chosen_stages, make_plan, select

ROOT = "seed-0/de"


@pytest.fixture
def plan(tiny: Callable[[str], Any]) -> Callable[..., dict[str, Stage]]:
    """A function from overrides to the stages by id."""
    run = tiny("ner")

    def make(*overrides: str) -> dict[str, Stage]:
        stages = make_plan(run.resolved(*overrides).config)
        assert len({s.id for s in stages}) == len(stages)
        return {s.id: s for s in stages}

    return make


def rounds(stages: dict[str, Stage]) -> list[str]:
    return [s.id.removeprefix(f"{ROOT}/") for s in stages.values() if s.kind in ("soft", "hard")]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("selftrain.rounds=0", []),
        ("selftrain.rounds=0.5", ["soft1"]),
        ("selftrain.rounds=1", ["soft1", "hard1"]),
        ("selftrain.rounds=1.5", ["soft1", "hard1", "soft2"]),
        ("selftrain.rounds=2", ["soft1", "hard1", "soft2", "hard2"]),
        ('selftrain.stages=["soft", "soft", "soft"]', ["soft1", "soft2", "soft3"]),
        ('selftrain.stages=["hard", "hard"]', ["hard1", "hard2"]),
        ('selftrain.stages=["soft", "soft", "hard"]', ["soft1", "soft2", "hard2"]),
        ('selftrain.stages=["hard", "soft", "hard"]', ["hard1", "soft2", "hard2"]),
        ("selftrain.on=false", []),
    ],
)
def test_sequences(plan: Callable[..., dict[str, Stage]], override: str, expected: list[str]) -> None:
    stages = plan(override)
    assert rounds(stages) == expected
    # The teacher of each student is the last student before it; the first one's is the fine-tuned model.
    chain = ["finetune", *expected]
    for before, name in zip(chain, expected, strict=False):
        assert stages[f"{ROOT}/{name}"].inputs["teacher"] == f"{ROOT}/{before}"


def test_two_rounds(plan: Callable[..., dict[str, Stage]]) -> None:
    stages = plan()
    assert list(stages) == ["seed-0/pretrain", "seed-0/baseline"] + [
        f"{ROOT}/{name}" for name in ("btf", "finetune", "soft1", "hard1", "soft2", "hard2")
    ]
    inputs = {name.removeprefix(f"{ROOT}/"): stage.inputs for name, stage in stages.items()}
    base, btf = "seed-0/pretrain", f"{ROOT}/btf"
    assert inputs["seed-0/pretrain"] == {}
    assert inputs["seed-0/baseline"] == inputs["btf"] == {"base": base}
    assert inputs["finetune"] == {"base": btf}
    assert inputs["soft1"] == {"base": btf, "teacher": f"{ROOT}/finetune"}
    assert inputs["hard1"] == {"base": btf, "teacher": f"{ROOT}/soft1", "student": f"{ROOT}/soft1"}
    assert inputs["soft2"] == {"base": btf, "teacher": f"{ROOT}/hard1", "previous": f"{ROOT}/hard1"}
    assert inputs["hard2"] == {
        "base": btf,
        "teacher": f"{ROOT}/soft2",
        "student": f"{ROOT}/soft2",
        "previous": f"{ROOT}/hard1",
    }
    assert [stages[f"{ROOT}/{n}"].round for n in ("soft1", "hard1", "soft2", "hard2")] == [1, 1, 2, 2]


def test_inputs_come_first(plan: Callable[..., dict[str, Stage]]) -> None:
    stages = plan("arms.control=true", "seeds=[3, 1]", "selftrain.rounds=3")
    order = list(stages)
    for place, stage in enumerate(stages.values()):
        assert all(order.index(other) < place for other in stage.inputs.values())
        assert all(other.split("/")[0] == f"seed-{stage.seed}" for other in stage.inputs.values())
    assert {s.seed for s in stages.values()} == {3, 1}


def test_hard_only_has_no_student_to_start_from(plan: Callable[..., dict[str, Stage]]) -> None:
    stages = plan('selftrain.stages=["hard", "hard"]')
    assert "student" not in stages[f"{ROOT}/hard1"].inputs
    assert "student" not in stages[f"{ROOT}/hard2"].inputs
    assert stages[f"{ROOT}/hard2"].inputs["previous"] == f"{ROOT}/hard1"


def test_restore_finetuned(plan: Callable[..., dict[str, Stage]]) -> None:
    """Every round, not the first alone, starts from the model that was fine-tuned on the source."""
    stages = plan('selftrain.restore="finetuned"')
    assert {stages[f"{ROOT}/{n}"].inputs["start"] for n in rounds(stages)} == {f"{ROOT}/finetune"}
    assert all("start" not in s.inputs for s in plan().values())


def test_without_btf(plan: Callable[..., dict[str, Stage]]) -> None:
    """The base is the pre-trained model itself, and the baseline is the teacher, also where no baseline was asked."""
    stages = plan("btf.on=false", "arms.baseline=false")
    assert f"{ROOT}/btf" not in stages
    assert f"{ROOT}/finetune" not in stages
    assert stages[f"{ROOT}/soft1"].inputs == {"base": "seed-0/pretrain", "teacher": "seed-0/baseline"}


def test_arms(plan: Callable[..., dict[str, Stage]]) -> None:
    assert "seed-0/baseline" not in plan("arms.baseline=false")
    stages = plan("arms.control=true")
    control = stages[f"{ROOT}/control-btf"]
    assert control.inputs == {"base": "seed-0/pretrain"}
    assert control.settings["text"] == "general"
    assert stages[f"{ROOT}/btf"].settings["text"] == "task"
    assert stages[f"{ROOT}/control"].inputs == {"base": control.id}
    assert {s.arm for s in stages.values()} == {None, "baseline", "btf", "selftrain", "control"}


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("pretrain", {"pretrain"}),
        ("btf", {"pretrain", "btf"}),
        ("finetune", {"pretrain", "baseline", "btf", "finetune"}),
        ("selftrain", {"pretrain", "baseline", "btf", "finetune", "soft1", "hard1"}),
        ("evaluate", {"pretrain", "baseline", "btf", "finetune", "soft1", "hard1"}),
        ("all", {"pretrain", "baseline", "btf", "finetune", "soft1", "hard1"}),
    ],
)
def test_select_brings_what_is_needed(plan: Callable[..., dict[str, Stage]], stage: str, expected: set[str]) -> None:
    chosen = select(list(plan("selftrain.rounds=1").values()), stage)
    assert {s.id.split("/")[-1] for s in chosen} == expected


def test_targets_choose_among_the_stages(tiny: Callable[[str], Any]) -> None:
    """What is left are the stages of the whole plan, unchanged: the target's, the shared ones, and what these need."""
    run = tiny("ner")
    text = run.recipe.read_text("utf-8")
    block = text[text.index("[[targets]]") : text.index("[pretrain]")]
    for language in ("fr", "nl"):
        text = text.replace("[pretrain]", block.replace('"de"', f'"{language}"') + "[pretrain]")
    run.recipe.write_text(text, "utf-8")
    config = run.resolved("selftrain.rounds=1").config
    whole = make_plan(config)
    for targets in (["fr"], ["nl", "de"]):
        chosen = chosen_stages(config, targets=targets)
        assert chosen == [s for s in whole if not s.targets or s.targets[0] in targets]
        assert {s.pair for s in chosen} == {None, *targets}
    assert chosen_stages(config) == whole
    assert chosen_stages(config, (3,), "btf", ["fr"]) == [
        s for s in make_plan(config, (3,)) if s.id in ("seed-3/pretrain", "seed-3/fr/btf")
    ]
    for lone in ("btf.on=false", "selftrain.on=false"):
        config = run.resolved("btf.on=false", lone).config
        assert "seed-0/baseline" in [s.id for s in chosen_stages(config, targets=["fr"])]
    with pytest.raises(ConfigError, match="no target 'it'; its targets are de, fr, nl"):
        chosen_stages(config, targets=["fr", "it"])
    with pytest.raises(ConfigError, match="no stage 'seed-0/nl/soft1' of de, fr"):
        chosen_stages(run.resolved().config, stage="seed-0/nl/soft1", targets=["de", "fr"])


@pytest.mark.parametrize(("stage", "override"), [("btf", "btf.on=false"), ("nothing", "btf.on=true")])
def test_select_what_is_not_there(plan: Callable[..., dict[str, Stage]], stage: str, override: str) -> None:
    with pytest.raises(ConfigError, match=f"no stage '{stage}'"):
        select(list(plan(override).values()), stage)


def test_fingerprint_is_flat_json_and_sees_everything(plan: Callable[..., dict[str, Stage]]) -> None:
    stage = plan()[f"{ROOT}/hard1"]
    table = fingerprint(stage, {"base": "a", "student": "b"}, {"source": "c"})
    assert not any(isinstance(v, dict) for v in table.values())
    changes = [
        fingerprint(stage, {"base": "a", "student": "x"}, {"source": "c"}),
        fingerprint(stage, {"base": "a", "student": "b"}, {"source": "x"}),
        fingerprint(plan("seeds=[1]")["seed-1/de/hard1"], {"base": "a", "student": "b"}, {"source": "c"}),
        fingerprint(plan("training.clip=2")[stage.id], {"base": "a", "student": "b"}, {"source": "c"}),
    ]
    assert len({digest(t) for t in [table, *changes]}) == 5
    assert digest(fingerprint(stage, {"student": "b", "base": "a"}, {"source": "c"})) == digest(table)


@pytest.mark.parametrize("override", ["finetune.head=voters", "finetune.head=mlp"])
def test_head_of_the_teacher_is_part_of_its_fingerprint(plan: Callable[..., dict[str, Stage]], override: str) -> None:
    def finetune(*overrides: str) -> str:
        return digest(fingerprint(plan(*overrides)[f"{ROOT}/finetune"], {}, {}))

    assert finetune(override) != finetune()
    # The number of voters matters to a teacher that has voters, and to no other.
    assert (finetune(override, "selftrain.voters=2") != finetune(override)) == ("voters" in override)
