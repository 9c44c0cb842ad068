"""One round of self-training inside a loop of your own: no recipe, no files, no logging.

A toy: a text is a sequence of token ids, and its class the range they come from. The target language shares a fifth
of its tokens with the source. Your own encoder comes from `xlt_engine.model.load_encoder(folder)`.
"""

import torch

from xlt_engine.data import derive_seed, pack
from xlt_engine.engine import choose_threshold, decide
from xlt_engine.kernels import soft_label_loss, voter_cross_entropy, votes
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, TaskModel, VoterHeads

CONFIG = EncoderConfig(100, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_positions=32)
LABELS = ("negative", "positive")


def texts(count: int, first: int, generator: torch.Generator) -> tuple[list[list[int]], torch.Tensor]:
    """Ids in [first, first + 20), the upper half for class 1; a fifth is of 2 shared tokens, a third is wrong."""
    gold, chance = torch.randint(2, (count,), generator=generator), torch.rand(2, count, 12, generator=generator)
    side = torch.where(chance[0] < 0.33, 1 - gold[:, None], gold[:, None])
    own, shared = first + 10 * side + torch.randint(10, side.shape, generator=generator), 2 + 2 * side
    return [[1, *row] for row in torch.where(chance[1] < 0.2, shared, own).tolist()], gold


def fit(model: TaskModel, sequences: list[list[int]], loss, targets: torch.Tensor, epochs: int) -> None:
    """Your trainer: any optimiser, any schedule. A seed switches dropout on and says which masks."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        for step, rows in enumerate(torch.arange(len(sequences)).split(32)):
            logits = model(pack([sequences[i] for i in rows]), seed=derive_seed(0, "dropout", epoch, step))
            (loss(logits, targets[rows]) / len(rows)).backward()
            optimiser.step()
            optimiser.zero_grad()


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    source, gold = texts(256, 10, generator)
    target, hidden_gold = texts(256, 50, generator)
    teacher = TaskModel(Encoder(CONFIG, seed=0), LinearHead(32, 2), "classification", LABELS)
    fit(teacher, source, voter_cross_entropy, gold, epochs=4)
    with torch.no_grad():
        soft = votes(teacher(pack(target))).mean_probability
    student = TaskModel(Encoder(CONFIG, seed=0), VoterHeads(32, 2), "classification", LABELS)
    fit(student, target, soft_label_loss, soft, epochs=12)
    with torch.no_grad():
        on_source, on_target = votes(student(pack(source))), votes(student(pack(target)))
    choice = choose_threshold(on_source.min_confidence, on_source.label == gold, agree=on_source.agree, num_classes=2)
    decision = decide(on_target, choice.alpha)
    right = (on_target.label == hidden_gold).float()
    print(f"alpha {choice.alpha:.2f}; {decision.reasons()}")
    print(f"right: all {right.mean():.3f}, accepted {right[torch.from_numpy(decision.keep)].mean():.3f}")


if __name__ == "__main__":
    main()
