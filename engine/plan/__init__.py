"""A stage of a run: who it is, its inputs, and what decides its result."""

from .stage import NUMERICS, Stage, digest, fingerprint

__all__ = ["NUMERICS", "Stage", "digest", "fingerprint"]
