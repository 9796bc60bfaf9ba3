"""Mistakes of published code, each put in on purpose, and the measurement or refusal that tells.

What the strategies really release is measured: how far one record moves each part's summed gradient, and how much noise
lies on it. Every clinic holds copies of one record, so that a batch's clean sum is that record's contribution times the
batch; the learning rate is so small that every step sees the same model.
"""

import contextlib
import math
from collections import Counter
from dataclasses import replace
from itertools import combinations

import dp_accounting as dp
import numpy as np
import pytest
import torch
from opacus.accountants import PRVAccountant
from support import DP_SGD, plan_of, run_spec, with_noise_by, with_sums_seen_by
from torch import nn
from wire import record

from sim.data.federation import load_federation
from sim.foundation.problems import ScenarioError
from sim.methods.job import Job
from sim.plan.plan import make_plan
from sim.privacy.accounting import epsilon
from sim.study.train import PlanMismatchError, train_run

# What is released, measured

SIGMA, CLIP, ROUNDS = 1.7, 0.2, 2
METHODS = [("fedavg", None), ("splitfed-v1", "vanilla"), ("splitfed-v1", "u-shaped"), ("split", "u-shaped")]
METHOD = pytest.mark.parametrize(("strategy", "cut"), METHODS)
Released = dict[tuple[str, int, int], torch.Tensor]


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Four clinics, each of which holds copies of a single large record."""
    path = tmp_path_factory.mktemp("copies") / "copies.csv"
    rows = [f"k{k},class{k % 2},{30 + k},{-20 - 3 * k},25" for k in range(4) for _ in range((30, 26, 22, 18)[k])]
    path.write_text("\n".join(["clinic,label,x0,x1,x2", *rows]) + "\n", encoding="utf-8")
    return path


def spec_of(copies, strategy, cut, sigma=SIGMA):
    privacy = {"mechanism": "dp-sgd", "noise-multiplier": sigma, "clip": CLIP, "delta": 1e-3}
    model = {"hidden": [40, 30]}
    return run_spec(copies, strategy, cut, privacy, model, rounds=ROUNDS, batch_size=64, learning_rate=1e-12)


def released(copies, strategy, cut, sigma, mistake) -> Released:
    """Return the summed gradient that each part's optimiser was handed, by part, clinic and how many came before."""
    plan, federation = plan_of(spec_of(copies, strategy, cut, sigma))
    found: Released = {}

    def seen(part, clinic, sums):
        before = sum(key[:2] == (part, clinic) for key in found)
        size = min(64, plan.clinics[clinic].records)  # of every batch: the sampling rate is 1
        found[part, clinic, before] = size * sums

    noticed = contextlib.nullcontext() if mistake is honest else contextlib.suppress(PlanMismatchError)
    with noticed:  # a clip that is not the plan's is told at the end
        train_run(with_sums_seen_by(mistake(plan), seen), federation)
    return found


def honest(plan):
    return plan


def measured(copies, strategy, cut, mistake=honest) -> tuple[float, dict[tuple[str, int, int], np.ndarray]]:
    """Return the noise multiplier of all parts together as it is measured, the worst clinic's, and the noise."""
    clean = released(copies, strategy, cut, 0.0, mistake)
    noisy = released(copies, strategy, cut, SIGMA, mistake)
    records = [clinic.records for clinic in plan_of(spec_of(copies, strategy, cut))[0].clinics]
    noise = {key: (noisy[key] - clean[key]).numpy().astype(float) for key in noisy}
    worst = math.inf
    for clinic, size in enumerate(records):
        squared = 0.0
        for part in {key[0] for key in clean}:
            moves = float(clean[part, clinic, 0].norm()) / size
            spread = float(np.std(np.concatenate([n for key, n in noise.items() if key[:2] == (part, clinic)])))
            squared += math.inf if spread < 1e-6 * moves else (moves / spread) ** 2
        worst = min(worst, squared**-0.5)
    return worst, noise


@METHOD
def test_what_is_measured_is_what_the_ledger_claims(copies, strategy, cut):
    found, noise = measured(copies, strategy, cut)
    assert found == pytest.approx(SIGMA, rel=0.1)
    assert not shared(noise)


def clipped_at(plan, clip):
    """Return a plan whose parts clip elsewhere than their noise is for."""
    return replace(plan, job=replace(plan.job, dp=replace(plan.job.dp, part_clip=clip)))


def noise_without_clipping(plan):
    return clipped_at(plan, 1e9)


