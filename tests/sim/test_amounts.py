"""Amounts: labels on a public grid, scores by hand, losses against PyTorch's, and runs against least squares."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression
from support import AMOUNTS, bitwise, plan_of, run_spec, train_spec, write_amounts
from torch.nn import functional

from sim.data.labels import amount_codes
from sim.foundation.problems import ScenarioError
from sim.inference.amounts import amount_scores
from sim.inference.evidence import from_predictions
from sim.study.train import train_run
from sim.tensor.losses import Huber, Quantile, Squared, amounts
from sim.tensor.scoring import scorer_of


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_amounts(tmp_path_factory.mktemp("amounts") / "amounts.csv", sizes=(40, 60, 80))


def test_a_label_is_a_step_of_the_public_range_and_what_lies_beyond_is_its_end():
    labels = amount_codes(np.array([6.0, 8.0, 14.0, 99.0, -1.0]), (6.0, 14.0))
    assert labels.tolist() == [0, 2**22, 2**24, 2**24, 0]
    assert amounts(torch.from_numpy(labels)).tolist() == [-1, -0.5, 1, 1, -1]


def test_scores_by_hand():
    amount, predicted = np.array([1.0, 3.0, 10.0, 14.0]), np.array([2.0, 2.0, 10.0, 12.0])
    by_clinic, pooled = amount_scores(predicted, amount, np.zeros(4), np.array([0, 2, 4]), last=True)
    assert by_clinic["r2"] == pytest.approx([1 - 2 / 2, 1 - 4 / 8])
    assert pooled["within_clinic_r2"] == pytest.approx(1 - 6 / 10)
    assert pooled["r2"] == pytest.approx(1 - 6 / np.sum((amount - 7) ** 2))
    assert (pooled["mae"], pooled["decile_error"]) == (1.0, 1.0)
    assert pooled["calibration_intercept"] == pytest.approx(0.5)
    assert pooled["calibration_slope"] == pytest.approx(np.polyfit(predicted, amount, 1)[0])


def test_clinics_that_are_told_by_their_means_have_no_r2_within():
    amount = np.array([1.0, 3.0, 11.0, 13.0])
    _, pooled = amount_scores(np.array([2.0, 2, 12, 12]), amount, np.zeros(4), np.array([0, 2, 4]), last=False)
    assert pooled["within_clinic_r2"] == pytest.approx(0.0)
    assert pooled["r2"] > 0.9


TORCHS = {
    Squared(): lambda o, a: functional.mse_loss(o, a, reduction="none") / 2,
    Huber(0.3): lambda o, a: functional.huber_loss(o, a, reduction="none", delta=0.3),
    Quantile(0.8): lambda o, a: torch.where(a > o, 0.8 * (a - o), 0.2 * (o - a)),
}


@pytest.mark.parametrize("loss", TORCHS, ids=str)
def test_a_loss_and_its_gradient_are_pytorchs(loss):
    random = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, 9, 1, dtype=torch.float64, generator=random).requires_grad_()
    y = torch.randint(0, 2**24, (2, 9), generator=random)
    weights = torch.rand(2, 9, dtype=torch.float64, generator=random)
    expected = (TORCHS[loss](outputs[..., 0], amounts(y, torch.float64)) * weights).sum()
    torch.testing.assert_close(loss.sum(outputs, y, weights), expected)
    [gradient] = torch.autograd.grad(expected, outputs)
    torch.testing.assert_close(loss.gradient(outputs.detach(), y, weights), gradient)


def test_a_linear_model_by_squared_loss_becomes_that_of_least_squares(file):
    long = {"rounds": 300, "batch_size": 200, "learning_rate": 0.3}
    spec = run_spec(
        file, "centralised", model={"name": "logistic"}, records={**AMOUNTS, "label-range": [0, 20]}, **long
    )
    plan, federation = plan_of(spec)
    train, test = federation.train, federation.test
    fitted = LinearRegression().fit(train.x, train.measured[:, 0])
    trained = train_run(plan, federation)
    assert trained.evaluations[-1].predicted[:, 0] == pytest.approx(fitted.predict(test.x), abs=0.02)
    assert trained.evaluations[-1].pooled["r2"] == pytest.approx(fitted.score(test.x, test.measured[:, 0]), abs=2e-3)


def test_a_quantile_is_predicted_above_its_share_of_amounts(file):
    wanted = {"loss": "quantile", "quantile": 0.8, "rounds": 200, "learning_rate": 0.3, "batch_size": 200}
    records = {**AMOUNTS, "label-range": [0, 20]}
    spec = run_spec(file, "centralised", model={"name": "logistic"}, records=records, **wanted)
    plan, federation = plan_of(spec)
    trained = train_run(plan, federation)
    scorer, whole = scorer_of(spec.data.outcome_of_a_record, spec.evaluation), plan.job.network.whole
    [weight], [bias] = (trained.parameters[name] for name in whole.shapes())
    predicted = scorer.predicted(torch.tensor(federation.train.x) @ weight.t() + bias)[:, 0]
    assert np.mean(federation.train.measured[:, 0] < predicted) == pytest.approx(0.8, abs=0.03)


def test_split_and_federated_learning_agree_and_labels_have_four_bytes(file):
    federated, split = (
        train_spec(run_spec(file, strategy, cut, records=AMOUNTS))
        for strategy, cut in (("fedavg", None), ("splitfed-v1", "vanilla"))
    )
    assert bitwise(federated.parameters, split.parameters)
    smashed, labels = (split.meter.traffic["up", kind] for kind in ("smashed", "labels"))
    assert (6 * labels == smashed).all()  # rows of six float32


def test_a_clinic_that_knows_no_features_predicts_its_mean(file):
    spec = run_spec(file, "prevalence", model={"name": "logistic"}, records=AMOUNTS, rounds=1)
    plan, federation = plan_of(spec)
    predicted = train_run(plan, federation).evaluations[-1].predicted[:, 0]
    train, test = federation.train, federation.test
    for k in range(3):
        own = train.measured[train.offsets[k] : train.offsets[k + 1], 0].clip(6, 14).mean()
        assert predicted[test.offsets[k] : test.offsets[k + 1]] == pytest.approx(own, abs=1e-4)


@pytest.mark.parametrize(
    ("records", "train", "place"),
    [
        ({"positive": "1"}, {}, "data.positive: has no effect on amounts"),
        ({"label-range": None}, {}, "data.label-range: is missing"),
        ({"stratified": True}, {}, "stratified = true needs classes"),
        ({"time": "amount"}, {}, "data.time: has no effect with"),
        ({}, {"class_weights": [1.0, 2.0]}, "train.class-weights: has no effect on an amount"),
        ({}, {"loss": "huber"}, "train.huber-delta: is missing"),
        ({}, {"quantile": 0.5}, 'train.quantile: has no effect without train.loss = "quantile"'),
        ({"outcome": None, "label": "clinic", "label-range": None}, {"loss": "squared"}, "train.loss: chooses among"),
        ({"outcome": "binary", "label-range": None}, {}, "data.label: column"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(file, records, train, place):
    with pytest.raises(ScenarioError) as raised:
        plan_of(run_spec(file, records={**AMOUNTS, **records}, **train))
    [line] = raised.value.problems
    assert place in line


def test_labels_that_are_randomised_need_classes(file):
    private = {"mechanism": "label-rr", "label-epsilon": 1.0}
    with pytest.raises(ScenarioError, match="label-rr randomises classes"):
        plan_of(run_spec(file, "splitfed-v1", "vanilla", private, records=AMOUNTS))


def test_the_interval_has_the_width_that_other_patients_give():
    models = pd.DataFrame({"run_id": ["a"], "method": ["a"], "seed": [0]})
    found, variances = {"r2": [], "within_clinic_r2": []}, {"r2": [], "within_clinic_r2": []}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        clinic, x = np.arange(200) % 4, rng.normal(size=200)
        table = pd.DataFrame(
            {"clinic": clinic, "patient": np.arange(200), "amount": x + 0.2 * clinic + rng.normal(size=200)}
        )
        table = table.assign(run_id="a", predicted=0.8 * x + 0.2 * clinic)
        for metric in found:
            moments = from_predictions(table, models, metric, same_patients=True).moments(
                np.array([True]), np.array([[1.0]])
            )
            found[metric].append(moments.mean[0])
            variances[metric].append(moments.patients[0])
    for metric, values in found.items():
        assert np.sqrt(np.mean(variances[metric])) == pytest.approx(np.std(values, ddof=1), rel=0.15)


def test_amounts_beyond_their_range_are_remarked(file):
    _, federation = plan_of(run_spec(file, records=AMOUNTS))
    [remark] = [line for line in federation.remarks if line.startswith("data.label-range")]
    beyond = sum(((part.measured < 6) | (part.measured > 14)).sum() for part in (federation.train, federation.test))
    assert f": {beyond} amounts" in remark
