"""Clinic-level privacy: what a clinic can move, how much noise there is, and who is protected."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import NO_PRIVACY, bitwise, distance, plan_of, run_spec, train_spec, write_csv

from sim.data.facts import run_key
from sim.foundation.problems import ScenarioError
from sim.methods.messages import Kind
from sim.privacy.accounting import epsilon
from sim.privacy.mechanisms.clinic_level import AdaptiveClip, adapted_clip, noised_mean, updates_of
from sim.scenario import parse_scenario
from sim.scenario.spec import expand
from sim.study.train import PlanMismatchError, train_run
from strategies.fedavg import METHOD

CLINIC = {"mechanism": "clinic-level", "noise-multiplier": 1.5, "clip": 0.3, "delta": 1e-3}
ADAPTIVE = {**CLINIC, "adaptive-quantile": 0.5, "adaptive-count-noise": 1.0}
METHODS = [
    ("fedavg", None),
    ("fedprox", None),
    *((s, cut) for s in ("splitfed-v1", "splitfed-v3") for cut in ("vanilla", "u-shaped")),
]


@pytest.fixture
def csv(tmp_path):
    return write_csv(tmp_path / "clinics.csv")


@pytest.mark.parametrize(("strategy", "cut"), METHODS)
def test_each_round_is_one_gaussian_and_the_server_is_trusted(csv, strategy, cut):
    plan, federation = plan_of(run_spec(csv, strategy, cut, CLINIC, participation=0.5, rounds=6))
    trained = train_run(plan, federation)  # holds executed and planned ledgers equal
    import dp_accounting as dp

    for clinic, rounds in zip(plan.clinics, plan.sampled.rounds, strict=True):
        expected = epsilon(dp.SelfComposedDpEvent(dp.GaussianDpEvent(1.5), rounds), 1e-3)
        assert clinic.epsilon["peer-clinic"] == pytest.approx(expected, rel=1e-9)
        own = math.inf if strategy == "splitfed-v3" and rounds else expected
        assert clinic.epsilon["model-user"] == pytest.approx(own, rel=1e-9)
        assert clinic.epsilon["server"] == (math.inf if rounds else 0)
    assert plan.columns()["unit"] == "clinic"
    assert distance(train_run(plan, federation, node_groups=3).parameters, trained.parameters) < 1e-4


def averaged(before, stacked):
    """The mean of the updates, clipped to 0.3, without noise."""
    updates, norms = updates_of(before, stacked)
    return noised_mean(updates, norms, len(norms), 0.3, 0.0, 1, 1)


def test_one_clinic_moves_the_sum_by_the_clip_at_most_whatever_its_records():
    random = torch.Generator().manual_seed(0)
    before = {"a": torch.randn(1, 3, 2, generator=random), "b": torch.randn(1, 4, generator=random)}
    stacked = {k: v + 50 * torch.randn(5, *v.shape[1:], generator=random) for k, v in before.items()}
    stacked["a"][1], stacked["b"][1] = before["a"][0] + 0.01, before["b"][0]  # a small update is left as it is
    mean = averaged(before, stacked)
    total = {k: np.zeros(v.shape[1:]) for k, v in before.items()}
    for k in range(5):
        update = {name: (stacked[name][k] - before[name][0]).numpy() for name in before}
        norm = math.sqrt(sum(float((u**2).sum()) for u in update.values()))
        for name in before:
            total[name] += update[name] * min(1, 0.3 / norm)
    for name in before:
        np.testing.assert_allclose(mean[name][0].numpy(), total[name] / 5, atol=1e-5)
    changed = {k: v.clone() for k, v in stacked.items()}
    for name in changed:
        changed[name][4] = before[name][0]
    moved = averaged(before, changed)
    gap = math.sqrt(sum(float(((mean[k] - moved[k]) * 5).square().sum()) for k in before))
    assert gap == pytest.approx(0.3, rel=1e-4)


def test_noise_on_the_sum_has_the_stated_size_and_differs_round_by_round():
    updates, norms = {"a": torch.zeros(4, 100, 100)}, torch.zeros(4)
    draws = [noised_mean(updates, norms, 4, 0.3, 1.5, 7, r)["a"] * 4 for r in (1, 2)]
    for draw in draws:
        assert float(draw.std()) == pytest.approx(0.45, rel=0.03)
    assert not torch.equal(*draws)
    assert torch.equal(draws[0], noised_mean(updates, norms, 4, 0.3, 1.5, 7, 1)["a"] * 4)


@pytest.mark.parametrize(("strategy", "cut"), METHODS)
def test_without_noise_and_clip_it_is_the_plain_mean_of_equal_clinics(tmp_path, strategy, cut):
    even = write_csv(tmp_path / "even.csv", sizes=(40, 40, 40))
    none = {**CLINIC, "noise-multiplier": 0, "clip": math.inf}
    trained = train_spec(run_spec(even, strategy, cut, none)).parameters
    assert distance(trained, train_spec(run_spec(even, strategy, cut, NO_PRIVACY)).parameters) < 1e-5


def test_a_target_is_met(csv):
    target = {"mechanism": "clinic-level", "epsilon": 4.0, "delta": 1e-3}
    plan, _ = plan_of(run_spec(csv, "fedavg", privacy=target))
    assert 3.98 < plan.columns()["epsilon_model_user"] <= 4.0
    assert plan.columns()["epsilon_server"] == math.inf


def forgetting(csv, privacy, what):
    """Train by a method that noises one clinic's release less often than planned."""

    def forgets(exchange, state):
        state = METHOD.round(exchange, state)
        exchange.noised[what][0] -= 1
        return state

    plan, federation = plan_of(run_spec(csv, "fedavg", privacy=privacy))
    return train_run(replace(plan, job=replace(plan.job, method=replace(METHOD, round=forgets))), federation)


