import pytest
import torch
from torch.nn import functional

from xlt_engine import ModelError
from xlt_engine.model import LinearHead, MlpHead, VoterHeads, default_voter_widths


def states(rows=6, hidden=24, seed=0):
    return torch.randn(rows, hidden, generator=torch.Generator().manual_seed(seed))


def padding(head):
    """Every stored value outside the voters' own widths."""
    for i, width in enumerate(head.widths):
        yield head.in_weight[i, width:]
        yield head.in_bias[i, width:]
        yield head.out_weight[i, :, width:]


def test_linear_head(error):
    head, x = LinearHead(24, 5, seed=2), states()
    assert head(x).shape == (1, 6, 5)
    assert error(head(x)[0], x @ head.weight.T + head.bias) <= 1e-6


def test_mlp_head(error):
    head, x = MlpHead(24, 5, seed=2), states()
    expected = torch.tanh(x @ head.dense_weight.T + head.dense_bias) @ head.weight.T + head.bias
    assert head(x).shape == (1, 6, 5)
    assert error(head(x)[0], expected) <= 1e-6


def test_default_widths():
    assert default_voter_widths(768) == (576, 640, 704)
    assert VoterHeads(768, 2).widths == (576, 640, 704)
    assert default_voter_widths(768, 2) == (576, 704)
    assert default_voter_widths(768, 1) == (576,)
    assert default_voter_widths(768, 5) == (576, 608, 640, 672, 704)


def test_voters_stack_equals_a_loop(error):
    head, x = VoterHeads(24, 5, widths=(17, 9, 24, 20), seed=3), states()
    with torch.no_grad():  # biases away from zero, padding left alone
        for i, width in enumerate(head.widths):
            head.in_bias[i, :width] = torch.randn(width)
        head.out_bias.normal_()
        head.bias.normal_()
    loop = []
    for i, d in enumerate(head.widths):
        inner = functional.gelu(functional.linear(x, head.in_weight[i, :d], head.in_bias[i, :d]))
        outer = functional.linear(inner, head.out_weight[i, :, :d], head.out_bias[i])
        loop.append(functional.linear(outer, head.weight[i], head.bias[i]))
    assert head(x).shape == (4, 6, 5)
    assert error(head(x), torch.stack(loop)) <= 1e-5


def test_voters_padding_stays_zero_in_training():
    head = VoterHeads(24, 5, seed=3)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=0.1)
    target = torch.tensor([0, 1, 2, 3, 4, 0])
    start = head.in_weight.detach().clone()
    for step in range(5):
        optimizer.zero_grad()
        logits = head(states(seed=step), seed=step)
        sum(functional.cross_entropy(voter, target) for voter in logits).backward()
        optimizer.step()
    blocks = [block for block in padding(head) if block.numel()]
    assert blocks
    assert all(bool((block == 0).all()) for block in blocks)
    assert not torch.equal(start, head.in_weight)


def test_voters_differ_from_the_start_and_are_independent():
    head = VoterHeads(24, 5, widths=(16, 16), seed=3)
    assert not torch.equal(head.in_weight[0], head.in_weight[1])
    head(states())[0].sum().backward()
    assert bool((head.in_weight.grad[0] != 0).any())
    assert bool((head.in_weight.grad[1] == 0).all())


def test_voter_parameters_at_the_paper_sizes():
    """Three voters of 576, 640 and 704 cost 2.9 M parameters without padding."""
    head = VoterHeads(768, 2)
    own = sum(p.numel() for p in head.parameters()) - sum(block.numel() for block in padding(head))
    assert own == sum(2 * 768 * d + d + 768 + 2 * 768 + 2 for d in (576, 640, 704))
    assert 2.9e6 < own < 3.0e6


@pytest.mark.parametrize("make", [LinearHead, MlpHead, VoterHeads])
def test_heads_are_functions_of_their_seeds(make):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    head, same, other, x = make(24, 5, seed=1), make(24, 5, seed=1), make(24, 5, seed=2), states()
    assert torch.equal(head(x), same(x))
    assert not torch.equal(head(x), other(x))
    assert torch.equal(head(x, seed=9), head(x, seed=9))
    assert not torch.equal(head(x, seed=9), head(x, seed=10))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("make", [LinearHead, MlpHead, VoterHeads])
def test_no_rows(make):
    head = make(24, 5)
    assert head(states(rows=0)).shape == (head.num_voters, 0, 5)


@pytest.mark.parametrize("widths", [(), (4, 0)])
def test_widths_that_cannot_be(widths):
    with pytest.raises(ModelError, match="voter widths"):
        VoterHeads(24, 5, widths=widths)
    with pytest.raises(ModelError, match="at least one voter"):
        default_voter_widths(24, 0)
    with pytest.raises(ModelError, match="at least one class"):
        LinearHead(24, 0)
