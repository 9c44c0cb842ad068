"""Begins the encoder of assets/encoder, and takes over what a part of its training has reached.

    XLT_DATA=DATA python benchmarks/train_encoder.py begin
    XLT_DATA=DATA xlt-engine run assets/encoder/recipe.toml --stage pretrain --seeds 0 --run-dir runs/encoder
    python benchmarks/train_encoder.py take runs/encoder/seed-0/pretrain
    XLT_DATA=DATA python benchmarks/train_encoder.py compare

`begin` writes a vocabulary, trained on equal amounts of text of each language, and random weights. `take` puts the
weights of a stage in place, in 16 bits, from its end or from its newest checkpoint, and adds its steps to log.tsv. The
next part then trains on from there, with the next seed; on another machine too. `compare` counts the lines of the text
that are sentences of a test set below XLT_DATA, white space and case aside.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xlt_engine.data import Tokenizer, read_text, train_wordpiece
from xlt_engine.engine.storage.files import read_json
from xlt_engine.engine.training.checkpoint import load_latest
from xlt_engine.model import Encoder, MaskedLM, load_masked_lm, save_model
from xlt_engine.model.config import EncoderConfig

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "encoder"
LOG = FOLDER / "log.tsv"
PIECES, BYTES = 24_000, 10_000_000
SHAPE = {"hidden_size": 256, "num_layers": 6, "num_heads": 8, "intermediate_size": 1024, "max_positions": 128}
COLUMNS = ("part", "step", "million tokens", "loss", "rate", "held-out accuracy")
EVERY = 100
SHORTEST = 20
"""Letters of a sentence that is compared; shorter ones are anybody's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["begin", "take", "compare"])
    parser.add_argument("stage", type=Path, nargs="?", help="folder of the stage")
    arguments = parser.parse_args()
    if arguments.what == "begin":
        begin()
    elif arguments.what == "compare":
        compare()
    else:
        take(arguments.stage)


def begin() -> None:
    """Vocabulary and random weights."""
    tokenizer = train_wordpiece(_sample(), PIECES)
    tokenizer.save(FOLDER, max_length=SHAPE["max_positions"])
    rest: dict[str, Any] = {"dropout": 0.1, "attention_dropout": 0.1, "initializer_range": 0.03}
    config = EncoderConfig(vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id, **SHAPE, **rest)
    save_model(MaskedLM(Encoder(config, seed=0), seed=1), FOLDER, dtype="float16")
    LOG.write_text("\t".join(COLUMNS) + "\n", encoding="utf-8")


def _sample() -> Iterator[str]:
    """Some `BYTES` of text of each language, at equal distances in its files."""
    for lines in _texts():
        size = sum(len(line.encode()) for line in lines)
        yield from itertools.islice(lines, 0, None, max(1, size // BYTES))


def _texts() -> Iterator[list[str]]:
    """The lines of each language."""
    recipe = tomllib.loads((FOLDER / "recipe.toml").read_text(encoding="utf-8"))
    for table in (recipe["source"], *recipe["targets"]):
        paths = [os.path.expandvars(path) for path in table["general"]]
        yield [example.plain for path in paths for example in read_text(path)]


def compare() -> None:
    """Prints how many lines of the text are sentences of test sets."""
    tests = sorted(path for path in Path(os.environ["XLT_DATA"]).glob("*/*/*/*") if path.stem == "test")
    sentences = set[str]()
    for path in tests:
        if path.suffix == ".tsv":
            texts = [row.partition("\t")[2] for row in path.read_text(encoding="utf-8").splitlines()]
        else:
            blocks = path.read_text(encoding="utf-8").split("\n\n")
            texts = ["".join(line.split("\t")[0] for line in block.splitlines()) for block in blocks]
        sentences |= {_plain(text) for text in texts}
    sentences = {text for text in sentences if len(text) >= SHORTEST}
    found = [line for lines in _texts() for line in lines if _plain(line) in sentences]
    sys.stdout.write(f"{len(sentences):,} sentences of {len(tests)} files, {len(found)} lines are one of them\n")
    sys.stdout.writelines(f"  {line}\n" for line in found[:20])


def _plain(text: str) -> str:
    return "".join(text.split()).casefold()


def take(stage: Path) -> None:
    """Weights and log of a stage of pre-training, finished or with a checkpoint."""
    if (stage / "stage.json").exists():
        model, trace = load_masked_lm(stage), read_json(stage / "trace.json")
    else:
        checkpoint = load_latest(stage / "checkpoint")
        if checkpoint is None:
            raise SystemExit(f"{stage}: there is no finished stage and no checkpoint")
        model, trace = load_masked_lm(FOLDER), checkpoint.meta["trace"]
        model.load_state_dict({n.removeprefix("model."): t for n, t in checkpoint.tensors.items() if n[:6] == "model."})
    tokenizer = Tokenizer.from_folder(FOLDER)
    save_model(model, FOLDER, dtype="float16")
    tokenizer.save(FOLDER, max_length=SHAPE["max_positions"])
    rows = [line.split("\t") for line in LOG.read_text(encoding="utf-8").splitlines()[1:]]
    part, before = (int(rows[-1][0]) + 1, float(rows[-1][2])) if rows else (0, 0.0)
    measured = {point["step"]: point for point in trace["held_out"]}
    with LOG.open("a", encoding="utf-8") as log:
        for end in sorted({*range(EVERY, len(trace["loss"]) + 1, EVERY), *measured, len(trace["loss"])}):
            tokens = before + sum(trace["tokens"][:end]) / 1e6
            loss = statistics.fmean(trace["loss"][max(0, end - EVERY) : end])
            point = measured.get(end, {})
            said = " ".join(f"{name} {v['accuracy']:.4f}" for name, v in point.items() if name != "step")
            log.write(f"{part}\t{end}\t{tokens:.3f}\t{loss:.4f}\t{trace['lr'][end - 1]:.3g}\t{said}\n")


if __name__ == "__main__":
    main()
