"""One round of self-training inside a loop of your own: no recipe, no files, no logging.

A toy: a class is a range of token ids. Your own encoder comes from `xlt_engine.model.load_encoder(folder)`.
"""

import torch

from xlt_engine.data import derive_seed, pack
from xlt_engine.engine.pseudolabels.round import RoundDecision, self_training_round
from xlt_engine.kernels import soft_label_loss, voter_cross_entropy, votes
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, TaskModel, VoterHeads

CONFIG = EncoderConfig(100, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_positions=32)


def texts(count: int, first: int, generator: torch.Generator) -> tuple[list[list[int]], torch.Tensor]:
    """Ids in [first, first + 20), the upper half for class 1; a fifth is of 2 shared tokens, a third is wrong."""
    gold, chance = torch.randint(2, (count,), generator=generator), torch.rand(2, count, 12, generator=generator)
    side = torch.where(chance[0] < 0.33, 1 - gold[:, None], gold[:, None])
    own, shared = first + 10 * side + torch.randint(10, side.shape, generator=generator), 2 + 2 * side
    return [[1, *row] for row in torch.where(chance[1] < 0.2, shared, own).tolist()], gold


def fit(model: TaskModel, sequences: list[list[int]], loss, targets: torch.Tensor, epochs: int) -> None:
    """Your trainer: any optimizer, any schedule. A seed switches dropout on and says which masks."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        for step, rows in enumerate(torch.arange(len(sequences)).split(32)):
            logits = model(pack([sequences[i] for i in rows]), seed=derive_seed(0, "dropout", epoch, step))
            (loss(logits, targets[rows]) / len(rows)).backward()
            optimizer.step()
            optimizer.zero_grad()


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    (source, gold), (target, hidden) = texts(256, 10, generator), texts(256, 50, generator)
    teacher = TaskModel(Encoder(CONFIG, seed=0), LinearHead(32, 2), "classification", ("negative", "positive"))
    fit(teacher, source, voter_cross_entropy, gold, epochs=4)
    student = TaskModel(Encoder(CONFIG, seed=0), VoterHeads(32, 2), "classification", ("negative", "positive"))

    def learn_hard(student: TaskModel, decision: RoundDecision) -> None:
        keep = torch.tensor([*decision.source.keep, *decision.target.keep]).nonzero()[:, 0]
        labels = torch.cat([gold, torch.from_numpy(decision.target.label)])[keep]
        fit(student, [(source + target)[i] for i in keep], voter_cross_entropy, labels, epochs=2)

    decision = self_training_round(
        *(teacher, student, gold),
        vote=torch.no_grad()(lambda model, side: votes(model(pack(source if side == "source" else target)))),
        learn_soft=lambda student, labels: fit(student, target, soft_label_loss, labels, epochs=12),
        learn_hard=learn_hard,
    )
    right = (torch.from_numpy(decision.target.label) == hidden).float()
    accepted = right[decision.target.keep].mean()
    print(f"alpha {decision.choice.alpha:.2f}; right: all {right.mean():.3f}, accepted {accepted:.3f}")


if __name__ == "__main__":
    main()
