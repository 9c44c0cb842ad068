"""The [reader] table, and those of single languages: how files are read."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from ...training.config import option

Format = Literal["auto", "conll", "tsv", "csv", "jsonl", "text", "xnli", "webis-cls", "marc"]


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """How files are read; `auto` goes by the file's ending."""

    format: Format = option("auto", "format of labelled files")
    unlabelled_format: Format = option("auto", "format of unlabelled files; labels found there are dropped")
    encoding: str = option("utf-8", "character encoding of the files")
    unlabelled_encoding: str = option("", "character encoding of unlabelled files; `encoding` when empty")
    token_column: int = option(0, "CoNLL: column of the token")
    label_column: int = option(-1, "CoNLL: column of the tag")
    scheme: Literal["auto", "iob1", "bio"] = option("auto", "CoNLL: tag scheme of the files")
    repair: bool = option(False, "tags: read an I- that nothing opened as B-, as conlleval does")
    words: str = option("words", "JSONL: field of the words")
    tags: str = option("tags", "JSONL: field of the tags")
    text: str = option("text", "table or JSONL: field of the text")
    pair: str = option("", "table or JSONL: field of the second text")
    label: str = option("label", "table or JSONL: field of the label")
    split: Literal["punctuation", "whitespace"] = option(
        "punctuation", "NER: how a line of unlabelled plain text becomes words; whitespace if it is tokenised already"
    )
    label_map: dict[str, str] = field(
        default_factory=dict, metadata={"help": "label in the file -> label of the task; an empty string drops the row"}
    )


if TYPE_CHECKING:

    class LanguageReaderConfig:
        """The keys of `ReaderConfig`, each None where a language has the recipe's."""

        def __init__(self, **keys: Any) -> None: ...

else:
    # Made of the other's fields, so that a key has one home.
    LanguageReaderConfig = make_dataclass(
        "LanguageReaderConfig",
        [
            (f.name, get_type_hints(ReaderConfig)[f.name] | None, option(None, f.metadata["help"]))
            for f in fields(ReaderConfig)
        ],
        frozen=True,
        kw_only=True,
    )