def each_part_at_full_c(plan):
    return clipped_at(plan, CLIP)


def one_part_noised(plan):
    def head_only(original, sums, std, normaliser, key, purpose, *name):
        if purpose == "noise.head":
            original(sums, std, normaliser, key, purpose, *name)

    return with_noise_by(plan, head_only)


def noise_on_the_mean_scaled_by_the_batch(plan):
    def scaled(original, sums, std, normaliser, *name):
        original(sums, [s / n for s, n in zip(std, normaliser, strict=True)], normaliser, *name)

    return with_noise_by(plan, scaled)


def clip_after_noise(plan):
    def late(original, sums, std, normaliser, *name):
        original(sums, std, normaliser, *name)
        norms = torch.stack([value.flatten(1).square().sum(1) for value in sums]).sum(0).sqrt()
        for value in sums:
            value *= (CLIP / norms).clamp(max=1.0).view(-1, *[1] * (value.dim() - 1))

    return with_noise_by(noise_without_clipping(plan), late)


def noise_off_in_train_mode(plan):
    return with_noise_by(plan, lambda original, *arguments: None)


EVERYWHERE = (noise_without_clipping, noise_on_the_mean_scaled_by_the_batch, clip_after_noise, noise_off_in_train_mode)
CUT_ONLY = (each_part_at_full_c, one_part_noised)


@pytest.mark.parametrize(
    ("mistake", "strategy", "cut"),
    [
        pytest.param(mistake, *method, id=f"{mistake.__name__}-{method[0]}-{method[1]}")
        for method in METHODS
        for mistake in (EVERYWHERE + CUT_ONLY if method[1] else EVERYWHERE)
    ],
)
def test_each_mistake_shows_in_what_is_measured(copies, mistake, strategy, cut):
    found, _ = measured(copies, strategy, cut, mistake)
    assert found < 0.8 * SIGMA


def shared(noise) -> list[tuple]:
    """Return the pairs of releases of equal size whose noise is correlated."""
    return [
        (one, other)
        for one, other in combinations(noise, 2)
        if noise[one].size == noise[other].size and abs(np.corrcoef(noise[one], noise[other])[0, 1]) > 0.9
    ]


@pytest.mark.parametrize("reused", ["clinic", "round"])
def test_reused_noise_shows(copies, reused):
    def same(original, sums, std, normaliser, seed, purpose, clinics, server_round, step):
        if reused == "clinic":
            original(sums, std, normaliser, seed, purpose, [0] * len(clinics), server_round, step)
        else:
            original(sums, std, normaliser, seed, purpose, clinics, 1, step)

    pairs = shared(measured(copies, "fedavg", None, lambda plan: with_noise_by(plan, same))[1])
    assert pairs
    same_clinic = {one[1] == other[1] for one, other in pairs}
    assert same_clinic == {reused == "round"}


# Steps, batches and weights


def prv_of(plan, executed) -> float:
    """Return Opacus' estimate for the steps that were counted during training."""
    worst = 0.0
    for clinic, steps in zip(plan.clinics, executed, strict=True):
        accountant = PRVAccountant()
        accountant.history = [(clinic.noise_multiplier, clinic.sample_rate, int(steps))]
        with np.errstate(divide="ignore"):
            worst = max(worst, float(accountant.get_epsilon(DP_SGD["delta"])))
    return worst


def test_the_epsilon_is_that_of_all_executed_steps(ragged):
    plan, federation = plan_of(run_spec(ragged, privacy={**DP_SGD, "noise-multiplier": 1.5}, rounds=4))
    counted = prv_of(plan, train_run(plan, federation).meter.noised_steps["model"])
    claimed = plan.columns()["epsilon_model_user"]
    # Opacus' estimate is an upper end, at most 0.01 and its own error above.
    assert counted - 0.05 < claimed < counted


def test_more_steps_than_were_calibrated_for_are_caught(ragged):
    target = {"mechanism": "dp-sgd", "epsilon": 3.0, "delta": 1e-3}
    plan, federation = plan_of(run_spec(ragged, privacy=target))
    executed = train_run(plan, federation).meter.noised_steps["model"]
    assert executed.tolist() == [clinic.steps for clinic in plan.clinics]
    longer, _ = plan_of(run_spec(ragged, privacy=target, rounds=plan.rounds + 1))
    longer = replace(longer, noised_steps=plan.noised_steps)
    with pytest.raises(PlanMismatchError, match="noised steps, model"):
        train_run(longer, federation)


