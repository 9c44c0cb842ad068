"""All text that a run reads for its task, from its files, for what has to suit every one of its texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ... import ConfigError
from ...data import Example
from ..recipe.config import RunConfig
from ..recipe.load import load_recipe
from ..runs.prepare import with_world
from ..stages.datasets import read_file

_RECIPE = "config.toml"


def run_texts(stage: Path) -> Iterator[Example]:
    """The examples of the run that a stage's folder lies in: labelled ones, unlabelled task text, tests, translations.

    Uncut, of all languages, each file once for each language that it is read for.

    Raises:
        ConfigError: the folder lies in no run.
        DataError: a file is gone or wrong.
    """
    root = next((p for p in stage.resolve().parents if (p / _RECIPE).is_file()), None)
    if root is None:
        raise ConfigError(f"{stage}: lies in no run folder; say with --text what the vocabulary is for")
    config = with_world(load_recipe(root / _RECIPE).config, root)
    for path, language in dict.fromkeys(_labelled(config)):
        yield from read_file(config, path, language=language)
    for table in config.tables:
        for path in table.unlabelled:
            yield from read_file(config, path, unlabelled=True, language=table.language)


def _labelled(config: RunConfig) -> Iterator[tuple[Path, str]]:
    found: list[tuple[Path | None, str]] = []
    for source in config.all_sources:
        found += [(path, source.language) for path in (source.train, source.dev, source.test)]
    for target in config.targets:
        found += [(path, target.language) for path in (target.labelled, target.translated_train, target.test)]
        found.append((target.translated_test, config.source.language))
    contrastive = config.contrastive
    found += [(contrastive.originals, config.source.language)]
    found += [(path, language) for language, path in contrastive.translations.items()]
    yield from ((path, language) for path, language in found if path is not None)
