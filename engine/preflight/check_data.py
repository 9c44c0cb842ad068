"""What `check` finds in the text itself: unreadable rows, foreign labels, test text in training, tokenizer coverage."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from ... import DataError, XltError
from ...data import Example, Examples, Tokenizer
from ...data.readers.problems import naming
from ...data.store.seen import text_key, unrepeated
from ...tasks import per_word
from ...untrusted import MOST_NAMES, listed, quoted
from ..pseudolabels.diagnostics import cut_by_length
from ..reading.read_file import STREAMED, differ_by_case, file_format, label_set, read_file, stream_file
from ..recipe.config import RunConfig, reader_of
from ..recipe.config.files import SCORED, DataFile
from ..storage.run_warning import RunWarning
from ..storage.text import some

LISTED = 5
"""Lines that a warning names."""
SAMPLE = 2000
"""Examples of a file that the tokenizer is tried on."""
MAX_UNKNOWN = 0.01
"""Largest share of tokens that the tokenizer does not know."""
MAX_FERTILITY = 3.0
"""Largest number of tokens per word."""


class StreamedTexts:
    """Unlabelled text that is read anew each time that one goes over it, once at first, to count it.

    `different` of them are no repeat of one before.
    """

    def __init__(self, read: Callable[[], Iterator[Example]]) -> None:
        self._read, self._count, self.different = read, 0, 0
        for _ in unrepeated(read(), self._add):
            pass

    def _add(self, read: int, new: int) -> None:
        self._count, self.different = self._count + read, self.different + new

    def __iter__(self) -> Iterator[Example]:
        return self._read()

    def __len__(self) -> int:
        return self._count


Texts = Mapping[DataFile, list[Example] | StreamedTexts]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a file; `place` is `line` or `line:byte`, None where no line is to blame."""

    file: DataFile
    place: str | None
    message: str
    code: int = DataError.exit_code


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


def read_all(
    config: RunConfig, files: Sequence[DataFile]
) -> tuple[dict[DataFile, list[Example] | StreamedTexts], list[Fault]]:
    """The examples of every file that can be read, and the faults of those that cannot."""
    texts: dict[DataFile, list[Example] | StreamedTexts] = {}
    faults: list[Fault] = []
    done: dict[tuple[Path, bool, str], list[Example] | StreamedTexts | None] = {}
    for file in files:
        key = (file.path, file.labelled, file.language)  # a file of XNLI may hold all languages
        if key not in done:
            try:
                if file.labelled:
                    done[key] = read_file(config, file.path, language=file.language)
                else:
                    done[key] = _unlabelled(config, file)
            except XltError as error:
                done[key] = None
                faults += _reader_faults(file, error)
        if (examples := done[key]) is not None:
            texts[file] = examples
    return texts, faults


def _unlabelled(config: RunConfig, file: DataFile) -> list[Example] | StreamedTexts:
    """Text as a run reads it; a list where its format is read whole."""
    read = partial(stream_file, config, file.path, language=file.language)
    reader = reader_of(config, file.path, file.language, unlabelled=True)
    with naming(reader.setting):
        streamed = file_format(config, file.path, reader) in STREAMED
    return StreamedTexts(read) if streamed else list(read())


def _reader_faults(file: DataFile, error: XltError) -> Iterator[Fault]:
    """One fault per line of a reader's message."""
    for text in str(error).split("\n"):
        start = re.match(re.escape(str(file.path)) + r":(\d+(?::\d+)?): ", text)
        message = text[start.end() :] if start else re.sub(r"^\.\.\. ", f"{file.path}: ", text)
        yield Fault(file, start[1] if start else None, message, error.exit_code)


def known_labels(config: RunConfig, texts: Texts) -> tuple[str, ...]:
    """The recipe's label set, else that of the source training file; empty where there is neither."""
    if config.labels:
        return config.labels
    train = next((examples for file, examples in texts.items() if file.role == "train"), None)
    return label_set(train, config.task) if train is not None else ()


