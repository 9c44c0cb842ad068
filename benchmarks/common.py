"""What every benchmark shares: sentences of real length, quantiles, peak memory, and where a number was measured."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xlt_engine.data import derive_seed, read_conll, train_wordpiece
from xlt_engine.data.sampling import rng_for

MAX_LENGTH = 128
VOCABULARY = 20_000
SPECIAL = 5  # ids 0 to 4 of a trained vocabulary: [PAD] [UNK] [CLS] [SEP] [MASK]
PAD, CLS, SEP, MASK = 0, 2, 3, 4
SYNTHETIC = "synthetic: lognormal lengths, median 25, sigma 0.5, 5 to 128 tokens; XLT_DATA is not set"


@dataclass(frozen=True)
class Sentence:
    """Token ids with [CLS] and [SEP], and the position and class (0 to 8) of each word's first token."""

    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray


def load_sentences() -> tuple[dict[str, list[Sentence]], str]:
    """English and German sentences in a fixed random order, and where they come from.

    With XLT_DATA set: the training files of WikiNEuRal below it, in the tokens of a WordPiece vocabulary of 20,000 that
    is trained on them here. Otherwise random ids of a fixed mix of lengths.
    """
    root = os.environ.get("XLT_DATA")
    if not root:
        return {language: _synthetic(language) for language in ("en", "de")}, SYNTHETIC
    folder = Path(root) / "ner" / "wikineural"
    read = {language: read_conll(folder / language / "train.txt", language=language) for language in ("en", "de")}
    words = {language: [list(e.words or ()) for e in examples] for language, examples in read.items()}
    tokenizer = train_wordpiece((" ".join(s) for part in words.values() for s in part), VOCABULARY)
    tags = sorted({tag for part in read.values() for e in part for tag in e.labels or ()})
    sentences = {}
    for language, examples in read.items():
        encoded = tokenizer.encode_words(words[language], max_length=MAX_LENGTH)
        made = [
            Sentence(
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


def _synthetic(language: str, count: int = 8000) -> list[Sentence]:
    rng = rng_for(derive_seed(0, "synthetic", language))
    lengths = np.clip(np.round(np.exp(rng.normal(np.log(25.0), 0.5, count))), 5, MAX_LENGTH).astype(int)
    made = []
    for length in lengths:
        ids = np.concatenate([[CLS], rng.integers(SPECIAL, VOCABULARY, length - 2), [SEP]])
        positions = np.flatnonzero(rng.random(length - 2) < 0.8) + 1
        positions = positions if len(positions) else np.array([1])
        made.append(Sentence(ids, positions, rng.integers(9, size=len(positions))))
    return made


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The 20th, 50th and 80th percentile, and how many values there are."""
    p20, p50, p80 = (float(q) for q in np.percentile(values, [20, 50, 80]))
    return {"p20": p20, "p50": p50, "p80": p80, "n": len(values)}


def timed(call: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """CPU seconds of this process and wall seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() - cpu, time.perf_counter() - wall


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


def environment(threads: int, device: torch.device) -> dict[str, Any]:
    """Machine, versions and commit, for a result file."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": threads,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("torch", "transformers", "numpy", "tokenizers", "triton")},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _commit() -> str:
    root = Path(__file__).resolve().parent.parent
    if shutil.which("git") is None:
        return "unknown"

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return result.stdout.strip()

    dirty = git("status", "--porcelain", "--", "kernels", "model", "engine", "data", "benchmarks/*.py")
    return (git("rev-parse", "HEAD") or "unknown") + (" with local changes" if dirty else "")
