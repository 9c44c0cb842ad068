"""What a recipe leaves open: its precision on this device, and the files of a made world (docs/truth-world.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ... import ConfigError
from ...data import Example, TruthFiles, WorldConfig, WorldFiles, file_hash, make_truth_world, make_world
from ...data.synthetic.demo_world import VERSION as WORLD_VERSION
from ..plan import digest
from ..reading.read_file import read_file
from ..recipe.config import ReaderConfig, RunConfig, SourceConfig, TargetConfig
from ..storage.files import take_over

FAKE = "fake"
"""Name of the target language where the recipe names none."""


def settled(config: RunConfig, folder: Path, reuse: Sequence[Path] = ()) -> RunConfig:
    """The recipe with what it leaves open: precision on this device, and the made world's files in the run folder."""
    if config.precision == "auto":
        from ..training.device import choose_precision  # which loads torch; a finished run has its precision

        config = replace(config, precision=choose_precision(config.precision, config.device))
    if config.world is None:
        return config
    if config.world.kind == "truth":
        return with_truth_world(config, folder)
    world = WorldConfig(seed=config.world.seed, label_noise=config.world.label_noise)
    place = Path("world", digest({"version": WORLD_VERSION, **asdict(world)}))
    take_over(folder / place, [other / place for other in reuse], "world.json")
    files = make_world(world, folder / place)
    source = config.source.language
    targets = [t.language for t in config.targets] or [x for x in files.unlabelled if x != source]
    unknown = [x for x in [source, *targets] if x not in files.test]
    if unknown:
        raise ConfigError(f"the made world has no language {', '.join(unknown)}; it has {', '.join(files.test)}")
    return with_files(config, files, targets)


def truth_files(config: RunConfig, folder: Path) -> TruthFiles:
    """The recipe's truth world, written below the run's folder unless it lies there.

    Raises:
        ConfigError: its knobs contradict each other, or the text does not suffice.
        DataError: a text file is missing or wrong.
    """
    table = config.world
    assert table is not None
    hashes = {key: file_hash(path) for key in ("text", "general") if (path := getattr(table, key)) is not None}
    names = {"text": "", "general": ""} | hashes
    content = digest(names | {"reader": str(config.reader)}) if hashes else ""
    languages = [t.language for t in config.targets] or [FAKE]
    stamp = {"world": str(replace(table, text=None, general=None)), "content": content, "task": config.task}
    return make_truth_world(
        table,
        folder / "world" / digest(stamp | {"languages": [config.source.language, *languages]}),
        task=config.task,
        source=config.source.language,
        targets=languages,
        text=_labelled(config, table.text),
        general=_plain(config, table.general),
        content=content,
    )


def with_truth_world(config: RunConfig, folder: Path) -> RunConfig:
    """The recipe with its truth world's files filled in; the files of gold labels are not among them."""
    files = truth_files(config, folder)
    targets = [t.language for t in config.targets] or [FAKE]
    # The world's files are written in one way, whatever the user's own text is like.
    return with_files(replace(config, reader=ReaderConfig(split="whitespace")), files, targets)


def with_files(config: RunConfig, files: WorldFiles | TruthFiles, targets: Sequence[str]) -> RunConfig:
    """The recipe with the files of a made world as those of its languages."""
    source = config.source.language
    return replace(
        config,
        sources=(
            SourceConfig(
                language=source,
                train=files.train,
                test=files.test[source],
                unlabelled=(files.unlabelled[source],),
                general=(files.general[source],),
                control=(files.control[source],),
            ),
        ),
        targets=tuple(
            TargetConfig(
                language=x,
                unlabelled=(files.unlabelled[x],),
                test=files.test[x],
                general=(files.general[x],),
                control=(files.control[x],),
            )
            for x in targets
        ),
    )


def _labelled(config: RunConfig, path: Path | None) -> list[Example] | None:
    return None if path is None else read_file(config, path)


def _plain(config: RunConfig, path: Path | None) -> list[Example] | None:
    return None if path is None else read_file(config, path, unlabelled=True, task="text")
