"""How much longer a run takes, from the tokens of its stages and the time that some of them took."""

from __future__ import annotations

from collections.abc import Sequence

from ..plan import Stage
from ..stages.context import Context
from ..stages.kind import planned
from ..storage.names import FINISHED


class RunClock:
    """Seconds per token of each kind of stage; a kind that was not made yet is as fast as all others together.

    Args:
        resume: whether stages that are finished on the disk stay as they are.

    Attributes:
        jobs: stages that run side by side.
    """

    def __init__(self, context: Context, plan: Sequence[Stage], resume: bool) -> None:
        self._context, self._plan, self._resume = context, plan, resume
        self.jobs = 1
        self._made: list[tuple[Stage, float]] = []
        self._tokens: dict[str, float] = {}

    def add(self, stage: Stage, seconds: float) -> None:
        """A stage was made, in so many seconds with all that surrounds its training."""
        self._made.append((stage, seconds))

    def left(self, stage: Stage) -> float | None:
        """Seconds from the beginning of this stage to the end of the run; None before any stage was made."""
        if not self._made:
            return None
        begun = 0 if self.jobs > 1 else self._plan.index(stage)
        ahead = [s for s in self._plan[begun:] if not self._is_there(s)]
        return sum(self._tokens_of(s) * self._pace(s.kind) for s in ahead) / self.jobs

    def _pace(self, kind: str) -> float:
        made = [entry for entry in self._made if entry[0].kind == kind] or self._made
        return sum(seconds for _, seconds in made) / max(1.0, sum(self._tokens_of(stage) for stage, _ in made))

    def _is_there(self, stage: Stage) -> bool:
        return self._resume and (self._context.folder(stage.id) / FINISHED).exists()

    def _tokens_of(self, stage: Stage) -> float:
        if stage.id not in self._tokens:
            self._tokens[stage.id] = planned(self._context.of_stage(stage), stage).tokens
        return self._tokens[stage.id]
