"""The parties that are measured over a real network: they do what the plan counts and what Suture computes."""

import pytest
from support import distance

from benchmarks.reality import METHODS, SETTINGS, rehearse, spec_for, write_images
from sim.data.federation import load_federation
from sim.methods.job import Job
from sim.plan.plan import make_plan
from sim.scenario.clinics import PROFILES
from sim.study.train import train_run


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(filter(None, method)))
def test_bytes_are_the_plans_and_the_model_is_sutures(images, method):
    spec = spec_for(images, method, [PROFILES[name] for name in SETTINGS["mixed"]], 1e12, rounds=2)
    federation = load_federation(spec.data, spec.seed)
    plan = make_plan(spec, federation.facts)
    done = rehearse(Job.build(spec, federation.facts), federation, 2)
    assert done.up.tolist() == [clinic.bytes_up for clinic in plan.clinics]
    assert done.down.tolist() == [clinic.bytes_down for clinic in plan.clinics]
    assert distance(done.server.parameters, train_run(plan, federation).parameters) < 1e-5
