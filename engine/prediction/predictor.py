"""Labels for texts and words, with confidences: `Predictor`, a model that is ready for many calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import numpy as np

from ... import ConfigError
from ...data import OUTSIDE, Row, Tokenizer, inference_tokens, row_batches, window_rows
from ...tasks import has_spans, per_word, task_of
from ..evaluation.inference import packed_votes, predict_batches, unpacked_votes
from ..evaluation.metrics import mark_entities, spans
from ..evaluation.valid_tags import TagDecoder
from ..pseudolabels.filters import decide
from ..pseudolabels.refine import Labels, of_same_word, of_shared_words, pooled, word_forms, words_of_texts
from ..storage.run_warning import RunWarning
from ..training.device import Precision
from ..training.out_of_memory import PassRetry
from .model_folder import Device, ModelLike, open_model
from .stage_record import stored_alpha
from .words import Sentence, Split, check_split

Columns = tuple[np.ndarray, ...]
Elsewhere = Callable[[Labels], Labels]
ABSTAINED = "_"
"""How a label that is not given is written."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The class of one text.

    Attributes:
        label: None where the voters' strict policy abstains.
        confidence: mean probability of the label over the voters; with `abstain` the least sure voter's own, which is
            what the policy compares with alpha.
        agree: whether all voters name the same class.
        probabilities: mean over the voters, by class.
    """

    label: str | None
    confidence: float
    agree: bool
    probabilities: Mapping[str, float]

    def cells(self) -> list[tuple[str, str, str]]:
        """One triple: "", the label, `_` for none, and its confidence."""
        return [("", self.label or ABSTAINED, f"{self.confidence:.4f}")]

    def fields(self, name: str, words: str) -> dict[str, Any]:
        """As JSON values, the label under `name`."""
        probabilities = {label: round(p, 6) for label, p in self.probabilities.items()}
        label = {name: self.label, "confidence": round(self.confidence, 6), "agree": self.agree}
        return label | {"probabilities": probabilities}


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity of a sentence.

    Attributes:
        start: its first character in the text; `end` is behind its last one.
        label: its type.
        score: mean confidence of its words.
    """

    start: int
    end: int
    label: str
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class TagPrediction:
    """The tags of one sentence: one entry per word, each as in `Prediction`.

    A word that gives no token (white space, control characters) is `O` with confidence 0.

    Attributes:
        words: as given, or as a plain text was cut.
        text: as given, or the words with a space between them.
        entities: in order; with `abstain` those alone whose words all have a label.
    """

    words: tuple[str, ...]
    labels: tuple[str | None, ...]
    confidences: tuple[float, ...]
    agree: tuple[bool, ...]
    text: str
    entities: tuple[Entity, ...]

    @property
    def pairs(self) -> list[tuple[str | None, float]]:
        """The label of each word with its confidence."""
        return list(zip(self.labels, self.confidences, strict=True))

    def cells(self) -> list[tuple[str, str, str]]:
        """Each word with its label, `_` for none, and confidence."""
        rows = zip(self.words, self.pairs, strict=True)
        return [(word, label or ABSTAINED, f"{confidence:.4f}") for word, (label, confidence) in rows]

    def fields(self, name: str, words: str) -> dict[str, Any]:
        """As JSON values: the words under `words`, the tags under `name`."""
        confidence = [round(c, 6) for c in self.confidences]
        return {words: self.words, name: self.labels, "confidence": confidence, "agree": self.agree}


class Options(TypedDict, total=False):
    """How a model labels: what `predict`, `predict_file` and `Predictor` take.

    Attributes:
        tokenizer: the model's; needed with a model in memory, read from the folder otherwise.
        abstain: give a label only where all voters agree on it and each of them is surer than alpha (Eq. 4).
        alpha: for `abstain`; where absent, what the stage that made the folder decided with, else 0.9.
        word_pooling: from 0, the default, to 1, how far the texts of one call, or of one file, know of each other: a
            word of the same word elsewhere, a text of the others with its words, as `selftrain.word_pooling` has it of
            unlabelled text (docs/findings.md). A file is then labelled as a whole, in memory. Not with `abstain`, which
            asks each voter.
        raw: NER: the tag of each word by itself, valid or not, as a run scores them.
        split: NER: where texts are cut into words: around "punctuation", at "whitespace" only, or for scripts without
            spaces at all their "characters"; where absent, as the recipe of the folder cut its unlabelled text, else
            around punctuation.
        max_length: in tokens, special ones included; where absent, the length the folder was trained with, else all
            positions of the encoder. A longer sentence of NER is read in overlapping windows, so that every word gets a
            tag; a longer text of classification is cut.
        device: for a folder; a model in memory stays where it is.
        precision: for a folder: what the model computes in. "auto" is fp32 on a CPU, and on a GPU what the stage was
            trained in, else 16 bits. On a CPU with AVX-512 BF16 "bf16" is 1.5 to 1.9 times as fast.
    """

    tokenizer: Tokenizer | None
    abstain: bool
    alpha: float | None
    word_pooling: float
    raw: bool
    split: Split | None
    max_length: int | None
    device: Device
    precision: Precision


