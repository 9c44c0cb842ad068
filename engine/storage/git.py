"""The commit that a folder is at, from git's own files: a repository may name programs that git would start."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MOST = 1 << 24
"""Bytes of a file that are read."""


def git_commit(folder: Path) -> str | None:
    """The commit that the work tree around `folder` is at; None outside of one, and where it has none yet."""
    place = folder.resolve()
    git = next((path / ".git" for path in (place, *place.parents) if (path / ".git").exists()), None)
    if git is None:
        return None
    link = _read(git)  # of a further work tree, and of a submodule
    if link.startswith("gitdir: "):
        git = git.parent / link.removeprefix("gitdir: ")
    shared, head = git / (_read(git / "commondir") or "."), _read(git / "HEAD")
    name = head.removeprefix("ref: ")
    if name != head:
        if not name.startswith("refs/") or ".." in name:
            return None
        head = _read(git / name) or _read(shared / name) or _packed(shared, name)
    return head if _COMMIT.fullmatch(head) else None


def _packed(shared: Path, name: str) -> str:
    lines = (line.partition(" ") for line in _read(shared / "packed-refs").splitlines())
    return next((commit for commit, _, ref in lines if ref == name), "")


def _read(path: Path) -> str:
    """The text of a file without the space around it; empty where there is none."""
    with contextlib.suppress(OSError, ValueError):
        if path.is_file():
            with open(path, "rb") as file:
                return file.read(_MOST).decode("utf-8", "replace").strip()
    return ""
