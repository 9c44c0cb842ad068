"""What a recipe leaves open: its precision on this device, and the files of the demo's world (docs/demo.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ... import ConfigError
from ..plan import digest
from ..recipe.config import RunConfig, SourceConfig, TargetConfig
from ..storage.files import take_over


def settled(config: RunConfig, folder: Path, reuse: Sequence[Path] = ()) -> RunConfig:
    """The recipe with what it leaves open: precision on this device, and the made world's files in the run folder."""
    if config.precision == "auto":
        from ..training.device import choose_precision  # which loads torch; a finished run has its precision

        config = replace(config, precision=choose_precision(config.precision, config.device))
    if config.world is None:
        return config
    from ...data.synthetic.demo_world import VERSION, WorldConfig, make_world

    world = WorldConfig(seed=config.world.seed, label_noise=config.world.label_noise)
    place = Path("world", digest({"version": VERSION, **asdict(world)}))
    take_over(folder / place, [other / place for other in reuse], "world.json")
    files = make_world(world, folder / place)
    source = config.source.language
    targets = [t.language for t in config.targets] or [x for x in files.unlabelled if x != source]
    unknown = [x for x in [source, *targets] if x not in files.test]
    if unknown:
        raise ConfigError(f"the made world has no language {', '.join(unknown)}; it has {', '.join(files.test)}")

    def files_of(language: str) -> dict[str, Any]:
        several = {name: (getattr(files, name)[language],) for name in ("unlabelled", "general", "control")}
        return {"language": language, "test": files.test[language], **several}

    return replace(
        config,
        sources=(SourceConfig(train=files.train, **files_of(source)),),
        targets=tuple(TargetConfig(**files_of(language)) for language in targets),
    )