@pytest.mark.parametrize("shuffles", [False, True])
def test_batches_are_poisson_samples(ragged, shuffles):
    spec = run_spec(ragged, privacy=DP_SGD)
    federation = load_federation(spec.data, spec.seed)
    job = Job.build(spec, federation.facts).with_noise([1.0] * 4)
    [clinic] = [k for k, size in enumerate(job.sizes) if size == max(job.sizes)]
    rate = float(job.sampling.rates(job.records)[clinic])
    if shuffles:
        job = replace(job, sampling=replace(job.sampling, poisson=False))
    stood = np.zeros(job.sizes[clinic])
    epochs = 400
    for server_round in range(1000, 1000 + epochs):
        batches = job.batches(server_round, [clinic])
        first = batches.index[0, 0, : batches.rows[0, 0]]
        again = batches.index[1, 0, : batches.rows[1, 0]]
        stood[np.intersect1d(first, again)] += 1
    # A record joins two batches of an epoch independently, so both with probability q^2; never where it is shuffled.
    expected, deviation = rate**2, math.sqrt(rate**2 * (1 - rate**2) / stood.size / epochs)
    assert (abs(stood.mean() / epochs - expected) < 5 * deviation) == (not shuffles)


def test_every_clinic_moves_the_mean_by_the_same_bound(ragged):
    clip = 0.01
    privacy = {"mechanism": "clinic-level", "noise-multiplier": 0.0, "clip": clip, "delta": 1e-3}
    run = record(*plan_of(run_spec(ragged, privacy=privacy, rounds=1)))
    initial = run.job.network.initial_parameters(run.job.seed)

    def vector(model):
        return torch.cat([torch.as_tensor(model[name]).double().flatten() for name in initial])

    updates = [vector(parts) - vector(initial) for k in range(4) for parts in run.parts_of(k)]
    clipped = torch.stack([update * clip / update.norm() for update in updates])
    assert min(update.norm() for update in updates) > clip
    moved = vector(run.trained.parameters) - vector(initial)
    assert (moved - clipped.mean(0)).norm() < 1e-4 * clip
    weights = torch.tensor(run.job.sizes) / sum(run.job.sizes)
    assert (moved - weights.double() @ clipped).norm() > 0.1 * clip, "weights would not show"


# Refusals and the accountant


def normalised(input_shape, outputs):
    """Return a network with running statistics, one of them an integer count."""
    return [
        ("first", nn.Sequential(nn.Linear(*input_shape, 6), nn.BatchNorm1d(6), nn.ReLU())),
        ("output", nn.Linear(6, outputs)),
    ]


def test_running_statistics_are_refused_under_dp(ragged):
    model = {"name": "factory", "factory": f"{__name__}:normalised"}
    with pytest.raises(ScenarioError, match="BatchNorm"):
        plan_of(run_spec(ragged, privacy=DP_SGD, model=model))


def test_repeated_randomised_response_composes():
    once = dp.RandomizedResponseDpEvent(0.4, 2)
    ours = [epsilon(dp.SelfComposedDpEvent(once, n), 1e-6, "pld", "replace") for n in (1, 5)]
    one_by_one = dp.pld.PLDAccountant(dp.NeighboringRelation.REPLACE_ONE)
    for _ in range(5):
        one_by_one.compose(once)
    assert ours[1] == pytest.approx(one_by_one.get_epsilon(1e-6), rel=1e-2)
    mistaken = dp.pld.PLDAccountant(dp.NeighboringRelation.REPLACE_ONE)
    mistaken.compose(once, 5)
    assert mistaken.get_epsilon(1e-6) == pytest.approx(ours[0], rel=1e-2), "the library ignores the count"
    assert ours[1] > 2 * ours[0]


@pytest.mark.parametrize("method", [("fedavg", None), ("splitfed-v1", "vanilla"), ("centralised", None)])
def test_a_delta_that_lets_a_record_be_published_is_refused(ragged, method):
    plan, federation = plan_of(run_spec(ragged, *method, DP_SGD))
    records = Counter(clinic.records for clinic in plan.clinics)
    most = sum(n * k for n, k in records.items()) if method[0] == "centralised" else max(records)
    fits = run_spec(ragged, *method, {**DP_SGD, "delta": 0.999 / most})
    assert make_plan(fits, federation.facts).columns()["epsilon_model_user"] > 0
    with pytest.raises(ScenarioError, match=f"privacy.delta: .* is not below 1 / {most}"):
        make_plan(run_spec(ragged, *method, {**DP_SGD, "delta": 1 / most}), federation.facts)
