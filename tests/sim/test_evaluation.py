import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from support import plan_of, run_spec, write_csv
from torch import nn

from sim.data.federation import Records
from sim.models import Block, Network, build_network
from sim.study.train import train_run
from sim.tensor.evaluation import Evaluation, Evaluator
from sim.tensor.metrics import clinic_and_pooled


def one(probabilities, y):
    """Return the metrics of one segment."""
    found, _ = clinic_and_pooled(probabilities, y, np.array([0, len(y)]))
    return {name: float(value) for name, [value] in found.items() if name != "pairs"}


def of_clinic(evaluation, k):
    return {name: float(values[k]) for name, values in evaluation.by_clinic.items() if name != "pairs"}


def pooled(evaluation):
    return {name: value for name, value in evaluation.pooled.items() if name != "within_clinic_auc"}


def by_sklearn(probabilities, y):
    """Compute the same numbers with scikit-learn, which has no calibration error."""
    classes, present = probabilities.shape[1], np.unique(y)
    predicted = probabilities.argmax(1)
    if len(present) == 1:
        auc = math.nan
    elif classes == 2:
        auc = sk.roc_auc_score(y, probabilities[:, 1])
    elif len(present) == classes:
        auc = sk.roc_auc_score(y, probabilities, multi_class="ovr", average="macro", labels=range(classes))
    else:
        auc = np.mean([sk.roc_auc_score(y == c, probabilities[:, c]) for c in present])
    return {
        "auc": auc,
        "balanced_accuracy": sk.recall_score(y, predicted, labels=present, average="macro", zero_division=0),
        "accuracy": sk.accuracy_score(y, predicted),
        "loss": sk.log_loss(y, probabilities, labels=range(classes)),
        "brier": sk.brier_score_loss(y, probabilities, labels=range(classes)),
        "calibration_error": calibration_error(probabilities.max(1), predicted == y),
    }


def calibration_error(confidence, correct):
    """Expected calibration error, bin by bin: share of the bin times |accuracy - mean confidence|."""
    members = [[i for i, c in enumerate(confidence) if min(int(c * 10), 9) == b] for b in range(10)]
    return sum(
        len(own) / len(confidence) * abs(np.mean(correct[own]) - np.mean(confidence[own])) for own in members if own
    )


def agrees(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-9, abs=1e-12, nan_ok=True), name


@st.composite
def cases(draw):
    """Return probabilities with many ties and labels that may leave classes out."""
    classes = draw(st.integers(2, 4))
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coarse = rng.integers(1, draw(st.sampled_from([3, 6, 1000])), size=(n, classes)).astype(float)
    some = draw(st.lists(st.sampled_from(range(classes)), min_size=1, max_size=classes, unique=True))
    return coarse / coarse.sum(1, keepdims=True), rng.choice(some, size=n)


@given(cases())
@settings(deadline=None, max_examples=150)
def test_metrics_equal_scikit_learns(case):
    probabilities, y = case
    agrees(one(probabilities, y), by_sklearn(probabilities, y))


@given(st.lists(cases(), min_size=2, max_size=5))
@settings(deadline=None, max_examples=50)
def test_each_segment_has_the_metrics_that_it_has_alone(found):
    classes = max(probabilities.shape[1] for probabilities, _ in found)
    wide = [(np.pad(p, ((0, 0), (0, classes - p.shape[1]))), y) for p, y in found]
    offsets = np.cumsum([0, *(len(y) for _, y in wide)])
    together, _ = clinic_and_pooled(np.concatenate([p for p, _ in wide]), np.concatenate([y for _, y in wide]), offsets)
    for k, (probabilities, y) in enumerate(wide):
        agrees({name: value[k] for name, value in together.items() if name != "pairs"}, one(probabilities, y))


def test_metrics_by_hand_with_a_tie():
    """Of the 2 x 2 pairs, two are in order, one is a tie, one is the wrong way round: AUC (2 + 1/2) / 4."""
    positive = np.array([0.2, 0.6, 0.6, 0.3])
    y = np.array([0, 0, 1, 1])
    found = one(np.stack([1 - positive, positive], 1), y)
    assert found["auc"] == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert found["accuracy"] == 0.5
    assert found["balanced_accuracy"] == 0.5
    assert found["loss"] == pytest.approx(-np.log([0.8, 0.4, 0.6, 0.3]).mean())


def test_balanced_accuracy_weighs_classes_alike():
    probabilities = np.array([[0.9, 0.1]] * 9 + [[0.8, 0.2]])
    found = one(probabilities, np.array([0] * 9 + [1]))
    assert found["accuracy"] == 0.9
    assert found["balanced_accuracy"] == 0.5


def test_one_class_has_no_auc_but_the_rest():
    found = one(np.array([[0.3, 0.7], [0.6, 0.4]]), np.array([1, 1]))
    assert math.isnan(found["auc"])
    assert found["accuracy"] == found["balanced_accuracy"] == 0.5


def test_no_record_has_no_metric():
    found = one(np.empty((0, 2)), np.empty(0, dtype=np.int64))
    assert all(math.isnan(value) for value in found.values())


def test_calibration_error_by_hand():
    """Two at .95 both right, two at .6 one right: (2 * .05 + 2 * .1) / 4."""
    confident = np.array([[0.05, 0.95], [0.95, 0.05], [0.6, 0.4], [0.6, 0.4]])
    assert one(confident, np.array([1, 0, 0, 1]))["calibration_error"] == pytest.approx(0.075)


