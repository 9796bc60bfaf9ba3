"""The study from Python."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from sim.data.folds import runs_of
from sim.scenario import Scenario, load_scenario
from sim.study.attacking import attack_study
from sim.study.engines import InProcess, Workers
from sim.study.planning import plan_runs, plan_trials
from sim.study.runner import Chosen, Progress, run_study
from sim.study.tuning import tuned


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
    specs = runs_of(checked)
    plans = list(plan_runs(specs))
    silent = Progress(lambda to_do, done, seconds: None, lambda row, seconds: None)
    engine = Workers(jobs) if jobs > 1 else InProcess()
    ids = [spec.run_id for spec in specs]
    tuning: dict[str, Chosen] = {}
    if checked.tune is not None:
        plans, ids, tuning = tuned(checked, plans, plan_trials(checked), Path(out), engine, silent)
    table = run_study(plans, ids, Path(out), engine, silent, tuning=tuning)
    attack_study(plans, checked.attacks, Path(out), engine, silent)
    return table
