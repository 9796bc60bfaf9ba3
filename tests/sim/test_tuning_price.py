"""What a choice of settings costs, against closed forms of the Gaussian mechanism."""

import json
import math

import dp_accounting as dp
import pytest
from scipy.optimize import brentq
from scipy.stats import norm
from support import STUDY, write_scenario

from sim import run
from sim.privacy.ledger import Ledger, Release
from sim.privacy.second_opinion import second_drawn
from sim.privacy.tuning_price import tuning_price
from sim.results.store import read_records
from sim.results.verification import run_faults

DELTA = 1e-4
ORDERS = (*range(2, 65), *range(72, 257, 8), 512, 1024)


def ledger(*events, way="add-or-remove", seen_by=("model-user", "peer-clinic")):
    """One event of each clinic."""
    return Ledger(
        Release(clinic=k, what="gradients", adversaries=seen_by, event=event, adjacency=way, unit="record")
        for k, event in enumerate(events)
    )


def price(own, trials, clinics=1, delta=DELTA, others=()):
    return {row["adversary"]: row for row in tuning_price([own, *others], trials, clinics, delta, "record")}


def gaussian_epsilon(mu):
    """Balle & Wang 2018, written out."""

    def excess(eps):
        return norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu) - DELTA

    return float(brentq(excess, 0, 200))


def drawn_epsilon(trial, own, mean):
    """Papernot & Steinke 2022, theorem 2 with eta = 1 and gamma = 1 / mean; then the run, and Canonne et al. 2020."""
    penalty = min(2 * (1 - 1 / hat) * hat / (2 * trial**2) + 2 * math.log(mean) / hat for hat in ORDERS)
    chosen = {a: a / (2 * trial**2) + penalty + math.log(mean) / (a - 1) for a in ORDERS}
    return min(
        chosen[a] + a / (2 * own**2) + math.log((a - 1) / a) - (math.log(DELTA) + math.log(a)) / (a - 1) for a in ORDERS
    )


@pytest.mark.parametrize(("own", "trial", "times"), [(4.0, 5.0, 2), (3.0, 3.5, 20), (10.0, 8.0, 5)])
def test_gaussian_trials_compose_and_cost_what_theorem_2_says(own, trial, times):
    found = price(ledger(dp.GaussianDpEvent(own)), [(ledger(dp.GaussianDpEvent(trial)), times)])
    composed = gaussian_epsilon(math.sqrt(1 / own**2 + times / trial**2))
    assert found["model-user"]["composed"] == pytest.approx(composed, rel=1e-6)
    assert found["model-user"]["drawn"] == pytest.approx(drawn_epsilon(trial, own, times), rel=1e-6)
    assert found["model-user"]["drawn"] > gaussian_epsilon(math.hypot(1 / own, 1 / trial))
    # A peer has seen every trial, however many there are; the server sees nothing.
    assert found["peer-clinic"] == {
        "adversary": "peer-clinic",
        "composed": found["model-user"]["composed"],
        "drawn": None,
    }
    assert found["server"]["composed"] == 0.0


def test_many_trials_are_cheaper_had_their_number_been_drawn():
    found = price(ledger(dp.GaussianDpEvent(4.0)), [(ledger(dp.GaussianDpEvent(4.0)), 400)])["model-user"]
    assert found["drawn"] < found["composed"] / 3


def test_the_least_protected_clinic_counts():
    own = ledger(dp.GaussianDpEvent(2.0), dp.GaussianDpEvent(4.0))
    trials = ledger(dp.GaussianDpEvent(9.0), dp.GaussianDpEvent(3.0))
    found = price(own, [(trials, 8)], clinics=2)["model-user"]
    assert found["composed"] == pytest.approx(gaussian_epsilon(math.sqrt(1 / 16 + 8 / 9)), rel=1e-6)


def test_trials_that_differ_compose_each_and_the_one_that_tells_most_is_drawn():
    trials = [(ledger(dp.GaussianDpEvent(3.0)), 2), (ledger(dp.GaussianDpEvent(5.0)), 1)]
    found = price(ledger(dp.GaussianDpEvent(4.0)), trials)["model-user"]
    assert found["composed"] == pytest.approx(gaussian_epsilon(math.sqrt(1 / 16 + 2 / 9 + 1 / 25)), rel=1e-6)
    assert found["drawn"] == pytest.approx(drawn_epsilon(3.0, 4.0, 3), rel=1e-6)


