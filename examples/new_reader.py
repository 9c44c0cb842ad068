"""Text in a format of your own, from the file to a trained classifier.

A reader is a function that returns `Example`s. Here: fastText's `__label__positive some text`, one example a line.
"""

import tempfile
from pathlib import Path

import numpy as np

from xlt_engine import DataError
from xlt_engine.data import Example, ItemView, Part, TaskBatches, build_store, train_wordpiece
from xlt_engine.engine import OptimizerConfig, train
from xlt_engine.kernels import voter_cross_entropy
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, TaskModel

GOOD, BAD = ("good", "great", "fine", "lovely"), ("bad", "poor", "weak", "dull")
PLACES = ("room", "food", "film", "book", "show", "city")


def read_fasttext(path: Path, language: str = "") -> list[Example]:
    """Texts with their labels; a line without a label is a DataError that names it."""
    examples = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        label, _, text = line.partition(" ")
        if not line:
            continue
        if not label.startswith("__label__") or not text:
            raise DataError(f"{path}:{number}: no label and text; write __label__NAME TEXT")
        name = label.removeprefix("__label__")
        examples.append(Example(f"{path.stem}:{number}", language, None, text, None, name, str(path), number))
    return examples


def objective(model, batch, seed):
    """Sum of the losses of a batch; the loop divides by the number of targets of the step."""
    return voter_cross_entropy(model(batch, seed=seed), batch.labels)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file, labels = Path(folder) / "train.txt", ("negative", "positive")
        pairs = [(label, word) for label, words in zip(labels, (BAD, GOOD), strict=True) for word in words]
        file.write_text("".join(f"__label__{c} the {p} is {w}\n" for c, w in pairs for p in PLACES), "utf-8")
        examples = read_fasttext(file, "en")
        tokenizer = train_wordpiece([str(e.text) for e in examples], 100)
        store = build_store(
            examples, tokenizer, folder=Path(folder) / "store", task="classification", labels=labels, max_length=16
        )
        part = Part(ItemView(store), np.arange(len(store)), labels=np.asarray(store.item_labels))
        batches = TaskBatches([part], batch_size=8, epochs=10, seed=0)
        config = EncoderConfig(tokenizer.vocab_size, 32, 2, 2, intermediate_size=64, max_positions=16)
        model = TaskModel(Encoder(config), LinearHead(32, 2), "classification", labels)
        trace = train(model, batches, objective, optimizer=OptimizerConfig(lr=2e-3))
    print(f"{len(examples)} examples, loss {trace.loss[0]:.3f} -> {trace.loss[-1]:.3f}")


if __name__ == "__main__":
    main()
