"""Models by the names of the Hugging Face hub: from its cache on this machine; fetched only where that is asked for.

The cache is `models--ORG--NAME/`: `refs/REVISION` holds a commit, `snapshots/COMMIT/` the files, as links to `blobs/`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ... import ConfigError, ModelError
from ...model.headers import INDEX, SINGLE
from ...untrusted import clip

_NAME = re.compile(r"([A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@([A-Za-z0-9][\w./-]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILES = [
    *("config.json", "xlt.json", SINGLE, INDEX, "model-*.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
]
"""All that is fetched, of the top folder."""


def cache_folder() -> Path:
    """Where the hub's own tools keep what they fetch."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()


def model_folder(model: str | os.PathLike[str], *, download: bool = False) -> Path:
    """The folder of a model: itself, or else that of `cached_model`, with `download` after `fetch_model`."""
    name = os.fspath(model)
    if Path(name).exists() or not is_name(name):
        return Path(name)
    if download:
        fetch_model(name)
    return cached_model(name)


def cached_model(name: str) -> Path:
    """The snapshot of `ORG/NAME` or `ORG/NAME@REVISION` in the cache; without a revision that of `main`.

    One that is not there, or without weights as safetensors, is a ModelError.
    """
    if not is_name(name):
        raise ModelError(f"{name}: is no name of the Hugging Face hub, such as ORG/NAME or ORG/NAME@REVISION")
    repository, _, revision = name.partition("@")
    entry = cache_folder() / f"models--{repository.replace('/', '--')}"
    commit, ref = revision, entry / "refs" / (revision or "main")
    if ref.is_file():
        commit = ref.read_bytes().decode("ascii", "replace").strip()
    folder = entry / "snapshots" / commit
    weights = any((folder / file).exists() for file in (SINGLE, INDEX))
    if not _COMMIT.fullmatch(commit) or not (folder / "config.json").exists() or not weights:
        raise ModelError(
            f"{name}: no such model folder, and the cache {entry.parent} has no safetensors of that name; "
            f"to fetch them: xlt-engine info {name} --download"
        )
    return folder


def fetch_model(name: str) -> None:
    """Fetches weights as safetensors, configuration and tokenizer of a model into the cache, and nothing else.

    This is the one thing here that opens connections.

    Raises:
        ConfigError: huggingface_hub is not installed.
        ModelError: there is no such model or revision, it has no safetensors, or the hub cannot be reached.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ConfigError(
            "--download needs huggingface_hub: pip install 'xlt-engine[hub]', "
            f"or elsewhere: hf download {name.replace('@', ' --revision ')}"
        ) from error
    repository, _, revision = name.partition("@")
    try:
        files: dict[str, Any] = {"allow_patterns": _FILES, "ignore_patterns": ["*/*"]}
        snapshot_download(repository, revision=revision or None, cache_dir=cache_folder(), **files)
    except Exception as error:  # the library's own, and whatever its transport raises
        what = clip(" ".join(str(error).split()) or type(error).__name__)
        raise ModelError(f"{name}: cannot be fetched ({what})") from error
    try:
        cached_model(name)
    except ModelError as error:
        raise ModelError(f"{name}: has no config.json or no safetensors on the hub; pickles are not fetched") from error


def hub_name(folder: Path | None) -> str | None:
    """`ORG/NAME@COMMIT` of a folder in the cache; None of any other."""
    if folder is None or not _COMMIT.fullmatch(folder.name) or folder.parent.name != "snapshots":
        return None
    entry = folder.parents[1]
    if not entry.name.startswith("models--") or entry.parent.resolve() != cache_folder().resolve():
        return None
    return f"{entry.name.removeprefix('models--').replace('--', '/', 1)}@{folder.name}"


def is_name(name: str) -> bool:
    """Whether a text is written as `ORG/NAME`, `NAME`, or one of them with `@REVISION`."""
    return _NAME.fullmatch(name) is not None and ".." not in name
