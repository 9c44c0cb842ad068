"""Column files with one word a line (CoNLL 2002, CoNLL 2003 and their kin), and CoNLL-U."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise, takewhile
from pathlib import Path

from ... import ConfigError
from .example import OUTSIDE, Examples
from .lines import LabelSet, check_label, file_stem, finish, read_lines
from .problems import Problems
from .tagged import BIO_TAG, PLAIN, SCHEMES, TAG, TaggedSentence, resolve_tags

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The columns of CoNLL-U."""
_BESIDE = re.compile(r"#|\d+[-.]\d+\t")
_LANGUAGE = re.compile(r"(?:simple|[a-z]{2,3}(?:-[a-z]+)*):")


def read_conll(
    path: str | Path,
    *,
    language: str = "",
    encoding: str = "utf-8",
    token_column: int = 0,
    label_column: int | None = None,
    scheme: str = "auto",
    repair: bool = False,
    labels: Sequence[str] | None = None,
    require_labels: bool = False,
    separator: str | None = None,
) -> Examples:
    """Sentences of a column file: one word a line, a blank line after each sentence.

    `-DOCSTART-` lines end a sentence and are skipped, so are lines that begin with "#" where a sentence does and are no
    word and tag (`find_comments`). All word lines of a file have the same number of columns; with a single column (or
    where `label_column` is `token_column`) the sentences have no labels. Tags come out as BIO. Where tabs separate the
    columns, there are labels, and every word of the file begins with one and the same language code (`en:Paris`), the
    file is taken to be PAN-X, and the code is taken off.

    Args:
        encoding: CoNLL 2002 and 2003 come in latin-1.
        token_column: counted from 0, from the end where negative.
        label_column: likewise. Where absent the last, or, where that holds entities within those of the column before
            it (GermEval 2014), the column of the outer ones; counted as `nested`.
        scheme: of the tags, see `resolve_tags`.
        repair: read an invalid `I-` of BIO as `B-`, as conlleval does; counted as `repaired`.
        labels: the tags that may occur, after conversion to BIO.
        require_labels: refuse a file without a label column.
        separator: between columns; a tab where the first word line has one, else runs of spaces.

    Raises:
        ConfigError: unknown scheme or encoding.
        DataError: all faults of the file, the first 20 listed by line.
    """
    if scheme not in SCHEMES:
        raise ConfigError(f"unknown tag scheme {scheme!r}; choose from {', '.join(SCHEMES)}")
    problems, counts = Problems(), Counter[str]()
    known = None if labels is None else LabelSet(labels)
    lines = read_lines(path, encoding, problems)
    if label_column is None:
        kept = list(lines)
        outer = -1 if scheme == PLAIN else outer_column([line for _, line in kept], separator)
        label_column, lines, counts["nested"] = outer, iter(kept), int(outer != -1)
    columns = _Columns(str(path), token_column, label_column, separator, problems)
    tags = None if scheme == PLAIN or label_column == token_column else label_column
    is_comment, lines = find_comments(lines, separator, tags)
    sentences = list(_sentences(columns, lines, is_comment, counts))
    if columns.separator == "\t" and columns.label is not None:
        _without_language(str(path), sentences, problems)
    if require_labels and sentences and columns.label is None:
        problems.add(f"{path}:{sentences[0].lines[0]}", "no label column", "give a file with word and tag columns")
    counts["repaired"] += resolve_tags(str(path), sentences, scheme=scheme, repair=repair, problems=problems)
    stem = file_stem(path)
    for sentence in sentences if known is not None else ():
        for tag, line in zip(sentence.tags or (), sentence.lines, strict=False):
            if scheme == PLAIN or BIO_TAG.fullmatch(tag):
                check_label(f"{path}:{line}", tag, known, problems)
    examples = [s.example(f"{stem}:{s.lines[0]}", language, str(path)) for s in sentences]
    return finish(path, examples, counts, problems)