def label_faults(config: RunConfig, texts: Texts) -> Iterator[Fault]:
    """Labels outside the label set: each once per file, with its first line and its count."""
    labels = dict.fromkeys(known_labels(config, texts))
    whose = "of the recipe" if config.labels else "of the source training file"
    for file, examples in texts.items() if labels else ():
        if not file.labelled:
            continue
        # In a column file each word has a line of its own.
        columns = file_format(config, file.path, reader_of(config, file.path, file.language)) == "conll"
        lines: dict[str, list[int]] = defaultdict(list)
        for example in examples:
            for i, tag in enumerate(example.tags):
                if tag not in labels:
                    lines[tag].append(example.line + (i if columns else 0))
        for tag, numbers in islice(lines.items(), MOST_NAMES):
            message = (
                f"label {quoted(tag)} ({len(numbers)} times) is not among the labels {whose}: {listed(labels)}; "
                "correct the file, list it in labels, or map it with reader.label_map"
            )
            yield Fault(file, str(numbers[0]), message)
        if len(lines) > MOST_NAMES:
            message = f"{len(lines) - MOST_NAMES:,} more labels are not among the labels {whose}"
            yield Fault(file, str(list(lines.values())[MOST_NAMES][0]), message)


def label_warnings(config: RunConfig, texts: Texts) -> Iterator[RunWarning]:
    """`unseen-label`: a label of the set without a training example; `contradicting-labels`: one text, two labels;
    `labels-differ-by-case`; `nested-entities`: of two columns of tags the outer one is read."""
    if alike := differ_by_case(known_labels(config, texts)):
        message = f"{listed(alike)} differ by case alone, and are classes of their own: write them alike, or map them"
        yield RunWarning("labels-differ-by-case", f"{message} with reader.label_map", {"labels": alike})
    for file, examples in texts.items():
        if isinstance(examples, Examples) and examples.counts.get("nested"):
            message = f"{file.path}: the last column has entities within those of the column before it, which is read"
            fix = "set reader.label_column to choose"
            yield RunWarning("nested-entities", f"{message}; {fix}", {"file": str(file.path)})
    training = [examples for file, examples in texts.items() if file.role == "train" and examples]
    seen = {tag for examples in training for example in examples for tag in example.tags}
    # An I- tag may well be absent: a language of one-word names has none.
    unseen = [x for x in known_labels(config, texts) if x not in seen and not (x[:2] == "I-" and f"B-{x[2:]}" in seen)]
    if training and unseen:
        message = f"no training example has {listed(unseen)}: the model cannot learn them; drop them or add examples"
        yield RunWarning("unseen-label", message, {"labels": unseen})
    for examples in training:
        by_text: dict[object, dict[object, int]] = defaultdict(dict)
        for example in examples:
            by_text[text_key(example)].setdefault(example.labels, example.line)
        twice = [sorted(lines.values()) for lines in by_text.values() if len(lines) > 1]
        if twice:
            places = some((", ".join(map(str, lines)) for lines in twice), LISTED, "; ")
            where = f"{next(iter(examples)).file}: {len(twice)} texts"
            message = f"{where} have different labels on different lines (lines {places})"
            values = {"count": len(twice), "lines": twice[:LISTED]}
            yield RunWarning("contradicting-labels", f"{message}: correct or drop them", values)


def leak_warnings(texts: Texts) -> Iterator[RunWarning]:
    """`test-text-in-training`: a test text that a stage trains on, compared without white space; one per file pair.

    Unlabelled text counts as training: fitting and self-training read it.
    """
    tests = {
        file: [(example.line, _text(example)) for example in examples]
        for file, examples in texts.items()
        if file.role == "test"
    }
    tested = {text for lines in tests.values() for _, text in lines}
    training: dict[Path, tuple[str, dict[object, int]]] = {}
    for file, examples in texts.items() if tested else ():
        if file.role != "test" and file.path not in training:
            training[file.path] = file.role, {}
            for example in examples:
                if (text := _text(example)) in tested:
                    training[file.path][1].setdefault(text, example.line)
    for test, numbered in tests.items():
        for path, (role, first_lines) in training.items():
            lines = [(line, first_lines[text]) for line, text in numbered if text in first_lines]
            if lines:
                places = some((f"{a} = {b}" for a, b in lines), LISTED)
                message = (
                    f"{test.path}:{lines[0][0]}: {len(lines)} of {len(numbered)} test texts are also in {path} "
                    f"({role}), lines {places}: scores will be too good; remove them from one of the files"
                )
                values = {"test": str(test.path), "training": str(path), "role": role, "count": len(lines)}
                values |= {"total": len(numbered), "lines": [list(pair) for pair in lines]}
                yield RunWarning("test-text-in-training", message, values)


