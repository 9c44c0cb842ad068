"""`export --to`: a task model in a folder that other programs open, compared with ours before it appears."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import ConfigError
from ...data import ItemView, TokenStore
from ...kernels import votes
from ...model import TaskModel, head_of_transformers, read_info, save_model
from ...tasks import task_of
from ..evaluation.inference import predict_items
from ..prediction.predictor import Predictor
from ..prediction.scoring import evaluate, store_of
from ..prediction.stage_record import keep_record
from ..storage.files import new_folder
from ..storage.text import size_text
from ..vocabulary.texts import run_of, run_texts
from .compare import compare
from .distil import HELD_OUT, distil
from .onnx_graph import FILE, OnnxModel, describe, need_onnx, quantise, write_onnx
from .sample import padded, read_sample
from .write import TOKENIZER, save_tokenizer, write_with_code


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how near it is to the model.

    Attributes:
        opens: what a program says to open the folder.
        code: whether the folder needs `trust_remote_code=True`.
        texts: that the folder and the model read both; `difference` is the largest between their logits.
        read_by: who read the folder.
        size: of the weights, in bytes.
        learned: texts that a distilled head learned from or was tried on; 0 for another way.
        tried: texts on which a graph in 8 bits was tried; 0 for another way.
        agreement: % of items with the class of the voters' mean, for a distilled head on held-out texts; 100 for an
            exact way.
        scores: where the way is not exact, by language of the run's test files: the model's and the folder's.
    """

    folder: str
    opens: str
    code: bool
    texts: int
    difference: float
    read_by: str
    size: int
    learned: int = 0
    tried: int = 0
    agreement: float = 100.0
    metric: str = ""
    scores: dict[str, tuple[float, float]] | None = None

    def render(self) -> str:
        """What a person wants to know."""
        lines = [f"{self.opens}, {size_text(self.size)}"]
        if self.code:
            lines.append(f"{TOKENIZER.format(self.folder)}: the tokenizer, without that code")
        compared = f"logits of {self.texts} texts, read by {self.read_by}"
        lines.append(f"{compared}: the largest difference is {self.difference:.1e}")
        if self.learned:
            lines.append(
                f"one linear head in place of the model's: the same class for {self.agreement:.2f} % of the items "
                f"of texts that it has not learned from (one in {HELD_OUT} of {self.learned:,})"
            )
        if self.tried:
            lines.append(
                f"then in 8 bits: the same class for {self.agreement:.2f} % of the items of {self.tried:,} texts"
            )
        for language, (before, after) in (self.scores or {}).items():
            lines.append(f"{self.metric} {language}: {before:.2f} -> {after:.2f}")
        return "\n".join(lines)


def export_model(
    model: str | Path,
    out: str | Path,
    to: str,
    texts: Sequence[str | Path] = (),
    *,
    int8: bool = False,
    encoding: str = "utf-8",
    text: str = "text",
) -> ExportReport:
    """Writes a task model to a folder that others open; the folder appears when its logits have been compared.

    Args:
        model: folder of a tagger or classifier.
        out: folder to be made.
        to: "transformers", exact: with `modeling_xlt.py`, which needs `trust_remote_code=True`, where transformers
            itself does not have the head. "linear", without foreign code: one linear head learns what the head says.
            "onnx", exact: a graph for onnxruntime.
        texts: files; the text of the run that the stage belongs to where there are none.
        int8: of a graph: weights and activations in 8 bits, which is not exact.
        text: table or JSON lines: column of the text.

    Raises:
        ConfigError: `out` exists, there is no text, transformers has no class that could read the texts so, or what
            makes graphs is not installed.
        DataError: a text is missing or wrong.
        ModelError: the folder is damaged or holds no task model, or the new one gives other logits.
        StorageError: the folder cannot be written.
    """
    source = Path(model)
    if to == "onnx":
        need_onnx()
    with new_folder(out) as folder, tempfile.TemporaryDirectory(prefix="xlt-export-") as work:
        predictor = Predictor(source, device="cpu")
        _refuse(predictor.model, to)
        store = store_of(predictor, read_sample(predictor, source, texts, encoding, text), Path(work))
        if to == "onnx":
            facts = _for_onnxruntime(source, predictor, store, folder, int8)
        else:
            facts = _for_transformers(source, predictor, store, folder, to)
        size = sum(path.stat().st_size for path in folder.glob("model*"))
    return ExportReport(str(out), facts.pop("opens").format(out), size=size, **facts)


