"""Column files with one word a line (CoNLL 2002, CoNLL 2003 and their kin), and CoNLL-U."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise, takewhile
from typing import Any, ClassVar

from ... import ConfigError
from ...tasks import has_spans
from .example import OUTSIDE
from .lines import plain_suffix
from .problems import Problems
from .reader import NO_WORDS, Found, Head, Labelled, Lines, Piece, Reader, Record
from .table import few_kinds
from .tagged import PLAIN, SCHEMES, TAG, TAG_LIKE, TaggedSentence

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The columns of CoNLL-U."""
_BESIDE = re.compile(r"#|\d+[-.]\d+\t")
_LANGUAGE = re.compile(r"(?:simple|[a-z]{2,3}(?:-[a-z]+)*):")
_TAGGED_LINE = re.compile(rf"\S.*[ \t](?:{TAG.pattern}) *")
_CONLLU_LINE = re.compile(rf"\d+(\t[^\t]+){{{len(CONLLU) - 1}}}$")


class ConllReader(Reader):
    """Sentences of a column file: one word a line, a blank line after each sentence.

    `-DOCSTART-` lines end a sentence and are skipped, so are lines that begin with "#" where a sentence does and are no
    word and tag (`find_comments`). All word lines of a file have the same number of columns; with a single column (or
    where `label_column` is `token_column`) the sentences have no labels. Tags come out as BIO. Where tabs separate the
    columns, there are labels, and every word of the file begins with one and the same language code (`en:Paris`), the
    file is taken to be PAN-X, and the code is taken off.
    """

    takes: ClassVar[tuple[str, ...]] = (
        *("language", "encoding", "token_column", "label_column", "scheme", "repair", "labels", "require_labels"),
        "separator",
    )
    separator, width, token, label = "", 0, 0, -1
    has_labels = False

    def pieces(self) -> Iterator[Piece]:
        options, lines = self.options, self.lines()
        if options.scheme not in SCHEMES:
            raise ConfigError(f"unknown tag scheme {options.scheme!r}; choose from {', '.join(SCHEMES)}")
        self.token, self.separator = options.token_column, "" if self.task else options.separator or ""
        if options.label_column is not None:
            self.label = options.label_column
        elif not self.task and options.scheme != PLAIN:
            kept = list(lines)
            self.label, lines = outer_column([line for _, line in kept], options.separator), iter(kept)
            self.counts["nested"] = int(self.label != -1)
        plain = not has_spans(self.task) if self.task else options.scheme == PLAIN or self.label == self.token
        is_comment, lines = find_comments(lines, self.separator, None if plain else self.label)
        for block in blocks(lines, is_comment):
            if isinstance(block, tuple):
                self.counts["docstart"] += block[1].startswith("-DOCSTART-")
                self.counts["comment"] += block[1].startswith("#")
                yield block[0], (block[1],), None
            else:
                yield self.sentence(block)

    def sentence(self, block: Sequence[tuple[int, str]]) -> Piece:
        """The record of a sentence's rows."""
        raw = tuple(line for _, line in block)
        cells = [(*row, number) for number, line in block if (row := self._split(number, line))]
        if not cells:
            return block[0][0], raw, None
        words, tags, numbers = map(list, zip(*cells, strict=True))
        tagged = TaggedSentence(f"{self.stem}:{numbers[0]}", words, tags if self.has_labels else None, numbers)
        return block[0][0], raw, tagged

    def _split(self, number: int, line: str) -> tuple[str, str | None] | None:
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
        return word, cells[self.label].strip() if self.has_labels else None

    def _decide(self, place: str, width: int) -> None:
        self.width = width
        inside, token = range(-width, width), self.token
        if self.task and token not in inside:
            self.problems.add(place, f"no column {token}", "name that of the words: reader.token_column")
        elif token not in inside or (not self.task and width > 1 and self.label not in inside):
            what = f"{width} columns, but token_column is {token} and label_column is {self.label}"
            fix = "set reader.token_column and reader.label_column to columns that exist, counted from 0"
            self.problems.add(place, what, fix)
        self.problems.raise_if_any()
        self.has_labels = not self.task and self.label in inside and self.label % width != token % width

    def resolve(self, sentences: Sequence[TaggedSentence]) -> None:
        if self.separator == "\t" and self.has_labels:
            _without_language(self.path, sentences, self.problems)
        if self.options.require_labels and sentences and not self.has_labels:
            place = f"{self.path}:{sentences[0].lines[0]}"
            self.problems.add(place, "no label column", "give a file with word and tag columns")
        super().resolve(sentences)

    def write(self, record: Record, labelled: Labelled | None) -> str:
        """The lines with two more columns, the tag last, where readers of column files look for it."""
        if labelled is None:
            return "".join(f"{line}\n" for line in record.raw)
        rows = zip(record.raw, labelled.cells(), strict=True)
        return "".join(f"{self.separator.join((row, confidence, tag))}\n" for row, (_, tag, confidence) in rows)

    @classmethod
    def probe(cls, head: Head) -> Found | None:
        """A few lines must all end in a tag; of many, nine in ten have one in some column."""
        if head.few:
            first = [line for line in head.filled if not line.startswith("#")]
            sure = all(line.startswith("-DOCSTART-") or _TAGGED_LINE.fullmatch(line) for line in first)
            return Found("conll", {}, "ner") if first and sure else None
        first = [line for line in head.filled if not line.startswith(NO_WORDS)][:50]
        tagged = [any(map(TAG_LIKE.fullmatch, line.split()[1:])) and len(line.split()) < 12 for line in first]
        return cls.columns(head) if tagged and sum(tagged) * 10 >= len(tagged) * 9 else None

    @classmethod
    def columns(cls, head: Head) -> Found:
        """Token and tag column of a column file, and what is to be said of them."""
        lines = [line for line in head.filled if not line.startswith(NO_WORDS)]
        rows = [line.split("\t") if "\t" in line else line.split() for line in lines]
        width = len(rows[0]) if rows else 1
        rows = [row for row in rows if len(row) == width]
        options: dict[str, Any] = {}
        if width == 1:
            return Found("conll", options, None)
        tags = [i for i in range(width) if all(TAG_LIKE.fullmatch(row[i].strip()) for row in rows)]
        chosen, note = width + outer_column(lines) if width - 1 in tags else tags[-1] if tags else width - 1, ""
        if chosen != width - 1:
            options["label_column"] = chosen
        if chosen in tags[:-1]:
            what = f"tags in columns {chosen} and {tags[-1]}, from 0: those of the outer entities, {chosen}, are read"
            note = f"{head.path}: {what}; reader.label_column chooses"
        if width > 2 and all(row[0].strip().isdigit() for row in rows):
            options["token_column"] = 1
        if not any(TAG_LIKE.fullmatch(cell) for row in rows for cell in row[1:]):
            plain = [i for i in range(1, width) if i != options.get("token_column")]
            plain = [i for i in plain if few_kinds([row[i] for row in rows])]
            if plain:
                return Found("conll", options | ({} if plain[-1] == width - 1 else {"label_column": plain[-1]}), "tag")
        # Without tags the reader's message says which line is not one.
        return Found("conll", options, "ner", note)