def repeat_warnings(texts: Texts) -> Iterator[RunWarning]:
    """`repeated-text`: a file of the task's text holds a tenth or more of its texts twice."""
    for file, examples in texts.items():
        if file.role not in ("train", "unlabelled"):
            continue
        different = examples.different if isinstance(examples, StreamedTexts) else sum(1 for _ in unrepeated(examples))
        repeated = len(examples) - different
        if repeated and repeated * 10 >= len(examples):
            message = f"{file.path}: {repeated} of {len(examples)} texts repeat an earlier one; drop the copies"
            yield RunWarning("repeated-text", message, {"count": repeated, "total": len(examples)})


def _text(example: Example) -> object:
    """Equal for equal texts of whatever language, however they are cut into words."""
    return text_key(example)[1:]


def coverage(config: RunConfig, texts: Texts, tokenizer: Tokenizer) -> tuple[list[Coverage], list[RunWarning]]:
    """How the tokenizer copes with each language, on an even sample of each file, and what is wrong with that."""
    rows: list[Coverage] = []
    warnings: list[RunWarning] = []
    samples: dict[str, list[tuple[Example, bool]]] = defaultdict(list)
    for file, examples in texts.items():
        windows = per_word(config.task) and (file.role in SCORED or config.long_texts == "windows")
        if file.role != "pairs":  # of two languages
            step = max(1, len(examples) // SAMPLE)
            samples[file.language] += [(e, windows) for e in islice(examples, 0, None, step)]
    for language, sample in samples.items():
        row, cut, tokens = _coverage(language, sample, tokenizer, config.max_length)
        rows.append(row)
        if row.unknown > MAX_UNKNOWN:
            message = f"{language}: {row.unknown:.1%} of the tokens are unknown to the tokenizer"
            fix = "so the model cannot tell these words apart; take a model whose vocabulary knows the language"
            values = {"language": language, "share": row.unknown}
            warnings.append(RunWarning("unknown-tokens", f"{message}, {fix}", values))
        if row.fertility > MAX_FERTILITY:
            message = (
                f"{language}: {row.fertility:.1f} tokens per word: the vocabulary hardly knows the language; expect "
                "weak results, or take another model"
            )
            values = {"language": language, "fertility": row.fertility}
            warnings.append(RunWarning("many-tokens-per-word", message, values))
        if warning := cut_by_length(cut, tokens, config.max_length, language=language):
            warnings.append(warning)
    return rows, warnings


def _coverage(
    language: str, sample: Sequence[tuple[Example, bool]], tokenizer: Tokenizer, max_length: int
) -> tuple[Coverage, int, int]:
    """Counts over examples, each with whether a model reads all of it, in windows; and tokens cut, and in all."""
    examples = [example for example, _ in sample]
    ids = encode(tokenizer, examples)
    words = sum(len(f"{e.text} {e.pair or ''}".split()) if e.words is None else len(e.words) for e in examples)
    tokens = sum(len(x) - tokenizer.num_special(e.pair is not None) for x, e in zip(ids, examples, strict=True))
    unknown = sum(x.count(tokenizer.unk_id) for x in ids)
    cut = sum(max(0, len(x) - max_length) for x, (_, windows) in zip(ids, sample, strict=True) if not windows)
    longest, of = max(map(len, ids), default=0), max(1, tokens)
    row = Coverage(language, len(sample), words, unknown / of, tokens / max(1, words), cut / of, longest)
    return row, cut, tokens


def encode(tokenizer: Tokenizer, examples: Sequence[Example]) -> list[list[int]]:
    """The ids of each example, uncut."""
    plain = [e for e in examples if e.words is None]
    texts = iter(tokenizer.encode_texts([str(e.text) for e in plain], [e.pair for e in plain]))
    tagged = iter(tokenizer.encode_words([e.words for e in examples if e.words is not None]))
    return [next(texts).ids if e.words is None else next(tagged).ids for e in examples]
