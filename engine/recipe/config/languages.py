"""The languages of a recipe with their files, and how these are read: [source], [[targets]], [reader]."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from ...training.config import option, required

Format = Literal[
    "auto", "conll", "conllu", "tsv", "csv", "jsonl", "spans", "arrow", "text", "xnli", "webis-cls", "marc"
]


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """How files are read; `auto` goes by the file's ending."""

    format: Format = option("auto", "format of labelled files")
    unlabelled_format: Format = option("auto", "format of unlabelled files; labels found there are dropped")
    encoding: str = option("utf-8", "character encoding of the files")
    unlabelled_encoding: str = option("", "character encoding of unlabelled files; `encoding` when empty")
    token_column: int = option(0, "CoNLL: column of the token")
    label_column: int | None = option(
        None, "CoNLL: column of the tag; the last, or that of the outer entities where the last has those within them"
    )
    scheme: Literal["auto", "iob1", "bio", "bioes", "bilou"] = option("auto", "tag scheme of the files")
    repair: bool = option(False, "tags: read an I- that nothing opened as B-, as conlleval does")
    cut_spans: Literal["error", "expand", "drop"] = option(
        "error", "spans: an entity that begins or ends within a word becomes the whole words, or none"
    )
    words: str = option("words", "JSONL: field of the words")
    tags: str = option("tags", "JSONL: field of the tags; CoNLL-U: their column, as xpos")
    tag_names: tuple[str, ...] = option((), "names of labels that are whole numbers, from 0")
    delimiter: Literal[",", ";", "\t", "|"] = option(",", "CSV: what stands between the columns")
    header: bool = option(True, "table: the first row names the columns; without one their names are numbers from 0")
    text: str = option("text", "table or JSONL: field of the text")
    pair: str = option("", "table or JSONL: field of the second text")
    label: str = option("label", "table or JSONL: field of the label")
    split: Literal["punctuation", "whitespace"] = option(
        "punctuation", "NER: how a line of unlabelled plain text becomes words; whitespace if it is tokenised already"
    )
    check_language: bool = option(
        False, "unlabelled text: leave out what a language model (py3langid) takes for another language"
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


_OWN_READER = "how the files of this language are read, where [reader] differs"


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """A language that has labels."""

    language: str = option("en", "language code, for tables")
    train: Path | None = option(None, "labelled training file")
    cap: int = option(0, "largest number of labelled examples, a fixed random choice; 0 means all", min=0)
    per_class: int = option(0, "labelled examples per class (NER: sentences per entity type); 0 means all", min=0)
    draw: int = option(0, "seed of the choices of cap and per_class", min=0)
    weight: float = option(
        1.0, "share of an epoch, relative to the others', where finetune.source_mix says so", above=0
    )
    dev: Path | None = option(None, 'labelled file for `selftrain.alpha.data = "dev"`')
    test: Path | None = option(None, "labelled file to score on")
    unlabelled: tuple[Path, ...] = option((), "more task text for BTF", expand=True)
    general: tuple[Path, ...] = option((), "general text, for pre-training", expand=True)
    control: tuple[Path, ...] = option((), "general text for the control arm; `general` when absent", expand=True)
    reader: LanguageReaderConfig | None = option(None, _OWN_READER)


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """A language without labels, or with a few. Its test file is used for scoring only."""

    language: str = required("language code")
    unlabelled: tuple[Path, ...] = option((), "task text", expand=True)
    test: Path | None = option(None, "labelled file to score on; never trained on")
    labelled: Path | None = option(None, "few-shot: labelled file for fine-tuning; marks the results")
    per_class: int = option(0, "examples of `labelled` per class (NER: sentences per entity type); 0 means all", min=0)
    draw: int = option(0, "seed of the choice of per_class", min=0)
    general: tuple[Path, ...] = option((), "general text, for pre-training", expand=True)
    control: tuple[Path, ...] = option((), "general text for the control arm; `general` when absent", expand=True)
    reader: LanguageReaderConfig | None = option(None, _OWN_READER)
