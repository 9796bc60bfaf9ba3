"""Noise on smashed rows audited through SplitFed V3, whose every clinic is a trial of its own.

By a fair coin each, a clinic holds a canary or an ordinary record in its place. The server knows the initial head and
the other records, never looks at the canary's own rows, and asks whether the others' noised rows are what the initial
head makes of them, or point where the canary drives the head. The noise is 20 times the clip and every record is sent
20 times; what the noise alone would be worth is what the ledger prints where the head is frozen.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sim.data.federation import Records, load_federation
from sim.foundation.rng import stream
from sim.methods.job import Job
from sim.methods.messages import Begin, Kind, Step
from sim.methods.row_noise import arrived_rows
from sim.plan.plan import make_plan
from sim.privacy.audited import audit_one_run
from sim.scenario import parse_scenario
from sim.scenario.spec import expand
from sim.study.train import train_run
from sim.tensor.lanes import forward

pytestmark = pytest.mark.slow
CLINICS, OWN, GUESSES, SEED, DELTA = 120, 1000, 60, 3, 1e-5
ROWS = {"mechanism": "smashed-noise", "noise-multiplier": 20.0, "clip": 1.0, "delta": DELTA, "labels": "public"}
BOTH = {
    "mechanism": ["dp-sgd", "smashed-noise"],
    "noise-multiplier": 20.0,
    "smashed-noise-multiplier": 20.0,
    "delta": DELTA,
    "labels": "public",
}


def spec_of(privacy, freeze, folder):
    mapping = {
        "name": "audit",
        "seeds": [SEED],
        "data": {
            "source": "synthetic",
            "clinics": CLINICS,
            "records": 4 * CLINICS,
            "size-spread": 0,
            "features": 8,
        },
        "model": {"name": "mlp", "hidden": [4], "cut": 1, "freeze": freeze},
        "train": {
            "rounds": 20,
            "batch-size": 100,
            "optimizer": "sgd",
            "learning-rate": 0.2,
            "class-weights": [1e-6, 1.0],
        },
        "privacy": privacy,
        "evaluation": {"reference": False},
        "strategies": [{"name": "splitfed-v3", "cut": "vanilla"}],
    }
    [spec] = expand(parse_scenario(mapping, folder))
    return spec


def canary_for(head):
    """A record that hardly moves the head's outputs, all of them active, and has a huge gradient in its weights."""
    weight, bias = (value[0].double().numpy() for value in head.values())
    nearly_nothing = np.linalg.lstsq(weight, 0.1 - bias, rcond=None)[0]
    unseen = np.linalg.svd(weight)[2][-1]
    return (nearly_nothing + 1e4 * unseen).astype(np.float32), unseen


def audited(privacy, freeze, folder):
    """Train the run; return the epsilon that is printed against the server, and the audit's lower bound."""
    spec = spec_of(privacy, freeze, folder)
    made_up = load_federation(spec.data, spec.seed)
    initial = (
        Job.build(spec, made_up.facts).with_noise([0.0] * CLINICS, [0.0] * CLINICS).network.initial_parameters(SEED)
    )
    draws = stream(SEED, "audit")
    job = Job.build(spec, made_up.facts).with_noise([0.0] * CLINICS, [1.0] * CLINICS)
    head = job.part("head").select(initial)
    canary, unseen = canary_for(head)
    included = draws.random(CLINICS) < 0.5
    x = (draws.standard_normal((CLINICS, OWN, 8)) + 3 * unseen).astype(np.float32)
    x[included, -1] = canary
    y = np.zeros((CLINICS, OWN), dtype=np.int64)
    y[included, -1] = 1
    train = Records(x.reshape(-1, 8), y.reshape(-1), np.arange(CLINICS + 1) * OWN)
    federation = replace(made_up, train=train)
    plan = make_plan(spec, federation.facts)
    job = plan.job
    first = forward(
        job.part("head"), {k: v.expand(CLINICS, *v.shape[1:]) for k, v in head.items()}, torch.from_numpy(x)
    ).detach()
    grown = torch.relu(initial["output.weight"][0, 0])  # where the canary, of class 1, drives the head's outputs
    direction = first - grown / grown.norm()
    likeness = np.zeros(CLINICS)
    server_round, step = 0, 0

    def overheard(asked, reply):
        nonlocal server_round, step
        if isinstance(asked, Begin):
            server_round, step = asked.server_round, asked.first
        elif isinstance(asked, Step):
            step = asked.step + 1
        if Kind.SMASHED not in reply.payload:
            return
        sent = arrived_rows(job, Kind.SMASHED, reply.payload[Kind.SMASHED], reply.clinics)
        index = job.batches(server_round, asked.clinics).index[step]
        for lane, (k, size) in enumerate(zip(reply.clinics, reply.rows, strict=True)):
            own = index[lane, :size]
            others = own < OWN - 1
            likeness[k] += float((sent[lane, :size][others] * direction[k, own[others]]).sum())

    train_run(plan, federation, overheard=overheard)
    bound = audit_one_run(-likeness, included, GUESSES // 2, GUESSES // 2, DELTA)
    return plan.columns()["epsilon_server"], bound


def test_rows_of_others_betray_a_record_that_trained_the_head(tmp_path):
    worth, frozen = audited(ROWS, ["head"], tmp_path)
    assert frozen <= worth < 2
    printed, bound = audited(ROWS, [], tmp_path)
    assert printed == math.inf
    assert bound > worth, "the noise alone would have been claimed to be worth less"


def test_dp_sgd_in_the_head_keeps_the_audit_below_what_is_printed(tmp_path):
    printed, bound = audited(BOTH, [], tmp_path)
    assert bound <= printed < 10