@pytest.mark.parametrize("event", [dp.LaplaceDpEvent(3.0), dp.RandomizedResponseDpEvent(0.4, 2)])
def test_what_renyi_dp_does_not_take_is_not_computed(event):
    found = price(ledger(event, way="replace"), [(ledger(event, way="replace"), 3)])["model-user"]
    assert found["drawn"] is None
    assert found["composed"] > 0


def test_sampled_gaussians_are_priced_under_zero_out_alone():
    step = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(0.05, dp.GaussianDpEvent(1.2)), 100)
    found = price(ledger(step), [(ledger(step), 3)])["model-user"]
    four = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(0.05, dp.GaussianDpEvent(1.2)), 400)
    exact = dp.pld.PLDAccountant(value_discretization_interval=1e-4).compose(four).get_epsilon(DELTA)
    assert found["composed"] == pytest.approx(exact, rel=2e-3)
    mixed = Ledger([*ledger(step).releases, *ledger(dp.GaussianDpEvent(9.0), way="replace").releases])
    assert price(ledger(step), [(mixed, 3)])["model-user"]["drawn"] is None


def test_an_un_noised_trial_costs_everything():
    found = price(ledger(dp.GaussianDpEvent(4.0)), [(ledger(dp.NonPrivateDpEvent()), 3)])["model-user"]
    assert math.isinf(found["composed"])
    assert found["drawn"] is None


def steps(times, sigma=1.2, rate=0.05):
    return dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)), times)


def test_trials_that_choose_among_noises_cost_a_run_with_each():
    """Whoever chooses 2 where the trials fall out so, and 6 otherwise, has told more than a run with either."""
    trials = [(ledger(dp.GaussianDpEvent(5.0)), 4)]
    found = price(ledger(dp.GaussianDpEvent(2.0)), trials, others=[ledger(dp.GaussianDpEvent(6.0))])["model-user"]
    whole = math.sqrt(1 / 4 + 1 / 36 + 4 / 25)
    assert found["composed"] == pytest.approx(gaussian_epsilon(whole), rel=1e-6)
    assert found["drawn"] == pytest.approx(drawn_epsilon(5.0, 2.0, 4), rel=1e-6)


@pytest.mark.parametrize(("made", "other"), [(100, 300), (300, 100)])
def test_a_run_within_a_longer_one_costs_nothing_beside_it(made, other):
    trials = [(ledger(steps(100)), 2)]
    found = price(ledger(steps(made)), trials, others=[ledger(steps(other))])["model-user"]
    assert found == price(ledger(steps(300)), trials)["model-user"]


@pytest.mark.parametrize("mean", [2, 9, 60])
@pytest.mark.parametrize(("sigma", "rate", "times"), [(1.2, 0.05, 100), (0.8, 0.3, 20), (5.0, 0.01, 2000)])
def test_the_drawn_price_of_sampled_noise_is_that_of_the_formulas(sigma, rate, times, mean):
    one, run = ledger(steps(times, sigma, rate)), ledger(steps(times + 7, sigma, rate))
    found = price(run, [(one, mean)])["model-user"]["drawn"]
    views = [each.mechanisms("model-user", 0, "record") for each in (one, run)]
    assert found == pytest.approx(second_drawn(mean, DELTA, *([view] for view in views)), rel=1e-6)


def test_no_order_helps_beyond_those_that_are_tried():
    """The smallest value over a continuum of orders is hardly below."""

    def of(order):
        return order / (2 * 4.0**2)

    def epsilon(order, hat):
        chosen = of(order) + 2 * ((1 - 1 / hat) * of(hat) + math.log(20) / hat) + math.log(20) / (order - 1)
        return chosen + of(order) + math.log1p(-1 / order) - math.log(DELTA * order) / (order - 1)

    grid = [1 + 1.002**k / 100 for k in range(1, 5000)]
    hat = min(grid, key=lambda hat: (1 - 1 / hat) * of(hat) + math.log(20) / hat)
    least = min(epsilon(order, hat) for order in grid)
    found = price(ledger(dp.GaussianDpEvent(4.0)), [(ledger(dp.GaussianDpEvent(4.0)), 20)])["model-user"]["drawn"]
    assert least <= found < 1.01 * least