class Predictor:
    """A model with its tokenizer, ready to label. Arguments and errors as of `predict`.

    Attributes:
        alpha: what `abstain` compares with; `alpha_from` says whether it was "given", comes from "stage.json" or
            "decision.json" beside the model, or is the "default".
        names: of columns and fields of the files that the model was trained on, where they are not the usual ones.
        counts: of `texts`, `words`, `windowed` (sentences read in several windows), `cut` (texts that the maximum
            length cut), `no_token` (words that give no token), `abstained`, `without_text` (rows of a file).
        warnings: what does not suit the model, from a look at the texts of the first call (`check_split`); and that
            memory did not suffice.
    """

    def __init__(self, model: ModelLike, **options: Unpack[Options]) -> None:
        alpha, abstain, raw = options.get("alpha"), options.get("abstain", False), options.get("raw", False)
        if unknown := sorted(set(options) - set(Options.__annotations__)):
            raise TypeError(f"{unknown[0]!r} is none of {', '.join(Options.__annotations__)}")
        if alpha is not None and not abstain:
            raise ConfigError("alpha is the confidence for abstaining; give abstain too, or leave alpha out")
        if not 0 <= (pooling := options.get("word_pooling", 0.0)) <= (not abstain):
            why = "abstain asks each voter of each text by itself" if abstain else "give a weight from 0 to 1"
            raise ConfigError(f"word_pooling is {pooling}; {why}")
        if alpha is not None and not 0 <= alpha <= 1:
            raise ConfigError(f"alpha is {alpha}; give a confidence from 0 to 1")
        given: dict[str, Any] = {**options}
        names = given.keys() & {"tokenizer", "max_length", "device", "precision"}
        opened = open_model(model, **{name: given[name] for name in names})
        self.model, self.tokenizer, self.max_length = opened.model, opened.tokenizer, opened.max_length
        self.split, self.folder, self.names = options.get("split") or opened.split, opened.folder, opened.names
        self.abstain, self.raw, self.word_pooling = abstain, raw, pooling
        self._decoder = None if raw or not has_spans(opened.model.task) else TagDecoder(self.model.labels)
        self.alpha, self.alpha_from = (alpha, "given") if alpha is not None else stored_alpha(opened.folder)
        self._silent = OUTSIDE if has_spans(self.task) else None
        self.counts: Counter[str] = Counter()
        self.warnings: list[RunWarning] = []
        self._retry = PassRetry(report=self.warnings.append)
        self._looked = False

    @property
    def task(self) -> str:
        """ "ner", "tag" or "classification"."""
        return self.model.task

    def words(self, text: str) -> tuple[str, ...]:
        """The words of a plain text, cut as those that the model was trained on."""
        return Sentence.of_text(text, self.split).words

    @property
    def finds_entities(self) -> bool:
        """Whether the labels are tags of entities: `O`, and `B-` or `I-` with a type."""
        return has_spans(self.task) and mark_entities(self.model.labels)

    def classify(self, texts: Sequence[str], pairs: Sequence[str | None] | None = None) -> list[Prediction]:
        """The class of each text, or pair of texts."""
        self.expect("classification")
        rows = self._texts(texts, pairs)
        verdicts = self._decide(
            rows, len(texts), lambda p: of_shared_words(p, *words_of_texts(row.ids for row in rows))
        )
        self.counts["texts"] += len(texts)
        self.counts["abstained"] += int((~verdicts[1]).sum())
        names = self.model.labels
        return [
            Prediction(
                names[label] if keep else None,
                float(confidence),
                bool(agree),
                dict(zip(names, map(float, probabilities), strict=True)),
            )
            for label, keep, confidence, agree, probabilities in zip(*verdicts, strict=True)
        ]

    def _texts(self, texts: Sequence[str], pairs: Sequence[str | None] | None) -> list[Row]:
        """Texts as they are, their [CLS] as item."""
        encoded = self.tokenizer.encode_texts(texts, pairs, max_length=self.max_length)
        self.counts["cut"] += sum(text.cut_tokens > 0 for text in encoded)
        rows = []
        for i, text in enumerate(encoded):
            segments = None if text.second is None else [int(t >= text.second) for t in range(len(text.ids))]
            rows.append(Row(text.ids, [0], [i], segments, i))
        return rows

    def tag(self, texts: Sequence[str] | Sequence[Sequence[str]]) -> list[TagPrediction]:
        """The tags and entities of each sentence, a list of words or a text, which is then cut into words."""
        self.expect(self.task if per_word(self.task) else "ner")
        plain = [text for text in texts if isinstance(text, str)]
        if plain and not self._looked:
            self._looked = True
            warning = check_split(plain, self.split)
            self.warnings += [warning] if warning else []
        sentences = [Sentence.of_text(t, self.split) if isinstance(t, str) else Sentence.of_words(t) for t in texts]
        encoded = self.tokenizer.encode_words([s.words for s in sentences])
        rows: list[Row] = []
        starts, positions = [0], list[int]()
        for i, (sentence, tokens) in enumerate(zip(sentences, encoded, strict=True)):
            windows = window_rows(tokens.ids, tokens.positions, self.max_length, first=len(positions), example=i)
            rows += windows
            positions += [starts[-1] + w for w in tokens.words]
            starts.append(starts[-1] + len(sentence.words))
            self.counts["windowed"] += len(windows) > 1
            self.counts["no_token"] += tokens.empty
        self.counts["texts"] += len(sentences)
        self.counts["words"] += starts[-1]
        places = np.array(positions, dtype=np.int64)

        def elsewhere(given: Labels) -> Labels:
            forms = np.zeros(starts[-1], dtype=np.int64)  # of words without a token nothing is asked
            forms[places] = word_forms((tokens.ids, tokens.positions) for tokens in encoded)
            return of_same_word(given, forms)

        return self._tagged(sentences, starts, *self._tags(rows, starts, places, elsewhere))

    def _tags(self, rows: list[Row], starts: list[int], positions: np.ndarray, elsewhere: Elsewhere) -> Columns:
        """Of each word the tag, whether it is given, confidence, agreement, and whether it gives a token at all."""
        chosen, keep, confidence, agree, mean = self._decide(rows, starts[-1], elsewhere, positions)
        seen = np.zeros(starts[-1], dtype=bool)
        seen[positions] = True
        if self._decoder is not None:
            alone, chosen = chosen, self._decoder.decode(chosen, mean, seen, starts)
            other = np.flatnonzero((alone != chosen) & seen)
            if self.abstain:
                keep[other] = False
            else:
                confidence[other] = mean[other, chosen[other]]
        self.counts["abstained"] += int((~keep).sum())
        return chosen, keep, confidence, agree, seen

    def _tagged(self, sentences: Sequence[Sentence], starts: list[int], *of_words: np.ndarray) -> list[TagPrediction]:
        names, finds_entities, out = self.model.labels, self.finds_entities, list[TagPrediction]()
        for sentence, start, stop in zip(sentences, starts, starts[1:], strict=False):
            chosen, keep, confidence, agree, seen = (column[start:stop].tolist() for column in of_words)
            tags = [names[tag] if known else self._silent for tag, known in zip(chosen, seen, strict=True)]
            entities = tuple(
                _entity(sentence, kind, first, last, confidence)
                for kind, first, last in (spans([str(tag) for tag in tags]) if finds_entities else ())
                if all(keep[first:last])
            )
            labels = tuple(tag if kept else None for tag, kept in zip(tags, keep, strict=True))
            out.append(TagPrediction(sentence.words, labels, tuple(confidence), tuple(agree), sentence.text, entities))
        return out

    def notes(self) -> list[str]:
        """What a user should know about the labels given so far, in sentences; often nothing."""
        counts, lines = self.counts, []
        if self.abstain:
            origin = {"given": "as given", "default": "the default"}.get(self.alpha_from, f"from {self.alpha_from}")
            lines.append(
                f"no label for {counts['abstained']} of {counts[task_of(self.task).units]} {task_of(self.task).units}: "
                f"voters disagree, or one of them is not above alpha {self.alpha:g} ({origin})"
            )
        if counts["windowed"]:
            lines.append(f"{counts['windowed']} sentences are longer than {self.max_length} tokens: read in windows")
        if counts["cut"]:
            lines.append(f"{counts['cut']} texts were cut beyond {self.max_length} tokens")
        if counts["without_text"]:
            lines.append(f"rows without text: {counts['without_text']}; their labels are left empty")
        if counts["no_token"]:
            lines.append(f"{counts['no_token']} words give no token: {self._silent or 'no tag'} with confidence 0")
        return lines

    def expect(self, task: str) -> None:
        """Raises a ConfigError unless the model is for this task."""
        if self.task != task:
            raise ConfigError(f"the model is for {self.task}, not for {task}; ask for its own task")

    def _decide(self, rows: list[Row], total: int, elsewhere: Elsewhere, places: np.ndarray | None = None) -> Columns:
        """Label, whether it is given, confidence, agreement and mean probabilities of `total` words or texts.

        Those that no row holds have neither confidence nor agreement.

        Args:
            elsewhere: what others like them say, from the mean probabilities of all.
            places: which word each item of the rows is; the item's own number where absent.
        """
        device = next(self.model.parameters()).device
        lengths = np.array([len(row.ids) for row in rows], dtype=np.int64)
        batches = (
            (batch, items if places is None else places[items])
            for batch, items in row_batches(lengths, rows.__getitem__, inference_tokens(device.type))
        )
        columns = 3 + len(self.model.labels)
        packed = predict_batches(self.model, batches, (total, columns), packed_votes, retry=self._retry)
        counted = unpacked_votes(packed)
        mean, agree = counted.mean_probability.numpy(), counted.agree.numpy()
        if self.word_pooling:
            given = mean.astype(np.float64)
            mean = pooled(given, elsewhere(given), self.word_pooling).astype(mean.dtype)
        chosen = mean.argmax(axis=-1)
        if self.abstain:
            decision = decide(counted, self.alpha)
            label = np.where(decision.keep, decision.label, chosen)
            return label, np.array(decision.keep), counted.min_confidence.numpy(), agree, mean
        confidence = np.take_along_axis(mean, chosen[:, None], axis=-1)[:, 0]
        return chosen, np.ones(total, dtype=bool), confidence, agree, mean


