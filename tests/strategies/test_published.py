"""Published figures for the heart-disease data, through scenario, plan and the Flower path."""

import math
from pathlib import Path

import numpy as np
import pytest

from sim.data import load_federation
from sim.plan.plan import make_plan
from sim.scenario import parse_scenario
from sim.spec import expand
from sim.study.learn import learn

pytestmark = pytest.mark.slow

FLAMBY = {"source": "heart-disease", "held-out": "flamby"}


def mean_accuracy(strategy, data, train, seeds, privacy=None):
    """Return the mean over seeds of the pooled test accuracy of logistic regression."""
    scenario = parse_scenario(
        {
            "name": "published",
            "seeds": list(range(seeds)),
            "data": data,
            "model": {"name": "logistic"},
            "train": train,
            "privacy": privacy or {},
            "strategies": [{"name": strategy}],
        },
        Path(),
    )
    accuracies = []
    for spec in expand(scenario):
        federation = load_federation(spec.data, spec.seed)
        accuracies.append(learn(make_plan(spec, federation), federation).evaluations[-1].pooled["accuracy"])
    return float(np.mean(accuracies))


def test_flambys_pooled_baseline():
    """FLamby (NeurIPS 2022), Fed-Heart-Disease, pooled: .795 with Adam 0.001, batch 4, 50 epochs."""
    train = {"rounds": 50, "batch-size": 4, "optimizer": "adam", "learning-rate": 0.001}
    assert mean_accuracy("centralised", {**FLAMBY, "scaling": "pooled"}, train, 3) == pytest.approx(0.795, abs=0.01)


@pytest.mark.parametrize(("epsilon", "expected"), [(math.inf, 0.800), (8.0, 0.796), (3.0, 0.794), (1.0, 0.780)])
def test_fedavg_with_local_dp_sgd(epsilon, expected):
    """An independent implementation's pooled accuracies, logistic regression, public scaling, delta 1e-4."""
    train = {"rounds": 20, "batch-size": 32, "optimizer": "sgd", "learning-rate": 0.3}
    privacy = {"mechanism": "dp-sgd", "epsilon": epsilon, "delta": 1e-4}
    assert mean_accuracy("fedavg", FLAMBY, train, 10, privacy) == pytest.approx(expected, abs=0.02)