def test_a_round_without_noise_is_caught(csv):
    with pytest.raises(PlanMismatchError, match=r"noised steps, update: .*releases"):
        forgetting(csv, CLINIC, "update")


@pytest.mark.parametrize("start", [0.01, 100.0])
@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_the_clip_comes_to_the_quantile_of_the_norms_before_clipping(quantile, start):
    norms = torch.from_numpy(np.random.default_rng(0).permutation(np.linspace(1, 3, 1001)))
    clips = [start]
    for r in range(600):
        clips.append(
            adapted_clip(
                clips[-1], norms, len(norms), AdaptiveClip(quantile=quantile, rate=0.2, count_noise=50.0), True, 3, r
            )
        )
    assert np.mean(clips[-100:]) == pytest.approx(1 + 2 * quantile, abs=0.1)


def test_a_step_of_the_clip_by_hand():
    norms, adaptive = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0]), AdaptiveClip(quantile=0.6, rate=0.2, count_noise=3.0)
    # 2 of 5 lie within the clip, a norm equal to it among them: too few, so that it grows.
    assert adapted_clip(1.0, norms, len(norms), adaptive, False, 1, 1) == pytest.approx(math.exp(-0.2 * (2 / 5 - 0.6)))
    draws = [adapted_clip(1.0, norms, len(norms), adaptive, True, 1, r) for r in range(1, 2001)]
    counts = 5 * (0.6 - np.log(draws) / 0.2)
    assert counts.mean() == pytest.approx(2, abs=0.25)
    assert counts.std() == pytest.approx(3, rel=0.06)


def test_updates_and_counts_share_the_multiplier_that_is_accounted(csv):
    plan, _federation = plan_of(run_spec(csv, "fedavg", privacy=ADAPTIVE))
    fixed, _ = plan_of(run_spec(csv, "fedavg", privacy=CLINIC))
    assert plan.columns()["epsilon_model_user"] == fixed.columns()["epsilon_model_user"]
    adaptive = plan.job.adaptive
    # The joint release is one Gaussian: a clinic moves the updates by C, noised by sigma_delta C, and the count by 1/2.
    moved = math.hypot(1 / adaptive.update_noise(1.5), 0.5 / adaptive.count_noise)
    assert moved == pytest.approx(1 / 1.5, rel=1e-12)
    assert adaptive.update_noise(1.5) > 1.5


