"""Soft labels of a teacher's voters in a LightningModule, with gradient accumulation.

The loss of a step is divided by the words of the whole step on which the teacher's voters agree, so that four batches
of 2 sentences and one of 8 end in the same weights.
"""

import lightning
import torch

from xlt_engine.data import pack
from xlt_engine.kernels import soft_label_loss, votes
from xlt_engine.model import Encoder, EncoderConfig, TaskModel, VoterHeads

CONFIG = EncoderConfig(100, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64)


def tagger(seed):
    heads = VoterHeads(32, 3, seed=seed, initializer_range=0.3)
    return TaskModel(Encoder(CONFIG, seed=seed), heads, "ner", ("O", "B-PER", "B-LOC"))


class Student(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model, self.teacher, self.words = tagger(seed=1), tagger(seed=0).requires_grad_(False), 0

    def training_step(self, batch, index):
        voted = votes(self.teacher(batch))
        self.words = self.words + voted.agree.sum()
        logits = self.model(batch)  # seed=derive_seed(0, "dropout", self.global_step, index) switches dropout on
        loss = soft_label_loss(logits, voted.mean_probability, weights=voted.agree.float(), reduction="sum")
        return loss * self.trainer.accumulate_grad_batches  # Lightning divides by it, whatever the batches hold

    def on_before_optimizer_step(self, optimizer):
        for weight in self.model.parameters():
            weight.grad /= self.words.clamp(min=1)
        self.words = 0

    def configure_optimizers(self):
        return torch.optim.AdamW(self.model.parameters(), lr=1e-3)


def weights(model):
    return torch.cat([weight.detach().flatten().cpu() for weight in model.parameters()])


def train(sentences, accumulate):
    texts = [[(7 * n + 13 * i) % 100 for i in range(4 + n % 17)] for n in range(64)]
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    student, packed = Student(), lambda texts: pack(texts, items=[range(len(text)) for text in texts])
    batches = torch.utils.data.DataLoader(texts, sentences, collate_fn=packed)
    lightning.Trainer(max_epochs=1, accumulate_grad_batches=accumulate, **quiet).fit(student, batches)
    return weights(student.model)


if __name__ == "__main__":
    start, whole, parts = weights(tagger(seed=1)), train(8, 1), train(2, 4)
    print(f"learned {(whole - start).norm():.1e}; in four batches a step {(whole - parts).norm():.1e} more or less")
