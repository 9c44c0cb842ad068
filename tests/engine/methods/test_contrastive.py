"""Contrastive language adaptation: its losses by hand and in fp64, and its two phases as stages of a run."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt_engine import DataError, Interrupted
from xlt_engine.data import pack, pad_to_bucket
from xlt_engine.data.batches.buckets import BatchSize, choose_buckets
from xlt_engine.engine import check
from xlt_engine.engine.methods import contrastive
from xlt_engine.engine.methods.contrastive import LabelAlignment, SemanticAlignment
from xlt_engine.engine.plan import fingerprint
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, TaskModel

from ..conftest import Watch

ON = (
    *("contrastive.on=true", "contrastive.lr=2e-2", "contrastive.batch_size=8", "contrastive.semantic.lr=5e-3"),
    *("selftrain.on=false", "btf.on=false", "checkpoint.seconds=60"),
)


def stand_in(features: Tensor, logits: Tensor) -> Any:
    """A model whose head reads these features and says these logits."""
    return SimpleNamespace(features=lambda batch, seed: features, read=lambda x, batch, seed: logits[None])


def batch_of(labels: list[int], weights: list[float] | None = None) -> Any:
    rows = None if weights is None else [[w] for w in weights]
    return pack([[1]] * len(labels), labels=[[y] for y in labels], weights=rows)


def test_label_alignment_by_hand() -> None:
    """Three texts at right angles, classes 0, 0, 1, temperature 1, no opinion on the classes: 3 log 2.

    x1 = (1, 0), x2 = (0, 1), x3 = (-1, 0). Anchor x1: log(e^0 + e^-1) - 0; anchor x2: log(e^0 + e^0) - 0; x3 is alone.
    """
    features = torch.tensor([[5.0, 0.0], [0.0, 0.1], [-1.0, 0.0]], dtype=torch.float64)
    model = stand_in(features, torch.zeros(3, 2, dtype=torch.float64))
    contrast = math.log(1 + math.exp(-1)) + math.log(2)
    found = LabelAlignment(1.0, 0.5)(model, batch_of([0, 0, 1]), 0)
    assert found.item() == pytest.approx(3 * math.log(2) + 0.5 * contrast, rel=1e-12)
    assert contrast == pytest.approx(0.3133 + 0.6931, abs=1e-4)
    # Aligned among the first two alone, each is all that the other sees.
    masked = LabelAlignment(1.0, 0.5)(model, batch_of([0, 0, 1], [1, 1, 0]), 0)
    assert masked.item() == pytest.approx(3 * math.log(2), rel=1e-12)
    without = LabelAlignment(1.0, 0.0)(model, batch_of([0, 0, 1]), 0)
    assert without.item() == pytest.approx(3 * math.log(2), rel=1e-12)


def test_semantic_alignment_by_hand() -> None:
    """One text, two translations, two texts of other classes; temperature 1/2.

    h = (1, 0); h1 = (1, 0), h2 = (0, 1); others (-1, 0) and (0, -1). Similarities 2, 0, -2, 0; with
    Z = e^2 + e^0 + e^-2 + e^0 the sum over the translations of log Z - s is 2 log Z - 2 = 2.5080...
    """
    features = torch.tensor([[1, 0], [2, 0], [0, 3], [-1, 0], [0, -1]], dtype=torch.float64)
    model = stand_in(features, torch.zeros(5, 3, dtype=torch.float64))
    total = math.exp(2) + 2 + math.exp(-2)
    contrast = 2 * math.log(total) - 2
    assert contrast == pytest.approx(2.508, abs=1e-3)
    found = SemanticAlignment(0.5, 0.25)(model, batch_of([0, 0, 0, 1, 2], [2, 0, 0, 0, 0]), 0)
    # Divided by the five texts: log 3 of cross entropy, and a quarter of the contrast.
    assert found.item() / 5 == pytest.approx(math.log(3) + 0.25 * contrast, rel=1e-12)


def small_model(dtype: torch.dtype = torch.float64) -> TaskModel:
    config = EncoderConfig(30, 8, 1, 2, 16, 12, dropout=0.0, attention_dropout=0.0)
    head = LinearHead(8, 3, 0.0, seed=1)
    return TaskModel(Encoder(config, seed=1), head, "classification", ("A", "B", "C")).to(dtype)


@pytest.mark.parametrize("kind", ["label", "semantic"])
def test_losses_and_gradients_of_a_model_in_fp64(kind: str) -> None:
    """Against the equations, from the encoder's own [CLS] states; padding of a static shape changes nothing."""
    model, tau, weight = small_model(), 0.2, 0.7
    labels = torch.tensor([0, 0, 0, 2, 1]) if kind == "semantic" else torch.tensor([0, 1, 0, 1, 2])
    texts = [[2, 5, 6], [2, 7], [2, 8, 9, 10], [2, 11, 5], [2, 4]]
    weights = [[2.0], [0.0], [0.0], [0.0], [0.0]] if kind == "semantic" else None
    batch = pack(texts, labels=[[int(y)] for y in labels], weights=weights)
    objective: Any = (SemanticAlignment if kind == "semantic" else LabelAlignment)(tau, weight)
    h = model.encoder(batch, rows=batch.item_index).hidden
    logits = h @ model.head.weight.T + model.head.bias
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    z = h / h.norm(dim=1, keepdim=True)
    s = z @ z.T / tau

    def term(i: int, j: int) -> Tensor:
        return torch.log(sum(s[i, k].exp() for k in range(5) if k != i)) - s[i, j]

    if kind == "semantic":
        expected = expected + weight * 5 * (term(0, 1) + term(0, 2))
    else:
        expected = expected + weight * (term(0, 2) + term(2, 0) + term(1, 3) + term(3, 1))
    parameters = [p for p in model.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)
    bucket = choose_buckets([BatchSize.of(batch)])[0]
    for given in (batch, pad_to_bucket(batch, bucket)):
        found = objective(model, given, 0)
        assert found.item() == pytest.approx(expected.item(), rel=1e-10)
        for a, b in zip(torch.autograd.grad(found, parameters, allow_unused=True), wanted, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                assert torch.allclose(a, b, rtol=1e-8, atol=1e-12)


def test_a_batch_of_single_classes_is_cross_entropy() -> None:
    model = small_model(torch.float32)
    batch = pack([[2, 5], [2, 6], [2, 7]], labels=[[0], [1], [2]])
    found = LabelAlignment(0.01, 1.0)(model, batch, 0)
    assert found.item() == pytest.approx(LabelAlignment(0.01, 0.0)(model, batch, 0).item())
    gradients = torch.autograd.grad(found, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    assert all(bool(g.isfinite().all()) for g in gradients if g is not None)


class Bilingual:
    """The tiny recipe with translations of its development texts."""

    def __init__(self, run: Any) -> None:
        self.run = run
        originals = (run.folder / "dev.tsv").read_text("utf-8").splitlines()
        self.write("bi-en.tsv", originals)
        words = {"the": "das", "book": "Buch", "about": "über", "good": "gut", "fine": "fein", "bad": "schlecht"}
        self.write("bi-de.tsv", [" ".join(words.get(w, w) for w in line.split(" ")) for line in originals])

    def write(self, name: str, lines: list[str]) -> None:
        (self.run.folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def overrides(self) -> tuple[str, ...]:
        folder = self.run.folder
        return (
            *ON,
            f'contrastive.translations={{de="{folder}/bi-de.tsv"}}',
            f'contrastive.originals="{folder}/bi-en.tsv"',
        )


@pytest.fixture
def two(tiny: Any) -> Bilingual:
    return Bilingual(tiny("classification"))


def test_both_phases_run_and_are_marked(two: Bilingual) -> None:
    result = two.run.run(*two.overrides)
    assert [s.rpartition("/")[2] for s in result.done] == ["pretrain", "baseline", "la", "sa"]
    la, sa = two.run.stage("la"), two.run.stage("sa")
    assert (la["source_examples"], la["translations"], la["uses_parallel_data"]) == (24, 16, True)
    assert (sa["originals"], sa["languages"], sa["uses_parallel_data"]) == (16, ["de"], True)
    # 24 source texts and 16 translations in two epochs; 16 groups of 3 texts in two epochs, 8 // 3 = 2 in a step.
    assert sum(two.run.json("la/trace.json")["valid"]) == 2 * 40
    trace = two.run.json("sa/trace.json")
    assert (sum(trace["valid"]), len(trace["steps"])) == (2 * 16 * 3, 2 * 8)
    # The second phase goes on from the first.
    first = two.run.run(*two.overrides, "contrastive.semantic.on=false", where="first")
    assert [s.rpartition("/")[2] for s in first.done] == ["pretrain", "baseline", "la"]
    marks = {r["stage"]: r["uses_parallel_data"] for r in result.summary["rows"]}
    assert marks == {"zero-shot": False, "la": True, "sa": True}
    assert two.run.json("la/stage.json", "first")["hashes"]["model.safetensors"] == la["hashes"]["model.safetensors"]
    page = result.report.read_text("utf-8")
    assert "semantic alignment" in page
    assert check(two.run.recipe, two.overrides, rate=1e9).ok
    assert two.run.run(*two.overrides).done == ()


def test_on_the_source_alone_nothing_is_marked(tiny: Any) -> None:
    run = tiny("classification")
    result = run.run(*ON)
    assert [s.rpartition("/")[2] for s in result.done] == ["pretrain", "baseline", "la"]
    assert run.stage("la")["uses_parallel_data"] is False
    assert sum(run.json("la/trace.json")["valid"]) == 2 * 24
    plain = run.run(*ON, "contrastive.weight=0", where="plain")
    loss = [run.json("la/trace.json", where)["loss"] for where in ("run", "plain")]
    # The same texts and masks: what is more is the contrast.
    assert loss[0][0] > loss[1][0]
    assert plain.done[-1] == "seed-0/la"


@pytest.mark.parametrize("align", ["source", "translations"])
def test_whose_texts_are_aligned(two: Bilingual, align: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contrast sees the labels of one part only; the cross entropy sees all."""
    seen: list[int] = []
    contrast = contrastive.supervised_contrastive

    def spy(features: Tensor, labels: Tensor, **options: Any) -> Tensor:
        seen.append(int((labels != -100).sum()))
        return contrast(features, labels, **options)

    monkeypatch.setattr(contrastive, "supervised_contrastive", spy)
    two.run.run(*two.overrides, f"contrastive.align={align}", "contrastive.semantic.on=false")
    assert sum(seen) == 2 * (24 if align == "source" else 16)
    assert sum(two.run.json("la/trace.json")["valid"]) == 2 * 40


def test_interrupted_phases_go_on_to_the_same_bits(two: Bilingual) -> None:
    two.run.run(*two.overrides)
    watch = Watch()
    stop = {"progress": watch, "should_stop": lambda: 15 * (watch.steps.count("seed-0/sa") == 3)}
    with pytest.raises(Interrupted):
        two.run.run(*two.overrides, where="cut", **stop)
    assert two.run.run(*two.overrides, where="cut").done == ("seed-0/sa",)
    assert two.run.weights("sa") == two.run.weights("sa", "cut")


def test_originals_and_translations_must_go_together(two: Bilingual) -> None:
    lines = (two.run.folder / "bi-de.tsv").read_text("utf-8").splitlines()
    two.write("bi-de.tsv", lines[:-1])
    with pytest.raises(DataError, match=r"bi-de\.tsv:1: has 15 texts, .*bi-en\.tsv has 16"):
        two.run.run(*two.overrides)
    two.write("bi-de.tsv", [*lines[:3], lines[4], lines[3], *lines[5:]])
    with pytest.raises(DataError, match=r"bi-de\.tsv:1: text number 3 has another label"):
        two.run.run(*two.overrides)
    # Nothing was trained before the fault was found.
    assert not (Path(two.run.folder) / "run" / "seed-0").exists()


def test_plan(two: Bilingual) -> None:
    stages = two.run.plan(*two.overrides)
    assert stages["la"].inputs == {"base": "seed-0/pretrain"}
    assert stages["sa"].inputs == {"start": "seed-0/la"}
    assert stages["sa"].training.lr == 5e-3
    assert stages["sa"].settings["contrastive.semantic.weight"] == 0.5


def test_memory_cuts_only_what_the_loss_allows(two: Bilingual) -> None:
    """Halving on the way would change what is compared, and a text with its translations and negatives is one."""

    def parts(value: str) -> list[int | str]:
        plan = two.run.plan(*two.overrides, f"training.micro_batch={value}")
        return [s.training.micro_batch for s in plan.values() if s.arm == "contrastive"]

    assert (parts("auto"), parts("4")) == ([0, 0], [4, 0])


def test_how_alignment_is_cut_decides_its_result(two: Bilingual) -> None:
    """Other stages are the same in parts; here texts are compared within theirs."""
    plans = [two.run.plan(*two.overrides, f"training.micro_batch={n}") for n in (0, 4)]
    stamps = [{name: fingerprint(stage, {}, {}) for name, stage in plan.items()} for plan in plans]
    assert {name for name in stamps[0] if stamps[0][name] != stamps[1][name]} == {"la"}
