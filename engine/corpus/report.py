"""The audit of a corpus: what was found, taken and left out, as JSON and as a page of Markdown beside it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import DataError, __version__
from ...data.corpus.select import comparison_key
from ...data.corpus.title_links import FATES, Links
from ..storage.files import atomic_write_json, atomic_write_text, plain, sha256_file, storage_errors
from .config import CorpusConfig
from .merge import Chosen, Merged

_SHOWN = 20


@dataclass
class CorpusReport:
    """The audit: the path of the JSON, beside which the Markdown lies, and what is in it (docs/corpus.md); `made` is
    False where everything was there already."""

    path: Path
    values: dict[str, Any]
    made: bool = True

    def render(self) -> str:
        """The audit as Markdown: a heading for each part, a row for each value."""
        selected, settings = self.values["selected"], self.values["settings"]
        out = [
            "# Corpus audit",
            f"{selected['sentences']:,} sentences in `{Path(settings['out']).name}` ({settings['language']}), "
            f"selected by their entities, seed {settings['seed']}.",
        ]
        for name, part in self.values.items():
            if isinstance(part, dict) and name not in ("settings", "files"):
                rows = "".join(f"\n| {key.replace('_', ' ')} | {_cell(value)} |" for key, value in part.items())
                out.append(f"## {name.capitalize()}\n\n| | |\n|---|---|{rows}")
        return "\n\n".join(out) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(part)}" for key, part in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).replace("|", "\\|")
    return f"{value:,.10g}"


def finished(config: CorpusConfig, fingerprint: str) -> CorpusReport | None:
    """The report of an equal run whose files are all there and unchanged, else None."""
    path = config.beside(".report.json")
    try:
        values = json.loads(path.read_text("utf-8"))
        same = values["fingerprint"] == fingerprint
        whole = same and all(sha256_file(path.with_name(name)) == value for name, value in values["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return CorpusReport(path, values, made=False) if whole else None


def make_report(
    config: CorpusConfig,
    mentions: Counter[str],
    links: Links,
    names: Sequence[str],
    excluded: Collection[str],
    merged: Merged,
    chosen: Chosen,
) -> CorpusReport:
    """Gather the audit; a DataError where nothing was selected."""
    counts = merged.counts
    if not chosen.texts:
        left = ", ".join(f"{counts[n]} {n}" for n in ("too-short", "too-long", "excluded") if counts[n])
        refused = f"; {sum(chosen.refused.values())} in another language" if chosen.refused else ""
        raise DataError(
            f"{config.inputs[-1]}: no sentence was selected from {counts['paragraphs']} paragraphs "
            f"({counts['matched']} matched{', ' + left if left else ''}{refused}); check text, titles and --language"
        )
    values: dict[str, Any] = {
        "version": __version__,
        "settings": _settings(config),
        "text": {n: counts[n] for n in ("pages", "redirects", "disambiguations", "paragraphs", "characters")},
        "entities": {"mentions": sum(mentions.values()), "distinct": len(mentions)}
        | {fate: links.counts[fate] for fate in FATES}
        | {"rules": {k: v for k, v in sorted(links.counts.items()) if k not in FATES}},
        "matched": {
            "sentences": counts["matched"],
            "too_short": counts["too-short"],
            "too_long": counts["too-long"],
            "excluded": counts["excluded"],
            "duplicates": counts["duplicates"] + merged.candidates.duplicates,
        }
        | _per_entity(names, merged.per_entity),
        "selected": _lengths(chosen.texts) | _per_entity(names, chosen.entities),
        "language": _language(config, chosen),
        "exclude": _overlap(config, excluded, chosen),
    }
    if config.control:
        more = {"with_entity": chosen.control_matched, "also_in_corpus": chosen.shared}
        values["control"] = {**_lengths(chosen.control), **more}
    return CorpusReport(config.beside(".report.json"), values)


def write_outputs(
    config: CorpusConfig, report: CorpusReport, chosen: Chosen, fingerprint: str, run: dict[str, Any]
) -> None:
    """Publish corpus, control and reports; the JSON last, since a run that finds it whole does nothing."""
    _remove_leftovers(config)
    contents = {config.out: chosen.texts}
    if config.control:
        contents[config.control_path] = chosen.control
    files = {}
    for path, texts in contents.items():
        text = "".join(f"{line}\n" for line in texts)
        atomic_write_text(path, text)
        files[path.name] = hashlib.sha256(text.encode()).hexdigest()
    report.values["files"] = files
    report.values["fingerprint"] = fingerprint
    report.values["run"] = run
    atomic_write_text(config.beside(".report.md"), report.render())
    atomic_write_json(report.path, report.values)


def _remove_leftovers(config: CorpusConfig) -> None:
    """What a killed writer has left beside the outputs, in a folder that may hold other things; the lock is held."""
    outputs = (config.out, config.control_path, config.beside(".report.md"), config.beside(".report.json"))
    names = {path.name for path in outputs}
    with storage_errors(config.out, "clean"):
        for path in config.out.parent.glob(".tmp-*"):
            if re.sub(r"^\.tmp-[0-9a-f]{32}-", "", path.name) in names:
                path.unlink()


def _settings(config: CorpusConfig) -> dict[str, Any]:
    values: dict[str, Any] = plain(config)
    values["source_wiki"] = {k: v for k, v in values["source_wiki"].items() if v is not None}
    return {name: value for name, value in values.items() if value not in (None, [], {})}


def _lengths(texts: Sequence[str]) -> dict[str, Any]:
    lengths = [len(text) for text in texts]
    return {"sentences": len(texts), "characters": sum(lengths), "lengths": _quantiles(lengths)}


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    levels = {"min": 0, "p25": 25, "median": 50, "p75": 75, "max": 100}
    return {name: float(np.percentile(values, level)) for name, level in levels.items()} if len(values) else {}


def _per_entity(names: Sequence[str], counts: np.ndarray) -> dict[str, Any]:
    order = np.argsort(-counts, kind="stable")[:_SHOWN].tolist()
    return {
        "entities": int((counts > 0).sum()),
        "entities_without": int((counts == 0).sum()),
        "sentences_per_entity": _quantiles(counts[counts > 0].tolist()),
        "most": {names[i]: int(counts[i]) for i in order if counts[i]},
    }


def _language(config: CorpusConfig, chosen: Chosen) -> dict[str, Any]:
    refused = sum(chosen.refused.values())
    if not config.language_check or not chosen.checked:
        why = "not asked for" if not config.language_check else f"the identifier does not know {config.language!r}"
        return {"language": config.language, "checked": 0, "why": why}
    return {
        "language": config.language,
        "checked": chosen.checked,
        "share": round(1 - refused / chosen.checked, 4),
        "refused": {name: count for name, count in chosen.refused.most_common() if count},
    }


def _overlap(config: CorpusConfig, excluded: Collection[str], chosen: Chosen) -> dict[str, Any]:
    """Counted anew on what is written."""
    written = {"corpus": chosen.texts, "control": chosen.control}
    overlap = {name: sum(comparison_key(text) in excluded for text in texts) for name, texts in written.items()}
    assert not any(overlap.values()), overlap
    return {"files": [os.fspath(p) for p in config.exclude], "sentences": len(excluded), "overlap": overlap}
