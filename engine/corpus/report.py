"""The audit of a corpus: what was found, taken and left out, as JSON and as a page of Markdown beside it."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import DataError, __version__
from ...data.corpus.select import comparison_key
from ...data.corpus.title_links import FATES, Links
from ..storage.files import atomic_write_json, atomic_write_text, plain, sha256_file
from .config import CorpusConfig
from .merge import Chosen, Merged

_SHOWN = 20


@dataclass
class CorpusReport:
    """The audit.

    Attributes:
        path: of the JSON; the Markdown lies beside it.
        values: what the JSON holds; docs/corpus.md names the fields.
        made: False where everything was there already.
    """

    path: Path
    values: dict[str, Any]
    made: bool = True

    def render(self) -> str:
        """The audit as Markdown."""
        return "\n\n".join(_sections(self.values)) + "\n"


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
    """Gather the audit.

    Raises:
        DataError: nothing was selected.
    """
    counts = merged.counts
    if not chosen.texts:
        left = ", ".join(f"{counts[n]} {n}" for n in ("too-short", "too-long", "excluded") if counts[n])
        refused = f"; {sum(chosen.refused.values())} in another language" if chosen.refused else ""
        raise DataError(
            f"{config.inputs[-1]}: no sentence was selected from {counts['paragraphs']} paragraphs "
            f"({counts['matched']} matched{', ' + left if left else ''}{refused}); check text, titles and --language"
        )
    by_entity = config.select == "entities"
    values: dict[str, Any] = {
        "version": __version__,
        "settings": _settings(config),
        "text": {
            n: counts[n]
            for n in ("articles", "pages", "redirects", "disambiguations", "paragraphs", "characters")
            if counts[n]
        },
        "entities": {
            "mentions": sum(mentions.values()),
            "distinct": len(mentions),
            **({fate: links.counts[fate] for fate in FATES} if by_entity else {}),
            "rules": {k: v for k, v in sorted(links.counts.items()) if k not in FATES},
        },
        "matched": {
            "sentences": counts["matched"],
            "too_short": counts["too-short"],
            "too_long": counts["too-long"],
            "excluded": counts["excluded"],
            "duplicates": counts["duplicates"] + merged.candidates.duplicates,
            "only_by_ending": counts["inflected"],
            "beyond_what_balance_needs": merged.candidates.trimmed,
            **(_per_entity(names, merged.per_entity) if by_entity else {}),
        },
        "selected": {
            "sentences": len(chosen.texts),
            "characters": sum(map(len, chosen.texts)),
            "lengths": _quantiles([len(text) for text in chosen.texts]),
            **({"only_by_ending": chosen.inflected} if by_entity else {}),
            **(_per_entity(names, chosen.entities) if by_entity else {}),
        },
        "language": _language(config, chosen),
        "exclude": _overlap(config, excluded, chosen),
    }
    if config.control:
        values["control"] = {
            "sentences": len(chosen.control),
            "characters": sum(map(len, chosen.control)),
            "lengths": _quantiles([len(text) for text in chosen.control]),
            **({"with_entity": chosen.control_matched} if by_entity else {}),
            "also_in_corpus": chosen.shared,
        }
    return CorpusReport(config.beside(".report.json"), values)


def write_outputs(
    config: CorpusConfig, report: CorpusReport, chosen: Chosen, fingerprint: str, run: dict[str, Any]
) -> None:
    """Publish corpus, control and reports; the JSON last, since a run that finds it whole does nothing."""
    contents = {config.out: chosen.texts}
    if config.control:
        contents[config.control_path] = chosen.control
    files = {}
    for path, texts in contents.items():
        text = "".join(f"{line}\n" for line in texts)
        atomic_write_text(path, text)
        files[path.name] = hashlib.sha256(text.encode()).hexdigest()
    read, seconds = run.pop("bytes_now"), run["seconds"]["reading"]
    rate = round(read / 1e6 / max(seconds, 0.01), 2)
    report.values["files"] = files
    report.values["fingerprint"] = fingerprint
    report.values["run"] = run | {"megabytes_per_second": rate, "peak_memory_mib": _peaks()}
    atomic_write_text(config.beside(".report.md"), report.render())
    atomic_write_json(report.path, report.values)


def _peaks() -> dict[str, float]:
    """Largest resident size of this process and of its largest worker."""
    unit = 1 if sys.platform == "darwin" else 1024
    who = {"parent": resource.RUSAGE_SELF, "worker": resource.RUSAGE_CHILDREN}
    return {name: round(resource.getrusage(one).ru_maxrss * unit / 2**20, 1) for name, one in who.items()}


def _settings(config: CorpusConfig) -> dict[str, Any]:
    values: dict[str, Any] = plain(config)
    values["source_wiki"] = {k: v for k, v in values["source_wiki"].items() if v is not None}
    return {name: value for name, value in values.items() if value not in (None, [], {})}


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    if not len(values):
        return {}
    levels = {"min": 0, "p25": 25, "median": 50, "p75": 75, "max": 100}
    out = {name: float(np.percentile(np.asarray(values), level)) for name, level in levels.items()}
    return {**out, "mean": round(float(np.mean(values)), 2)}


def _per_entity(names: Sequence[str], counts: np.ndarray) -> dict[str, Any]:
    order = np.lexsort((np.arange(len(names)), -counts))[:_SHOWN].tolist()
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
    found = {name: sum(comparison_key(t) in excluded for t in texts) for name, texts in _written(chosen).items()}
    assert not any(found.values()), found
    return {"files": [os.fspath(p) for p in config.exclude], "sentences": len(excluded), "overlap": found}


def _written(chosen: Chosen) -> dict[str, list[str]]:
    return {"corpus": chosen.texts, "control": chosen.control}


def _sections(values: dict[str, Any]) -> list[str]:
    settings, selected, matched = values["settings"], values["selected"], values["matched"]
    out = [
        "# Corpus audit",
        f"{selected['sentences']:,} sentences in `{Path(settings['out']).name}` ({settings['language']}), "
        f"selected by {settings['select']}, seed {settings['seed']}.",
    ]
    numbers = {k: v for k, v in values["entities"].items() if not isinstance(v, dict)}
    out.append("## Entities\n\n" + _table(numbers | {f"rule: {k}": v for k, v in values["entities"]["rules"].items()}))
    out.append("## Text\n\n" + _table(values["text"]))
    out.append(
        "## Sentences\n\n" + _columns({"matched": matched, "selected": selected, "control": values.get("control", {})})
    )
    lengths: dict[str, dict[str, Any]] = {
        name: values[name]["lengths"] for name in ("selected", "control") if name in values
    }
    out.append("## Characters in a sentence\n\n" + _columns(lengths))
    if "sentences_per_entity" in selected:
        counts = {"matched": matched["sentences_per_entity"], "selected": selected["sentences_per_entity"]}
        out.append("## Sentences of an entity\n\n" + _columns(counts))
        most = [f"| {name} | {count} |" for name, count in matched["most"].items()]
        out.append("\n".join(["Most sentences before balancing:\n", "| entity | sentences |", "|---|---|", *most]))
    out.append("## Language\n\n" + _table(values["language"]))
    out.append("## Evaluation files\n\n" + _table(values["exclude"]))
    out.append("## Run\n\n" + _table(values["run"]))
    return out


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_cell(v)}" for k, v in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).replace("|", "\\|")
    return f"{value:,.10g}"


def _table(values: dict[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {k.replace('_', ' ')} | {_cell(v)} |" for k, v in values.items())])


def _columns(columns: dict[str, dict[str, Any]]) -> str:
    """Columns side by side; only single numbers."""
    columns = {name: values for name, values in columns.items() if values}
    rows = dict.fromkeys(k for values in columns.values() for k, v in values.items() if isinstance(v, int | float))
    head = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines = [
        f"| {row.replace('_', ' ')} | " + " | ".join(_cell(c[row]) if row in c else "" for c in columns.values()) + " |"
        for row in rows
    ]
    return "\n".join([*head, *lines])
