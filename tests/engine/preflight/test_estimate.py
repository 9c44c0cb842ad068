"""Steps, tokens and parameters of the dry run against what a real run did; monotony of time and memory."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from xlt_engine import ConfigError
from xlt_engine.data import BatchSize, ItemView, Part, TaskBatches, TokenStore
from xlt_engine.engine.preflight import cost
from xlt_engine.engine.preflight.cost import Estimate, estimate
from xlt_engine.engine.recipe.load import load_recipe
from xlt_engine.engine.runs import jobs
from xlt_engine.engine.runs.runner import run
from xlt_engine.engine.stages import against_teacher, kind
from xlt_engine.engine.stages.kind import Planned
from xlt_engine.engine.training.loop import StepResult
from xlt_engine.model import EncoderConfig, PackedInput, TaskModel, load_masked_lm, load_task_model

NAMES = {"en": ("Ann Bell", "Oslo", "the man", "sees"), "de": ("Eva Kern", "Bonn", "der Mann", "sieht")}
RECIPE = """
task = "ner"
max_length = 16
pretrain = {epochs = 1, batch_size = 8}
btf = {epochs = 1.5, batch_size = 8, freeze_embeddings = false, cap = 30, lr = 1e-3}
finetune = {lr = 1e-2, epochs = 2, batch_size = 16, head = "mlp"}
training.freeze_layers = 1
selftrain.rounds = 1
selftrain.voters = 2
selftrain.widths = [11, 13]
selftrain.cap = 33
selftrain.soft = {lr = 1e-3, epochs = 1}
selftrain.hard.epochs = 1
selftrain.alpha.rule = "fixed:0.1"
[model.new]
vocab_size = 120
hidden_size = 24
num_layers = 2
num_heads = 2
intermediate_size = 40
[source]
language = "en"
train = "en.conll"
test = "en.conll"
general = ["en.txt"]
[[targets]]
language = "de"
unlabelled = ["de.txt"]
test = "de.conll"
general = ["de.txt", "more.txt"]
"""


def sentence(language: str, number: int) -> tuple[list[str], list[str]]:
    """A sentence of four to seven words with its tags, a function of its arguments."""
    person, place, noun, verb = NAMES[language]
    words = [*noun.split(), verb, *person.split()[: 1 + number % 2], "." if number % 3 else f"{place}{number}"]
    tags = ["O", "O", "O", "B-PER", *(["I-PER"] if number % 2 else []), "O" if number % 3 else "B-LOC"]
    return words, tags


def write_files(folder: Path, counts: dict[str, tuple[int, int]]) -> None:
    """Per language a column file and a text file of so many sentences."""
    for language, (labelled, plain) in counts.items():
        blocks = ["\n".join(map("\t".join, zip(*sentence(language, i), strict=True))) for i in range(labelled)]
        (folder / f"{language}.conll").write_text("\n\n".join(blocks) + "\n", "utf-8")
        lines = [" ".join([*sentence(language, i)[0], f"x{i}"]) for i in range(plain)]
        (folder / f"{language}.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "more.txt").write_text("\n".join(f"noch ein Satz y{i}" for i in range(7)) + "\n", "utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Estimate]:
    """A real run of a tiny recipe, and the estimate made beforehand."""
    folder = tmp_path_factory.mktemp("estimate")
    write_files(folder, {"en": (50, 40), "de": (20, 61)})
    (folder / "xlt.toml").write_text(RECIPE, "utf-8")
    before = sorted(p.name for p in folder.iterdir())
    result = estimate(folder / "xlt.toml", rate=1e10)
    assert sorted(p.name for p in folder.iterdir()) == before
    run(folder / "xlt.toml", run_dir=folder / "run")
    return folder, result


def test_every_stage_is_there_with_its_steps_and_tokens(finished: tuple[Path, Estimate]) -> None:
    folder, result = finished
    kinds = [stage.kind for stage in result.stages]
    assert kinds == ["pretrain", "finetune", "btf", "finetune", "soft", "hard"]
    for stage in result.stages:
        record = json.loads((folder / "run" / stage.id / "stage.json").read_bytes())
        assert (stage.inputs, stage.at_most) == (record["inputs"], stage.kind == "hard")
        assert stage.at_most or stage.tokens == pytest.approx(record["tokens"], rel=0.1, abs=0), stage.id
        assert stage.steps >= record["steps"] if stage.at_most else stage.steps == record["steps"], stage.id
    # 68 German texts against 40 English ones; 50 labelled examples; 30 German texts against 19 different English ones.
    assert [s.steps for s in result.stages[:3]] == [round(2 * 68 / 8), 2 * 4, round(1.5 * 8)]


def test_tokens_read_are_those_that_models_see_without_gradients(
    finished: tuple[Path, Estimate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unlabelled pool is drawn (cap 33 of 61) before anything reads it."""
    folder, _ = finished
    options = ["selftrain.target_filter=token"]
    seen = [0]
    forward = TaskModel.forward

    def counted(self: TaskModel, batch: PackedInput, seed: Any = None) -> torch.Tensor:
        seen[0] += 0 if torch.is_grad_enabled() else batch.token_ids.numel()
        return forward(self, batch, seed)

    monkeypatch.setattr(TaskModel, "forward", counted)
    # Students this small collapse, and are then compared with one model more: an estimate expects sound ones.
    monkeypatch.setattr(against_teacher, "collapses", lambda first, students: [""] * (1 + len(students)))
    resolved = load_recipe(folder / "xlt.toml", options)
    run(resolved, run_dir=tmp_path / "run")
    assert seen[0] == pytest.approx(sum(s.read for s in changed(folder, *options).stages), rel=0.03, abs=0)


