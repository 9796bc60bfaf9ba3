"""What a round draws for clinics that come one by one."""

import numpy as np
import pytest
from support import bitwise, plan_of, run_spec, train_spec, write_csv

from sim.methods.job import Job
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
