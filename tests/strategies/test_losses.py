"""Clinics that are away, or lost in the middle of a round: every strategy and cut against its plain PyTorch twin.

Who is lost, and when, is put in by hand; ``learn`` itself holds every byte and every noised step against the plan.
"""

import numpy as np
import pytest
from split_twins import METHODS, apart, expected
from support import DP_SGD, plan_of, write_csv

from sim.attendance import Attendance
from sim.plan.counts import Counts
from sim.study.learn import learn

METHOD = pytest.mark.parametrize("method", METHODS, ids=str)
ADAM = {"optimizer": "adam", "learning_rate": 0.02}
LOST = {
    # Round 1: one batch of four; and after its last, before anything came back.
    **{(1, 2): 1, (1, 0): 1},
    # Round 2: one is away, two are lost in the middle.
    **{(2, 0): 0, (2, 1): 2, (2, 3): 3},
    # Round 3: nobody comes back. Round 4: nobody is there.
    **{(3, 0): 1, (3, 1): 1, (3, 2): 2, (3, 3): 5},
    **{(4, k): 0 for k in range(4)},
    # Round 5: the one that comes back was away for a while.
    **{(5, 1): 0, (5, 2): 1, (5, 3): 0},
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
        there = [k for k in lost if lost[k] != 0]
        if job.alone:
            return Attendance.complete(there, [job.steps(k) for k in there])
        batches = [job.steps(k) if lost[k] is None else lost[k] for k in there]
        return Attendance(tuple(there), tuple(batches), tuple(lost[k] is None for k in there))

    monkeypatch.setattr(Counts, "_drawn", drawn)


def twin_losses(method):
    """A clinic that trains by itself is away or not, and never lost in the middle."""
    return {key: after for key, after in LOST.items() if not after} if method.strategy == "local" else LOST


@pytest.mark.parametrize("settings", [ADAM, {"privacy": DP_SGD}, {"local_epochs": 2}], ids=["adam", "dp-sgd", "sgd"])
@METHOD
def test_the_model_is_the_twins(csv, by_hand, method, settings):
    spec = method.spec(csv, rounds=ROUNDS, **settings)
    plan, federation = plan_of(spec)
    learned = learn(plan, federation)
    assert apart(learned.parameters, expected(spec, plan, federation, lost=twin_losses(method))) < 1e-6
    assert len(learned.evaluations) == ROUNDS + 1
    if method.strategy != "centralised":
        undisturbed = expected(spec, plan, federation)
        assert apart(learned.parameters, undisturbed) > 1e-3, "the losses changed nothing; the test would be blind"


@pytest.mark.parametrize("privacy", [{"mechanism": "none"}, DP_SGD], ids=["plain", "dp-sgd"])
@METHOD
def test_any_grouping_into_cohorts_gives_the_same_model_and_bytes(csv, by_hand, method, privacy):
    plan, federation = plan_of(method.spec(csv, privacy=privacy, rounds=ROUNDS, **ADAM))
    one = learn(plan, federation)
    for cohorts in (2, 4):
        several = learn(plan, federation, cohorts)
        assert apart(several.parameters, one.parameters) < 1e-6
        assert all(np.array_equal(several.meter.traffic[key], sizes) for key, sizes in one.meter.traffic.items())
