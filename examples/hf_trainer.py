"""A tagger on packed batches in transformers' Trainer (which needs accelerate), with gradient accumulation.

The loss of a step is divided by the labelled words of the whole step, so that two batches of 4 sentences and one of 8
end in the same weights.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import Trainer, TrainingArguments

from xlt_engine.data import Tokenizer, pack
from xlt_engine.kernels import voter_cross_entropy
from xlt_engine.model import LinearHead, TaskModel, load_encoder

FOLDER, LABELS = Path(__file__).parents[1] / "assets" / "mini-encoder", ("O", "B-LOC")
TEXTS = ["Berlin", "in Paris or Rome", "Oslo is cold", "we saw Madrid and Vienna from the night train"] * 4
TOKENIZER = Tokenizer.from_folder(FOLDER)


class Packed(torch.nn.Module):
    """What the Trainer calls, which wants `config` to be one of transformers."""

    def __init__(self):
        super().__init__()
        encoder = load_encoder(FOLDER)
        self.model = TaskModel(encoder, LinearHead(encoder.config.hidden_size, len(LABELS)), "ner", LABELS)

    def forward(self, batch):
        return self.model(batch)  # [voters, words, classes]; no dropout without a seed


def collate(texts):
    words = [text.split() for text in texts]
    encoded = TOKENIZER.encode_words(words)
    labels = [[int(line[i].istitle()) for i in one.words] for line, one in zip(words, encoded, strict=True)]
    batch = pack([one.ids for one in encoded], items=[one.positions for one in encoded], labels=labels)
    return {"labels": batch.labels, "batch": batch}  # the Trainer counts the labels of all batches of a step


def loss(logits, labels, num_items_in_batch):
    return voter_cross_entropy(logits, labels, reduction="sum") / num_items_in_batch


def train(sentences, accumulate):
    model, quiet = Packed(), {"report_to": [], "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True}
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, per_device_train_batch_size=sentences, num_train_epochs=2,
            gradient_accumulation_steps=accumulate, remove_unused_columns=False, **quiet)  # fmt: skip
        Trainer(model, arguments, collate, TEXTS, compute_loss_func=loss).train()
    return torch.cat([weight.detach().flatten().cpu() for weight in model.parameters()])


if __name__ == "__main__":
    start = torch.cat([weight.detach().flatten() for weight in Packed().parameters()])
    whole, parts = train(8, 1), train(4, 2)
    print(f"learned {(whole - start).norm():.1e}; in two batches a step {(whole - parts).norm():.1e} more or less")