class ConlluReader(ConllReader):
    """The syntactic words of a CoNLL-U file with one of its columns as tags; `_` in a whole sentence is no tags."""

    takes = ("language", "encoding", "tags", "require_labels")
    separator, width, token = "\t", len(CONLLU), CONLLU.index("form")

    def pieces(self) -> Iterator[Piece]:
        self.label, self.has_labels = conllu_column(self.options.tags or "tags"), not self.task
        for block in blocks(self.lines(), lambda line: False):
            yield (block[0], (block[1],), None) if isinstance(block, tuple) else self.sentence(block)

    def _split(self, number: int, line: str) -> tuple[str, str | None] | None:
        return None if is_beside(line) else super()._split(number, line)

    def resolve(self, sentences: Sequence[TaggedSentence]) -> None:
        for sentence in sentences:
            missing = [line for tag, line in zip(sentence.tags or (), sentence.lines, strict=True) if tag == "_"]
            if len(missing) == len(sentence.words):
                sentence.tags = None
            if missing and (sentence.tags or self.options.require_labels):
                fix = "tag the word, or name another column (reader.tags)"
                self.problems.add(f"{self.path}:{missing[0]}", f"no tag in column {self.label + 1}", fix)

    def write(self, record: Record, labelled: Labelled | None) -> str:
        """The lines with the tags in their column, and the confidence in the last."""
        if labelled is None:
            return super().write(record, None)
        labels, lines = iter(labelled.cells()), list[str]()
        for row in record.raw:
            cells = row.split("\t")
            if not is_beside(row):
                _, cells[self.label], confidence = next(labels)
                cells[-1] = "|".join([*(x for x in cells[-1:] if x != "_"), f"Confidence={confidence}"])
            lines.append("\t".join(cells) + "\n")
        return "".join(lines)

    @classmethod
    def probe(cls, head: Head) -> Found | None:
        """By its name or every line; the first column of tags that is not empty."""
        words = [line for line in head.filled if not is_beside(line)]
        if plain_suffix(head.path) != ".conllu" and not (words and all(map(_CONLLU_LINE.match, words))):
            return None
        rows = [line.split("\t") for line in words]
        for name in ("upos", "xpos"):
            if any(row[CONLLU.index(name) :][:1] not in (["_"], []) for row in rows):
                return Found("conllu", {} if name == "upos" else {"tags": name}, "tag")
        return Found("conllu", {}, None)


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


def find_comments(lines: Lines, separator: str, tags: int | None) -> tuple[Callable[[str], bool], Lines]:
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


def blocks(lines: Lines, is_comment: Callable[[str], bool]) -> Iterator[list[tuple[int, str]] | tuple[int, str]]:
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
