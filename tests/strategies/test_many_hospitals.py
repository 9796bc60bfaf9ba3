"""A table as a registry of hospitals gives it: many of them, few patients each, much missing, a rare label."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from split_twins import METHODS, apart, expected
from support import DP_SGD, NO_PRIVACY, plan_of

from sim.study.train import train_run

HOSPITALS = 186
AS_IT_IS = {"missing": 0.0}


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    rng = np.random.default_rng(11)
    sizes = np.concatenate([[2, 2, 3, 23], rng.integers(2, 24, HOSPITALS - 4)])
    n = sizes.sum()
    x = rng.normal(size=(n, 40))
    labels = rng.random(n) < 1 / (1 + np.exp(3.4 - 2 * x[:, 0]))
    assert labels.mean() == pytest.approx(0.09, abs=0.02)
    frame = pd.DataFrame(x, columns=[f"lab{i}" for i in range(40)]).round(3)
    frame = frame.mask(rng.random((n, 40)) < np.linspace(0.05, 0.8, 40))
    frame.insert(0, "label", labels.astype(int))
    frame.insert(0, "clinic", np.repeat([f"h{k:03}" for k in range(HOSPITALS)], sizes))
    path = tmp_path_factory.mktemp("registry") / "registry.csv"
    frame.sample(frac=1, random_state=0).to_csv(path, index=False)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("privacy", [NO_PRIVACY, {**DP_SGD, "delta": 1e-4}], ids=["plain", "dp-sgd"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_trains_on_them_what_its_twin_does(registry, method, privacy):
    settings = {"privacy": privacy, "class_weights": [1.0, 9.0]}
    spec = method.spec(registry, data=AS_IT_IS, rounds=1, **settings)
    plan, federation = plan_of(spec)
    assert len(federation.names) == HOSPITALS
    trained = train_run(plan, federation)
    assert apart(trained.parameters, expected(spec, plan, federation)) < 1e-5
    for evaluation in trained.evaluations:
        assert all(math.isfinite(value) for value in evaluation.pooled.values())
        assert len(evaluation.by_clinic["loss"]) == HOSPITALS
        assert np.isfinite(evaluation.by_clinic["loss"]).all()
        one_class = [len(set(federation.test.y[a:b])) < 2 for a, b in pairwise(federation.test.offsets)]
        assert np.isnan(evaluation.by_clinic["auc"]).tolist() == one_class
