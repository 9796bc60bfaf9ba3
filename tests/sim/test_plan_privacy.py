"""Noise and epsilon of a plan, before any training, against the accountant and numbers worked out by hand."""

import math

import pytest
from planned import NO_PRIVACY, SPLIT_AND_WHOLE, dp_sgd, named, spec_of
from support import plan_of, write_csv

from sim.foundation.problems import ScenarioError
from sim.methods.sampling import participants
from sim.plan.releases import build_ledger
from sim.privacy.accounting import dp_sgd_event, epsilon


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Clinics of 8 and 12 records, of which 4 and 6 are for training: 1 and 2 batches of up to 4."""
    return write_csv(tmp_path_factory.mktemp("pair") / "pair.csv", sizes=(8, 12), features=3)


@pytest.mark.parametrize("method", [*SPLIT_AND_WHOLE, ("local", None)], ids=named)
def test_noise_is_calibrated_for_each_clinic_from_its_own_rate_and_steps(ragged, method):
    target, delta = 2.0, 1e-3
    plan, _ = plan_of(spec_of(ragged, *method, privacy=dp_sgd(target, delta), rounds=5))
    assert [clinic.records for clinic in plan.clinics] == [3, 11, 20, 32]
    assert [clinic.sample_rate for clinic in plan.clinics] == [1.0, 4 / 11, 4 / 20, 4 / 32]
    assert [clinic.steps for clinic in plan.clinics] == [5 * 1, 5 * 3, 5 * 5, 5 * 8]
    for clinic in plan.clinics:
        assert 0.98 * target < clinic.epsilon["model-user"] <= target, clinic
        spent = epsilon(dp_sgd_event(clinic.sample_rate, clinic.noise_multiplier, clinic.steps), delta)
        assert clinic.epsilon["model-user"] == pytest.approx(spent, rel=1e-6)
    assert len({clinic.noise_multiplier for clinic in plan.clinics}) == 4
    assert plan.noise_multipliers == tuple(clinic.noise_multiplier for clinic in plan.clinics)


def test_pooled_records_are_sampled_from_the_pool(ragged):
    target, delta = 2.0, 1e-3
    plan, _ = plan_of(spec_of(ragged, "centralised", privacy=dp_sgd(target, delta), rounds=5))
    pool = 3 + 11 + 20 + 32
    for clinic in plan.clinics:
        assert (clinic.sample_rate, clinic.steps) == (4 / pool, 5 * math.ceil(pool / 4))
        assert 0.98 * target < clinic.epsilon["model-user"] <= target
        assert epsilon(dp_sgd_event(4 / pool, clinic.noise_multiplier, clinic.steps), delta) <= target


PROTECTED, SEEN, NOTHING = "at most the target", math.inf, 0.0
VIEWS = {
    ("fedavg", None): (PROTECTED, PROTECTED, PROTECTED),
    ("splitfed-v1", "vanilla"): (PROTECTED, PROTECTED, SEEN),
    ("splitfed-v1", "u-shaped"): (PROTECTED, PROTECTED, SEEN),
    ("centralised", None): (PROTECTED, PROTECTED, SEEN),
    ("local", None): (PROTECTED, NOTHING, NOTHING),
}
ADVERSARIES = ("model-user", "peer-clinic", "server")


@pytest.mark.parametrize("method", VIEWS, ids=named)
@pytest.mark.parametrize("private", [True, False], ids=["dp-sgd", "none"])
def test_epsilon_of_each_adversary(ragged, method, private):
    target = 2.0
    privacy = dp_sgd(target) if private else NO_PRIVACY
    plan, _ = plan_of(spec_of(ragged, *method, privacy=privacy, rounds=5))
    for clinic in plan.clinics:
        assert set(clinic.epsilon) == set(ADVERSARIES)
        for adversary, view in zip(ADVERSARIES, VIEWS[method], strict=True):
            value = clinic.epsilon[adversary]
            if view is PROTECTED and private:
                assert 0.98 * target < value <= target
            else:
                assert value == (SEEN if view is PROTECTED else view)
        assert (clinic.noise_multiplier is None) is not private
    columns = plan.columns()
    for adversary, column in zip(ADVERSARIES, ("model_user", "peer", "server"), strict=True):
        assert columns[f"epsilon_{column}"] == max(clinic.epsilon[adversary] for clinic in plan.clinics)


def test_no_noise_is_no_guarantee(ragged):
    privacy = {"mechanism": "dp-sgd", "noise-multiplier": 0.0, "delta": 1e-3}
    plan, _ = plan_of(spec_of(ragged, "fedavg", privacy=privacy))
    assert all(set(clinic.epsilon.values()) == {math.inf} for clinic in plan.clinics)


def test_stated_noise_is_used_as_it_is(ragged):
    privacy = {"mechanism": "dp-sgd", "noise-multiplier": 1.5, "delta": 1e-3}
    plan, _ = plan_of(spec_of(ragged, "splitfed-v1", "u-shaped", privacy=privacy))
    assert plan.noise_multipliers == (1.5,) * 4
    for clinic in plan.clinics:  # three parts, each with the whole noise and a third of the squared clip
        spent = epsilon(dp_sgd_event(clinic.sample_rate, 1.5, clinic.steps), 1e-3)
        assert clinic.epsilon["model-user"] == pytest.approx(spent, rel=1e-6)


def test_a_batch_without_noise_is_held_against_its_own_clinic_only(ragged):
    plan, _federation = plan_of(spec_of(ragged, "fedavg", privacy=dp_sgd(2.0, 1e-3), rounds=2))
    job = plan.job
    for clinic in range(4):
        noised = {"model": [steps - (k == clinic) for k, steps in enumerate(plan.noised_steps["model"])]}
        spent = build_ledger(job, plan.sampled, noised).epsilons("model-user", range(4), 1e-3)
        assert [math.isinf(epsilon) for epsilon in spent] == [k == clinic for k in range(4)]


def test_a_clinic_that_never_takes_part_gives_nothing_away(ragged):
    seed = next(s for s in range(100) if 0 not in participants(s, 1, 4, 0.5))
    plan, _ = plan_of(
        spec_of(ragged, "splitfed-v1", "vanilla", privacy=dp_sgd(2.0), rounds=1, participation=0.5, seed=seed)
    )
    absent = plan.clinics[0]
    assert (absent.steps, absent.bytes_up, absent.bytes_down, absent.seconds) == (0, 0, 0, 0)
    assert set(absent.epsilon.values()) == {0.0}
    assert plan.columns()["epsilon_server"] == math.inf


@pytest.mark.parametrize("strategy", ["fedavg", "local"])
def test_delta_must_stay_below_one_over_the_records_of_every_clinic(pair, strategy):
    with pytest.raises(ScenarioError, match=r'privacy\.delta: 0\.25 is not below 1 / 6, .*"k1"'):
        plan_of(spec_of(pair, strategy, privacy=dp_sgd(1.0, 0.25)))
    with pytest.raises(ScenarioError, match=r"privacy\.delta"):
        plan_of(spec_of(pair, strategy, privacy=dp_sgd(1.0, 0.2)))  # below 1 / 4, not below 1 / 6
    assert plan_of(spec_of(pair, strategy, privacy=dp_sgd(1.0, 0.16)))


def test_without_a_mechanism_delta_is_not_asked_for(pair):
    plan, _ = plan_of(spec_of(pair, "fedavg"))
    assert plan.columns()["delta"] is None
    assert plan.columns()["mechanism"] == "none"


def test_a_target_out_of_reach_names_the_key(pair):
    with pytest.raises(ScenarioError, match=r"privacy\.epsilon: no noise multiplier up to .* reaches epsilon 1e-06"):
        plan_of(spec_of(pair, "fedavg", privacy=dp_sgd(1e-6, 1e-12)))
