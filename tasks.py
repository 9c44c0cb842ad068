"""The tasks: what differs between them is asked here, by what a place means, and not by their names."""

from __future__ import annotations

from dataclasses import dataclass, replace

from . import ConfigError


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        title: for people; `labelling` is what its labels are.
        metric: the headline; `kind` is what it is made of class by class.
        per_word: whether each word has a label; else each text has one.
        spans: whether the labels are tags that mark entities, `O` among them.
    """

    name: str
    title: str
    labelling: str
    metric: str
    kind: str
    per_word: bool = True
    spans: bool = False

    @property
    def units(self) -> str:
        """What has a label each."""
        return "words" if self.per_word else "texts"

    @property
    def unit(self) -> str:
        """One of them."""
        return self.units[:-1]

    @property
    def classes(self) -> str:
        """How the class of transformers for it ends."""
        return "ForTokenClassification" if self.per_word else "ForSequenceClassification"

    @property
    def auto_class(self) -> str:
        """The class of transformers that opens any layout's model."""
        return f"AutoModel{self.classes}"

    @property
    def pipeline(self) -> str:
        """What transformers and the Hub call it."""
        return "token-classification" if self.per_word else "text-classification"


_ALL = (
    Task("ner", "named entity recognition", "one tag per word (BIO)", "entity_f1", "entity type", spans=True),
    Task("tag", "tagging", "one tag per word, no entities", "accuracy", "tag"),
    Task("classification", "text classification", "one label per text", "accuracy", "class", per_word=False),
)
TASKS = {task.name: task for task in _ALL}
"""By name, those that a model can be for."""


def per_word(task: str) -> bool:
    """Whether each word has a label; of "text", which has none, false."""
    return task in TASKS and TASKS[task].per_word


def has_spans(task: str) -> bool:
    """Whether labels mark entities."""
    return task in TASKS and TASKS[task].spans


def task_of(name: str) -> Task:
    """The task of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TASKS:
        raise ConfigError(f"unknown task {name!r}; choose from {', '.join(TASKS)}")
    return TASKS[name]


def shown_task(name: object) -> Task:
    """The same for pages, of a summary that anyone may have written: what is no task is shown by its name."""
    return TASKS.get(str(name)) or replace(TASKS["classification"], name=str(name), title=str(name))
