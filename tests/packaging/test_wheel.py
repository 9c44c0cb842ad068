"""What is in the wheel: the package, and nothing else of the repository."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kernels", "data", "model", "engine")


def expected() -> set[str]:
    package = {"__init__.py", "cli.py", "tasks.py", "untrusted.py", "py.typed"}
    package |= {str(p.relative_to(ROOT)) for room in ROOMS for p in (ROOT / room).rglob("*.py")}
    package |= {
        str(p.relative_to(ROOT))
        for r in ROOMS
        for kind in ("toml", "tsv", "txt", "css")
        for p in (ROOT / r).rglob(f"*.{kind}")
    }
    return {f"xlt_engine/{name}" for name in package}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built offline from a copy, so that nothing is left in the work tree."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "tree"
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache", ".git", "build", "*.egg-info", "assets")
    results = {str(ROOT): {"runs"}}  # at the root alone: engine/runs is a room
    shutil.copytree(ROOT, copy, ignore=lambda at, names: ignored(at, names) | results.get(at, set()))
    (copy / "conftest.py").write_text("raise SystemExit('not a part of the package')\n", encoding="utf-8")
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (found,) = folder.glob("*.whl")
    return found


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = {n for n in zipfile.ZipFile(wheel).namelist() if not n.endswith("/")}
    inside = {n for n in names if not n.split("/")[0].endswith(".dist-info")}
    assert inside == expected()
    assert {"xlt_engine/data/recipes/demo.toml", "xlt_engine/data/synthetic/demo_words.tsv"} < inside


def test_wheel_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    text = {n.split("/")[-1]: archive.read(n).decode() for n in archive.namelist() if ".dist-info/" in n}
    assert "xlt-engine = xlt_engine.cli:main" in text["entry_points.txt"]
    assert text["top_level.txt"].split() == ["xlt_engine"]
    version = (ROOT / "__init__.py").read_text("utf-8").split('__version__ = "')[1].split('"')[0]
    assert f"\nVersion: {version}\n" in text["METADATA"]
    assert "Apache" in text["METADATA"]


def test_package_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Unpacked elsewhere, it names its version, and finds its packaged recipes and word lists."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import xlt_engine.cli; assert xlt_engine.__file__.startswith(sys.path[0]), xlt_engine.__file__\n"
        "from xlt_engine.engine.recipe.load import load_recipe, packaged_recipes\n"
        "assert 'demo' in packaged_recipes(); load_recipe('demo')\n"
        "from xlt_engine.data.synthetic.demo_names import lexicon; assert lexicon('de').nouns['man'] == 'm Mann'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
