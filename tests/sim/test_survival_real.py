"""Discrete-time hazards against Cox models of R's package survival on the same columns; skipped without the data."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.data.federation import load_federation
from sim.plan.plan import make_plan
from sim.scenario import parse_scenario
from sim.scenario.spec import expand
from sim.study.train import train_run
from sim.tensor.evaluation import Evaluator
from sim.tensor.scoring import scorer_of

DATA = Path(__file__).parents[3] / "shared" / "data"
TIMES = {"source": "csv", "outcome": "time", "time": "days", "event": "event"}


def concordances(path, data, **train):
    """Train a linear model in one place; return its concordance on the training and on the held-out records."""
    written = {
        "name": "cox",
        "seeds": [0],
        "data": {**TIMES, "path": str(path), **data},
        "model": {"name": "logistic"},
        "train": {"eval-every": train["rounds"], **train},
        "evaluation": {"reference": False},
        "strategies": [{"name": "centralised"}],
    }
    [spec] = expand(parse_scenario(written, path.parent))
    federation = load_federation(spec.data, 0)
    plan = make_plan(spec, federation.facts)
    trained = train_run(plan, federation)
    scorer = scorer_of(spec.data.outcome_of_a_record, spec.evaluation)
    own = Evaluator(plan.job.network, federation.train, scorer=scorer).evaluate(trained.parameters)
    return own.pooled["concordance"], trained.evaluations[-1].pooled["concordance"]


@pytest.fixture
def file(request):
    path = DATA / request.param
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


@pytest.mark.parametrize("file", ["breast_cancer_rfs.csv"], indirect=True)
def test_the_concordance_in_rotterdam_and_at_the_german_patients_is_that_of_cox(file, tmp_path):
    table = pd.read_csv(file)
    table["log_nodes"], table["log_pgr"] = np.log1p(table["nodes"]), np.log1p(table["pgr"])
    table.to_csv(tmp_path / "breast.csv", index=False)
    data = {
        "clinic": "site", "test": "held-out-clinics", "test-sites": ["gbsg"], "horizon": 3650,
        "features": ["age", "meno", "size", "grade", "log_nodes", "log_pgr", "hormon"],
        "categorical": ["size"], "levels": {"size": ["20-50", ">50"]},
        "ranges": {
            "age": [20, 90], "meno": [0, 1], "grade": [2, 3], "log_nodes": [0, 4], "log_pgr": [0, 8], "hormon": [0, 1],
        },
    }  # fmt: skip
    here, there = concordances(tmp_path / "breast.csv", data, rounds=60, **{"batch-size": 128, "learning-rate": 0.3})
    assert here == pytest.approx(0.676, abs=0.01)
    assert there == pytest.approx(0.680, abs=0.01)


@pytest.mark.parametrize("file", ["rhdnase_trial.csv"], indirect=True)
def test_the_concordance_of_a_drugs_response_is_that_of_cox(file):
    data = {
        "split": "iid", "clinics": 2, "test-share": 0.01, "horizon": 168, "intervals": 12,
        "features": ["treated", "fev"], "ranges": {"treated": [0, 1], "fev": [0, 120]},
    }  # fmt: skip
    here, _ = concordances(file, data, rounds=100, **{"batch-size": 64, "learning-rate": 0.3})
    assert here == pytest.approx(0.653, abs=0.01)
