"""Metrics beside those of every round, against scikit-learn, closed forms and hand counts."""

import math
import tomllib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from support import STUDY, plan_of, run_spec, write_csv

from sim.foundation.problems import ScenarioError
from sim.report.held_out import read_margin
from sim.results.run_tables import read_run_tables
from sim.scenario import parse_scenario
from sim.scenario.study import Scoring
from sim.study.journal import write_study
from sim.study.runner import execute
from sim.tensor.metrics import area_under_curve, clinic_and_pooled, costly_metrics, of_several_models


def binary(positive):
    return np.stack([1 - positive, positive], 1)


def costly(probabilities, y, offsets=None, specificity=0.9, threshold=0.5):
    whole = np.array([0, len(y)]) if offsets is None else offsets
    return costly_metrics(probabilities, y, whole, specificity, threshold)


@st.composite
def clinics(draw):
    """Return scores with ties, labels and offsets of a few clinics, some empty and some of one class."""
    sizes = draw(st.lists(st.integers(0, 25), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = sum(sizes)
    levels = draw(st.sampled_from([3, 10, 10_000]))
    return rng.integers(1, levels, n) / levels, rng.integers(0, 2, n), np.cumsum([0, *sizes])


@given(clinics())
@settings(deadline=None, max_examples=150)
def test_within_clinic_auc_weighs_the_clinics_own_by_their_pairs(case):
    score, y, offsets = case
    by_clinic, pooled = clinic_and_pooled(binary(score), y, offsets)
    own, pairs = [], []
    for k, (a, b) in enumerate(pairwise(offsets)):
        pairs.append(int(y[a:b].sum() * (1 - y[a:b]).sum()))
        own.append(sk.roc_auc_score(y[a:b], score[a:b]) if pairs[-1] else 0.0)
        assert by_clinic["pairs"][k] == pairs[-1]
    expected = np.average(own, weights=pairs) if sum(pairs) else math.nan
    assert pooled["within_clinic_auc"] == pytest.approx(expected, rel=1e-12, nan_ok=True)


@given(clinics())
@settings(deadline=None, max_examples=50)
def test_within_clinic_auc_does_not_change_with_a_clinics_own_scale(case):
    """Any increasing transform of each clinic's scores leaves it, and moves the pooled AUC at will."""
    score, y, offsets = case
    clinic = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    moved = (clinic + score ** (1 + clinic)) / len(offsets)
    one, other = (clinic_and_pooled(binary(s), y, offsets)[1]["within_clinic_auc"] for s in (score, moved))
    assert one == pytest.approx(other, nan_ok=True)


def test_the_pooled_auc_rewards_knowing_the_clinics_share_of_cases():
    """One clinic of 90 % cases, one of 10 %: its own share as every prediction gives .9 pooled, .5 within."""
    y = np.array([1] * 9 + [0] + [1] + [0] * 9)
    _, pooled = clinic_and_pooled(binary(np.repeat([0.9, 0.1], 10)), y, np.array([0, 10, 20]))
    assert pooled["auc"] == pytest.approx(0.9)
    assert pooled["within_clinic_auc"] == 0.5


def test_within_clinic_auc_of_several_classes_by_hand():
    """Class 0: 3 of 4 pairs at one clinic, 0 of 1 at the other. Class 1: the same records. Class 2 has no pair."""
    p = np.array([[0.6, 0.4, 0], [0.3, 0.7, 0], [0.5, 0.5, 0], [0.1, 0.9, 0], [0.2, 0.8, 0], [0.9, 0.1, 0]])
    y = np.array([0, 0, 1, 1, 0, 1])
    by_clinic, pooled = clinic_and_pooled(p, y, np.array([0, 4, 6]))
    assert by_clinic["pairs"].tolist() == [8, 2]
    assert by_clinic["auc"].tolist() == [0.75, 0.0]
    assert pooled["within_clinic_auc"] == pytest.approx(3 / 5)


@given(clinics(), st.sampled_from([0.5, 0.8, 0.9, 0.99]), st.sampled_from([0.1, 0.5, 0.7]))
@settings(deadline=None, max_examples=150)
def test_the_last_rounds_metrics_equal_scikit_learns(case, specificity, threshold):
    score, y, offsets = case
    found = costly(binary(score), y, offsets, specificity, threshold)
    for k, (a, b) in enumerate(pairwise(offsets)):
        s, t = score[a:b], y[a:b]
        if 0 < t.sum() < b - a:
            assert found["auprc"][k] == pytest.approx(sk.average_precision_score(t, s))
            false, true, _ = sk.roc_curve(t, s, drop_intermediate=False)
            assert found["sensitivity"][k] == pytest.approx(true[false <= 1 - specificity + 1e-9].max())
        else:
            assert math.isnan(found["auprc"][k])
            assert math.isnan(found["sensitivity"][k])
        odds = threshold / (1 - threshold)
        expected = np.mean((s >= threshold) & (t == 1)) - odds * np.mean((s >= threshold) & (t == 0)) if b > a else None
        assert found["net_benefit"][k] == (pytest.approx(expected) if b > a else pytest.approx(math.nan, nan_ok=True))


def test_several_classes_are_scored_one_against_the_rest():
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(3), 60)
    y = rng.integers(0, 3, 60)
    found = costly(p, y)
    assert found["auprc"][0] == pytest.approx(sk.average_precision_score(np.eye(3)[y], p, average="macro"))
    assert all(math.isnan(found[name][0]) for name in ("calibration_intercept", "calibration_slope", "net_benefit"))


def test_net_benefit_by_hand():
    """Treat from .2: 2 of 4 true, 1 false positive at odds 1 to 4: (2 - 1/4) / 4."""
    found = costly(binary(np.array([0.9, 0.3, 0.25, 0.1])), np.array([1, 1, 0, 0]), threshold=0.2)
    assert found["net_benefit"][0] == pytest.approx(1.75 / 4)


@pytest.mark.parametrize("seed", range(5))
def test_calibration_is_that_of_logistic_models(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(30, 300, 6)
    group, n = np.repeat(np.arange(6), sizes), sizes.sum()
    odds = rng.normal(rng.normal(0, 2, 6)[group], rng.uniform(0.2, 3, 6)[group])
    y = (rng.random(n) < 1 / (1 + np.exp(-(rng.normal(size=6)[group] + 0.6 * odds)))).astype(np.int64)
    found = costly(binary(1 / (1 + np.exp(-odds))), y, np.cumsum([0, *sizes]))
    for k in range(6):
        own, label = odds[group == k, None], y[group == k]
        fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(own, label)
        assert found["calibration_slope"][k] == pytest.approx(fitted.coef_[0, 0], rel=1e-4)
        expected = 1 / (1 + np.exp(-(found["calibration_intercept"][k] + own[:, 0])))
        assert expected.sum() == pytest.approx(label.sum(), rel=1e-9)


def test_calibration_in_the_large_of_one_prediction_is_a_difference_of_log_odds():
    found = costly(binary(np.full(10, 0.2)), np.array([1] * 6 + [0] * 4))
    assert found["calibration_intercept"][0] == pytest.approx(math.log(6 / 4) - math.log(0.2 / 0.8))
    assert math.isnan(found["calibration_slope"][0])


@pytest.mark.parametrize(
    ("score", "y"),
    [([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]), ([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]), ([0.1, 0.9], [1, 0])],
)
def test_separated_classes_have_no_slope(score, y):
    found = costly(binary(np.array(score)), np.array(y))
    assert math.isnan(found["calibration_slope"][0])
    assert math.isfinite(found["calibration_intercept"][0])


def test_certain_predictions_have_finite_calibration():
    score = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    found = costly(binary(score), np.array([0, 1, 0, 1, 1, 0]))
    assert math.isfinite(found["calibration_intercept"][0])
    assert 0 < found["calibration_slope"][0] < 0.05


def test_area_under_curve_is_scikit_learns():
    rng = np.random.default_rng(0)
    score, y = rng.integers(0, 9, 50).astype(float), rng.integers(0, 2, 50)
    assert area_under_curve(score, y == 1) == pytest.approx(sk.roc_auc_score(y, score))


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("scored") / "own.csv", [40, 30])


def scored(csv, folder, **evaluation):
    spec = run_spec(csv, "fedavg")
    spec = spec.model_copy(update={"evaluation": Scoring(**evaluation)})
    row = execute(plan_of(spec)[0], folder, {})
    return row, read_run_tables(folder, [spec.run_id], "predictions")


def test_a_run_is_scored_at_the_stated_specificity_and_threshold(csv, tmp_path):
    row, found = scored(csv, tmp_path, specificity=0.6, threshold=0.3)
    y, score = found["label"], found["probability_1"]
    false, true, _ = sk.roc_curve(y, score, drop_intermediate=False)
    assert row["sensitivity"] == pytest.approx(true[false <= 0.4].max())
    treated = score >= 0.3
    assert row["net_benefit"] == pytest.approx(np.mean(treated & (y == 1)) - 3 / 7 * np.mean(treated & (y == 0)))


def test_the_margin_is_of_the_study_and_makes_no_other_run(csv):
    spec = run_spec(csv, "fedavg")
    wider, other = (
        spec.model_copy(update={"evaluation": Scoring(**key)}) for key in ({"margin": 0.05}, {"threshold": 0.1})
    )
    assert wider.run_id == spec.run_id != other.run_id


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ({"specificity": 1.0}, "specificity: 1.0 is out of range; give a number less than 1"),
        ({"threshold": 0.0}, "threshold: 0.0 is out of range; give a number greater than 0"),
        ({"margin": "small"}, 'margin: "small" is not a number; give one such as 0.5'),
        ({"treshold": 0.5}, 'treshold: unknown key; did you mean "threshold"?'),
    ],
)
def test_what_evaluation_cannot_be_is_one_line(table, line):
    written = {**tomllib.loads(STUDY), "evaluation": table}
    with pytest.raises(ScenarioError) as refused:
        parse_scenario(written, Path())
    assert list(refused.value.problems) == [f"scenario: evaluation.{line}"]


def test_another_margin_holds_for_runs_that_are_there(csv, tmp_path):
    spec = run_spec(csv, "fedavg")
    for margin in (0.01, 0.2):
        changed = spec.model_copy(update={"evaluation": Scoring(margin=margin)})
        write_study(tmp_path, [plan_of(changed)[0]], [spec.run_id])
        assert read_margin(tmp_path) == margin


@pytest.mark.parametrize("classes", [2, 5])
def test_models_scored_together_have_the_bits_of_each_alone(classes):
    draw = np.random.default_rng(classes)
    offsets = np.array([0, 3, 3, 40, 241])  # one clinic has no record
    probabilities = draw.dirichlet(np.full(classes, 0.3), (7, offsets[-1])).round(2)
    y = draw.integers(classes, size=(7, offsets[-1]))
    together = of_several_models(probabilities, y, offsets)
    for (by_clinic, pooled), own, labels in zip(together, probabilities, y, strict=True):
        alone_by_clinic, alone = clinic_and_pooled(own, labels, offsets)
        assert pooled == alone
        for name, values in alone_by_clinic.items():
            np.testing.assert_array_equal(by_clinic[name], values, strict=True)
