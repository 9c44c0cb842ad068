"""What the options beyond the paper did in each decision, as sentences for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..results import Json


def _temperature(o: Json) -> str:
    return f"temperature {o['value']:.3f} (loss {o['nll_before']:.3f} to {o['nll_after']:.3f} on {o['items']:,} items)"


def _per_class(o: Json) -> str:
    own = [f"{name} {c['alpha']:.2f}" for name, c in o.items() if c["own"]]
    return f"alpha by class: {', '.join(own) or 'none'}; {len(o) - len(own)} classes share that of all"


def _dropped(what: str) -> Callable[[Json], str]:
    return lambda o: f"{what.format(**o)} took {o['dropped']:,} labels away"


def _source(o: Json) -> str:
    return (
        f"source: {o['contradicted_and_doubted']:,} examples contradicted and doubted, "
        f"{o['contradicted_only']:,} contradicted only, which stay"
    )


_SENTENCES: Mapping[str, Callable[[Json], str]] = {
    "calibrate": _temperature,
    "per_class": _per_class,
    "consistency": _dropped("{passes} passes with dropout"),
    "accept": _dropped("accept = {rule}"),
    "outside": _dropped("outside = {rule}"),
    "source_filter": _source,
}


def options_lines(decisions: Mapping[tuple[str, int, int], Json]) -> list[str]:
    """A line for each decision (target, round, seed) that has options; none where no recipe option is on."""
    return [
        f"{pair or '-'}, round {number}, seed {seed}: "
        + "; ".join(_SENTENCES[name](o) for name, o in d["options"].items() if name in _SENTENCES)
        for (pair, number, seed), d in sorted(decisions.items())
        if d.get("options")
    ]
