"""The stage graph: which stages a recipe asks for, and who learns from whom."""

from collections.abc import Callable
from typing import Any

import pytest

from xlt_engine import ConfigError
from xlt_engine.engine.plan import Stage, digest, fingerprint
from xlt_engine.engine.runs.graph import chosen_stages, make_plan


@pytest.fixture
def plan(tiny: Any) -> Callable[..., dict[str, Stage]]:
    """A function from overrides to the stages by name."""
    return tiny("ner").plan


def rounds(stages: dict[str, Stage]) -> list[str]:
    return [name.removeprefix("de/") for name, s in stages.items() if s.kind in ("soft", "hard")]


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
        assert stages[f"de/{name}"].inputs["teacher"] == f"seed-0/de/{before}"


HARD = ('selftrain.stages=["hard", "hard"]',)
BARE = ("btf.on=false", "arms.baseline=false")
CONTROL = ("arms.control=true",)


@pytest.mark.parametrize(
    ("overrides", "stage", "inputs"),
    [
        ((), "pretrain", ""),
        ((), "baseline", "base pretrain"),
        ((), "de/btf", "base pretrain"),
        ((), "de/finetune", "base de/btf"),
        ((), "de/soft1", "base de/btf, teacher de/finetune"),
        ((), "de/hard1", "base de/btf, teacher de/soft1, student de/soft1"),
        ((), "de/soft2", "base de/btf, teacher de/hard1, previous de/hard1"),
        ((), "de/hard2", "base de/btf, teacher de/soft2, student de/soft2, previous de/hard1"),
        # Hard stages alone have no student to start from.
        (HARD, "de/hard1", "base de/btf, teacher de/finetune"),
        (HARD, "de/hard2", "base de/btf, teacher de/hard1, previous de/hard1"),
        # Without BTF the base is the pre-trained model, and the baseline the teacher, also where none was asked.
        (BARE, "de/soft1", "base pretrain, teacher baseline"),
        (CONTROL, "de/control-btf", "base pretrain"),
        (CONTROL, "de/control", "base de/control-btf"),
    ],
)
def test_who_learns_from_whom(plan: Any, overrides: tuple[str, ...], stage: str, inputs: str) -> None:
    expected = dict(one.split(" ") for one in inputs.split(", ") if one)
    assert plan(*overrides)[stage].inputs == {role: f"seed-0/{name}" for role, name in expected.items()}


def test_two_rounds(plan: Callable[..., dict[str, Stage]]) -> None:
    stages = plan()
    names = ("btf", "finetune", "soft1", "hard1", "soft2", "hard2")
    assert list(stages) == ["pretrain", "baseline", *(f"de/{name}" for name in names)]
    assert [stages[f"de/{name}"].round for name in names[2:]] == [1, 1, 2, 2]


def test_inputs_come_first(plan: Callable[..., dict[str, Stage]]) -> None:
    stages = plan("arms.control=true", "seeds=[3, 1]", "selftrain.rounds=3")
    order = list(stages)
    for place, stage in enumerate(stages.values()):
        assert all(order.index(other) < place for other in stage.inputs.values())
        assert all(other.split("/")[0] == f"seed-{stage.seed}" for other in stage.inputs.values())
    assert {s.seed for s in stages.values()} == {3, 1}


def test_restore_finetuned(plan: Callable[..., dict[str, Stage]]) -> None:
    """Every round, not the first alone, starts from the model that was fine-tuned on the source."""
    stages = plan('selftrain.restore="finetuned"')
    assert {stages[f"de/{n}"].inputs["start"] for n in rounds(stages)} == {"seed-0/de/finetune"}
    assert all("start" not in s.inputs for s in plan().values())


def test_arms(plan: Callable[..., dict[str, Stage]]) -> None:
    assert "baseline" not in plan("arms.baseline=false")
    assert not {"de/btf", "de/finetune"} & plan(*BARE).keys()
    stages = plan(*CONTROL)
    assert [stages[f"de/{name}"].options["text"] for name in ("control-btf", "btf")] == ["general", "task"]
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
def test_a_stage_brings_what_it_needs(tiny: Any, stage: str, expected: set[str]) -> None:
    chosen = chosen_stages(tiny("ner").resolved("selftrain.rounds=1").config, stage=stage)
    assert {s.id.split("/")[-1] for s in chosen} == expected


def test_targets_choose_among_the_stages(tiny: Any) -> None:
    """What is left are the stages of the whole plan, unchanged: the target's, the shared ones, and what these need."""
    run = tiny("ner")
    block = run.table("[[targets]]", "[pretrain]")
    for language in ("fr", "nl"):
        run.rewrite(("[pretrain]", block.replace('"de"', f'"{language}"') + "[pretrain]"))
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
def test_a_stage_that_is_not_there(tiny: Any, stage: str, override: str) -> None:
    with pytest.raises(ConfigError, match=f"no stage '{stage}'"):
        chosen_stages(tiny("ner").resolved(override).config, stage=stage)


def test_fingerprint_is_flat_json_and_sees_everything(plan: Callable[..., dict[str, Stage]]) -> None:
    stage = plan()["de/hard1"]
    table = fingerprint(stage, {"base": "a", "student": "b"}, {"source": "c"})
    assert not any(isinstance(v, dict) for v in table.values())
    changes = [
        fingerprint(stage, {"base": "a", "student": "x"}, {"source": "c"}),
        fingerprint(stage, {"base": "a", "student": "b"}, {"source": "x"}),
        fingerprint(plan("seeds=[1]")["seed-1/de/hard1"], {"base": "a", "student": "b"}, {"source": "c"}),
        fingerprint(plan("training.clip=2")["de/hard1"], {"base": "a", "student": "b"}, {"source": "c"}),
    ]
    assert len({digest(t) for t in [table, *changes]}) == 5
    assert digest(fingerprint(stage, {"student": "b", "base": "a"}, {"source": "c"})) == digest(table)


@pytest.mark.parametrize("override", ["finetune.head=voters", "finetune.head=mlp"])
def test_head_of_the_teacher_is_part_of_its_fingerprint(plan: Callable[..., dict[str, Stage]], override: str) -> None:
    def finetune(*overrides: str) -> str:
        return digest(fingerprint(plan(*overrides)["de/finetune"], {}, {}))

    assert finetune(override) != finetune()
    # The number of voters matters to a teacher that has voters, and to no other.
    assert (finetune(override, "selftrain.voters=2") != finetune(override)) == ("voters" in override)