def test_parameters_are_those_of_the_real_models(finished: tuple[Path, Estimate]) -> None:
    folder, result = finished
    freezing = {"pretrain": (False, 0), "btf": (False, 1)}
    for stage in result.stages:
        load = load_masked_lm if stage.kind in ("pretrain", "btf") else load_task_model
        model: Any = load(folder / "run" / stage.id)
        model.encoder.freeze(*freezing.get(stage.kind, (True, 1)))
        trains = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert (stage.trainable, stage.frozen) == (trains, sum(p.numel() for p in model.parameters()) - trains)


def test_a_model_folder_gives_the_same_counts(finished: tuple[Path, Estimate]) -> None:
    folder, result = finished
    text = RECIPE[: RECIPE.index("[model.new]")] + '[model]\npath = "run/seed-0/pretrain"\n'
    text += RECIPE[RECIPE.index("[source]") :]
    (folder / "folder.toml").write_text(text, "utf-8")
    other = estimate(folder / "folder.toml", rate=1e10)
    assert [(s.id, s.steps, s.trainable, s.frozen) for s in other.stages] == [
        (s.id, s.steps, s.trainable, s.frozen) for s in result.stages[1:]
    ]
    assert (other.vocab_size, other.labels) == (result.vocab_size, result.labels)


def changed(folder: Path, *overrides: str, seeds: Sequence[int] | None = None, stage: str = "all") -> Estimate:
    return estimate(load_recipe(folder / "xlt.toml", overrides), seeds=seeds, stage=stage, rate=1e10)


def test_selection_and_seeds(finished: tuple[Path, Estimate]) -> None:
    folder, result = finished
    assert [s.kind for s in changed(folder, stage="btf").stages] == ["pretrain", "btf"]
    two = changed(folder, seeds=(3, 4))
    assert len(two.stages) == 2 * len(result.stages)
    assert (two.seconds, two.memory) == (pytest.approx(2 * result.seconds, rel=1e-9, abs=0), result.memory)


def test_cost_grows_with_the_work(finished: tuple[Path, Estimate]) -> None:
    folder, result = finished

    def of(kind: str, estimate: Estimate) -> Any:
        return {s.kind: s for s in estimate.stages}[kind]

    finetune, longer = (of("finetune", e) for e in (result, changed(folder, "finetune.epochs=4")))
    assert (longer.steps, longer.tokens, longer.memory) == (2 * finetune.steps, 2 * finetune.tokens, finetune.memory)
    assert longer.seconds > finetune.seconds
    assert changed(folder, "model.new.hidden_size=48").stages[0].memory > result.stages[0].memory
    assert of("btf", changed(folder, "training.micro_batch=2")).memory < of("btf", result).memory


def test_rendering_says_everything(finished: tuple[Path, Estimate]) -> None:
    folder, result = finished
    text = result.render()
    for stage in result.stages:
        line = next(x for x in text.splitlines() if x.startswith(stage.id))
        assert [n for n in (stage.steps, stage.trainable, stage.frozen) if f"{n:,}" not in line] == []
    assert "base btf, teacher finetune" in text
    assert "estimates" in text
    assert json.loads(json.dumps(result.as_dict()))["seconds"] == result.seconds