def test_a_certain_mistake_has_a_finite_loss():
    found = one(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1, 1]))
    assert math.isfinite(found["loss"])
    assert found["loss"] > 40


def test_worst_clinic_is_the_lowest_auc_of_those_that_have_one():
    def of(*aucs):
        return Evaluation(pooled={}, by_clinic={"auc": np.array(aucs)}).worst_clinic("auc")

    assert of(0.9, math.nan, 0.4, 0.6) == 2
    assert of(math.nan, 0.7) == 1
    assert of(math.nan, math.nan) == -1


SIZES = (9, 1, 4, 17)


def network_and_models(outputs, count=4, between=nn.Tanh):
    torch.manual_seed(outputs)
    models = [nn.Sequential(nn.Linear(3, 6), between(), nn.Linear(6, outputs)) for _ in range(count)]
    network = Network(blocks=(Block("all", models[0]),), input_shape=(3,), outputs=outputs)
    names = [name for name, _ in models[0].named_parameters()]
    return network, models, {f"all.{n}": torch.stack([m.get_parameter(n).detach() for m in models]) for n in names}


def records(classes):
    rng = np.random.default_rng(classes)
    n = sum(SIZES)
    y = rng.integers(0, classes, n)
    y[SIZES[0] + 1 : SIZES[0] + 5] = 1  # a clinic of one class
    offsets = np.concatenate([[0], np.cumsum(SIZES)])
    return Records(rng.normal(size=(n, 3)).astype(np.float32), y, offsets)


def by_torch(model, x):
    with torch.no_grad():
        logits = model(torch.from_numpy(x)).double()
    if logits.shape[1] == 1:
        p = torch.sigmoid(logits[:, 0])
        return torch.stack([1 - p, p], 1).numpy()
    return torch.softmax(logits, 1).numpy()


@pytest.mark.parametrize(("outputs", "classes"), [(1, 2), (2, 2), (3, 3)])
def test_a_global_model_is_judged_pooled_and_clinic_by_clinic(outputs, classes):
    network, models, parameters = network_and_models(outputs, 1)
    test = records(classes)
    evaluation = Evaluator(network, test).evaluate(parameters)
    probabilities = by_torch(models[0], test.x)
    agrees_loosely(pooled(evaluation), by_sklearn(probabilities, test.y))
    for k, (a, b) in enumerate(pairwise(test.offsets)):
        agrees_loosely(of_clinic(evaluation, k), by_sklearn(probabilities[a:b], test.y[a:b]))
    assert math.isnan(evaluation.by_clinic["auc"][1])
    assert math.isnan(evaluation.by_clinic["auc"][2])


@pytest.mark.parametrize("between", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize(("outputs", "classes"), [(1, 2), (2, 2), (3, 3)])
def test_own_models_are_each_judged_on_their_own_clinic(outputs, classes, between):
    network, models, parameters = network_and_models(outputs, between=between)
    test = records(classes)
    evaluation = Evaluator(network, test).evaluate(parameters)
    own = [by_torch(model, test.x[a:b]) for model, (a, b) in zip(models, pairwise(test.offsets), strict=True)]
    for k, (a, b) in enumerate(pairwise(test.offsets)):
        agrees_loosely(of_clinic(evaluation, k), by_sklearn(own[k], test.y[a:b]))
    agrees_loosely(pooled(evaluation), by_sklearn(np.concatenate(own), test.y))


@pytest.mark.parametrize("outputs", [1, 3])
def test_own_models_that_are_all_the_same_are_the_global_model(outputs):
    network, _, parameters = network_and_models(outputs, 1)
    evaluator = Evaluator(network, records(max(2, outputs)))
    one = evaluator.evaluate(parameters)
    same = evaluator.evaluate({name: value.expand(len(SIZES), *value.shape[1:]) for name, value in parameters.items()})
    agrees_loosely(pooled(same), pooled(one))
    for k in range(len(SIZES)):
        a, b = of_clinic(same, k), of_clinic(one, k)
        agrees_loosely(a, b)


def agrees_loosely(found, expected):
    """Logits are 32-bit; ranks and decisions must agree all the same."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-5, nan_ok=True), name


def test_a_run_is_judged_before_the_first_round_and_after_each_on_held_out_records(tmp_path):
    csv = write_csv(tmp_path / "clinics.csv", [40, 25])
    spec = run_spec(csv, "local", rounds=3)
    plan, federation = plan_of(spec)
    trained = train_run(plan, federation)
    assert len(trained.evaluations) == 4
    network = build_network(spec.model, federation.train.x.shape[1:], len(federation.classes))
    again = Evaluator(network, federation.test).evaluate(trained.parameters, last=True)
    assert again.pooled == trained.evaluations[-1].pooled
    alone = []
    for k, (a, b) in enumerate(pairwise(federation.test.offsets)):
        only = Records(federation.test.x[a:b], federation.test.y[a:b], np.array([0, b - a]))
        own = {name: value[k : k + 1] for name, value in trained.parameters.items()}
        alone.append(pooled(Evaluator(network, only).evaluate(own, last=True)))
    for k, b in enumerate(alone):
        a = of_clinic(trained.evaluations[-1], k)
        agrees_loosely(a, b)
