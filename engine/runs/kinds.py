"""All kinds of stages that a run may have: the core's, the methods beside it, and what other packages bring.

A package brings kinds of stages and rules for alpha by an entry point of the group `xlt_engine.plugins`: a function
without arguments that registers them (`stages.kind.register_kind`, `pseudolabels.thresholds.register_rule`).
"""

from __future__ import annotations

from functools import cache
from importlib import metadata

from ..stages import finetune, hard, masked_lm, soft
from ..storage.names import has_room

GROUP = "xlt_engine.plugins"
REGISTERED = [masked_lm, finetune, soft, hard]
"""Modules that register their kinds when they are imported."""
if has_room("methods"):
    from ..methods import contrastive, cotrain, induce

    REGISTERED += [contrastive, cotrain, induce]


@cache
def load_plugins() -> tuple[str, ...]:
    """Has other packages register what they bring, once; returns their names."""
    plugins = tuple(metadata.entry_points(group=GROUP))
    for plugin in plugins:
        plugin.load()()
    return tuple(plugin.name for plugin in plugins)