def test_the_noise_on_updates_is_raised_and_follows_the_clip(csv):
    """Every round is worked out again from the model before it and the models that its clinics sent."""
    plan, federation = plan_of(run_spec(csv, "fedavg", privacy=ADAPTIVE))
    models, sent = [], []
    trained = train_run(
        plan,
        federation,
        models=lambda server_round, model: models.append(model),
        overheard=lambda instruction, reply: sent.append(reply),
    )  # holds executed and planned ledgers equal
    assert trained.clips[0] == 0.3
    assert len(trained.clips) == len(models) == 4
    job, noise = plan.job, (1.5**-2 - 2.0**-2) ** -0.5
    key = run_key(plan.spec.digest, federation.facts)
    for r, reply in enumerate([reply for reply in sent if Kind.MODEL in reply.parts], 1):
        updates, norms = updates_of(models[r - 1], reply.parts[Kind.MODEL])
        clip = trained.clips[r - 1]
        assert trained.clips[r] == adapted_clip(
            clip, norms, 4, AdaptiveClip(quantile=0.5, rate=0.2, count_noise=1.0), True, key, r
        )
        mean = noised_mean(updates, norms, 4, clip, noise, job.key, r)
        assert bitwise(models[r], {name: models[r - 1][name] + move for name, move in mean.items()})


def test_the_count_has_a_twentieth_of_the_rounds_clinics_as_noise(csv):
    target = {**CLINIC, "noise-multiplier": 0.15, "adaptive-quantile": 0.5}
    spec = run_spec(csv, "fedavg", privacy=target, participation=0.5)
    plan, _federation = plan_of(spec)
    assert plan.job.adaptive.count_noise == 2 / 20


def test_a_count_without_noise_is_caught(csv):
    with pytest.raises(PlanMismatchError, match=r"noised steps, clip-count: .*releases"):
        forgetting(csv, ADAPTIVE, "clip-count")


@pytest.mark.parametrize(
    ("strategy", "cut", "change", "line"),
    [
        ("split", "vanilla", {}, "clinic-level noises a sum of updates, and split forms none"),
        ("splitfed-v2", "u-shaped", {}, "clinic-level noises a sum of updates"),
        ("centralised", None, {}, "clinic-level noises a sum of updates"),
        ("flwr.serverapp.strategy.FedAvg", None, {}, "clinic-level noises a sum of updates"),
        ("fedavg", None, {"mechanism": ["dp-sgd", "clinic-level"]}, "another unit, and stands alone"),
        ("fedavg", None, {"delta": 0.3}, r"privacy\.delta: 0\.3 is not below 1 / 4"),
        ("fedavg", None, {"adaptive-quantile": 0.5}, r"adaptive-count-noise: 0\.2 spends more .*give more than half"),
        ("fedavg", None, {"adaptive-count-noise": 2}, r"adaptive-count-noise: .*without adaptive-quantile"),
        ("fedavg", None, {"adaptive-quantile": 1.0}, r"adaptive-quantile"),
        ("fedavg", None, {"mechanism": "dp-sgd", "adaptive-quantile": 0.5}, "has no effect with mechanism dp-sgd"),
        ("fedavg", None, {"noise-multiplier": 0, "clip": math.inf, "adaptive-quantile": 0.5}, "inf cannot adapt"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(csv, strategy, cut, change, line):
    with pytest.raises(ScenarioError, match=line):
        plan_of(run_spec(csv, strategy, cut, {**CLINIC, **change}))


@pytest.mark.slow
@pytest.mark.parametrize("adapts", [{}, {"adaptive-quantile": 0.5}], ids=["fixed", "adaptive"])
def test_a_thousand_clinics_learn_something_useful_at_epsilon_8(tmp_path, adapts):
    def run(privacy):
        mapping = {
            "name": "thousand",
            "seeds": [0],
            "data": {"source": "synthetic", "clinics": 1000, "records": 30_000},
            "model": {"name": "logistic"},
            "train": {"rounds": 20, "batch-size": 16, "learning-rate": 0.1},
            "privacy": privacy,
            "evaluation": {"reference": False},
            "strategies": [{"name": "fedavg"}],
        }
        [spec] = expand(parse_scenario(mapping, tmp_path))
        plan, federation = plan_of(spec)
        return plan, train_run(plan, federation).evaluations

    plan, private = run({"mechanism": "clinic-level", "epsilon": 8.0, "clip": 0.3, "delta": 1e-4, **adapts})
    _, plain = run(NO_PRIVACY)
    assert 7.9 < plan.columns()["epsilon_model_user"] <= 8
    assert plain[-1].pooled["auc"] > 0.75
    assert private[-1].pooled["auc"] > plain[-1].pooled["auc"] - 0.04