def read_conllu(
    path: str | Path, *, language: str = "", encoding: str = "utf-8", tags: str = "upos", require_labels: bool = False
) -> Examples:
    """The syntactic words of a CoNLL-U file with one of its columns as tags; `_` in a whole sentence is no tags.

    Args:
        tags: the name of the column; "tags" is upos.
        require_labels: refuse a sentence without tags.

    Raises:
        ConfigError: unknown column or encoding.
        DataError: all faults of the file, the first 20 listed by line.
    """
    problems, counts = Problems(), Counter[str]()
    columns = _Columns(str(path), CONLLU.index("form"), conllu_column(tags), "\t", problems)
    columns.width, columns.label = len(CONLLU), conllu_column(tags)
    lines = ((number, line) for number, line in read_lines(path, encoding, problems) if not is_beside(line))
    sentences = list(_sentences(columns, lines, lambda line: False, counts))
    for sentence in sentences:
        missing = [line for tag, line in zip(sentence.tags or (), sentence.lines, strict=True) if tag == "_"]
        if len(missing) == len(sentence.words):
            sentence.tags = None
        if missing and (sentence.tags or require_labels):
            fix = "tag the word, or name another column (reader.tags)"
            problems.add(f"{path}:{missing[0]}", f"no tag in column {conllu_column(tags) + 1}", fix)
    stem = file_stem(path)
    return finish(path, [s.example(f"{stem}:{s.lines[0]}", language, str(path)) for s in sentences], counts, problems)


def conllu_column(tags: str) -> int:
    """The number of a column of CoNLL-U, from 0.

    Raises:
        ConfigError: there is none of this name.
    """
    name = "upos" if tags == "tags" else tags.lower()
    if name not in CONLLU:
        raise ConfigError(f"CoNLL-U has no column {tags!r}; choose reader.tags from {', '.join(CONLLU[2:])}")
    return CONLLU.index(name)


def is_beside(line: str) -> bool:
    """Whether a line of CoNLL-U is no word: a comment, a range of words as they were written, an empty node."""
    return _BESIDE.match(line) is not None


class _Columns:
    """Word and tag of a line; the first line decides separator and number of columns."""

    def __init__(self, path: str, token: int, label: int, separator: str | None, problems: Problems) -> None:
        self.path, self.problems, self.separator = path, problems, separator
        self.token, self._label = token, label
        self.label: int | None = None
        self.width = 0

    def split(self, number: int, line: str) -> tuple[str, str | None] | None:
        """The word and its tag, None without labels; nothing where the line is faulty."""
        self.separator = self.separator or separator_of(line)
        cells = split_row(line, self.separator)
        if not self.width:
            self._decide(f"{self.path}:{number}", len(cells))
        if len(cells) != self.width:
            name = "spaces" if self.separator == " " else repr(self.separator)
            what = f"{len(cells)} columns, but the file began with {self.width} (separated by {name})"
            self.problems.add(f"{self.path}:{number}", what, "correct the line, or leave it blank to end a sentence")
            return None
        word = cells[self.token]
        if not word:
            fix = "give a word, or leave the whole line blank to end a sentence"
            self.problems.add(f"{self.path}:{number}", "empty word", fix)
            return None
        return word, None if self.label is None else cells[self.label].strip()

    def _decide(self, place: str, width: int) -> None:
        self.width = width
        inside = range(-width, width)
        if self.token not in inside or (width > 1 and self._label not in inside):
            what = f"{width} columns, but token_column is {self.token} and label_column is {self._label}"
            fix = "set reader.token_column and reader.label_column to columns that exist, counted from 0"
            self.problems.add(place, what, fix)
            self.problems.raise_if_any()
        if self._label in inside and self._label % width != self.token % width:
            self.label = self._label


def separator_of(line: str) -> str:
    """What is between the columns of a file, by its first row."""
    return "\t" if "\t" in line else " "


def split_row(line: str, separator: str) -> list[str]:
    """The columns of a row."""
    # Runs of ASCII spaces only: no-break and ideographic spaces are part of a word.
    return re.split(" +", line.strip(" ")) if separator == " " else line.split(separator)


