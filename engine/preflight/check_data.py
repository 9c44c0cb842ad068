"""What `check` finds in the text itself: unreadable rows, foreign labels, test text in training, tokenizer coverage."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ... import DataError, XltError
from ...data import Example, Tokenizer
from ..pseudolabels.diagnostics import cut_by_length
from ..recipe.config import RunConfig, reader_of
from ..recipe.config.files import SCORED, TESTS, DataFile
from ..stages.datasets import file_format, label_set, read_file, read_pairs_of
from ..stages.translated import misfits
from ..storage.run_warning import RunWarning

LISTED = 5
"""Lines that a warning names."""
SAMPLE = 2000
"""Examples of a file that the tokenizer is tried on."""
MAX_UNKNOWN = 0.01
"""Largest share of tokens that the tokenizer does not know."""
MAX_FERTILITY = 3.0
"""Largest number of tokens per word."""

_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a file; `place` is `line` or `line:byte`, None where no line is to blame."""

    file: DataFile
    place: str | None
    message: str
    code: int


@dataclass(frozen=True)
class Coverage:
    """How a tokenizer copes with one language.

    Attributes:
        unknown: share of tokens that are [UNK].
        fertility: tokens per word.
        cut: share of tokens beyond the maximum length.
        longest: tokens of the longest example, special ones included.
    """

    language: str
    examples: int
    words: int
    unknown: float
    fertility: float
    cut: float
    longest: int


def read_all(config: RunConfig, files: Sequence[DataFile]) -> tuple[dict[DataFile, list[Example]], list[Fault]]:
    """The examples of every file that can be read, and the faults of those that cannot."""
    texts: dict[DataFile, list[Example]] = {}
    faults: list[Fault] = []
    done: dict[tuple[Path, str, str], list[Example] | None] = {}
    for file in files:
        kind = "labelled" if file.labelled else "pairs" if file.role == "pairs" else "unlabelled"
        key = (file.path, kind, file.language)  # a file of XNLI may hold all languages
        if key not in done:
            try:
                if file.role == "pairs":
                    done[key] = read_pairs_of(config, file.path, file.language)
                else:
                    done[key] = read_file(config, file.path, unlabelled=not file.labelled, language=file.language)
            except XltError as error:
                done[key] = None
                faults += _faults(file, error)
        examples = done[key]
        if examples is not None:
            texts[file] = examples
    return texts, faults


def _faults(file: DataFile, error: XltError) -> list[Fault]:
    """One fault per line of a reader's message."""
    found = []
    for text in str(error).split("\n"):
        start = re.match(re.escape(str(file.path)) + r":(\d+(?::\d+)?): ", text)
        message = text[start.end() :] if start else text
        if text.startswith("... "):
            message = f"{file.path}: {text[4:]}"
        found.append(Fault(file, start[1] if start else None, message, error.exit_code))
    return found


def known_labels(config: RunConfig, texts: Mapping[DataFile, list[Example]]) -> tuple[str, ...]:
    """The recipe's label set, else that of the source training file; empty where there is neither."""
    if config.labels:
        return config.labels
    train = next((examples for file, examples in texts.items() if file.role == "train"), None)
    return label_set(train, config.task) if train is not None else ()


def label_faults(config: RunConfig, texts: Mapping[DataFile, list[Example]]) -> list[Fault]:
    """Labels outside the label set: each once per file, with its first line and its count."""
    labels = known_labels(config, texts)
    if not labels:
        return []
    faults = translated_test_faults(config, texts)
    for file, examples in texts.items():
        if not file.labelled:
            continue
        # In a column file each word has a line of its own.
        columns = file_format(config, file.path, reader_of(config, file.path, file.language)) == "conll"
        first: dict[str, int] = {}
        counts: Counter[str] = Counter()
        for example in examples:
            tags = (example.labels,) if isinstance(example.labels, str) else example.labels or ()
            for i, tag in enumerate(tags):
                if tag not in labels:
                    counts[tag] += 1
                    first.setdefault(tag, example.line + (i if columns else 0))
        whose = "of the recipe" if config.labels else "of the source training file"
        faults += [
            Fault(
                file,
                str(line),
                f"label {tag!r} ({counts[tag]} times) is not among the labels {whose}: {', '.join(labels)}; "
                "correct the file, list it in labels, or map it with reader.label_map",
                DataError.exit_code,
            )
            for tag, line in first.items()
        ]
    return faults


