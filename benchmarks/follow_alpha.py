"""How far alpha is from the command line, and how many files it passes on its way to the mask that trains.

    python benchmarks/follow_alpha.py

Runs the demo with small caps up to its first hard stage, watches the calls of this package, and prints

* the frames from `cli.main` to `choose_threshold`, both counted;
* the files that alpha passes from the recipe to the mask: those of the frames on the stack when the loader makes the
  table of the rule (from `load_recipe` on), when the stage reads the rule, when alpha is chosen, items are accepted by
  it, and the mask is built (below `train_stage`: what every kind of stage passes is in the first list).

Fails above 9 frames or 8 files.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import xlt_engine
from xlt_engine import cli
from xlt_engine.engine.pseudolabels.filters import Decision, decide
from xlt_engine.engine.pseudolabels.thresholds import choose_threshold
from xlt_engine.engine.recipe.config.stages import AlphaConfig

FRAMES, FILES = 9, 8
ROOT = Path(xlt_engine.__file__).parent
SMALL = (
    *("selftrain.rounds=1", "arms.baseline=false", "source.cap=150", "selftrain.cap=100", "pretrain.epochs=0.05"),
    *("btf.epochs=0.05", "finetune.epochs=2", "selftrain.soft.epochs=2", "selftrain.alpha.rule='fixed:0.0'"),
)
WATCHED: dict[CodeType, str] = {
    AlphaConfig.__init__.__code__: "the recipe is loaded",
    AlphaConfig.threshold.fget.__code__: "the rule is read",  # type: ignore[attr-defined]
    choose_threshold.__code__: "alpha is chosen",
    decide.__code__: "items are accepted",
    Decision.targets.fget.__code__: "the mask is built",  # type: ignore[attr-defined]
}
Frames = list[tuple[str, str]]


def own_frames(frame: FrameType) -> Frames:
    """The functions of this package on the stack with their files, from `cli.main` on."""
    stack = [(one.f_code.co_name, Path(one.f_code.co_filename)) for one, _ in traceback.walk_stack(frame)]
    own = [(name, path.relative_to(ROOT).as_posix()) for name, path in reversed(stack) if path.is_relative_to(ROOT)]
    return own[own.index(("main", "cli.py")) :]


def follow(*words: str) -> tuple[Frames, dict[str, str]]:
    """Of a command line: the frames from `cli.main` to `choose_threshold`, and the files that alpha passes."""
    longest, files = Frames(), {"engine/recipe/config/stages.py": "the rule has its home"}

    def watch(frame: FrameType, event: str, value: Any) -> None:
        nonlocal longest
        if event != "call" or frame.f_code not in WATCHED:
            return
        what, found = WATCHED[frame.f_code], own_frames(frame)
        names = [name for name, _ in found]
        start = "load_recipe" if what == "the recipe is loaded" else "train_stage"
        if start in names:
            for _, file in found[names.index(start) + (start == "train_stage") :]:
                files.setdefault(file, what)
        if "train_stage" in names and names[-1] == "choose_threshold":
            longest = max(longest, found, key=len)

    sys.setprofile(watch)
    try:
        cli.main(words)
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
    return longest, files


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        run = ("run", "demo", "--stage", "selftrain", "--target", "de", "--jobs", "1", "--quiet")
        frames, passed = follow(
            *run, f"--run-dir={home}/run", *(word for setting in SMALL for word in ("--set", setting))
        )
    for most, found in (FRAMES, frames), (FILES, list(passed.items())):
        print(f"{len(found)} (at most {most}):", *(f"  {first:36} {second}" for first, second in found), sep="\n")
    sys.exit(len(frames) > FRAMES or len(passed) > FILES)
