"""``suture plan``."""

from __future__ import annotations

from typing import Annotated

import typer

from sim.commands.common import Only, Overrides, ScenarioFile, planned, wide_console


def plan(
    file: ScenarioFile,
    overrides: Overrides = None,
    only: Only = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object a run.")] = False,
) -> None:
    """Say what a study will cost in time, traffic and epsilon, before any training."""
    from sim.study.runner import plan_summary

    summaries = [plan_summary(p) for p in planned(file, overrides, only)]
    if as_json:
        import json

        from sim.study.store import to_plain

        print(json.dumps(to_plain(summaries), indent=1, allow_nan=False))
        return
    from sim.report.table import plan_table

    wide_console().print(plan_table(summaries))
