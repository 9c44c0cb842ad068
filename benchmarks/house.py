"""The shape of the code: rooms and their imports, circles, sizes, and how deep a run goes.

    python benchmarks/house.py                                  # the figures
    python benchmarks/house.py --svg docs/figures/rooms.svg     # the rooms and their arrows, drawn from the imports
    python benchmarks/house.py --run                            # also the figures of a small run; takes a minute

The order of the rooms is that of the table in docs/design.md, from the ground up. Imports inside functions and under
TYPE_CHECKING count like all others. tests/packaging/test_house.py holds the figures to what that page promises.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import os
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("kernels", "model", "data", "engine")
CONTRACT = re.compile(r"^\| `([\w/]+?)(?:/|\.py)` \| ([^|]*) \|[^|]*\|$", re.M)
"""A row of the table of rooms: its folder (or `cli.py`), and its contract."""


class Import(NamedTuple):
    """One module imports another; both as dotted names below the package. `line` is the importer's."""

    importer: str
    imported: str
    line: int


class Function(NamedTuple):
    """`lines` are those of the body without the docstring; `compiled` means a Triton kernel."""

    lines: int
    name: str
    path: Path
    compiled: bool


def module_files(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name below the package -> file, for all modules that are shipped; a folder's `__init__` has its name."""
    paths = [path for part in PARTS for path in sorted((root / part).rglob("*.py"))]
    names: dict[str, Path] = {}
    for path in [*paths, *sorted(root.glob("cli.py"))]:
        parts = path.relative_to(root).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def room_of(path: Path, root: Path = ROOT) -> str:
    """The room of a file: `engine/storage`; `engine` for its `__init__`, the door; `kernels` for all below."""
    parts = path.relative_to(root).with_suffix("").parts
    return "/".join(parts[:2]) if parts[0] in ("data", "engine") and parts[1] != "__init__" else parts[0]


def imports_of(files: Mapping[str, Path], root: Path = ROOT) -> list[Import]:
    """All imports between modules of the package, at any depth of their code."""
    return [entry for name, path in files.items() for entry in _imports_in(name, path, files, root)]


def _imports_in(name: str, path: Path, files: Mapping[str, Path], root: Path) -> Iterator[Import]:
    package = path.relative_to(root).parts[:-1]
    for node in _from_imports(path.read_text("utf-8")):
        module = node.module.split(".") if node.module else []
        if node.level:
            base = [*package[: len(package) + 1 - node.level], *module]
        elif module[:1] == ["xlt_engine"]:
            base = module[1:]
        else:
            continue
        for alias in node.names:
            full, folder = ".".join([*base, alias.name]), ".".join(base)
            imported = full if full in files else folder
            if imported in files and imported != name:
                yield Import(name, imported, node.lineno)


@cache
def _from_imports(code: str) -> list[ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]


def arrows_between(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Importer -> what it imports, itself left out."""
    arrows: dict[str, set[str]] = defaultdict(set)
    for importer, imported in pairs:
        if importer != imported:
            arrows[importer].add(imported)
    return dict(arrows)


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other: Tarjan's strongly connected components of more than one node."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in sorted(arrows.get(node, ())):
            if other not in number:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], number[other])
        if low[node] == number[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for node in sorted(arrows):
        if node not in number:
            visit(node)
    return groups


def rooms_in_order(root: Path = ROOT) -> dict[str, str]:
    """Room -> contract, from the ground up, as the table of docs/design.md has them."""
    return dict(CONTRACT.findall((root / "docs" / "design.md").read_text("utf-8")))


def upward_imports(files: Mapping[str, Path], rooms: Sequence[str], root: Path = ROOT) -> list[Import]:
    """Imports of a room by one that stands below it; a room without a place in `rooms` stands below all."""
    floor = {room: number for number, room in enumerate(rooms)}

    def climbs(entry: Import) -> bool:
        low, high = (room_of(files[name], root) for name in (entry.importer, entry.imported))
        return low != high and (not {low, high} <= floor.keys() or floor[high] > floor[low])

    return [entry for entry in imports_of(files, root) if climbs(entry)]


def flat_files(files: Mapping[str, Path]) -> Counter[Path]:
    """Folder -> number of modules that lie flat in it; `__init__.py` is the folder itself."""
    return Counter(path.parent for path in files.values() if path.name != "__init__.py")


def line_counts(files: Mapping[str, Path]) -> dict[Path, int]:
    """File -> lines."""
    return {path: len(path.read_text("utf-8").splitlines()) for path in files.values()}


def functions(files: Mapping[str, Path]) -> list[Function]:
    """All functions and methods, the longest first."""
    trees = [(ast.parse(path.read_text("utf-8")), path) for path in files.values()]
    defined = [_function(node, path) for tree, path in trees for node in ast.walk(tree)]
    return sorted((entry for entry in defined if entry is not None), reverse=True)


def _function(node: ast.AST, path: Path) -> Function | None:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
    return Function(lines, node.name, path, any("jit" in ast.unparse(d) for d in node.decorator_list))


def recipe_keys() -> str:
    """Values that a recipe can set: the leaves of the dataclasses below `RunConfig`."""
    from xlt_engine.engine import RunConfig
    from xlt_engine.engine.recipe.schema import key_paths

    keys = list(key_paths(RunConfig))
    again = sum("reader" in key[1:] for key in keys)
    names = len({key[-1] for key in keys})
    return f"{len(keys) - again}, of {names} names; {again} more are those of [reader], for single languages"


SMALL = (
    *("model.new.hidden_size=32", "model.new.num_heads=2", "model.new.intermediate_size=64", "pretrain.epochs=0.1"),
    *("btf.epochs=0.1", "finetune.epochs=1", "finetune.lr=1e-2", "selftrain.rounds=1", "selftrain.cap=300"),
    *("selftrain.soft.epochs=4", "selftrain.soft.lr=1e-2", "selftrain.hard.epochs=0.2", "arms.baseline=false"),
)
"""The packaged demo with a small encoder and short stages, which still accept some labels."""
STAGE_CALLS = ("train_stage",)
"""What makes one stage: what it runs is counted."""


class Trace:
    """Lines run below some functions, and the frames that lie between the command line and `autograd.backward`."""

    def __init__(self, package: Path) -> None:
        self.shipped = {str(path.resolve()) for path in module_files(package).values()}
        self.lines: set[tuple[str, int]] = set()
        self.frames: list[str] = []
        self._below = 0

    def on_call(self, frame: Any, event: str, _: Any) -> Callable[..., Any] | None:
        """For `sys.settrace`."""
        name = os.path.realpath(frame.f_code.co_filename)
        entry = frame.f_code.co_name in STAGE_CALLS
        if name not in self.shipped or not (entry or self._below):
            return None
        self._below += entry

        def on_line(frame: Any, event: str, _: Any) -> Callable[..., Any]:
            if event == "line":
                self.lines.add((name, frame.f_lineno))
            elif event == "return" and entry:
                self._below -= 1
            return on_line

        return on_line

    def at_backward(self) -> None:
        """Keeps the package's frames of the deepest call."""
        names, frame = [], sys._getframe(2)
        while frame is not None:
            file = os.path.realpath(frame.f_code.co_filename)
            if file in self.shipped:
                names.append(f"{Path(file).stem}.{frame.f_code.co_qualname}")
            frame = frame.f_back  # type: ignore[assignment]
        self.frames = max(self.frames, names[::-1], key=len)


def small_run() -> Trace:
    """One round of self-training of the demo: what its soft and its hard stage run, and how deep they are."""
    import torch

    import xlt_engine

    trace = Trace(Path(xlt_engine.__file__).parent)
    backward = torch.autograd.backward

    def watched(*arguments: Any, **options: Any) -> None:
        trace.at_backward()
        backward(*arguments, **options)

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        arguments = ["run", "demo", "--run-dir", f"{folder}/run", "--target", "de", "--quiet"]
        arguments += [word for setting in SMALL for word in ("--set", setting)]
        _command_line([*arguments, "--stage", "finetune"])
        torch.autograd.backward = watched  # type: ignore[assignment]
        sys.settrace(trace.on_call)
        try:
            _command_line([*arguments, "--stage", "selftrain"])
        finally:
            sys.settrace(None)
            torch.autograd.backward = backward
    return trace


def _command_line(arguments: list[str]) -> None:
    from xlt_engine.cli import main

    try:
        main(arguments)
    except SystemExit as end:
        if end.code:
            raise


def figures(root: Path = ROOT) -> Iterator[str]:
    """The figures, a line each."""
    files = module_files(root)
    counts, entries = line_counts(files), imports_of(files, root)
    parts: Counter[str] = Counter()
    for path, lines in counts.items():
        parts[path.relative_to(root).parts[0]] += lines
    yield f"shipped lines      {sum(counts.values()):,} in {len(counts)} files: " + ", ".join(
        f"{part} {lines:,}" for part, lines in parts.most_common()
    )
    flat = ((folder.relative_to(root).as_posix() or ".", n) for folder, n in flat_files(files).most_common(6))
    yield "flat files         " + ", ".join(f"{folder}/ {number}" for folder, number in flat)
    yield "longest files      " + ", ".join(
        f"{path.relative_to(root)} {counts[path]}" for path in sorted(counts, key=counts.__getitem__)[:-4:-1]
    )
    longest = [entry for entry in functions(files) if not entry.compiled][:3]
    yield "longest functions  " + ", ".join(f"{f.path.relative_to(root)} {f.name} {f.lines}" for f in longest)
    rooms = rooms_in_order(root)
    between = arrows_between((room_of(files[e.importer], root), room_of(files[e.imported], root)) for e in entries)
    yield f"rooms              {len(rooms)}, with {sum(map(len, between.values()))} arrows"
    modules = circles(arrows_between((e.importer, e.imported) for e in entries))
    yield f"circles            {len(modules)}" + "".join(f"\n    {' <-> '.join(circle)}" for circle in modules)
    upward = upward_imports(files, list(rooms), root)
    yield f"upward imports     {len(upward)}" + "".join(f"\n    {e.importer}:{e.line} {e.imported}" for e in upward)


FLOOR, BOX, WIDTH = 64.0, 30.0, 980.0


def floors(order: Sequence[str], arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Rooms by floor: each one above the highest that it imports, of those that stand below it in the order."""
    level: dict[str, int] = {}
    for room in order:
        level[room] = 1 + max((level[other] for other in arrows.get(room, ()) if other in level), default=-1)
    return [[room for room in order if level[room] == n] for n in range(max(level.values(), default=-1) + 1)]


def direct(room: str, arrows: Mapping[str, set[str]]) -> set[str]:
    """The rooms that are imported and that no other imported room reaches: enough arrows to follow all."""

    def below(start: str, seen: set[str]) -> set[str]:
        for other in arrows.get(start, set()) - seen:
            seen.add(other)
            below(other, seen)
        return seen

    mine = arrows.get(room, set())
    return {other for other in mine if not any(other in below(between, {room}) for between in mine - {other})}


def picture(root: Path = ROOT) -> str:
    """The rooms as an SVG file, the ground floor at the bottom."""
    from xlt_engine.engine.report.svg import clean, standalone

    files, order = module_files(root), rooms_in_order(root)
    pairs = [(room_of(files[e.importer], root), room_of(files[e.imported], root)) for e in imports_of(files, root)]
    upward = upward_imports(files, list(order), root)
    wrong = {(room_of(files[e.importer], root), room_of(files[e.imported], root)) for e in upward}
    arrows = arrows_between(pair for pair in pairs if pair not in wrong)
    rows = floors(list(order), arrows)
    size: Counter[str] = Counter()
    for path, lines in line_counts(files).items():
        size[room_of(path, root)] += lines
    height = FLOOR * len(rows)
    place = {
        room: (WIDTH * (i + 0.5) / len(row), height - FLOOR * (n + 0.5))
        for n, row in enumerate(rows)
        for i, room in enumerate(row)
    }
    drawn = [(room, other) for room in order for other in sorted(direct(room, arrows) & set(order))]
    body = [_arrow(place[room], place[other], 6) for room, other in drawn]
    body += [_arrow(place[a], place[b], 1) for a, b in sorted(wrong) if a in place and b in place]
    body += [_box(room, *place[room], size[room]) for room in order]
    title = "The rooms of xlt-engine and what they import"
    text = "; ".join(f"{room} imports {', '.join(sorted(arrows[room]))}" for room in order if arrows.get(room))
    return standalone(
        f'<svg xmlns="http://www.w3.org/2000/svg" class="xlt" role="img" aria-label="{title}" '
        f'viewBox="-2 -2 {WIDTH + 4:.0f} {height + 4:.0f}" width="{WIDTH + 4:.0f}" height="{height + 4:.0f}">'
        f"<title>{title}</title><desc>{clean(text)}</desc>{''.join(body)}</svg>"
    )


def _box(room: str, x: float, y: float, lines: int) -> str:
    width = 7.0 * max(len(room), 9) + 14
    part = PARTS.index(room.split("/")[0]) if room.split("/")[0] in PARTS else 4
    corner = f'x="{x - width / 2:.1f}" y="{y - BOX / 2:.1f}" width="{width:.1f}" height="{BOX}"'
    return (
        f'<rect class="o{part} pt" {corner} rx="4"/>'
        f'<text x="{x:.1f}" y="{y - 1:.1f}" text-anchor="middle">{room}</text>'
        f'<text class="small muted" x="{x:.1f}" y="{y + 11:.1f}" text-anchor="middle">{lines:,} lines</text>'
    )


def _arrow(start: tuple[float, float], end: tuple[float, float], series: int) -> str:
    """From the lower edge of a room to the upper edge of another; the other edges where it leads upwards."""
    down = 1 if end[1] > start[1] else -1
    (x0, y0), (x1, y1) = (start[0], start[1] + down * BOX / 2), (end[0], end[1] - down * BOX / 2)
    bend = max(18.0, abs(y1 - y0) / 2)
    return (
        f'<path class="s{series}" stroke-opacity=".75" d="M{x0:.1f} {y0:.1f}C{x0:.1f} {y0 + down * bend:.1f} '
        f'{x1:.1f} {y1 - down * bend:.1f} {x1:.1f} {y1:.1f}m-3 {-5 * down}l3 {5 * down}l3 {-5 * down}"/>'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--svg", type=Path, help="draw the rooms into this file")
    parser.add_argument("--run", action="store_true", help="also the figures of a small run")
    options = parser.parse_args()
    for line in figures():
        print(line)
    print(f"recipe keys        {recipe_keys()}")
    if options.svg:
        options.svg.write_text(picture(), "utf-8")
    if options.run:
        trace = small_run()
        print(f"cli to backward    {len(trace.frames)} frames: {' > '.join(trace.frames)}")
        print(f"a soft and a hard  {len(trace.lines):,} lines in {len({name for name, _ in trace.lines})} files")


if __name__ == "__main__":
    main()
