"""`check`: the errors of a recipe and its data."""

from __future__ import annotations

import click

from .console import json_of_runs
from .options import JSON, OVERRIDES, RECIPE, TARGETS


@click.command()
@RECIPE
@TARGETS
@OVERRIDES
@JSON
def check(recipe: str | None, targets: tuple[str, ...], overrides: tuple[str, ...], as_json: bool) -> None:
    """Find every error in a recipe and its data, before any training."""
    from .. import check_all, render_checks

    reports = check_all(recipe, list(overrides), targets=targets)
    click.echo(json_of_runs({n: r.as_dict() for n, r in reports.items()}) if as_json else render_checks(reports))
    if codes := [report.exit_code for report in reports.values() if not report.ok]:
        raise SystemExit(min(codes))
