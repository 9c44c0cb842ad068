"""A round in memory: what is asked of whom, in which order, and what comes of it by a recomputation."""

from typing import Any

import numpy as np
import pytest
import torch

from xlt_engine.engine.pseudolabels.round import RoundDecision, self_training_round
from xlt_engine.kernels import Votes, votes

SEED = 5


def logits(name: str, voters: int = 3, items: int = 400) -> torch.Tensor:
    """[M, K, 3], of a model on a side; voters agree in most items."""
    generator = torch.Generator().manual_seed(SEED + sum(map(ord, name)))
    shared = 2 * torch.randn(1, items, 3, generator=generator)
    return shared + 0.5 * torch.randn(voters, items, 3, generator=generator)


@pytest.mark.parametrize("rule", ["second-difference", "fixed:0.6"])
def test_a_round_asks_in_order_and_decides_as_the_equations_say(rule: str) -> None:
    said: list[Any] = []

    def vote(model: str, side: str) -> Votes:
        said.append(("vote", model, side))
        return votes(logits(f"{model} {side}"))

    def learn_soft(model: str, labels: torch.Tensor) -> None:
        said.append(("soft", model))
        torch.testing.assert_close(labels, logits("teacher target").softmax(-1).mean(0), rtol=1e-6, atol=0)

    def learn_hard(model: str, decision: RoundDecision) -> None:
        said.append(("hard", model, decision))

    gold = logits("student source")[0].argmax(-1)
    gold[::7] = (gold[::7] + 1) % 3
    decision = self_training_round(
        "teacher", "student", gold, vote=vote, learn_soft=learn_soft, learn_hard=learn_hard, rule=rule
    )
    order = [("vote", "teacher", "target"), ("soft", "student"), ("vote", "student", "source")]
    assert said == [*order, ("vote", "student", "target"), ("hard", "student", decision)]
    probability = logits("student target").double().softmax(-1).numpy()
    choice = probability.argmax(-1)
    unanimous = (choice == choice[0]).all(0)
    confident = probability.max(-1).min(0) > decision.choice.alpha
    np.testing.assert_array_equal(decision.target.keep, unanimous & confident)
    assert 0 < decision.target.keep.sum() < len(decision.target.keep)
    mean = logits("student source").double().softmax(-1).mean(0).argmax(-1)
    np.testing.assert_array_equal(decision.source.keep, (mean == gold).numpy())
    if rule == "fixed:0.6":
        assert decision.choice.alpha == 0.6
