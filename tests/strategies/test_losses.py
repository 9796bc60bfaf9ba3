"""Clinics that are away, or lost in the middle of a round: every strategy and cut against its plain PyTorch twin.

Who is lost, and when, is put in by hand; training itself holds every byte and every noised step against the plan.
"""

import math

import numpy as np
import pytest
from split_twins import METHODS, apart, changed, expected, rounding
from support import DP_SGD, plan_of, run_spec, write_csv
from twins import AWAY

from sim.foundation.problems import ScenarioError
from sim.methods.attendance import Attendance
from sim.methods.job import Job
from sim.plan.counts import Counts
from sim.privacy.accounting import dp_sgd_event, epsilon
from sim.scenario.study import ClinicGroup
from sim.study.train import train_run

METHOD = pytest.mark.parametrize("method", METHODS, ids=str)
ADAM = {"optimizer": "adam", "learning_rate": 0.02}
LOST = {
    # Round 1: one batch of four; and after its last, before anything came back.
    **{(1, 2): 1, (1, 0): 1},
    # Round 2: one is away, two are lost in the middle.
    **{(2, 0): AWAY, (2, 1): 2, (2, 3): 3},
    # Round 3: nobody comes back. Round 4: nobody is there.
    **{(3, 0): 1, (3, 1): 1, (3, 2): 2, (3, 3): 5},
    **{(4, k): AWAY for k in range(4)},
    # Round 5: the one that comes back was away for a while.
    **{(5, 1): AWAY, (5, 2): 1, (5, 3): AWAY},
}
ROUNDS = 5


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("losses") / "ragged.csv")


@pytest.fixture
def by_hand(monkeypatch):
    """Let the plan draw the losses above, and nothing of it where a clinic trains by itself."""

    def drawn(self, server_round):
        job = self.job
        lost = {k: LOST.get((server_round, k)) for k in range(len(job.sizes))}
        there = [k for k in lost if lost[k] != AWAY]
        if job.method.alone:
            return Attendance.complete(there, [job.steps(k) for k in there])
        batches = [job.steps(k) if lost[k] is None else lost[k] for k in there]
        return Attendance.of(there, batches, [lost[k] is None for k in there])

    monkeypatch.setattr(Counts, "_drawn", drawn)


def twin_losses(method):
    """A clinic that trains by itself is away or not, and never lost in the middle."""
    return {key: after for key, after in LOST.items() if after == AWAY} if method.strategy == "local" else LOST


@pytest.mark.parametrize("settings", [ADAM, {"privacy": DP_SGD}], ids=["adam", "dp-sgd"])
@METHOD
def test_the_model_is_the_twins(csv, by_hand, method, settings):
    spec = method.spec(csv, rounds=ROUNDS, **settings)
    plan, federation = plan_of(spec)
    trained = train_run(plan, federation)
    assert apart(trained.parameters, expected(spec, plan, federation, lost=twin_losses(method))) < rounding(spec)
    assert len(trained.evaluations) == ROUNDS + 1
    if method.strategy != "centralised":
        undisturbed = expected(spec, plan, federation)
        assert apart(trained.parameters, undisturbed) > 1e-3, "the losses changed nothing; the test would be blind"


@METHOD
def test_any_grouping_of_nodes_gives_the_same_model_and_bytes(csv, by_hand, method):
    plan, federation = plan_of(method.spec(csv, privacy=DP_SGD, rounds=ROUNDS, **ADAM))
    one, several = train_run(plan, federation), train_run(plan, federation, node_groups=2)
    assert apart(several.parameters, one.parameters) < rounding(plan.spec)
    assert all(np.array_equal(several.meter.traffic[key], sizes) for key, sizes in one.meter.traffic.items())


def test_an_imported_strategy_does_without_the_replies_of_the_lost(csv, by_hand):
    """Flower's own FedAvg, with the very losses of ours."""
    ours, federation = plan_of(run_spec(csv, "fedavg", rounds=ROUNDS))
    theirs, _ = plan_of(run_spec(csv, "flwr.serverapp.strategy.FedAvg", rounds=ROUNDS))
    assert apart(train_run(theirs, federation).parameters, train_run(ours, federation).parameters) < 1e-6
    assert theirs.columns()["lost_clinic_rounds"] == ours.columns()["lost_clinic_rounds"] == 9


def test_a_wrapper_that_scales_its_noise_by_the_number_of_clinics_is_refused(csv):
    spec = run_spec(csv, "flwr.serverapp.strategy.DifferentialPrivacyServerSideFixedClipping")
    options = {"strategy": "flwr.serverapp.strategy.FedAvg", "num-sampled-clients": 4}
    spec = changed(spec, "strategy", options=options)
    spec = spec.model_copy(update={"clinics": (ClinicGroup(profile="rural-dsl", drop_out=0.1),)})
    with pytest.raises(ScenarioError, match="num-sampled-clients"):
        plan_of(spec)


# What the lost ones gave away


def spent(steps, plan, clinic):
    """Epsilon of so many steps of a clinic, by the accountant alone."""
    event = dp_sgd_event(plan.clinics[clinic].sample_rate, plan.noise_multipliers[clinic], steps)
    return epsilon(event, DP_SGD["delta"])