def test_prices_grow_with_trials_and_fall_with_noise():
    def at(sigma, times):
        found = price(ledger(dp.GaussianDpEvent(sigma)), [(ledger(dp.GaussianDpEvent(sigma)), times)])["model-user"]
        return found["composed"], found["drawn"]

    for by_trials in zip(*(at(4.0, times) for times in (2, 3, 8, 40)), strict=True):
        assert list(by_trials) == sorted(set(by_trials))
    for by_noise in zip(*(at(sigma, 8) for sigma in (8.0, 4.0, 2.0, 1.0)), strict=True):
        assert list(by_noise) == sorted(set(by_noise))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    path = write_scenario(folder, STUDY + '[tune]\n"train.learning-rate" = [0.1, 0.5]\n')
    run(path, folder / "out")
    [study] = (folder / "out").iterdir()
    return study


def test_a_tuned_run_states_its_price_and_verifies(tuned):
    records = read_records(tuned)
    private = [record for record in records if record["spec"]["privacy"]["mechanism"] != "none"]
    assert len(private) == 4 * len({record["row"]["seed"] for record in records})
    assert not any("tuning" in record["privacy"] for record in records if record not in private)
    for record in private:
        kept, statement = record["privacy"]["tuning"], record["privacy"]["statement"]
        assert statement["tuning"] == {"trials": 2, "runs": 1, "price": kept["price"]}
        assert kept["trials"] == 2
        assert any(row["what"].startswith("settings that trials chose") for row in statement["not-covered"])
        worst = {row["adversary"]: row["epsilon"] for row in statement["adversaries"]}
        assert all(
            row["composed"] > worst[row["adversary"]] for row in kept["price"] if 0 < worst[row["adversary"]] < 9
        )
        text = (tuned / record["row"]["run_id"] / "privacy.md").read_text()
        assert "**Settings were chosen on these records**, by 2 trials." in text
        assert "epsilon is stated as if on public records" in text
        raw = json.loads((tuned / record["row"]["run_id"] / "run.json").read_text())
        assert run_faults(tuned / record["row"]["run_id"], raw) == []


@pytest.mark.parametrize("key", ["composed", "drawn"])
def test_a_price_that_is_too_low_is_found(tuned, key):
    records = [each for each in read_records(tuned) if "tuning" in each["privacy"]]
    priced = [
        (record["row"]["run_id"], i)
        for record in records
        for i, row in enumerate(record["privacy"]["tuning"]["price"])
        if row[key] is not None and row[key] > 1
    ]
    folder, i = tuned / priced[0][0], priced[0][1]
    raw = json.loads((folder / "run.json").read_text())
    for rows in (raw["privacy"]["tuning"]["price"], raw["privacy"]["statement"]["tuning"]["price"]):
        rows[i][key] = 0.1
    assert any(f"privacy.tuning.price.{i}.{key}: 0.1 is claimed" in fault for fault in run_faults(folder, raw))


@pytest.mark.slow
def test_where_settings_change_what_is_released_every_run_that_might_be_made_counts(tmp_path):
    path = write_scenario(
        tmp_path, STUDY.replace("seeds = [0, 1]", "seeds = [0]") + '[tune]\n"train.rounds" = [2, 3]\n'
    )
    run(path, tmp_path / "out")
    [study] = (tmp_path / "out").iterdir()
    told = [record for record in read_records(study) if "tuning" in record["privacy"]]
    assert told
    for record in told:
        kept, folder = record["privacy"]["tuning"], study / record["row"]["run_id"]
        assert len(kept["not-made"]) == 1
        assert "which of 2 runs is made" in (folder / "privacy.md").read_text()
        assert run_faults(folder, json.loads((folder / "run.json").read_text())) == []
