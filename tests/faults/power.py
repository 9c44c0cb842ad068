"""Power losses: what was not synchronised is lost, in part, in any order; what is left must serve.

The calls of a process that change a folder are written down. A disk is then rebuilt as it may be found after a loss of
power behind any of them: names since the last synchronisation of their folder are there or not, each for itself (so in
every order), and bytes since the last synchronisation of their file are missing, half there or there.

`python tests/faults/power.py --runs 20` tries that on whole runs: rebuilt folders in which the same command must end
in the bits of a run that was left alone. `--parts` tries every state of single files, folders and checkpoints.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import calls
import starts
import torch

from xlt_engine.engine.storage import files
from xlt_engine.engine.training.checkpoint import load_latest, save_checkpoint

ALL_SUBSETS = 6
"""With more names or files in doubt than that, a draw of their subsets."""
Op = tuple[str, str, str]
"""A call: name, path, and where it goes, the size after a write, or the hash of the bytes that a synchronisation has
put on the disk."""


def record(folder: Path, blobs: Path, work: Callable[[], int]) -> tuple[list[Op], int]:
    """What a forked process that does `work` changes in a folder, and its code; file contents go to `blobs`."""
    blobs.mkdir(parents=True, exist_ok=True)
    log = blobs / "ops.json"
    ops: list[Op] = []

    def keep(path: str) -> str:
        data = Path(path).read_bytes()
        name = hashlib.sha256(data).hexdigest()
        if not (blobs / name).exists():
            (blobs / name).write_bytes(data)
        return name

    def hook(name: str, target: str, act: Callable[[], Any], half: Callable[[], Any]) -> Any:
        result = act()
        path, _, other = target.partition("\0")
        if name == "fsync" and not os.path.isdir(path):
            other = keep(path)
        if name == "write":
            other = str(os.path.getsize(path)) if os.path.exists(path) else ""
        ops.append((name, path, other))
        return result

    def watched() -> int:
        calls.watch(folder, hook)
        code = work()
        last = [("end", str(p), keep(str(p))) for p in sorted(folder.rglob("*")) if p.is_file()]
        log.write_text(json.dumps([*ops, *last]), encoding="utf-8")
        return code

    code = starts.wait(starts.fork(watched, blobs / "streams"))
    return [tuple(op) for op in json.loads(log.read_text("utf-8"))], code


@dataclass(eq=False)
class File:
    """A file: the bytes on the disk, those that will be next, how many of them are written, and whether any are new."""

    synced: str = ""
    coming: str = ""
    written: int | None = None
    dirty: bool = True


@dataclass(eq=False)
class Folder:
    """A folder: the names that processes see, and those on the disk."""

    seen: dict[str, Any] = field(default_factory=dict)
    synced: dict[str, Any] = field(default_factory=dict)


@dataclass
class Change:
    """Names of one or two folders that change at once: (folder, name, what it is from then on, or None)."""

    parts: list[tuple[Folder, str, Any]]

    def apply(self, which: str) -> None:
        for folder, name, node in self.parts:
            names = getattr(folder, which)
            if node is None:
                names.pop(name, None)
            else:
                names[name] = node


class Disk:
    """A disk below `root` on which calls are played."""

    def __init__(self, root: Path, blobs: Path) -> None:
        self.root, self.blobs, self.top = str(root), blobs, Folder()
        self.pending: list[Change] = []
        self.files: list[File] = []

    def load(self, folder: Path) -> None:
        """What lies in a folder counts as synchronised."""
        for path in sorted(folder.rglob("*")):
            parent, name = self._place(str(path))
            node: File | Folder = Folder()
            if path.is_file():
                data = path.read_bytes()
                blob = hashlib.sha256(data).hexdigest()
                (self.blobs / blob).write_bytes(data)
                node = File(blob, blob, dirty=False)
            parent.seen[name] = parent.synced[name] = node

    def _place(self, path: str) -> tuple[Folder, str]:
        node, parts = self.top, Path(path).relative_to(self.root).parts
        for part in parts[:-1]:
            node = node.seen[part]
        return node, parts[-1]

    def node(self, path: str) -> Any:
        if path == self.root:
            return self.top
        parent, name = self._place(path)
        return parent.seen.get(name)

    def play(self, op: Op) -> None:
        name, path, other = op
        if name in ("create", "native", "mkdir"):
            self._create(path, Folder() if name == "mkdir" else File())
        elif name in ("rename", "link"):
            (old, was), (new, becomes) = self._place(path), self._place(other)
            gone = [(old, was, None)] if name == "rename" else []
            self._change([*gone, (new, becomes, old.seen[was])])
        elif name in ("unlink", "rmdir"):
            self._change([(*self._place(path), None)])
        elif name in ("write", "ftruncate"):
            node = self.node(path)
            node.dirty, node.written = True, int(other) if other else None
        elif name == "fsync" and isinstance(node := self.node(path), Folder):
            for change in [c for c in self.pending if any(folder is node for folder, _, _ in c.parts)]:
                change.apply("synced")
                self.pending.remove(change)
        elif name == "fsync":
            node.synced, node.dirty = other, False

    def _create(self, path: str, node: File | Folder) -> None:
        if self.node(path) is not None:
            return
        if isinstance(node, File):
            self.files.append(node)
        self._change([(*self._place(path), node)])

    def _change(self, parts: list[tuple[Folder, str, Any]]) -> None:
        change = Change(parts)
        change.apply("seen")
        self.pending.append(change)

    def foresee(self, ops: Sequence[Op]) -> None:
        """Plays all calls on another disk, to learn what each file will hold when it is next synchronised."""
        nodes: dict[int, list[str]] = {}
        for op in ops:
            if op[0] == "end":
                node = self.node(op[1])
                nodes.setdefault(self.files.index(node) if node in self.files else -1, []).append(op[2])
                continue
            if op[0] == "fsync" and isinstance(node := self.node(op[1]), File) and node in self.files:
                nodes.setdefault(self.files.index(node), []).append(op[2])
            self.play(op)
        self.contents = nodes

    def states(self, draw: random.Random, most: int = 64) -> Iterator[dict[str, tuple[str, float]]]:
        """Disks that a loss of power now may leave: path -> content and the share of it that is there."""
        doubtful = len(self.pending)
        every: Any = itertools.product((False, True), repeat=doubtful)
        if doubtful > ALL_SUBSETS:
            every = [[False] * doubtful, [True] * doubtful]
            every += [[draw.random() < 0.5 for _ in range(doubtful)] for _ in range(most - 2)]
        for kept in every:
            for _ in range(3):  # of the bytes that are in doubt
                yield self.after(kept, draw)

    def after(self, kept: Sequence[bool], draw: random.Random) -> dict[str, tuple[str, float]]:
        """The disk if these of the pending changes have reached it."""
        before = [(folder, dict(folder.synced)) for change in self.pending for folder, _, _ in change.parts]
        for change, reached in zip(self.pending, kept, strict=True):
            if reached:
                change.apply("synced")
        tree: dict[str, tuple[str, float]] = {}
        self._walk(self.top, "", tree, draw)
        for folder, names in reversed(before):
            folder.synced = names
        return tree

    def _walk(self, folder: Folder, prefix: str, tree: dict[str, tuple[str, float]], draw: random.Random) -> None:
        for name, node in folder.synced.items():
            if isinstance(node, Folder):
                tree[f"{prefix}{name}/"] = ("", 1.0)
                self._walk(node, f"{prefix}{name}/", tree, draw)
            elif node.dirty and (coming := node.coming):
                size = (self.blobs / coming).stat().st_size
                share = 1.0 if node.written is None or not size else min(1.0, node.written / size)
                tree[prefix + name] = draw.choice([(node.synced, 1.0), (coming, share / 2), (coming, share)])
            else:
                tree[prefix + name] = (node.synced, 1.0)

    def rebuild(self, tree: dict[str, tuple[str, float]], place: Path) -> None:
        """The folder that is found after the loss."""
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for name, (blob, share) in tree.items():
            if name.endswith("/"):
                (place / name).mkdir(parents=True, exist_ok=True)
            else:
                data = (self.blobs / blob).read_bytes() if blob else b""
                (place / name).write_bytes(data[: int(len(data) * share)])


def disks(ops: Sequence[Op], root: Path, blobs: Path, before: Path | None = None) -> Iterator[Disk]:
    """The disk before the first call and after each."""
    ahead = Disk(root, blobs)
    disk = Disk(root, blobs)
    for one in (ahead, disk):
        if before is not None:
            one.load(before)
    ahead.foresee(ops)
    yield disk
    for op in ops:
        if op[0] == "end":
            return
        disk.play(op)
        for number, file in enumerate(disk.files):
            later = [blob for blob in ahead.contents.get(number, []) if blob != file.synced]
            file.coming = later[0] if later else file.synced
        yield disk


# Whole runs.


def runs(folder: Path, count: int, seed: int, recipe: Path | None = None) -> dict[str, Any]:
    """Goes on from `count` rebuilt run folders; what was wrong with them."""
    from kill import results

    starts.load()
    recipe = recipe or starts.write_tiny(folder / "data")
    place, blobs, draw = folder / "run", folder / "blobs", random.Random(seed)
    place.mkdir()
    arguments = ["run", str(recipe), *starts.SHORT, "--quiet", "--run-dir"]
    ops, code = record(place, blobs, lambda: starts.command([*arguments, str(place)]))
    assert code == 0, (blobs / "streams.err").read_text("utf-8")
    expected = results(place)
    chosen = sorted(draw.sample(range(len(ops)), count))
    wrong, doubtful = [], 0
    for number, disk in enumerate(disks(ops, place, blobs)):
        if number not in chosen:
            continue
        doubtful += len(disk.pending)
        found = folder / f"found-{number}"
        disk.rebuild(disk.after([draw.random() < 0.5 for _ in disk.pending], draw), found)
        code = starts.wait(starts.fork(lambda found=found: starts.command([*arguments, str(found)]), found))  # type: ignore[misc]
        ended = results(found) if code == 0 else {}
        different = [k for k in expected.keys() | ended.keys() if expected.get(k) != ended.get(k)]
        wrong += [f"after call {number}: code {code}, {different[:5]}"] if different else []
        print(f"{number} of {len(ops)}: {len(wrong)} wrong", file=sys.stderr)  # noqa: T201
    return {"calls": len(ops), "runs": count, "names in doubt": doubtful, "wrong": wrong}


# Every state of the parts.


def parts(folder: Path, seed: int = 0) -> dict[str, Any]:
    """A file, a folder and a checkpoint are each replaced; every state that a loss of power may leave is looked at."""
    starts.load()
    return {name: part(folder / name, random.Random(seed)) for name, part in PARTS.items()}


def every_state(
    folder: Path,
    draw: random.Random,
    prepare: Callable[[Path], Any],
    work: Callable[[Path], Any],
    look: Callable[[Path], str],
) -> dict[str, Any]:
    """States by what `look` says of them; it raises where a state is of no use."""
    place, blobs, before = folder / "place", folder / "blobs", folder / "before"
    place.mkdir(parents=True)
    prepare(place)
    shutil.copytree(place, before)

    def done() -> int:
        work(place)
        return 0

    ops, code = record(place, blobs, done)
    assert code == 0, (blobs / "streams.err").read_text("utf-8")
    seen: dict[str, str] = {}
    looked: dict[str, int] = {}
    for disk in disks(ops, place, blobs, _renamed(before, place)):
        for tree in disk.states(draw):
            key = json.dumps(tree, sort_keys=True)
            if key not in seen:
                disk.rebuild(tree, folder / "found")
                seen[key] = look(folder / "found")
                looked[seen[key]] = looked.get(seen[key], 0) + 1
    return {"calls": len(ops), "states": len(seen), **looked}


def _renamed(before: Path, place: Path) -> Path:
    """What was there before, under the name that the calls know."""
    shutil.rmtree(place)
    shutil.copytree(before, place)
    return place


def a_file(folder: Path, draw: random.Random) -> dict[str, Any]:
    def write(text: str) -> Callable[[Path], None]:
        return lambda place: files.atomic_write_text(place / "a.json", text * 99)

    return every_state(folder, draw, write("old"), write("new"), lambda place: old_or_new(place, {"a.json"}))


def old_or_new(place: Path, names: set[str]) -> str:
    files.sweep(place)
    (text,) = {(place / name).read_text("utf-8") for name in names}
    assert text in ("old" * 99, "new" * 99), text
    return text[:3]


def a_folder(folder: Path, draw: random.Random) -> dict[str, Any]:
    def publish(text: str) -> Callable[[Path], None]:
        def work(place: Path) -> None:
            with files.new_folder(place / "f", replace=True) as temporary:
                for name in ("x", "y"):
                    (temporary / name).write_text(text * 99, encoding="utf-8")

        return work

    return every_state(folder, draw, publish("old"), publish("new"), lambda place: old_or_new(place, {"f/x", "f/y"}))


def a_checkpoint(folder: Path, draw: random.Random) -> dict[str, Any]:
    def save(place: Path, step: int) -> None:
        save_checkpoint(place, step=step, tensors={"w": torch.full((64,), float(step))}, meta={"step": step}, keep=1)

    def look(place: Path) -> str:
        files.sweep(place)
        checkpoint = load_latest(place)
        assert checkpoint.tensors["w"].unique().tolist() == [checkpoint.step], checkpoint
        assert checkpoint.meta == {"step": checkpoint.step}
        return f"step {checkpoint.step}"

    return every_state(folder, draw, lambda place: save(place, 10), lambda place: save(place, 20), look)


PARTS = {"file": a_file, "folder": a_folder, "checkpoint": a_checkpoint}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        outcome: dict[str, Any] = parts(Path(place)) if given.parts else {}
        if given.runs:
            outcome["run"] = runs(Path(place), given.runs, given.seed)
    sys.stdout.write(json.dumps(outcome, indent=1) + "\n")
    sys.exit(1 if outcome.get("run", {}).get("wrong") else 0)


if __name__ == "__main__":
    main()
