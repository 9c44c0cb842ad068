"""The mask generator: rates, independence, and that an element's bit depends on its own counters alone."""

import math

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import masks

ROWS, COLUMNS = 1000, 512
# Of 5 standard deviations; with the few hundred comparisons here a false alarm has a probability of 1e-4.
SIGMAS = 5.0
SEEDS = [0, 1, 2**31, 2**32, 2**62 + 12345, 2**63 - 1, -1, -3]

_WORD = (1 << 32) - 1


def level(row: int, column: int, seed: int, site: int) -> int:
    """By the formula of the module's docstring, in Python's integers: how many levels may drop before this element."""

    def mix(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D & _WORD
        x ^= x >> 15
        x = x * 0x846CA68B & _WORD
        return x ^ x >> 16

    golden = 0x9E3779B9
    base = mix(mix(((seed & _WORD) + golden) & _WORD) + (seed >> 32 & _WORD) & _WORD)
    a = mix(base + site * golden & _WORD)
    b = mix(a ^ 0x5BF03635)
    k0, k1 = mix(a + row * golden & _WORD), mix(b ^ row)
    x = k0 + column // 2 * golden & _WORD
    x ^= x >> 16
    x = (x * 0x7FEB352D + k1) & _WORD
    x ^= x >> 15
    x = x * 0x846CA68B & _WORD
    x ^= x >> 16
    bits = x >> 16 if column % 2 else x & 0xFFFF
    return (bits + 2**15) % 2**16


def agreement(a: Tensor, b: Tensor) -> float:
    """How far two masks of rate 1/2 are from independent ones, in standard deviations of their agreement."""
    return abs(float((a == b).double().mean()) - 0.5) * 2 * math.sqrt(a.numel())


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bits_are_those_of_the_formula(seed: int) -> None:
    rows, columns = [0, 1, 2, 65_535, 2**31 - 1], [0, 1, 2, 3, 767]
    for site in (0, 1, 1_000_001):
        mask = masks.keep_mask(torch.tensor(rows), 768, 0.37, seed, site)
        least = round(0.37 * 2**16)
        assert mask[:, columns].tolist() == [[int(level(r, c, seed, site) >= least) for c in columns] for r in rows]


@pytest.mark.parametrize("column", range(6))
def test_an_element_is_dropped_from_its_level_on(column: int) -> None:
    dropped = level(3, column, 5, 2)
    for number in (dropped - 1, dropped, dropped + 1):
        mask = masks.keep_mask(4, 6, number / 2**16, 5, 2)
        assert bool(mask[3, column]) == (number <= dropped)


@pytest.mark.parametrize("p", [2**-16, 0.001, 0.1, 0.5, 0.9, 0.999, 1 - 2**-16])
@pytest.mark.parametrize("seed", [3, 2**62 + 12345])
def test_the_keep_rate_of_every_column_row_and_half_word(p: float, seed: int) -> None:
    mask = masks.keep_mask(ROWS, COLUMNS, p, seed, 7).double()
    rate = 1 - masks.dropped_levels(p) / 2**16
    for count, means in (
        (ROWS * COLUMNS, mask.mean()[None]),
        (ROWS * COLUMNS // 2, mask.view(ROWS, -1, 2).mean((0, 1))),
        (ROWS, mask.mean(0)),
        (COLUMNS, mask.mean(1)),
    ):
        # Where the rarer kind is very rare, its number is Poisson's, whose tail is longer: 12 elements more.
        bound = SIGMAS * math.sqrt(rate * (1 - rate) / count) + 12 / count * (min(rate, 1 - rate) < 0.01)
        assert float((means - rate).abs().max()) <= bound


def test_the_rounded_probability_and_its_scale() -> None:
    assert [masks.dropped_levels(p) for p in (0.0, 2**-18, 2**-16, 0.5, 1 - 2**-18)] == [0, 0, 1, 32768, 65535]
    for p in (0.0, 0.1, 0.5, 0.999):
        assert masks.keep_scale(p) == 1 / (1 - masks.dropped_levels(p) / 2**16)
    assert masks.keep_mask(20, 20, 0.0, 1, 1).all()
    assert not masks.is_active(0.1, None)
    assert not masks.is_active(2**-18, 1)
    assert masks.is_active(2**-16, 1)


def test_neighbours_are_independent() -> None:
    """Columns of a word, of the next words, rows, and diagonals, by correlation."""
    mask = masks.keep_mask(ROWS, COLUMNS, 0.5, 11, 3)
    for lag in (1, 2, 3, 4, 64):
        assert agreement(mask[:, lag:], mask[:, :-lag]) < SIGMAS, lag
        assert agreement(mask[lag:], mask[:-lag]) < SIGMAS, lag
        assert agreement(mask[lag:, lag:], mask[:-lag, :-lag]) < SIGMAS, lag
    even, odd = mask[:, ::2], mask[:, 1::2]
    assert agreement(even, odd) < SIGMAS
    # Three at a time: xor of a row with the two above it.
    assert agreement(mask[2:] ^ mask[1:-1], mask[:-2]) < SIGMAS


def test_seeds_and_sites_are_unrelated() -> None:
    keys = [(0, 0), (1, 0), (0, 1), (1, 1), (2**32, 0), (2**32 + 1, 0), (-1, 0), (2**31, 0), (0, 2), (2, 0)]
    found = [masks.keep_mask(ROWS, COLUMNS, 0.5, seed, site) for seed, site in keys]
    for i, one in enumerate(found):
        for j in range(i):
            assert agreement(one, found[j]) < SIGMAS, (keys[i], keys[j])
            assert agreement(one[1:], found[j][:-1]) < SIGMAS, (keys[i], keys[j])


def test_a_larger_probability_drops_more_of_the_same() -> None:
    low, high = (masks.keep_mask(ROWS, COLUMNS, p, 4, 4) for p in (0.1, 0.3))
    assert bool((high <= low).all())
    assert bool((high < low).any())


@pytest.mark.parametrize("columns", [1, 2, 511, 4096])
def test_an_element_does_not_depend_on_the_size_of_the_mask(columns: int) -> None:
    whole = masks.keep_mask(300, 4097, 0.4, 9, 5)
    for rows in (1, 37, 300):
        assert torch.equal(masks.keep_mask(rows, columns, 0.4, 9, 5), whole[:rows, :columns])


def test_rows_may_be_given_by_number() -> None:
    whole = masks.keep_mask(300, 101, 0.4, 9, 5)
    numbers = torch.tensor([299, 0, 7, 7, 130])
    for dtype in (torch.int64, torch.int32):
        assert torch.equal(masks.keep_mask(numbers.to(dtype), 101, 0.4, 9, 5), whole[numbers])
    assert torch.equal(numbers, torch.tensor([299, 0, 7, 7, 130])), "the caller's numbers were changed"
    assert masks.keep_mask(torch.tensor([], dtype=torch.int64), 3, 0.4, 9, 5).shape == (0, 3)
    assert masks.keep_mask(3, 0, 0.4, 9, 5).shape == (3, 0)


def test_rows_may_begin_elsewhere() -> None:
    whole = masks.keep_mask(300, 101, 0.4, 9, 5)
    seed = torch.tensor([9, 130])
    assert torch.equal(masks.keep_mask(170, 101, 0.4, seed, 5), whole[130:])
    numbers = torch.tensor([7, 0, 169], dtype=torch.int32)
    assert torch.equal(masks.keep_mask(numbers, 101, 0.4, seed, 5), whole[numbers.long() + 130])
    assert numbers.tolist() == [7, 0, 169], "the caller's numbers were changed"
    assert torch.equal(masks.keep_mask(40, 101, 0.4, torch.tensor([9, 130]), 5, lanes=2), whole[260:])
    far = masks.keep_mask(2, 9, 0.5, torch.tensor([9, 2**31 - 1]), 5)
    assert far.tolist() == [[int(level(r, c, 9, 5) >= 2**15) for c in range(9)] for r in (2**31 - 1, 2**31)]


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_are_taken_whole_as_int_and_as_tensor(seed: int) -> None:
    """Alone, and beside the first row that the host gives."""
    cpu = torch.device("cpu")
    for given in (seed, torch.tensor(seed)):
        from_row = masks.seed_from_row(given, 12, torch.zeros(3))
        assert from_row.tolist() == [seed, 12]
        assert torch.equal(masks.seed_tensor(0.5, from_row, cpu), from_row)
    assert masks.seed_from_row(None, 12, torch.zeros(3)) is None
    made = masks.seed_tensor(0.5, seed, cpu)
    assert (made.dtype, made.tolist()) == (torch.int64, [seed, 0])
    mask = masks.keep_mask(50, 50, 0.5, seed, 1)
    for given in (made, torch.tensor(seed), made[:1]):
        assert torch.equal(masks.keep_mask(50, 50, 0.5, given, 1), mask)
        assert torch.equal(masks.seed_tensor(0.5, given, cpu), made)


def test_seeds_beyond_64_bits_wrap() -> None:
    assert masks.seed_tensor(0.5, 2**64 + 5, torch.device("cpu")).tolist() == [5, 0]
    assert masks.seed_tensor(0.5, 2**63, torch.device("cpu")).tolist() == [-(2**63), 0]
    assert torch.equal(masks.keep_mask(9, 9, 0.5, 2**63, 1), masks.keep_mask(9, 9, 0.5, -(2**63), 1))
    assert torch.equal(masks.keep_mask(9, 9, 0.5, 2**64 + 5, 1), masks.keep_mask(9, 9, 0.5, 5, 1))


@pytest.mark.parametrize("p", [-0.01, 1.0, 1.5, math.nan])
def test_probabilities_outside_the_range_are_refused(p: float) -> None:
    with pytest.raises(ValueError, match="probability must be in"):
        masks.is_active(p, None)
