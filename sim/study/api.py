"""The study from Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sim.scenario import Scenario, load_scenario
from sim.scenario.spec import expand
from sim.study.engines import InProcess, Workers
from sim.study.runner import Progress, plan_runs, run_study

if TYPE_CHECKING:
    import pandas as pd


def run(scenario: Scenario | Path | str, out: Path | str = "results", jobs: int = 1) -> pd.DataFrame:
    """Run a study and return its table.

    Parameters
    ----------
    scenario : Scenario or path
        A scenario, or the file that holds one.
    out : path
        The results folder; finished runs in it are not repeated.
    jobs : int
        Number of worker processes.

    Returns
    -------
    DataFrame
        One row a run, as in ``runs.parquet``.

    Raises
    ------
    ScenarioError
        With every problem of the scenario.
    """
    checked = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
    plans = list(plan_runs(expand(checked)))
    silent = Progress(lambda to_do, done, seconds: None, lambda row, seconds: None)
    engine = Workers(jobs) if jobs > 1 else InProcess()
    return run_study(plans, [plan.spec.run_id for plan in plans], Path(out), engine, silent)
