"""The stage graph: which stages a recipe asks for, from which inputs, and what decides their results."""

from .graph import chosen_stages, digest, fingerprint, make_plan, select
from .parts import NUMERICS, Kind, Stage

__all__ = ["NUMERICS", "Kind", "Stage", "chosen_stages", "digest", "fingerprint", "make_plan", "select"]