def _for_transformers(source: Path, predictor: Predictor, store: TokenStore, folder: Path, to: str) -> dict[str, Any]:
    """Writes what transformers opens; what the report says of it."""
    written, facts = predictor.model, dict[str, Any]()
    if to == "linear" and not head_of_transformers(written):
        written, agreement = distil(written, store)
        facts = {"learned": len(store), "agreement": agreement, **_scores(source, predictor, written)}
    code = not head_of_transformers(written)
    if code:
        write_with_code(written, predictor.tokenizer, folder)
    else:
        save_model(written, folder, extra=dict(read_info(source).extra or {}))
        save_tokenizer(written, predictor.tokenizer, folder)
        keep_record(source, folder)
    sample = padded(store, predictor.tokenizer.pad_id)
    difference, by = compare(folder, written, sample, code=code)
    opens = f'{task_of(written.task).auto_class}.from_pretrained("{{}}"{", trust_remote_code=True" if code else ""})'
    facts |= {"opens": opens, "code": code, "texts": len(sample.ids)}
    return facts | {"difference": difference, "read_by": by}


def _for_onnxruntime(source: Path, predictor: Predictor, store: TokenStore, folder: Path, int8: bool) -> dict[str, Any]:
    """Writes a graph, and where asked for one in 8 bits in its place; what the report says of it."""
    model, tokenizer = predictor.model, predictor.tokenizer
    sample = padded(store, tokenizer.pad_id)
    facts: dict[str, Any] = {"opens": f'onnxruntime.InferenceSession("{{}}/{FILE}")', "code": False}
    facts |= {"texts": len(sample.ids), "read_by": "onnxruntime"}
    with tempfile.TemporaryDirectory(prefix="xlt-onnx-") as work:
        exact = (Path(work) if int8 else folder) / FILE
        write_onnx(model, exact)
        facts["difference"] = OnnxModel(model, exact, tokenizer.pad_id).compare(sample)
        if int8:
            quantise(exact, folder / FILE)
    if int8:
        graph = OnnxModel(model, folder / FILE, tokenizer.pad_id)
        facts |= {"tried": len(store), "agreement": _agreement(model, graph, store)}
        facts |= _scores(source, predictor, graph)
    describe(predictor, folder)
    return facts


def _agreement(model: TaskModel, made: TaskModel, store: TokenStore) -> float:
    """% of the items on which both name one class."""
    classes = [
        predict_items(each, ItemView(store), lambda logits: votes(logits).mean_probability.argmax(-1, True), width=1)
        for each in (model, made)
    ]
    return 100 * float((classes[0] == classes[1]).double().mean())


def _refuse(model: TaskModel, to: str) -> None:
    """Raises a ConfigError for a mean that a head of transformers would have to do without."""
    if to == "linear" and model.pooling == "mean" and "mean" not in model.config.layout.poolings:
        raise ConfigError(
            "the model reads the mean over the tokens, transformers' classifiers of its layout read [CLS]; give --to "
            "transformers, or train with another pooling"
        )


def _scores(source: Path, predictor: Predictor, made: TaskModel) -> dict[str, Any]:
    """Of the model and of what was made of it, on the run's test files; nothing where it has none."""
    examples = list(run_texts(source, ("test",))) if run_of(source) else []
    if not examples:
        return {}
    metric, tokenizer, length = task_of(made.task).metric, predictor.tokenizer, predictor.max_length
    before, after = (
        evaluate(model, examples, tokenizer=tokenizer, max_length=length).scores for model in (predictor.model, made)
    )
    scores = {s.name: (s.metrics[metric], t.metrics[metric]) for s, t in zip(before, after, strict=True)}
    return {"metric": metric, "scores": scores}
