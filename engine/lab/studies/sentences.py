"""`sentences.json`: for each target of a run a few sentences to look at, with what its models said of them.

They are chosen for what they show, so no share of anything can be read from them. Everything is taken from what the
stages left: the decisions of self-training, soft labels, and the predictions on the test files; no model is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from .... import DataError, XltError
from ....data import OUTSIDE, TokenStore
from ....tasks import has_spans, per_word
from ...evaluation.metrics import spans, split_tag
from ...evaluation.per_example import load_items, predicted_tags
from ...pseudolabels.filters import Reason
from ...report.sections import SENTENCES, VERSION
from ...stages.decision_files import SOFT_LABELS, decided_arrays
from ...storage.files import atomic_write_json, delete
from ...storage.names import PREDICTED
from ...storage.stage_files import DECIDED
from ...summary.stage_folders import made_from
from .finished_run import FinishedRun, Json, TaskStage, words_of
from .thresholds import write_thresholds

MOST_WORDS, MOST_LETTERS = 60, 400
"""Of a sentence, and of a text, that is shown whole."""
SHORTEST, LONGEST = 6, 60
"""Tokens of a sentence that is easily read, special ones included."""
_LOOKED_AT = 500
"""Candidates among which one that is unlike the others is looked for."""
Array = np.ndarray
Ints = NDArray[np.int64]


class Items:
    """The items of a store by example."""

    def __init__(self, store: TokenStore) -> None:
        self.store, self.count = store, len(store)
        offsets = np.asarray(store.item_offsets, dtype=np.int64)
        self.example: Ints = np.repeat(np.arange(self.count), np.diff(offsets))

    def number_with(self, items: NDArray[np.bool_]) -> Ints:
        """int64 [N], how many items of each example are marked."""
        return np.bincount(self.example[items], minlength=self.count)

    def readable(self, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool [N], those of some examples that are neither very short nor very long; all where none is."""
        short = among & (self.store.lengths >= SHORTEST) & (self.store.lengths <= LONGEST)
        return short if short.any() else among

    def best(self, among: NDArray[np.bool_], order: NDArray[Any], labels: Ints, most: int) -> list[int]:
        """At most `most` examples, those with the smallest values; of equal values the first example.

        Args:
            among: bool [N]; `order` [N].
            labels: [K]; the examples differ in the labels that they have, where possible.
        """
        candidates = np.flatnonzero(among)
        candidates = candidates[np.argsort(order[candidates], kind="stable")][:_LOOKED_AT].tolist()
        unlike: dict[frozenset[int], int] = {}
        for n in candidates:
            part = labels[int(self.store.item_offsets[n]) : int(self.store.item_offsets[n + 1])]
            unlike.setdefault(frozenset(part.tolist()), n)
        picked = list(unlike.values())[:most]
        return picked + [n for n in candidates if n not in picked][: most - len(picked)]


def frequent_errors(items: Items, gold: Array, predicted: Array, classes: Sequence[str], most: int) -> list[int]:
    """Examples that show the most frequent confusions, one each, with as few other errors as possible.

    Of the classes the names count: two labels of one name are no confusion.
    """
    wrong = np.flatnonzero(np.array(classes)[gold] != np.array(classes)[predicted])
    pairs = [(classes[g], classes[p]) for g, p in zip(gold[wrong], predicted[wrong], strict=True)]
    errors = np.bincount(items.example[wrong], minlength=items.count)
    readable, picked = items.readable(errors > 0), list[int]()
    for pair, _ in Counter(pairs).most_common():
        showing = {int(items.example[i]) for i, other in zip(wrong.tolist(), pairs, strict=True) if other == pair}
        free = [n for n in sorted(showing, key=lambda n: (int(errors[n]), n)) if readable[n] and n not in picked]
        picked += free[:1]
        if len(picked) == most:
            break
    return picked


@dataclass(frozen=True)
class Reading:
    """What `by` says of an example: a class of each item, and what is to be marked of them.

    Attributes:
        labels: [K of the store], into its label names.
        mark: "wrong", "missed", "rejected" or "changed", for the spans (or the class) with an item of `marked`, bool
            [K], and for those that another reading, `unlike` [K], has not.
        confidence: [K].
    """

    by: str
    labels: Array
    mark: str = ""
    marked: Array | None = None
    unlike: Array | None = None
    confidence: Array | None = None


@dataclass(frozen=True)
class Shown:
    """Sentences of one kind (`sections.laboratory.KINDS`), each with its remark, under the readings of all of them."""

    kind: str
    role: str
    store: TokenStore
    readings: list[Reading]
    remarks: dict[int, str]


@dataclass
class Looked:
    """What a target has to show, whose model is the final one, and why something is missing."""

    stage: str = ""
    shown: list[Shown] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def write_for_page(folder: Path, *, quoting: bool = True) -> None:
    """Leave other rules' thresholds and, unless the page shall quote no data, sentences to look at."""
    write_thresholds(folder)
    if quoting:
        write_sentences(folder)
    else:
        delete(folder / SENTENCES)