def test_paces_are_measured_once_for_equal_steps(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stage takes is what its steps take by themselves, what their tokens take, and what it reads."""
    folder, _ = finished
    paces: cost.Paces = {}
    result = estimate(folder / "xlt.toml", paces=paces)
    kinds = len({(s.kind, s.trainable, s.frozen) for s in result.stages}) - 1  # a student of soft labels is one of hard
    assert len(paces) == kinds
    assert all(pace.token > 0 or pace.step > 0 for pace in paces.values())
    for stage in result.stages:
        took = [stage.steps * p.step + stage.tokens * p.token + stage.read * p.read for p in paces.values()]
        assert any(stage.seconds == pytest.approx(cost.STAGE_SECONDS + t, rel=1e-9) for t in took), stage.id
    assert result.rate > 0
    monkeypatch.setattr(cost, "_measure", lambda *_: 1 / 0)
    assert estimate(folder / "xlt.toml", paces=paces) == result


def test_time_goes_by_the_processor_not_by_the_wall(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call takes a second of each token, and two; the wall's clock stands at a day."""
    folder, _ = finished
    sizes: list[int] = []

    def clock(call: Any, device: torch.device) -> tuple[float, float]:
        done = call()
        tokens = done.tokens if isinstance(done, StepResult) else 0
        sizes.append(tokens)
        return (2.0 + tokens) * torch.get_num_threads(), 86_400.0

    monkeypatch.setattr(cost, "timed", clock)
    monkeypatch.setattr(cost, "PATIENCE", 1e9)
    monkeypatch.setattr(cost, "SMALL", 20)
    stage = estimate(folder / "xlt.toml", stage="pretrain").stages[0]
    assert len(set(sizes)) == 2
    assert stage.seconds == pytest.approx(2 * stage.steps + stage.tokens + cost.STAGE_SECONDS)


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_memory_goes_by_the_largest_batch_of_the_sampler(finished: Any, micro_batch: int, monkeypatch: Any) -> None:
    """Against the packed batches themselves: long texts do not all come together, and micro-batches hold fewer."""
    folder, _ = finished
    stores = [TokenStore.open(path) for path in sorted((folder / "run" / "store").iterdir())]
    store = next(s for s in stores if s.task == "ner" and len(s) == 50 and s.item_labels.max() >= 0)
    part = Part(ItemView(store), np.arange(50), labels=np.asarray(store.item_labels))
    batches = TaskBatches([part], batch_size=8, epochs=2, seed=0, micro_batch=micro_batch)
    made = [batch for step in range(len(batches) // 2) for batch in batches[step]]
    training = SimpleNamespace(epochs=2.0, passes=1)
    stage: Any = SimpleNamespace(kind="half", training=training, seed=3, settings={})
    monkeypatch.setattr(kind, "_KINDS", {"half": SimpleNamespace(batches=lambda run: batches)})
    monkeypatch.setattr(kind, "replace", lambda stage, seed: stage)
    found = kind.planned(SimpleNamespace(), stage)  # type: ignore[arg-type]
    assert found.largest.tokens == max(batch.token_ids.numel() for batch in made)
    assert found.largest.longest <= max(batch.max_seqlen for batch in made)
    assert found.largest.sequences == (micro_batch or 8)
    assert max(batch.token_ids.numel() for batch in batches[found.at]) == found.largest.tokens
    assert (found.tokens, found.steps) == (2 * sum(batch.token_ids.numel() for batch in made), len(batches))


PEAK = """
import torch
from xlt_engine.kernels import packed_attention

def step(length):
    qkv = torch.ones(length, 3, 1, 4, requires_grad=True)
    packed_attention(qkv, torch.tensor([0, length]), length, p=0.1, seed=1).sum().backward()
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])

before = step(64)
print(step(4096) - before)
"""
"""KiB by which the peak of a process grows with one step of one head on 4,096 tokens; ru_maxrss begins with ours."""


def test_memory_of_a_long_sequence_is_that_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of a long sequence are there several times in the backward pass, beside what layers keep of them."""
    shape = EncoderConfig(vocab_size=8, hidden_size=4, num_layers=1, num_heads=1, intermediate_size=8)
    plan = Planned(None, 1, 4096, BatchSize(4096, 1, 0, 4096))
    monkeypatch.setattr(jobs, "encoder_config", lambda context: shape)
    monkeypatch.setattr(jobs, "planned", lambda context, stage: plan)
    monkeypatch.setattr(jobs, "stage_model", lambda context, stage: torch.nn.Module())
    monkeypatch.setattr(jobs, "kind_of", lambda stage: SimpleNamespace(masked=False))
    training = SimpleNamespace(freeze_embeddings=False, freeze_layers=0, recompute=False)
    context: Any = SimpleNamespace(config=SimpleNamespace(inference_tokens=1))
    stage: Any = SimpleNamespace(training=training)
    expected = jobs.stage_memory(context, stage) - jobs.BASE_BYTES
    peak = subprocess.run([sys.executable, "-c", PEAK], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert expected == pytest.approx(int(peak) * 1024, rel=0.1, abs=0)


def test_errors_come_before_any_work(tmp_path: Path) -> None:
    write_files(tmp_path, {"en": (5, 5), "de": (5, 5)})
    (tmp_path / "xlt.toml").write_text(RECIPE, "utf-8")
    with pytest.raises(ConfigError, match="2 layers"):
        estimate(tmp_path / "xlt.toml", overrides=["training.freeze_layers=3"], rate=1e10)
