"""Times to an event with censoring: labels, scores against hand computations and loops over pairs, and intervals."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from support import TIMES, plan_of, run_spec, write_times

from sim.data.labels import time_codes
from sim.inference.clinics import by_clinic
from sim.inference.evidence import from_predictions
from sim.inference.survival import (
    Times,
    brier_curve,
    integrated_brier,
    kaplan_meier,
    log_losses,
    pairs_in_order,
    time_lost,
    time_scores,
)
from sim.tensor.evaluation import Evaluator
from sim.tensor.losses import Hazards
from sim.tensor.scoring import scorer_of

EDGES = np.array([2.0, 4.0, 8.0])
LABELS = [  # time, event, label: 2 * interval + event, without event 2 * intervals survived
    (0.0, 1, 1),
    (2.0, 1, 1),  # an interval has its end
    (2.5, 1, 3),
    (8.0, 1, 5),
    (8.1, 1, 6),  # behind the horizon, all intervals survived
    (0.9, 0, 0),
    (1.0, 0, 2),  # half of the first interval was seen
    (2.9, 0, 2),
    (5.9, 0, 4),
    (6.0, 0, 6),
]


@pytest.mark.parametrize(("time", "event", "label"), LABELS)
def test_a_label_holds_interval_and_event(time, event, label):
    assert time_codes(np.array([time]), np.array([event == 1]), tuple(EDGES)).tolist() == [label]


def made(records=60, seed=0, edges=EDGES):
    """Return times on a coarse grid, so that many are tied, and survival curves."""
    rng = np.random.default_rng(seed)
    time, event = np.round(rng.exponential(5, records), 0), rng.random(records) < 0.6
    survival = np.cumprod(1 - np.round(rng.uniform(0, 0.5, (records, len(edges))), 1), axis=1)
    return survival, Times(time, event, edges)


def test_concordance_is_that_of_a_loop_over_pairs():
    survival, times = made()
    risk = time_lost(survival, EDGES)
    order = pairs = 0.0
    for i, j in combinations(range(len(risk)), 2):
        for a, b in ((i, j), (j, i)):
            seen, other = (times.event[k] and times.time[k] <= 8 for k in (a, b))
            if seen and (times.time[a] < times.time[b] or (times.time[a] == times.time[b] and not other)):
                pairs += 1
                order += 1.0 if risk[a] > risk[b] else 0.5 if risk[a] == risk[b] else 0.0
    found = pairs_in_order(risk, times)
    assert found.all.sum() / 2 == pairs
    assert found.share() == pytest.approx(order / pairs)


def test_concordance_by_hand():
    # events on days 1 and 3, censored on days 2 and 4: the pairs are 1 with 2, 3 and 4, and 3 with 4
    times = Times(np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, False]), EDGES)
    assert pairs_in_order(np.array([0.9, 0.95, 0.2, 0.2]), times).share() == pytest.approx((0 + 1 + 1 + 0.5) / 4)


def test_time_lost_is_the_area_above_the_curve():
    survival = np.array([[0.5, 0.5, 0.0], [1.0, 1.0, 1.0]])
    # trapezoids of width 2, 2 and 4 under (1, .5), (.5, .5) and (.5, 0)
    assert time_lost(survival, EDGES) == pytest.approx([8 - (1.5 + 1.0 + 1.0), 0.0])


def test_kaplan_meier_by_hand():
    when, share = kaplan_meier(np.array([1.0, 2.0, 2.0, 3.0, 5.0]), np.array([True, True, False, False, True]))
    assert when.tolist() == [1, 2, 5]
    assert share == pytest.approx([4 / 5, 4 / 5 * 3 / 4, 0.0])


def test_without_censoring_squared_errors_are_plain_and_unos_concordance_is_harrells():
    survival, times = made(seed=1)
    times = Times(times.time, np.ones(len(times.time), dtype=bool), EDGES)
    gone = times.time[:, None] <= EDGES
    assert brier_curve(survival, times, kaplan_meier(times.time, ~times.event)) == pytest.approx(
        (1 - gone - survival) ** 2
    )
    _, pooled = time_scores(survival, times, np.array([0, 20, 60]))
    assert pooled["uno_concordance"] == pytest.approx(pooled["concordance"])


def test_weights_for_censoring_undo_it():
    """Of many records, the scores with censoring at random are those without any."""
    rng = np.random.default_rng(5)
    records, edges = 20_000, np.linspace(1, 8, 8)
    rate = np.exp(rng.normal(size=records)) / 8
    event, followed = rng.exponential(1 / rate), rng.uniform(0, 16, records)
    survival = np.exp(-rate[:, None] * edges)
    seen = Times(np.minimum(event, followed), event <= followed, edges)
    every = Times(event, np.ones(records, dtype=bool), edges)
    assert integrated_brier(survival, seen).mean() == pytest.approx(integrated_brier(survival, every).mean(), abs=3e-3)
    offsets = np.array([0, 4000])
    (_, censored), (_, whole) = (
        time_scores(survival[:4000], times.at(slice(0, 4000)), offsets) for times in (seen, every)
    )
    assert censored["uno_concordance"] == pytest.approx(whole["concordance"], abs=0.015)
    assert abs(censored["horizon_calibration"]) < 0.02
    assert censored["calibration_error"] < 0.04


def test_the_within_clinic_concordance_is_the_clinics_own_by_their_pairs():
    survival, times = made(seed=2)
    offsets = np.array([0, 10, 35, 60])
    by_clinic, pooled = time_scores(survival, times, offsets)
    expected = np.average(by_clinic["concordance"], weights=by_clinic["pairs"])
    assert pooled["within_clinic_concordance"] == pytest.approx(expected)
    moved = survival * np.repeat([1.0, 0.5, 0.1], np.diff(offsets))[:, None]  # knows the clinics besides
    assert time_scores(moved, times, offsets)[1]["concordance"] != pooled["concordance"]


def test_the_loss_and_its_gradient_are_those_of_the_likelihood():
    torch.manual_seed(0)
    y = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 3]])
    outputs = torch.randn(1, 8, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(1, 8, dtype=torch.float64)
    hazard, total = torch.sigmoid(outputs[0]), torch.zeros((), dtype=torch.float64)
    for own, label, weight in zip(hazard, y[0].tolist(), weights[0], strict=True):
        kept = torch.prod(1 - own[: label // 2])
        total = total - weight * torch.log(kept * own[label // 2] if label % 2 else kept)
    torch.testing.assert_close(Hazards().sum(outputs, y, weights), total)
    [gradient] = torch.autograd.grad(total, outputs)
    torch.testing.assert_close(Hazards().gradient(outputs.detach(), y, weights), gradient)


def test_the_scored_loss_is_the_trained_one():
    _, times = made(seed=3)
    logits = torch.randn(len(times.time), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.from_numpy(time_codes(times.time, times.event, tuple(EDGES)))
    survival = torch.cumprod(1 - torch.sigmoid(logits), 1).numpy()
    trained = Hazards().sum(logits[None], y[None], torch.full((1, len(y)), 1 / len(y), dtype=torch.float64))
    assert log_losses(survival, times).mean() == pytest.approx(float(trained))


def test_a_clinic_that_knows_no_features_answers_with_its_own_hazards():
    y = torch.tensor([1, 1, 3, 6, 6, 6])  # of six, two have the event in the first interval, one of four in the second
    hazard = torch.sigmoid(Hazards().constant(y, 3))
    mean = 3.5 / 14  # three events in the thirteen intervals that were reached, with half a one in one more
    expected = torch.tensor([(2 + mean) / 7, (1 + mean) / 5, mean / 4], dtype=torch.float64)
    torch.testing.assert_close(hazard, expected)


def predictions(seed, records=150):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(records, 2))
    event, followed = rng.exponential(4 * np.exp(-x[:, 0])), rng.uniform(1, 9, records)
    table = pd.DataFrame(
        {"clinic": np.arange(records) % 3, "patient": np.arange(records), "time": np.minimum(event, followed)}
    )
    table["event"] = (event <= followed).astype(int)
    risks = {"a": x[:, 0] + 0.3 * x[:, 1], "b": x[:, 0] - x[:, 1]}
    return [
        table.assign(run_id=name, **{f"survival_{edge:g}": np.exp(-np.exp(risk) * edge / 6) for edge in EDGES})
        for name, risk in risks.items()
    ]


def test_the_interval_of_a_difference_has_the_width_that_other_patients_give():
    """The standard error from influence values is the standard deviation over many draws of patients."""
    models = pd.DataFrame({"run_id": ["a", "b"], "method": ["a", "b"], "seed": [0, 0]})
    found, variances = [], []
    for seed in range(120):
        evidence = from_predictions(
            pd.concat(predictions(seed)), models, "within_clinic_concordance", same_patients=True
        )
        moments = evidence.moments(np.array([True]), np.array([[1.0, -1.0]]))
        found.append(moments.mean[0])
        variances.append(moments.patients[0])
    assert np.sqrt(np.mean(variances)) == pytest.approx(np.std(found, ddof=1), rel=0.15)


def test_a_horizon_behind_all_follow_up_is_remarked(tmp_path):
    file = write_times(tmp_path / "times.csv")
    for horizon, there in ((8, False), (30, True)):
        _, federation = plan_of(run_spec(file, records={**TIMES, "horizon": horizon}))
        assert any(line.startswith("data.horizon: nobody") for line in federation.remarks) is there


def test_a_clinic_s_size_is_its_comparable_pairs_a_patient():
    survival, times = made()
    clinic = np.arange(60) % 3
    table = pd.DataFrame({"patient": np.arange(60), "clinic": clinic, "time": times.time, "event": times.event})
    table = table.assign(run_id="a", **{f"survival_{end:g}": survival[:, k] for k, end in enumerate(EDGES)})
    models = pd.DataFrame({"run_id": ["a"], "method": ["x"], "seed": [0]})
    pairs = [pairs_in_order(np.zeros(20), times.at(clinic == k)).all.sum() / 20 for k in range(3)]
    assert by_clinic(table, models, "within_clinic_concordance").size == pytest.approx(np.array(pairs))


def test_small_risks_that_are_nearly_the_same_are_ranked(tmp_path):
    """A share of 1 - 2e-9 is 1 in 32 bits: predictions of times are kept and compared in 64."""
    spec = run_spec(write_times(tmp_path / "times.csv"), "centralised", model={"name": "logistic"}, records=TIMES)
    plan, federation = plan_of(spec)
    test, network = federation.test, plan.job.network
    slope = torch.zeros(1, len(plan.job.outcome.edges), test.x.shape[1])
    slope[..., 0] = 0.1
    weight, bias = network.whole.shapes()
    parameters = {weight: slope, bias: torch.full((1, len(plan.job.outcome.edges)), -20.0)}
    scorer = scorer_of(plan.job.outcome, spec.evaluation)
    found = Evaluator(network, test, scorer=scorer).evaluate(parameters, last=True)
    times = Times(test.measured[:, 0], test.measured[:, 1] == 1, np.array(plan.job.outcome.edges))
    assert found.pooled["concordance"] == pytest.approx(pairs_in_order(test.x[:, 0].astype(float), times).share())
    assert abs(found.pooled["concordance"] - 0.5) > 0.1
    assert found.predicted.dtype == np.float64