def outer_column(lines: Iterable[str], separator: str | None = None) -> int:
    """The column of the tags, counted from the end: the last, -1, unless it holds entities within others.

    The column before it then is one of entities, too: of the same types, or mostly `O`, as chunks (CoNLL 2003) are not.
    """
    filled = [line for line in lines if line.strip(" \t") and not line.startswith(("#", "-DOCSTART-"))]
    separator = separator or separator_of("".join(filled[:1]))
    rows = [split_row(line, separator) for line in filled]
    columns = list(zip(*(row for row in rows if len(row) == len(rows[0])), strict=True))[:0:-1]
    tags = list(takewhile(lambda column: all(map(TAG.fullmatch, column)), columns))
    outer = 0
    for inner, column in pairwise(tags):
        entities = set(column) - {OUTSIDE}
        if not entities or not (entities & set(inner) or 2 * column.count(OUTSIDE) >= len(column)):
            break
        outer += 1
    return -1 - outer


def find_comments(
    lines: Iterator[tuple[int, str]], separator: str | None, tags: int | None
) -> tuple[Callable[[str], bool], Iterator[tuple[int, str]]]:
    """What tells comments from rows where a sentence may begin, and the lines again.

    A comment begins with "#". It has another number of columns than the first row that does not, or, where that row has
    the tag of an entity, or `O`, in the column `tags`, none there.
    """
    head: list[tuple[int, str]] = []
    first: list[str] = []
    for number, line in lines:
        head.append((number, line))
        if line.strip(" \t") and not line.startswith(("#", "-DOCSTART-")):
            separator = separator or separator_of(line)
            first = split_row(line, separator)
            break
    if tags is not None and not (-len(first) <= tags < len(first) > 1 and TAG.fullmatch(first[tags])):
        tags = None

    def is_comment(line: str) -> bool:
        if not (first and separator and line.startswith("#")):
            return False
        cells = split_row(line, separator)
        return len(cells) != len(first) or (tags is not None and TAG.fullmatch(cells[tags]) is None)

    return is_comment, chain(head, lines)


def blocks(
    lines: Iterator[tuple[int, str]], is_comment: Callable[[str], bool]
) -> Iterator[list[tuple[int, str]] | tuple[int, str]]:
    """The rows of each sentence, and by itself each line of none: blank, of a document, or a comment before one."""
    rows: list[tuple[int, str]] = []
    for number, line in chain(lines, [(0, "")]):
        if line.strip(" \t") and not line.startswith("-DOCSTART-") and (rows or not is_comment(line)):
            rows.append((number, line))
            continue
        if rows:
            yield rows
            rows = []
        if number:
            yield number, line


def _sentences(
    columns: _Columns, lines: Iterator[tuple[int, str]], is_comment: Callable[[str], bool], counts: Counter[str]
) -> Iterator[TaggedSentence]:
    for block in blocks(lines, is_comment):
        if isinstance(block, tuple):
            counts["docstart"] += block[1].startswith("-DOCSTART-")
            counts["comment"] += block[1].startswith("#")
        elif cells := [(*row, number) for number, line in block if (row := columns.split(number, line))]:
            words, tags, numbers = map(list, zip(*cells, strict=True))
            yield TaggedSentence(words, None if columns.label is None else tags, numbers)


def _without_language(path: str, sentences: Sequence[TaggedSentence], problems: Problems) -> None:
    """Takes the language code of PAN-X off all words, in place; nothing where one word is without it."""
    first = _LANGUAGE.match(sentences[0].words[0]) if sentences else None
    if first is None or not all(word.startswith(first[0]) for sentence in sentences for word in sentence.words):
        return
    for sentence in sentences:
        sentence.words = [word.removeprefix(first[0]) for word in sentence.words]
        for word, line in zip(sentence.words, sentence.lines, strict=True):
            if not word:
                problems.add(f"{path}:{line}", f"no word behind {first[0]!r}", "give a word, or remove the line")