def translated_test_faults(config: RunConfig, texts: Mapping[DataFile, list[Example]]) -> list[Fault]:
    """Translated test files that do not go line by line with the test files that they stand for."""
    by_key, faults = {file.key: (file, examples) for file, examples in texts.items()}, []
    for i in range(len(config.targets)):
        key = ("targets", i)
        if (*key, "translated_test") not in by_key or (*key, "test") not in by_key:
            continue
        (file, translated), (other, original) = by_key[*key, "translated_test"], by_key[*key, "test"]
        gold = None
        if config.task == "classification":
            gold = [e.labels for e in translated], [e.labels for e in original]
        found = misfits(len(translated), len(original), gold, str(other.path))
        lines = [(None if number is None else translated[number].line, message) for number, message in found]
        faults += [Fault(file, str(line or 1), message, DataError.exit_code) for line, message in lines]
    return faults


def label_warnings(config: RunConfig, texts: Mapping[DataFile, list[Example]]) -> list[RunWarning]:
    """`unseen-label`: a label of the set without a training example; `contradicting-labels`: one text, two labels."""
    training = [examples for file, examples in texts.items() if file.role == "train" and examples]
    if not training:
        return []
    found = []
    seen: set[str] = set()
    for example in (e for examples in training for e in examples):
        seen.update((example.labels,) if isinstance(example.labels, str) else example.labels or ())
    # An I- tag may well be absent: a language of one-word names has none.
    unseen = [x for x in known_labels(config, texts) if x not in seen and not (x[:2] == "I-" and f"B-{x[2:]}" in seen)]
    if unseen:
        message = f"no training example has {', '.join(unseen)}: the model cannot learn them; drop them or add examples"
        found.append(RunWarning("unseen-label", message, {"labels": unseen}))
    return found + [warning for train in training if (warning := _contradictions(train)) is not None]


def _contradictions(train: Sequence[Example]) -> RunWarning | None:
    by_text: dict[int, dict[object, int]] = defaultdict(dict)
    for example in train:
        by_text[_text_key(example)].setdefault(example.labels, example.line)
    twice = [sorted(lines.values()) for lines in by_text.values() if len(lines) > 1]
    if not twice:
        return None
    places = "; ".join(", ".join(map(str, lines)) for lines in twice[:LISTED])
    message = (
        f"{train[0].file}: {len(twice)} texts have different labels on different lines (lines {places}"
        f"{'; ...' if len(twice) > LISTED else ''}): correct or drop them"
    )
    return RunWarning("contradicting-labels", message, {"count": len(twice), "lines": twice[:LISTED]})


def leak_warnings(texts: Mapping[DataFile, list[Example]]) -> list[RunWarning]:
    """`test-text-in-training`: a test text that a stage trains on, compared without white space; one per file pair.

    Unlabelled text counts as training: fitting and self-training read it.
    """
    found = []
    indexes: dict[tuple[Path, str], dict[int, int]] = {}
    for test, examples in texts.items():
        if test.role not in TESTS:
            continue
        seen: set[Path] = set()
        for other, training in texts.items():
            if other.role in TESTS or other.path in seen:
                continue
            seen.add(other.path)
            if other.role == "pairs":  # fitting reads both sides
                training = [replace(e, text=side, pair=None) for e in training for side in (e.text, e.pair)]
            index = indexes.setdefault((other.path, other.role), _first_lines(training))
            lines = [(e.line, index[key]) for e in examples if (key := _text_key(e)) in index]
            if lines:
                found.append(_leak(test, other, len(examples), lines))
    return found


def _leak(test: DataFile, other: DataFile, total: int, lines: list[tuple[int, int]]) -> RunWarning:
    places = ", ".join(f"{a} = {b}" for a, b in lines[:LISTED])
    return RunWarning(
        "test-text-in-training",
        f"{test.path}:{lines[0][0]}: {len(lines)} of {total} test texts are also in {other.path} ({other.role}), lines "
        f"{places}{', ...' if len(lines) > LISTED else ''}: scores will be too good; remove them from one of the files",
        {
            "test": str(test.path),
            "training": str(other.path),
            "role": other.role,
            "count": len(lines),
            "total": total,
            "lines": [list(pair) for pair in lines],
        },
    )


