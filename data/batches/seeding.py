"""Seeds by purpose: every random draw in the package is keyed by what it is for, never by hidden state."""

from __future__ import annotations

import hashlib


def _encode(part: str | int) -> bytes:
    """Type, length and value, so that no two different sequences of parts share an encoding."""
    tag, value = (b"i", str(int(part)).encode()) if isinstance(part, int) else (b"s", part.encode("utf-8"))
    return tag + len(value).to_bytes(8, "little") + value


def derive_seed(seed: int, *purpose: str | int) -> int:
    """The seed of one purpose, in [0, 2**63).

    The same arguments give the same value on every machine and in every version of Python; arguments that differ
    in value, type (`1` and `"1"`), order or grouping (`"ab"` and `"a", "b"`) give independent values.

    Args:
        seed: the seed of the run; any integer, negative ones included.
        purpose: what the draw is for, for example `"mask", "de", step`.
    """
    digest = hashlib.blake2b(b"".join(_encode(part) for part in (seed, *purpose)), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
