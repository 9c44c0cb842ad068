"""Seeds by purpose."""

from __future__ import annotations

import hashlib
import itertools

from xlt_engine.data import derive_seed


def test_value_is_fixed() -> None:
    encoded = b"".join(
        tag + len(value).to_bytes(8, "little") + value for tag, value in [(b"i", b"7"), (b"s", b"mask"), (b"i", b"-3")]
    )
    digest = hashlib.blake2b(encoded, digest_size=8).digest()
    assert derive_seed(7, "mask", -3) == int.from_bytes(digest, "little") // 2


def test_range_and_spread() -> None:
    seeds = [derive_seed(seed, "x", step) for seed in (-1, 0, 1, 2**80) for step in range(500)]
    assert all(0 <= s < 2**63 for s in seeds)
    assert len(set(seeds)) == len(seeds)
    # Each of the 63 bits is set in about half of 2,000 draws; 6 sigma is 134.
    for bit in range(63):
        assert abs(sum(s >> bit & 1 for s in seeds) - 1000) < 134


def test_purposes_do_not_run_together() -> None:
    purposes = [(), ("",), ("", ""), ("ab",), ("a", "b"), ("b", "a"), (1,), ("1",), (1, 1), (11,), ("1", 1), (1, "1")]
    values = [derive_seed(5, *purpose) for purpose in purposes] + [derive_seed(51), derive_seed(5, 1, "")]
    assert all(a != b for a, b in itertools.combinations(values, 2))
