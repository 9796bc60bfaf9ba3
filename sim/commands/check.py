"""``suture check``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sim.commands.common import Overrides, ScenarioFile, modules, planned, wide_console


def check(
    file: ScenarioFile,
    overrides: Overrides = None,
    plot: Annotated[bool, typer.Option("--plot", help="Also plot each clinic's records.")] = False,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder for the plot.")] = Path("results"),
) -> None:
    """Check a scenario, and describe each clinic's data and what a run would do, without training."""
    with modules():
        from sim.commands.explain import explain, holdings
        from sim.data.at_clinics import load_records
        from sim.plan.notes import memory_warnings
        from sim.report.holdings import holdings_picture, holdings_table
        from sim.report.pictures import draw
        from sim.scenario import load_scenario
        from sim.scenario.lookup import is_own_path
        from sim.scenario.spec import imports
        from sim.study.engines import default_jobs
        from sim.study.forecast import BASIS, study_seconds

    scenario = load_scenario(file, overrides or ())
    console = wide_console()
    found = imports(scenario, scenario.strategies)
    found += [("factory", str(path)) for path in scenario.sweep.get("model.factory", ()) if is_own_path(str(path))]
    found += [("attack", table.name) for table in scenario.attacks if is_own_path(table.name)]
    named = [f'{kind} "{path}"' for kind, path in found]
    if named:
        told = ", ".join(dict.fromkeys(named))
        console.print(f"This scenario imports code and runs it: {told}.", markup=False, highlight=False)
    prepared = planned(file, overrides, trials=True)
    plans, trials = prepared.plans, prepared.trials
    federation = load_records(scenario.data, scenario.clinics, scenario.seeds[0], scenario.parties)
    console.print(holdings_table(holdings(federation), parties=bool(scenario.parties), regions=scenario.data.regions))
    jobs = default_jobs()
    expected = study_seconds(plans, jobs, trials)
    paragraphs = explain(scenario, plans, federation, expected, jobs, BASIS, trials)
    console.print("", *paragraphs, sep="\n", markup=False, highlight=False)
    for line in memory_warnings(plans):
        print(line, file=sys.stderr)
    if plot:
        picture = {"holdings": holdings_picture(holdings(federation))}
        for path in draw(picture, out / scenario.name / "figures"):
            console.print(f"Picture: {path}", soft_wrap=True, highlight=False)