def predict(
    model: ModelLike,
    texts: Sequence[str] | Sequence[Sequence[str]],
    *,
    task: str | None = None,
    pairs: Sequence[str | None] | None = None,
    **options: Unpack[Options],
) -> list[Prediction] | list[TagPrediction]:
    """Labels every text: a `Prediction` each for classification, a `TagPrediction` each for NER.

    A label is the most probable class of the voters' mean probability (arXiv 2310.04726 leaves this open). Where the
    tags of a sentence would not be valid BIO, it gets the valid ones with the largest product of mean probabilities.
    With `abstain` a label is given only where all voters agree on it and each of them is surer than alpha (Eq. 4).
    `Predictor.classify` and `Predictor.tag` have one type of result.

    Args:
        model: a task model, or the folder of one; a stage folder of a run is one.
        texts: texts; for NER lists of words, or texts, which are then cut into words.
        task: "ner", "tag" or "classification", where the caller knows it: a model for another task is an error.
        pairs: classification: the second text of each.
        options: `Options`, of which none has to be given.

    Raises:
        ConfigError: the arguments do not fit together or the task, or `split` does not suit the script of the texts.
        DataError: a text is not usable.
        ModelError: the folder is damaged, or model and tokenizer do not fit.
        DivergedError: the model gives probabilities that are not finite.
    """
    predictor = Predictor(model, **options)
    if task is not None:
        predictor.expect(task)
    if predictor.task == "classification":
        return predictor.classify([_text(t) for t in texts], pairs)
    if pairs is not None:
        raise ConfigError("pairs are for classification; a tagger reads one sentence at a time")
    return predictor.tag(texts)


def _text(text: str | Sequence[str]) -> str:
    if not isinstance(text, str):
        raise ConfigError(f"the model classifies texts, but one is a {type(text).__name__}; give strings")
    return text


def _entity(sentence: Sentence, kind: str, first: int, last: int, confidence: Sequence[float]) -> Entity:
    """The entity of the words from `first` up to `last`."""
    start, end = sentence.places[first][0], sentence.places[last - 1][1]
    score = sum(confidence[first:last]) / (last - first)
    return Entity(start, end, kind, sentence.text[start:end], score)
