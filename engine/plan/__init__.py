"""The stage graph: which stages a recipe asks for, from which inputs, and what decides their results."""

from .graph import chosen_stages, digest, fingerprint, make_plan, register_planner, select
from .parts import NUMERICS, Stage

__all__ = ["NUMERICS", "Stage", "chosen_stages", "digest", "fingerprint", "make_plan", "register_planner", "select"]
