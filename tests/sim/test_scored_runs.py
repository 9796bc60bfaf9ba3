"""Runs that are scored once for many comparisons: the same bits as where each comparison scores them itself."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.made_up import Law, drawn
from sim.inference import scores as module
from sim.inference.clinics import by_clinic
from sim.inference.evidence import from_predictions
from sim.inference.scores import Predictions, ScoredRuns, scores


@pytest.mark.parametrize("metric", ["within_clinic_auc", "brier"])
def test_a_comparison_of_some_runs_has_the_bits_of_its_own_scores(metric):
    study = drawn(Law(aucs=(0.8, 0.7, 0.6), seeds=3), np.random.default_rng(0))
    models = study.models[study.models["method"] != "method 1"]
    own = study.predictions[study.predictions["run_id"].isin(models["run_id"])]
    cell = own["run_id"].map(dict(zip(models["run_id"], range(len(models)), strict=True))).to_numpy()
    value, influence = scores(Predictions.of(own, cell, len(models)), metric)

    found = from_predictions(ScoredRuns(study.predictions), models, metric, same_patients=True)
    runs = [(seed, found.methods.index(method)) for _, method, seed in models.itertuples(index=False)]
    assert [found.by_seed[run] for run in runs] == value.tolist()
    seeds = own["run_id"].map(models.set_index("run_id")["seed"])
    for seed, (_, parts) in enumerate(found.influence):
        assert parts.sum() == pytest.approx(influence[seeds == seed].sum(), abs=1e-12)
        assert np.sort(parts[parts != 0]).tolist() == np.sort(influence[(seeds == seed) & (influence != 0)]).tolist()


def test_each_run_is_scored_once_a_metric(monkeypatch):
    study = drawn(Law(aucs=(0.8, 0.7), seeds=2), np.random.default_rng(0))
    counted = []
    monkeypatch.setattr(module, "scores", lambda of, name: counted.append(name) or scores(of, name))
    runs = ScoredRuns(study.predictions)
    for models in (study.models, study.models[study.models["method"] == "method 1"]):
        from_predictions(runs, models, "auc", same_patients=True)
        by_clinic(runs, models, "within_clinic_auc")
    assert counted == ["auc", "auc"]  # of all clinics together, and of each


def test_by_clinic_of_shared_runs_is_that_of_a_table():
    study = drawn(Law(aucs=(0.8, 0.7, 0.6), seeds=3), np.random.default_rng(0))
    models = study.models[study.models["method"] != "method 0"]
    one, other = (by_clinic(of, models, "auc").estimates() for of in (ScoredRuns(study.predictions), study.predictions))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
