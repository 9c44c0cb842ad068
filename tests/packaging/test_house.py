"""The shape of the code is what docs/design.md promises: no circle, imports downwards only, nothing long or crowded."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_FILES, MOST_LINES, MOST_STATEMENT_LINES = 18, 400, 60


def _house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", ROOT / "benchmarks" / "house.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


house = _house()
FILES = house.module_files(ROOT)


def planted(root: Path, **code: str) -> dict[str, Path]:
    """A small tree of modules; a name such as `engine_training_loop` is `engine/training/loop.py`."""
    for name, text in code.items():
        path = root.joinpath(*name.split("_")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text, "utf-8")
    files: dict[str, Path] = house.module_files(root)
    return files


def circles(files: dict[str, Path], root: Path) -> list[list[str]]:
    arrows = house.arrows_between((e.importer, e.imported) for e in house.imports_of(files, root))
    groups: list[list[str]] = house.circles(arrows)
    return groups


def test_no_circle() -> None:
    assert circles(FILES, ROOT) == []


def test_rooms_import_downwards_only() -> None:
    rooms = list(house.rooms_in_order(ROOT))
    upward = house.upward_imports(FILES, rooms, ROOT)
    assert len(house.imports_of(FILES, ROOT)) > 500
    assert [(e.importer, e.imported) for e in upward] == []


def test_every_room_has_its_row() -> None:
    rooms = list(house.rooms_in_order(ROOT))
    assert sorted(rooms) == sorted({house.room_of(path, ROOT) for path in FILES.values()})
    for room in rooms:
        assert room == "cli" or (ROOT / room / "__init__.py").is_file(), f"{room}/ is no package"


def test_nothing_is_crowded_or_long() -> None:
    """Of the package, and of what stands beside it in the root, in benchmarks/ and examples/."""
    beside = [path for pattern in ("*.py", "benchmarks/**/*.py", "examples/*.py") for path in ROOT.glob(pattern)]
    files = FILES | {str(path): path for path in beside}
    crowded = {str(folder): n for folder, n in house.flat_files(FILES).items() if n > MOST_FILES}
    long_files = {str(path): n for path, n in house.line_counts(files).items() if n > MOST_LINES}
    long_functions = [f for f in house.functions(files) if f.lines > MOST_STATEMENT_LINES and not f.compiled]
    assert (crowded, long_files, long_functions) == ({}, {}, [])


@pytest.mark.parametrize(
    "tie",
    [
        "from ..report.page import show",
        "def late():\n    from ..report.page import show",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..report.page import show",
        "from ..report import page",
    ],
)
def test_a_planted_circle_is_found(tmp_path: Path, tie: str) -> None:
    files = planted(tmp_path, engine_lab_study=tie, engine_report_page="from ..lab.study import late")
    assert circles(files, tmp_path) == [["engine.lab.study", "engine.report.page"]]
    planted(tmp_path, engine_lab_study="")
    assert circles(files, tmp_path) == []


def test_a_planted_upward_import_is_found(tmp_path: Path) -> None:
    rooms = ["kernels", "model", "data/readers", "data", "engine/training", "engine/lab", "engine", "cli"]
    files = planted(
        tmp_path,
        kernels_votes="",
        model_encoder="from ..kernels.votes import votes",
        data_readers_lines="from ...model.encoder import Encoder",
        engine_training_loop="from ...data.readers.lines import read\ndef late():\n    from ..lab.study import study",
        engine_lab_study="from ..training.loop import train\nfrom ..attic.old import thing",
        engine_attic_old="",
    )
    found = [(e.importer, e.imported, e.line) for e in house.upward_imports(files, rooms, tmp_path)]
    assert found == [
        ("engine.lab.study", "engine.attic.old", 2),  # a room that the table does not have
        ("engine.training.loop", "engine.lab.study", 3),
    ]


def test_a_planted_long_function_is_found(tmp_path: Path) -> None:
    body = "    x = 1\n" * 70
    text = f'def plain():\n    """What."""\n{body}\n\n@triton.jit\ndef kernel():\n{body}'
    files = planted(tmp_path, kernels_votes=text)
    assert [(f.name, f.lines, f.compiled) for f in house.functions(files)] == [
        ("plain", 70, False),
        ("kernel", 70, True),
    ]


def test_floors_and_arrows_of_the_picture() -> None:
    arrows = {"top": {"middle", "ground"}, "middle": {"ground"}, "side": {"ground"}}
    assert house.floors(["ground", "side", "middle", "top"], arrows) == [["ground"], ["side", "middle"], ["top"]]
    assert house.direct("top", arrows) == {"middle"}


def test_the_picture_is_that_of_the_imports() -> None:
    """Its rooms and arrows; numbers of lines may be older."""

    def drawn(svg: str) -> str:
        return re.sub(r"[\d,]+ lines", "", svg)

    assert drawn((ROOT / "docs" / "figures" / "rooms.svg").read_text("utf-8")) == drawn(house.picture(ROOT)), (
        "draw it anew: python benchmarks/house.py --svg docs/figures/rooms.svg"
    )


CODE = [
    path.relative_to(ROOT).as_posix()
    for part in (*house.PARTS, "benchmarks", "examples", "tests")
    for path in (ROOT / part).rglob("*.py")
] + ["cli.py", "setup.py", "__init__.py", "tasks.py", "untrusted.py"]
CODE_FILE = re.compile(r"`([\w./-]+\.py)`|\]\(([\w./-]+\.py)\)")


@pytest.mark.parametrize(
    "page", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name
)
def test_files_of_code_that_the_pages_name_exist(page: Path) -> None:
    named = {one or other for one, other in CODE_FILE.findall(page.read_text("utf-8"))}
    wrong = {name for name in named if not any(f"/{path}".endswith("/" + name.removeprefix("../")) for path in CODE)}
    assert wrong == set()


def test_no_regular_expression_repeats_a_group_possessively() -> None:
    """`(?:a|b)*+` misses matches in Python 3.11.0 to 3.11.4, Debian 12's among them; `(?>(?:a|b)*)` says the same."""
    possessive = re.compile(r"\)(?:[*+?]|\{[0-9,]+\})\+")
    assert possessive.search(r"(?:a|b)*+")
    assert [name for name, path in FILES.items() if possessive.search(path.read_text("utf-8"))] == []
