"""DP-SGD audited through the real strategies with canaries among the records, each put in by a fair coin.

The claim is epsilon 1 at delta 1e-5. The bound holds with 95 % confidence, shared among the blocks' scores and the
joint one (Bonferroni); seeds are fixed, and so is the number of guesses. Each broken variant puts a published mistake
into the engine while the ledger goes on claiming epsilon 1.
"""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from canaries import one_feature_canaries, planted
from support import with_noise_by
from white_box import round_scores

from sim.data.federation import Records, load_federation
from sim.plan.plan import make_plan
from sim.privacy.audited import audit_one_run
from sim.scenario import parse_scenario
from sim.scenario.spec import expand
from sim.study.train import PlanMismatchError, train_run

pytestmark = pytest.mark.slow
CANARIES, GUESSES, CLINICS, OWN, SEED = 600, 60, 2, 20, 7
CLAIM, DELTA = 1.0, 1e-5
RUNS = [
    ("fedavg", None),
    ("splitfed-v1", "vanilla"),
    ("splitfed-v1", "u-shaped"),
    ("split", "vanilla"),
    ("split", "u-shaped"),
]
RUN = pytest.mark.parametrize(("strategy", "cut"), RUNS)


def spec_of(strategy, cut, tmp_path):
    data = {"source": "synthetic", "clinics": CLINICS, "records": 200, "size-spread": 0, "features": CANARIES + 4}
    mapping = {
        "name": "audit",
        "seeds": [SEED],
        "data": data,
        "model": {"name": "mlp", "hidden": [48, 24], "head": "softmax", "cut": [1, -1] if cut == "u-shaped" else 1},
        "train": {"rounds": 2, "batch-size": 160, "optimizer": "sgd", "learning-rate": 0.05},
        "privacy": {"mechanism": "dp-sgd", "epsilon": CLAIM, "clip": 0.1, "delta": DELTA},
        "evaluation": {"reference": False},
        "strategies": [{"name": strategy} | ({"cut": cut} if cut else {})],
    }
    [spec] = expand(parse_scenario(mapping, tmp_path))
    return spec


def audited(strategy, cut, tmp_path, mistake=None):
    """Train the run with canaries in it; return the claim and the bounds by block."""
    spec = spec_of(strategy, cut, tmp_path)
    made_up = load_federation(spec.data, spec.seed)
    own = np.concatenate([np.arange(first, first + OWN) for first in made_up.train.offsets[:-1]])
    x = made_up.train.x[own].copy()
    x[:, 4:] = 0
    base = Records(x, made_up.train.y[own], np.arange(CLINICS + 1) * OWN)
    canaries = one_feature_canaries(CANARIES, CANARIES + 4, 2, CLINICS, scale=10.0, seed=SEED)
    federation = replace(made_up, train=planted(base, canaries))
    models = []
    plan = make_plan(spec, federation.facts)
    with contextlib.suppress(PlanMismatchError) if mistake else contextlib.nullcontext():
        broken = mistake(plan) if mistake else plan
        train_run(broken, federation, models=lambda server_round, model: models.append(model))
    job = plan.job
    scores = round_scores(job.network, job.parts, models, canaries, job.dp.part_clip)
    confidence = 1 - 0.05 / len(scores)
    bounds = {
        block: audit_one_run(own, canaries.included, GUESSES // 2, GUESSES // 2, DELTA, confidence)
        for block, own in scores.items()
    }
    return max(clinic.epsilon["model-user"] for clinic in plan.clinics), bounds


@RUN
def test_the_audit_stays_below_an_honest_claim(strategy, cut, tmp_path):
    claim, bounds = audited(strategy, cut, tmp_path)
    assert 0.99 < claim <= CLAIM
    assert max(bounds.values()) < claim


def noise_by_root_of_batch(plan):
    def less(original, sums, std, normaliser, *name):
        original(sums, [s / n**0.5 for s, n in zip(std, normaliser, strict=True)], normaliser, *name)

    return with_noise_by(plan, less)


def no_clip(plan):
    return replace(plan, job=replace(plan.job, dp=replace(plan.job.dp, part_clip=1e9)))


def noise_on_the_head_only(plan):
    def head(original, sums, std, normaliser, key, purpose, *name):
        if purpose != "noise.body" and purpose != "noise.tail":
            original(sums[:2], std, normaliser, key, purpose, *name)  # the first layer's weight and bias

    return with_noise_by(plan, head)


@pytest.mark.parametrize("mistake", [noise_by_root_of_batch, no_clip, noise_on_the_head_only])
@RUN
def test_the_audit_refutes_the_claim_of_a_broken_mechanism(strategy, cut, mistake, tmp_path):
    claim, bounds = audited(strategy, cut, tmp_path, mistake)
    assert claim <= CLAIM, "the ledger does not know of the mistake"
    assert max(bounds.values()) > claim, bounds
