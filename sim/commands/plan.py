"""``suture plan``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from sim.commands.common import Only, Overrides, ScenarioFile, modules, planned, wide_console


def plan(
    file: ScenarioFile,
    overrides: Overrides = None,
    only: Only = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures", metavar="DIR", help="Plot a round of each method, and its duration over uplink rates."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: a list with one object per run.")] = False,
) -> None:
    """Show what a study will cost in time, traffic and epsilon, before any training."""
    with modules():
        from sim.plan.notes import memory_warnings, tuning_note
        from sim.study.planning import plan_summary

    prepared = planned(file, overrides, only)
    plans = prepared.plans
    if note := tuning_note(prepared.whole):
        print(f"{file}: note: {note}", file=sys.stderr)
    if figures is not None:
        from sim.report.clock_figures import clock_pictures
        from sim.report.pictures import draw

        draw(clock_pictures(plans), figures)
    for line in memory_warnings(plans):
        print(line, file=sys.stderr)
    summaries = [plan_summary(p) for p in plans]
    if as_json:
        from sim.results.plain import to_plain

        print(json.dumps(to_plain(summaries), indent=1, allow_nan=False))
        return
    from sim.report.plan_table import plan_table

    wide_console().print(plan_table(summaries))
