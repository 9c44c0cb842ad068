"""The tasks: what differs between them is asked here, by what a place means, and not by their names."""

from __future__ import annotations

from dataclasses import dataclass, replace

from . import ConfigError


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        title: for people; `labelling` is what its labels are.
        per_word: whether each word has a label; else each text has one.
        spans: whether the labels are tags that mark entities, `O` among them.
        metric: the headline; `kind` is what it is made of class by class.
        classes: how the class of transformers for it ends.
    """

    name: str
    title: str
    labelling: str
    per_word: bool
    spans: bool
    metric: str
    kind: str
    classes: str

    @property
    def units(self) -> str:
        """What has a label each."""
        return "words" if self.per_word else "texts"

    @property
    def unit(self) -> str:
        """One of them."""
        return self.units[:-1]

    @property
    def auto_class(self) -> str:
        """The class of transformers that opens any layout's model."""
        return f"AutoModel{self.classes}"

    @property
    def pipeline(self) -> str:
        """What transformers and the Hub call it."""
        return {"ForTokenClassification": "token-classification"}.get(self.classes, "text-classification")


TASKS = {
    task.name: task
    for task in (
        Task(
            "ner",
            "named entity recognition",
            "one tag per word (BIO)",
            per_word=True,
            spans=True,
            metric="entity_f1",
            kind="entity type",
            classes="ForTokenClassification",
        ),
        Task(
            "tag",
            "tagging",
            "one tag per word, no entities",
            per_word=True,
            spans=False,
            metric="accuracy",
            kind="tag",
            classes="ForTokenClassification",
        ),
        Task(
            "classification",
            "text classification",
            "one label per text",
            per_word=False,
            spans=False,
            metric="accuracy",
            kind="class",
            classes="ForSequenceClassification",
        ),
    )
}
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
