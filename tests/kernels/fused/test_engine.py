"""Every kind of stage on the fused path decides as on the reference path: a tiny run of each task on both.

They start from an encoder that the reference path has pre-trained, so that few steps make models with something to
decide about. `XLT_FUSED=all` takes classification and the methods beside the core, too: slow in the interpreter.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from xlt_engine.engine.stages import kind
from xlt_engine.kernels import dispatch

from ...engine.conftest import Tiny

TEXTS = 12
COMMON = (
    'precision="fp32"',
    "model.new.hidden_size=32",
    "model.new.num_heads=1",
    "model.new.vocab_size=300",
    "checkpoint.seconds=600",
)
PRETRAINED = ("pretrain.epochs=40", "pretrain.lr=5e-3")
METHOD = (
    *PRETRAINED,
    "btf.epochs=0.3",
    "selftrain.rounds=1",
    "selftrain.soft.epochs=3",
    'selftrain.alpha.rule="second-difference"',
)
NER = (*METHOD, "training.freeze_embeddings=true", "finetune.lr=2e-2")
LR = "lr=5e-3"
TEXT_CLASSES = (
    *METHOD,
    'pooling="mean"',
    "arms.baseline=false",
    f"finetune.{LR}",
    f"selftrain.soft.{LR}",
    "contrastive.on=true",
    "contrastive.epochs=1",
    f"contrastive.{LR}",
    "cotrain.on=true",
    'cotrain.modes=["self-a"]',
    "cotrain.iterations=2",
    "cotrain.threshold=0.5",
    "cotrain.batch_size=8",
    f"cotrain.{LR}",
)
CASES = {
    "ner": (NER, {"btf", "finetune", "soft", "hard"}),
    "classification": (TEXT_CLASSES, {"btf", "finetune", "soft", "hard", "align", "cotrain"}),
}
"""Options, and the kinds of stages that they make."""
CHOSEN = CASES if os.environ.get("XLT_FUSED") == "all" else ("ner",)
BITS = {"hashes", "checksum"}
"""Entries of a decision that are hashes."""
ROUNDING = 1e-3
"""Relative difference of numbers that are not whole."""
WEIGHTS = 5e-3
"""The same of all weights: AdamW takes a full step also where the gradient is rounding alone."""


class Both:
    """The same runs on both paths."""

    def __init__(self, folder: Path, case: str, device: torch.device) -> None:
        task = "ner" if case == "ner" else "classification"
        self.run = Tiny(folder, task)
        self.options = (*COMMON, f'device="{device.type}"')
        if task == "classification":
            self._general_text()
        self._shorten()

    def _general_text(self) -> None:
        """Sentences about the classes."""
        folder = self.run.folder
        train, german = ((folder / name).read_text("utf-8").splitlines() for name in ("train.tsv", "de.txt"))
        for name, lines in (("en", [line.split("\t")[0] for line in train[1:]]), ("de", german)):
            (folder / f"general-{name}.txt").write_text("\n".join(lines) + "\n", "utf-8")

    def _shorten(self) -> None:
        for file in self.run.folder.iterdir():
            between = "\n\n" if file.suffix == ".conll" else "\n"
            if file.suffix in (".conll", ".tsv") or file.name == "de.txt":
                parts = file.read_text("utf-8").rstrip("\n").split(between)
                file.write_text(between.join(parts[: TEXTS + (file.suffix == ".tsv")]) + "\n", "utf-8")

    def pretrain(self, *options: str) -> None:
        """The encoder, where each path finds it."""
        with dispatch.using("reference"):
            self.run.run(*self.options, *options, stage="pretrain", where="reference")
        shutil.copytree(self.run.folder / "reference", self.run.folder / "triton")

    def make(self, *options: str, **more: Any) -> list[Path]:
        """Runs both; the stages that were made, below the folder of each."""
        for path in ("reference", "triton"):
            with dispatch.using(path):
                done = self.run.run(*self.options, *options, where=path, **more).done
        return [Path(stage) for stage in done]

    def differences(self, stage: Path) -> Iterator[str]:
        """What a stage has on one path and not on the other."""
        found, expected = (self.run.folder / path / stage for path in ("triton", "reference"))
        for file in sorted(expected.iterdir()):
            if file.name in ("trace.json", "scores.json", "decision.json", "picks.json"):
                yield from differ(*(json.loads((f / file.name).read_bytes()) for f in (found, expected)), file.name)
            elif file.suffix == ".safetensors":
                bound = WEIGHTS if file.name.startswith("model") else ROUNDING
                yield from differ_in_arrays(found / file.name, file, bound)


def differ(found: Any, expected: Any, place: str) -> Iterator[str]:
    """Where two contents are not the same."""
    if isinstance(expected, dict) and found.keys() == expected.keys():
        for key in expected.keys() - BITS:
            yield from differ(found[key], expected[key], f"{place}: {key}")
    elif isinstance(expected, list) and len(found) == len(expected):
        for index, pair in enumerate(zip(found, expected, strict=True)):
            yield from differ(*pair, f"{place}: {index}")
    elif found != (pytest.approx(expected, rel=ROUNDING) if isinstance(expected, float) else expected):
        yield f"{place} {found}, not {expected}"


def differ_in_arrays(found: Path, expected: Path, bound: float) -> Iterator[str]:
    """Labels and the like exactly; real numbers all together, by their norm."""
    ours, theirs = load_file(found), load_file(expected)
    assert ours.keys() == theirs.keys()
    real = [name for name, x in theirs.items() if x.is_floating_point()]
    yield from (f"{expected.name}: {n}" for n in theirs.keys() - real if not torch.equal(ours[n], theirs[n]))
    if real:
        a, b = (torch.cat([tensors[name].double().flatten() for name in real]) for tensors in (ours, theirs))
        known = b.isfinite()
        assert torch.equal(known, a.isfinite())
        error = float((a - b)[known].norm() / b[known].norm())
        if error > bound:
            yield f"{expected.name}: {error:.1e}"


@pytest.mark.parametrize("case", CHOSEN)
def test_every_stage_equals_that_of_the_reference(case: str, tmp_path: Path, device: torch.device) -> None:
    both, (options, kinds) = Both(tmp_path, case, device), CASES[case]
    both.pretrain(*options)
    stages = both.make(*options)
    made = {json.loads((both.run.folder / "triton" / stage / "stage.json").read_bytes())["kind"] for stage in stages}
    assert made == kinds
    assert {str(stage): list(both.differences(stage)) for stage in stages} == {str(stage): [] for stage in stages}


def test_pre_training_equals_that_of_the_reference(tmp_path: Path, device: torch.device) -> None:
    both = Both(tmp_path, "ner", device)
    (stage,) = both.make("pretrain.epochs=0.4", stage="pretrain")
    assert list(both.differences(stage)) == []


def test_all_kinds_are_here() -> None:
    assert set[str]().union(*(kinds for _, kinds in CASES.values())) | {"pretrain"} == kind._KINDS.keys()
