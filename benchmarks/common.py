"""What the benchmarks have beside the package's own (engine/bench/): sentences of real length, peak memory, and the
head of a results file."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from step_bench.work import Text, draw_texts

from xlt_engine.data import read_conll, rng_for, train_wordpiece
from xlt_engine.engine.plan import NUMERICS
from xlt_engine.engine.storage.run_folder import environment, git_commit

MAX_LENGTH = 128
VOCABULARY = 20_000
SENTENCES = 8000
SYNTHETIC = "random ids in lengths like CoNLL's; XLT_DATA is not set"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("|" + "|".join(cell.replace("|", "\\|") for cell in row) + "|" for row in rows)


def machine_of(info: dict[str, Any]) -> str:
    """The machine in words, from what `engine.rundir.environment` says of it: no name of a host."""
    threads = f"{info['threads']} thread" + "s" * (info["threads"] > 1)
    machine = [info.get("cpu") or info["machine"], info["cpu_capability"], info["cuda"], threads]
    return ", ".join(part for part in machine if part)


def made(command: str, seeds: Sequence[int], *, trained: bool = True) -> dict[str, Any]:
    """How a results file was made, here and now; its `numerics` is null where nothing was trained."""
    found = environment()
    return {
        "versions": found["versions"],
        "machine": machine_of(found),
        "numerics": NUMERICS if trained else None,
        "transcribed": False,
        "command": command,
        "commit": git_commit(Path(__file__).parent),
        "seeds": list(seeds),
    }


def load_sentences() -> tuple[dict[str, list[Text]], str]:
    """English and German sentences in a fixed random order, and where they come from.

    With XLT_DATA set: the training files of WikiNEuRal below it, in the tokens of a WordPiece vocabulary of 20,000 that
    is trained on them here. Otherwise random ids of a fixed mix of lengths.
    """
    root = os.environ.get("XLT_DATA")
    if not root:
        return draw_texts("conll", SENTENCES, vocabulary=VOCABULARY), SYNTHETIC
    folder = Path(root) / "ner" / "wikineural"
    read = {language: read_conll(folder / language / "train.txt", language=language) for language in ("en", "de")}
    words = {language: [list(e.words or ()) for e in examples] for language, examples in read.items()}
    tokenizer = train_wordpiece((" ".join(s) for part in words.values() for s in part), VOCABULARY)
    tags = sorted({tag for part in read.values() for e in part for tag in e.labels or ()})
    sentences = {}
    for language, examples in read.items():
        encoded = tokenizer.encode_words(words[language], max_length=MAX_LENGTH)
        made = [
            Text(
                np.array(tokens.ids),
                np.array(tokens.positions),
                np.array([tags.index(e.labels[w]) for w in tokens.words]),
            )
            for tokens, e in zip(encoded, examples, strict=True)
            if e.labels and tokens.positions
        ]
        order = rng_for(0, "sentences", language).permutation(len(made))
        sentences[language] = [made[i] for i in order]
    return (
        sentences,
        f"WikiNEuRal en + de train, WordPiece of {tokenizer.vocab_size} trained on them, cut at {MAX_LENGTH}",
    )


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def resident() -> float:
    """Resident memory of this process now, MiB."""
    return _status("VmRSS")


def reset_peak() -> None:
    """Starts `peak` anew, so that the memory of building a model does not count (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """Peak resident memory since `reset_peak`, MiB."""
    return _status("VmHWM")


def whole_peak() -> float:
    """Peak resident memory of the whole process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
