"""What a round draws for clinics that come one by one."""

import numpy as np
import pytest
from support import bitwise, plan_of, run_spec, train_spec, write_csv

from sim.methods.job import Job
from sim.scenario.data import Npz
from sim.study.train import train_run


@pytest.mark.parametrize("strategy", ["split", "splitfed-v2"])
def test_one_clinic_a_round_takes_its_turn(tmp_path, strategy):
    spec = run_spec(write_csv(tmp_path / "a.csv"), strategy, "vanilla", participation=0.01)
    plan, federation = plan_of(spec)
    assert len(plan.job.participants(1)) == 1
    own, sent = train_spec(spec).parameters, train_run(plan, federation, shortcut=False).parameters
    assert bitwise(own, sent)


def test_a_turn_has_the_batches_it_has_in_the_round(tmp_path):
    spec = run_spec(write_csv(tmp_path / "a.csv"), "split", "vanilla")
    job = Job.build(spec, plan_of(spec)[1].facts)
    clinics = job.participants(1)
    alone = {k: job.batches(1, [k]) for k in clinics}
    together = job.batches(1, clinics)
    for lane, k in enumerate(clinics):
        assert np.array_equal(alone[k].index, together.lane(lane).index)


@pytest.mark.parametrize("strategy", ["split", "splitfed-v2"])
def test_turns_of_images_are_the_same_without_messages_under_dp(tmp_path, strategy):
    """The head flattens images, the body is linear layers alone: no graph may lead from one into the other."""
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "i.npz",
        x=rng.integers(0, 256, (60, 6, 6), dtype=np.uint8),
        y=rng.integers(0, 2, 60),
        k=np.arange(60) % 2,
    )
    privacy = {"mechanism": "dp-sgd", "noise-multiplier": 1.0, "clip": 1.0, "delta": 1e-3}
    spec = run_spec(write_csv(tmp_path / "a.csv"), strategy, "vanilla", privacy)
    images = Npz(path=tmp_path / "i.npz", x="x", label="y", clinic="k")
    spec = spec.model_copy(update={"data": images})
    plan, federation = plan_of(spec)
    own, sent = train_run(plan, federation).parameters, train_run(plan, federation, shortcut=False).parameters
    assert bitwise(own, sent)