def write_sentences(folder: str | Path) -> None:
    """Leave in `sentences.json`, for the page of the report, the sentences of each target."""
    path = Path(folder) / SENTENCES
    try:
        content = sentences(folder)
    except DataError:  # nothing has ended; the page says so
        delete(path)
        return
    atomic_write_json(path, content, indent=None)


def sentences(folder: str | Path) -> Json:
    """The content of `sentences.json` (docs/summary-schema.md).

    Raises:
        DataError: not a run, or one of which nothing has ended.
    """
    run = FinishedRun.open(folder)
    looked = {target: _look(run, target) for target in run.targets}
    texts = _texts(run, looked)
    targets = {}
    for target, seen in looked.items():
        groups = [
            {"kind": s.kind, "sentences": [_sentence(s, n, texts[s.store.content_hash][n]) for n in s.remarks]}
            for s in seen.shown
        ]
        targets[target] = {"stage": seen.stage, "groups": groups, "missing": seen.missing}
    return {"schema_version": VERSION, "made_from": made_from(run.folder), "targets": targets}


def _look(run: FinishedRun, target: str) -> Looked:
    final = run.by_id((run.summary["models"].get(target) or {}).get("stage", ""))
    if final is None:
        return Looked(missing=["no stage that labels its text has ended"])
    looked = Looked(final.id)
    for part in (_of_decisions, _of_test):
        try:
            part(run, target, final, looked)
        except (XltError, SafetensorError) as error:
            looked.missing.append(str(error))
    return looked


def _of_decisions(run: FinishedRun, target: str, final: TaskStage, looked: Looked) -> None:
    """Where self-training is least sure, and where its stages disagree, on unlabelled text."""
    decided = [d for d in run.decisions() if (d[0].pair, d[0].seed) == (target, final.seed)]
    if not decided:
        looked.missing.append("no round of self-training has decided about unlabelled text")
        return
    store, (stage, record, arrays) = run.pool(target), decided[-1]
    items, reason, confidence = Items(store), arrays["target.reason"], arrays["target.confidence"]
    if len(reason) != len(items.example):
        raise DataError(f"{stage.folder}: its decision is about another text; run the stage again")
    label, named = _known(arrays["target.label"]), np.array([name != OUTSIDE for name in store.label_names])
    low = np.full(items.count, np.inf)
    np.minimum.at(low, items.example, np.where(reason >= 0, confidence, np.inf))
    pool = items.readable(items.number_with(reason >= 0) > 0)
    picked = items.best(pool & (items.number_with((reason >= 0) & named[label]) > 0), low, label, 2)
    alpha = "no threshold" if record["alpha"] is None else f"alpha {record['alpha']:.2f}"
    if picked:
        by = [Reading(_labeller(run, stage), label, "rejected", reason != Reason.KEPT, confidence=confidence)]
        remarks = {n: f"lowest {low[n]:.3f}, {alpha}" for n in picked}
        looked.shown.append(Shown("least-sure", "target", store, by, remarks))
    _changed(run, decided, items, pool, looked)


def _changed(
    run: FinishedRun,
    decided: Sequence[tuple[TaskStage, Json, dict[str, Array]]],
    items: Items,
    pool: Array,
    looked: Looked,
) -> None:
    """Sentences that the teacher and the students after it read differently."""
    first, store = decided[0][0], items.store
    soft = run.input_of(first, "student")
    said = [(_labeller(run, stage), _known(arrays["target.label"])) for stage, _, arrays in decided]
    teacher = soft and run.input_of(soft, "teacher")
    if soft and teacher and (soft.folder / DECIDED[SOFT_LABELS]).exists():
        labels = decided_arrays(soft.folder, SOFT_LABELS)["targets"]
        taught = labels[slice(*decided[0][1].get("items_at", (None,)))]
        if len(taught) == len(items.example):  # all positions of a word are another axis
            said.insert(0, (teacher.label, taught.argmax(axis=-1)))
    names = np.array(_classes(store))
    different = np.zeros(len(items.example), dtype=bool)
    for (_, before), (_, after) in pairwise(said):
        different |= names[before] != names[after]
    if not (changes := items.number_with(different))[pool].any():
        looked.missing.append("no two stages are known to read a sentence differently")
        return
    picked = items.best(pool & (changes > 0), -changes, said[-1][1], 2)
    readings = [Reading(by, labels, "changed", different) for by, labels in said]
    looked.shown.append(Shown("changed", "target", store, readings, dict.fromkeys(picked, "")))