@pytest.mark.parametrize(
    ("strategy", "cut", "outside", "server"),
    [
        # Clinic 1, two batches a round: round 1; 2, lost after both; 3, lost after one.
        ("fedavg", None, 2, 2),
        ("splitfed-v1", "vanilla", 2, math.inf),
        ("splitfed-v2", "u-shaped", 5, math.inf),
        ("splitfed-v3", "vanilla", 5, math.inf),
        ("split", "vanilla", 5, math.inf),
    ],
)
def test_each_adversary_is_charged_with_the_steps_that_it_saw(csv, by_hand, strategy, cut, outside, server):
    plan, _ = plan_of(run_spec(csv, strategy, cut, DP_SGD, rounds=ROUNDS))
    one = plan.clinics[1]
    assert one.steps == 5
    assert (one.rounds, one.lost_rounds) == (3, 2)
    for adversary in ("model-user", "peer-clinic"):
        assert one.epsilon[adversary] == pytest.approx(spent(outside, plan, 1), rel=1e-9)
    assert one.epsilon["server"] == (math.inf if server == math.inf else pytest.approx(spent(server, plan, 1)))


def test_noise_is_calibrated_to_the_steps_that_are_released(csv, by_hand):
    target = {"mechanism": "dp-sgd", "epsilon": 2.0, "clip": 0.5, "delta": 1e-3}
    for strategy, cut in (("fedavg", None), ("splitfed-v1", "vanilla"), ("splitfed-v2", "vanilla")):
        plan, _ = plan_of(run_spec(csv, strategy, cut, target, rounds=ROUNDS))
        for clinic in (0, 1, 2, 3):
            assert plan.sampled.released[clinic] == 0 or 1.99 < plan.clinics[clinic].epsilon["model-user"] <= 2.0


def test_under_clinic_level_privacy_the_sum_is_divided_by_a_fixed_number(csv, by_hand):
    """Round 1: clinics 1 and 3 of four come back; each move is at most the clip over four, not over two."""
    clip = 0.01
    level = {"mechanism": "clinic-level", "noise-multiplier": 0.0, "clip": clip, "delta": 1e-3}
    plan, federation = plan_of(run_spec(csv, privacy=level, rounds=1))
    start = Job.build(plan.spec, federation.facts).network.initial_parameters(plan.spec.seed)
    trained = train_run(plan, federation).parameters
    moved = math.sqrt(sum(float((trained[name] - start[name]).double().square().sum()) for name in start))
    assert 0.5 * clip * 2 / 4 < moved <= clip * 2 / 4 * (1 + 1e-6)
    assert plan.sampled.rounds.tolist() == [0, 1, 0, 1]


LIMITS = {"fedavg": 0.065, "fedprox": 0.065, "split": 0.5, "splitfed-v1": 0.25, "splitfed-v2": 0.25, "splitfed-v3": 0.2}
"""Seconds: such as cut some clinics in the middle, and not all."""


@pytest.mark.parametrize("privacy", [{"mechanism": "none"}, DP_SGD], ids=["plain", "dp-sgd"])
@METHOD
def test_what_is_drawn_and_cut_is_trained_as_planned(csv, method, privacy):
    """All at once: outages, drop-outs, stragglers, over-selection, and a deadline that bites."""
    group = ClinicGroup(
        profile="rural-dsl",
        availability={"share": 0.8, "mean-outage": 2.0},
        drop_out=0.2,
        straggler={"chance": 0.3, "slowdown": 3.0},
    )
    limit = LIMITS.get(method.strategy, 1.0) * (2 if method.cut == "u-shaped" else 1)
    spec = method.spec(csv, privacy=privacy, rounds=6, participation=0.75, over_select=1.3)
    spec = changed(spec.model_copy(update={"clinics": (group,)}), "train", deadline=limit)
    plan, federation = plan_of(spec)
    trained = train_run(plan, federation)
    if method.strategy == "centralised":
        assert not plan.attended
        return
    assert plan.attended
    job = plan.job
    lost, stopped = {}, {}
    for r in range(1, 7):
        attendance = job.attendance(r)
        lost |= {(r, k): AWAY for k in range(len(plan.clinics)) if k not in attendance.clinics}
        for k in attendance.clinics:
            (stopped if attendance.returns(k) else lost)[r, k] = attendance.batches_of(k)
    in_the_middle = [after for after in lost.values() if after > 0]
    assert method.strategy == "local" or in_the_middle
    everyone = changed(spec, "train", participation=1.0, over_select=1.0, deadline=None)
    assert apart(trained.parameters, expected(everyone, plan, federation, lost=lost, stopped=stopped)) < rounding(spec)


def test_a_clinic_whose_rounds_are_all_lost_trains_with_noise_too(csv, monkeypatch):
    """Nothing of it is released to the model user, yet a target epsilon is not met by leaving its noise out."""

    def drawn(self, server_round):
        batches = [self.job.steps(k) for k in range(len(self.job.sizes))]
        return Attendance.of(range(len(batches)), batches, [k != 1 for k in range(len(batches))])

    monkeypatch.setattr(Counts, "_drawn", drawn)
    target = {"mechanism": "dp-sgd", "epsilon": 3.0, "clip": 0.5, "delta": 1e-3}
    plan = plan_of(run_spec(csv, "splitfed-v1", "vanilla", privacy=target, rounds=3))[0]
    lost, rate = int(plan.sampled.steps[1]), float(plan.sampled.rates[1])
    assert plan.sampled.released.tolist()[1] == 0 < lost
    assert min(plan.job.dp.noise_std) > 0
    multiplier = plan.job.dp.noise_std[1] / target["clip"]
    assert epsilon(dp_sgd_event(rate, multiplier, lost), target["delta"]) == pytest.approx(3.0, rel=1e-3)
