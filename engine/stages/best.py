"""The weights of a stage that score best on labelled source text, instead of those of its last step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ... import ModelError
from ..training.checkpoint import load_latest, save_checkpoint
from ..training.distributed import ProcessGroup
from ..training.loop import Loop


class BestEpoch:
    """Looks at a stage after every epoch and keeps the weights with the highest score, the earlier of equal ones.

    The paper does not say which checkpoint it takes; the last one is the default here. Scores are those of the source
    language: no label of the target is read. A stage that is cut off and continued scores the same epochs again, with
    the same result.

    Args:
        folder: where the best weights lie until the stage ends; a checkpoint of its own.
        fingerprint: of the stage.
        every: steps in an epoch.
        score: of the weights as they are.
        processes: the processes of the run; all of them score, the first one writes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fingerprint: Mapping[str, Any],
        every: int,
        score: Callable[[], float],
        processes: ProcessGroup,
    ) -> None:
        self._folder, self._fingerprint, self._every, self._score, self._processes = (
            folder,
            fingerprint,
            every,
            score,
            processes,
        )
        self._seen = -1
        found = load_latest(folder, fingerprint=fingerprint)
        self._best = None if found is None else float(found.meta["score"])

    def due(self, step: int) -> bool:
        """Whether an epoch ends after so many steps."""
        return step % self._every == 0

    def look(self, loop: Loop) -> None:
        """Scores at the end of an epoch and at the end of the stage; at other steps, nothing."""
        if loop.step == self._seen or not (self.due(loop.step) or loop.step == loop.total):
            return
        self._seen = loop.step
        score = self._score()
        if self._best is not None and score <= self._best:
            return
        self._best = score
        tensors, _ = loop.state()
        weights = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
        if self._processes.is_rank_zero:
            save_checkpoint(
                self._folder,
                step=loop.step,
                tensors=weights,
                meta={"score": score},
                fingerprint=self._fingerprint,
                keep=1,
            )

    def restore(self, loop: Loop) -> dict[str, Any]:
        """Gives the loop the best weights; returns notes for `stage.json`: the step they are of, and their score.

        Raises:
            ModelError: their file is damaged.
        """
        self._processes.rank_zero_only(lambda: True)
        found = load_latest(self._folder, fingerprint=self._fingerprint)
        if found is None:  # the end of a stage is always looked at
            raise ModelError(f"{self._folder}: the best weights of the stage cannot be read back; run it again")
        loop.weights.load({name.removeprefix("model."): tensor for name, tensor in found.tensors.items()})
        return {"kept_step": found.step, "dev_score": found.meta["score"]}
