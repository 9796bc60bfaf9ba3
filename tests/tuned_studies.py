"""A small study that tunes, and what its trials find."""

import tomllib

from support import write_csv

from sim.scenario import parse_scenario
from sim.scenario.contests import contests
from sim.scenario.spec import expand
from sim.study.engines import InProcess
from sim.study.planning import plan_runs, plan_trials
from sim.study.runner import Progress
from sim.study.tuning import tuned

BASE = """
name = "tuned"
seeds = [0, 1]
[data]
source = "csv"
path = "clinics.csv"
label = "label"
clinic = "clinic"
features = ["x0", "x1"]
scaling = "none"
[model]
name = "logistic"
[evaluation]
reference = false
[train]
rounds = 3
batch-size = 8
[[strategies]]
name = "fedavg"
[tune]
"train.learning-rate" = [0.015625, 0.125, 1.0, 8.0]
"""
PRIVATE = {"mechanism": "dp-sgd", "delta": 1e-3, "epsilon": 3.0}
SILENT = Progress(lambda *_: None, lambda *_: None)


def scenarios_in(folder):
    """Write the study's clinics, and return what makes its scenario with other tables."""
    write_csv(folder / "clinics.csv")
    return lambda **tables: parse_scenario(tomllib.loads(BASE) | tables, folder)


def of(scenario):
    return contests(scenario, expand(scenario))


def tried(scenario, folder, engine=None):
    plans = list(plan_runs(expand(scenario)))
    return tuned(scenario, plans, plan_trials(scenario), folder, engine or InProcess(), SILENT)