def repeat_warnings(texts: Mapping[DataFile, list[Example]]) -> list[RunWarning]:
    """`repeated-text`: a file of the task's text holds a tenth or more of its texts twice."""
    found = []
    for file, examples in texts.items():
        if file.role not in ("train", "unlabelled") or len(examples) < 2:
            continue
        repeated = len(examples) - len(_first_lines(examples))
        if repeated * 10 >= len(examples):
            message = f"{file.path}: {repeated} of {len(examples)} texts repeat an earlier one; drop the copies"
            found.append(RunWarning("repeated-text", message, {"count": repeated, "total": len(examples)}))
    return found


def _first_lines(examples: Iterable[Example]) -> dict[int, int]:
    lines: dict[int, int] = {}
    for example in examples:
        lines.setdefault(_text_key(example), example.line)
    return lines


def _text_key(example: Example) -> int:
    """Equal for equal texts, however they are cut into words."""
    text = "".join(example.words) if example.words is not None else str(example.text)
    plain = _SPACE.sub("", text) + "\0" + _SPACE.sub("", example.pair or "")
    return int.from_bytes(hashlib.blake2b(plain.encode("utf-8", "replace"), digest_size=8).digest())


def coverage(
    config: RunConfig, texts: Mapping[DataFile, list[Example]], tokenizer: Tokenizer
) -> tuple[list[Coverage], list[RunWarning]]:
    """How the tokenizer copes with each language, on an even sample of each file, and what is wrong with that."""
    rows, found = [], []
    texts = {file: examples for file, examples in texts.items() if file.role != "pairs"}  # of two languages
    languages = list(dict.fromkeys(file.language for file in texts))
    for language in languages:
        sample = [
            (example, config.task == "ner" and file.role in SCORED)
            for file, examples in texts.items()
            if file.language == language
            for example in examples[:: max(1, len(examples) // SAMPLE)]
        ]
        row, cut, tokens = _coverage(language, sample, tokenizer, config.max_length)
        rows.append(row)
        if row.unknown > MAX_UNKNOWN:
            message = (
                f"{language}: {row.unknown:.1%} of the tokens are unknown to the tokenizer, so the model cannot tell "
                "these words apart; take a model whose vocabulary knows the language"
            )
            found.append(RunWarning("unknown-tokens", message, {"language": language, "share": row.unknown}))
        if row.fertility > MAX_FERTILITY:
            message = (
                f"{language}: {row.fertility:.1f} tokens per word: the vocabulary hardly knows the language; expect "
                "weak results, or take another model"
            )
            found.append(
                RunWarning("many-tokens-per-word", message, {"language": language, "fertility": row.fertility})
            )
        warning = cut_by_length(cut, tokens, config.max_length, language=language)
        found += [warning] if warning is not None else []
    return rows, found


def _coverage(
    language: str, sample: Sequence[tuple[Example, bool]], tokenizer: Tokenizer, max_length: int
) -> tuple[Coverage, int, int]:
    """Counts over examples, each with whether a model reads all of it, in windows; and tokens cut, and in all."""
    tagged = [e.words for e, _ in sample if e.words is not None]
    plain = [e for e, _ in sample if e.words is None]
    whole = [w for e, w in sample if e.words is not None] + [False] * len(plain)
    ids = [x.ids for x in tokenizer.encode_words(tagged)]
    ids += [x.ids for x in tokenizer.encode_texts([str(e.text) for e in plain], [e.pair for e in plain])]
    words = sum(map(len, tagged)) + sum(len(f"{e.text} {e.pair or ''}".split()) for e in plain)
    pairs = [False] * len(tagged) + [e.pair is not None for e in plain]
    specials = [tokenizer.num_special(pair) for pair in pairs]
    tokens = sum(len(x) - s for x, s in zip(ids, specials, strict=True))
    unknown = sum(x.count(tokenizer.unk_id) for x in ids)
    cut = sum(max(0, len(x) - max_length) for x, w in zip(ids, whole, strict=True) if not w)
    share = Coverage(
        language,
        len(sample),
        words,
        unknown / max(1, tokens),
        tokens / max(1, words),
        cut / max(1, tokens),
        max(map(len, ids), default=0),
    )
    return share, cut, tokens