def _of_test(run: FinishedRun, target: str, final: TaskStage, looked: Looked) -> None:
    """What the final model gets wrong in the test file."""
    tested = (final.record.get("scored_on") or {}).get(target)
    if tested is None:
        looked.missing.append("no labelled test file, so no errors")
        return
    labels = load_items(final.folder, PREDICTED).get(target)
    if labels is None:
        looked.missing.append(f"{final.id} was made before predictions on the test file were kept, so no errors")
        return
    store = run.store(tested.split()[0])
    gold, predicted = np.asarray(store.item_labels, dtype=np.int64), labels.astype(np.int64)
    if picked := frequent_errors(Items(store), gold, predicted, _classes(store), 3):
        readings = [Reading("gold", gold, "missed", unlike=predicted)]
        readings.append(Reading(final.label, predicted, "wrong", unlike=gold))
        looked.shown.append(Shown("errors", "test", store, readings, dict.fromkeys(picked, "")))


def _known(labels: Array) -> Array:
    """Labels of items, with the first class for those that nobody was asked about."""
    return np.maximum(labels.astype(np.int64), 0)


def _labeller(run: FinishedRun, stage: TaskStage) -> str:
    labeller = run.labeller(stage)
    return "the student" if labeller is None else labeller.label


def _classes(store: TokenStore) -> list[str]:
    """What each label names: an entity type, or `O`; a class."""
    tags = has_spans(store.task)
    return [(split_tag(name)[1] or OUTSIDE) if tags else name for name in store.label_names]


def _texts(run: FinishedRun, looked: dict[str, Looked]) -> dict[str, dict[int, tuple[str, ...]]]:
    """The words of all sentences, by store and number; the files of a store are read once."""
    wanted: dict[str, tuple[Shown, str, set[int]]] = {}
    for target, seen in looked.items():
        for shown in seen.shown:
            wanted.setdefault(shown.store.content_hash, (shown, target, set()))[2].update(shown.remarks)
    texts: dict[str, dict[int, tuple[str, ...]]] = {}
    for name, (shown, target, numbers) in wanted.items():
        found = run.originals(shown.store, numbers, target, labelled_first=shown.role == "test")
        texts[name] = {n: words_of(shown.store, n, found.get(n), run.tokenizer) for n in numbers}
    return texts


def _sentence(shown: Shown, number: int, words: Sequence[str]) -> Json:
    """A sentence as JSON: its words, what was said of it, and a remark; cut where it is very long."""
    readings = [_reading(shown.store, reading, number) for reading in shown.readings]
    entry: Json = {"name": shown.store.example_ids[number], "words": list(words)}
    entry |= {"readings": readings, "remark": shown.remarks[number]}
    if not per_word(shown.store.task):
        (text,) = words
        return entry | {"words": [text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…"]}
    return windowed(entry) if len(words) > MOST_WORDS else entry


def windowed(entry: Json) -> Json:
    """The words around the first span that is marked, or the first of all."""
    at = sorted((not s["mark"], s["start"]) for r in entry["readings"] for s in r["spans"])
    start = max(0, min((at[0][1] if at else 0) - 10, len(entry["words"]) - MOST_WORDS))
    end = start + MOST_WORDS
    words = ["…"] * (start > 0) + entry["words"][start:end] + ["…"] * (end < len(entry["words"]))
    shift = start - (start > 0)
    for reading in entry["readings"]:
        inside = [s for s in reading["spans"] if s["start"] >= start and s["end"] <= end]
        reading["spans"] = [s | {"start": s["start"] - shift, "end": s["end"] - shift} for s in inside]
    return entry | {"words": words}


def _reading(store: TokenStore, reading: Reading, number: int) -> Json:
    if not per_word(store.task):
        item = int(store.item_offsets[number])
        label = int(reading.labels[item])
        differs = reading.unlike is not None and int(reading.unlike[item]) != label
        said = {"by": reading.by, "label": store.label_names[label], "spans": []}
        return said | _marks(reading, np.array([item]), differs=differs)
    both = [labels for labels in (reading.labels, reading.unlike) if labels is not None]
    tags_of = [predicted_tags(store.label_names, store, number, labels) for labels in both]
    one_word = [[(tag, i, i + 1) for i, tag in enumerate(tags)] for tags in tags_of]
    spans_of = [spans(tags) for tags in tags_of] if has_spans(store.task) else one_word
    words, offset, entries = store.items(number)[1], int(store.item_offsets[number]), list[Json]()
    for span in spans_of[0]:
        kind, start, end = span
        at = offset + np.flatnonzero((words >= start) & (words < end))
        differs = span not in spans_of[-1]
        entries.append({"type": kind, "start": start, "end": end} | _marks(reading, at, differs=differs))
    return {"by": reading.by, "spans": entries}


def _marks(reading: Reading, at: Array, *, differs: bool) -> Json:
    """Of the items of a span: its mark, and the confidence of the least sure."""
    marked = differs or (reading.marked is not None and bool(reading.marked[at].any()))
    sure = None if reading.confidence is None else round(float(reading.confidence[at].min()), 4)
    return {"mark": reading.mark if marked else "", "confidence": sure}
