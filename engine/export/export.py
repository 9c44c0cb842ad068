"""`export --to`: a task model in a folder that transformers opens, compared with ours before it appears."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import ConfigError
from ...model import ClozeHead, TaskModel, head_of_transformers, read_info, save_model
from ..prediction.model_folder import keep_record
from ..prediction.predictor import Predictor
from ..prediction.scoring import HEADLINE, evaluate
from ..storage.files import new_folder
from ..vocabulary.texts import run_of, run_texts
from .compare import compare
from .distil import HELD_OUT, distil
from .sample import padded, read_sample, store_of
from .write import AUTO, save_tokenizer, write_with_code


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how near it is to the model.

    Attributes:
        code: whether the folder needs `trust_remote_code=True`.
        texts: that the folder and the model read both; `difference` is the largest between their logits.
        read_by: who read the folder.
        learned: texts that a distilled head learned from or was tried on; 0 for an exact way.
        agreement: % of items on held-out texts with the class of the voters' mean; 100 for an exact way.
        scores: of a distilled head, by language of the run's test files: the model's and the folder's.
    """

    folder: str
    opens_with: str
    code: bool
    texts: int
    difference: float
    read_by: str
    learned: int = 0
    agreement: float = 100.0
    metric: str = ""
    scores: dict[str, tuple[float, float]] | None = None

    def render(self) -> str:
        """What a person wants to know."""
        trust = ", trust_remote_code=True" if self.code else ""
        lines = [f'{self.opens_with}.from_pretrained("{self.folder}"{trust})']
        compared = f"logits of {self.texts} texts, read by {self.read_by}"
        lines.append(f"{compared}: the largest difference is {self.difference:.1e}")
        if self.learned:
            lines.append(
                f"one linear head in place of the model's: the same class for {self.agreement:.2f} % of the items "
                f"of texts that it has not learned from (one in {HELD_OUT} of {self.learned:,})"
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
    encoding: str = "utf-8",
    text: str = "text",
) -> ExportReport:
    """Writes a task model to a folder that transformers opens; the folder appears when its logits have been compared.

    Args:
        model: folder of a tagger or classifier.
        out: folder to be made.
        to: "transformers", exact: with `modeling_xlt.py`, which needs `trust_remote_code=True`, where transformers
            itself does not have the head. "linear", without foreign code: one linear head learns what the head says.
        texts: files; the unlabelled text of the run that the stage belongs to where there are none.
        text: table or JSON lines: column of the text.

    Raises:
        ConfigError: `out` exists, there is no text, or transformers has no class that could read the texts so.
        DataError: a text is missing or wrong.
        ModelError: the folder is damaged or holds no task model, or the new one gives other logits.
        StorageError: the folder cannot be written.
    """
    source, facts = Path(model), dict[str, Any]()
    with new_folder(out) as folder, tempfile.TemporaryDirectory(prefix="xlt-export-") as work:
        predictor = Predictor(source, device="cpu")
        written = predictor.model
        exact = to == "transformers" or head_of_transformers(written)
        _refuse(written, exact)
        examples = read_sample(predictor, source, texts, encoding, text)
        store = store_of(predictor, examples, Path(work))
        if not exact:
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
    return ExportReport(str(out), AUTO[written.task], code, len(sample.ids), difference, by, **facts)


def _refuse(model: TaskModel, exact: bool) -> None:
    """What no class of transformers reads.

    Raises:
        ConfigError: a prompt, or a mean that a head of transformers would have to do without.
    """
    if model.prompt or isinstance(model.head, ClozeHead):
        raise ConfigError("the model reads texts in a prompt, which transformers' classifiers do not; use predict")
    if not exact and model.pooling == "mean":
        raise ConfigError(
            "the model reads the mean over the tokens, transformers' classifiers read [CLS]; give --to transformers, "
            "or train with another pooling"
        )


def _scores(source: Path, predictor: Predictor, made: TaskModel) -> dict[str, Any]:
    """Of the model and of what was made of it, on the run's test files; nothing where it has none."""
    examples = list(run_texts(source, ("test",))) if run_of(source) else []
    if not examples:
        return {}
    metric, tokenizer, length = HEADLINE[made.task], predictor.tokenizer, predictor.max_length
    before, after = (
        evaluate(model, examples, tokenizer=tokenizer, max_length=length).scores for model in (predictor.model, made)
    )
    scores = {s.name: (s.metrics[metric], t.metrics[metric]) for s, t in zip(before, after, strict=True)}
    return {"metric": metric, "scores": scores}
