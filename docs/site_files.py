"""A hook of mkdocs.yml: what the site shows from outside docs/. README.md is its first page; the rest keeps its path.

On the site docs/X is X. A link from here to there loses its `../`, one from there to here its `docs/`, on the site
alone; so mkdocs finds each that leads nowhere.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "assets/*/*.md", "benchmarks/*.md")
FILES = ("LICENSE", "*.cff", "benchmarks/results/*.json", "examples/*.py", "tests/**/test_*.py")


def on_files(files, config):
    for path in (path for pattern in (*PAGES, *FILES) for path in sorted(ROOT.glob(pattern))):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    inside = page.file.generated_by is None
    old, new = (r"(\]\(|\]: )\.\./", r"\1") if inside else (r"(\]\(|\]: )((?:\.\./)*)docs/", r"\1\2")
    return re.sub(old, new, markdown)
