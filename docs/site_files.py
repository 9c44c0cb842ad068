"""A hook of mkdocs.yml: the site shows what lies outside docs/, and the docstrings of this tree, installed or not.

README.md is the first page; the rest keeps its path, and docs/X is X. A link from docs/ to there loses its `../`, one
from there to docs/ its `docs/`, on the site alone; so mkdocs finds each that leads nowhere.
"""

import re
import tempfile
from pathlib import Path

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "assets/*/*.md", "benchmarks/*.md")
FILES = (
    *("LICENSE", "*.cff", "benchmarks/results/*.json", "examples/*.py", "engine/pseudolabels/*.py"),
    "tests/**/test_*.py",
)
SOURCE = tempfile.TemporaryDirectory()


@event_priority(100)
def on_config(config):
    """Before mkdocstrings: the package under its name, which the folder of the tree need not have."""
    package = Path(SOURCE.name, "xlt_engine")
    package.mkdir(exist_ok=True)
    for name in ("__init__.py", "kernels", "data", "model", "engine"):
        if not (package / name).exists():
            (package / name).symlink_to(ROOT / name)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(package.parent)]


def on_files(files, config):
    for path in (path for pattern in (*PAGES, *FILES) for path in sorted(ROOT.glob(pattern))):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))


def on_page_markdown(markdown, page, config, files):
    inside = page.file.generated_by is None
    old, new = (r"(\]\(|\]: )\.\./", r"\1") if inside else (r"(\]\(|\]: )((?:\.\./)*)docs/", r"\1\2")
    return re.sub(old, new, markdown)
