"""Laplace noise on rows at the cut: clipped in the L1 norm, and its epsilons add up."""

import math

import numpy as np
import pytest
import torch
from support import bitwise, distance, plan_of, run_spec, train_spec, with_rows_seen_by, write_csv

from sim.foundation.problems import ScenarioError
from sim.models.clip import ClipRows
from sim.privacy.accounting import gaussian_epsilon
from sim.study.train import train_run

ENDS = {"vanilla": ["head"], "u-shaped": ["head", "tail"]}
METHODS = [(s, cut) for s in ("split", "splitfed-v1", "splitfed-v2", "splitfed-v3") for cut in ENDS]
LAPLACE = {"mechanism": "laplace", "noise-multiplier": 6.0, "clip": 0.7, "labels": "public"}


@pytest.fixture
def csv(tmp_path):
    return write_csv(tmp_path / "clinics.csv")


def frozen(csv, strategy, cut, privacy=LAPLACE, **more):
    return run_spec(csv, strategy, cut, privacy, model={"freeze": ENDS[cut]}, **more)


@pytest.mark.parametrize(("strategy", "cut"), METHODS)
def test_every_release_costs_twice_the_clip_over_the_scale(csv, strategy, cut):
    """Three epochs, one or two kinds of rows: 3 * 2 C / b each, at delta 0."""
    plan, federation = plan_of(frozen(csv, strategy, cut))
    trained = train_run(plan, federation)  # holds executed and planned ledgers equal
    expected = 3 * (2 if cut == "u-shaped" else 1) * 2 / 6.0
    for clinic in plan.clinics:
        assert clinic.epsilon == pytest.approx(dict.fromkeys(clinic.epsilon, expected), rel=1e-12)
    assert plan.columns()["delta"] == 0
    assert distance(train_run(plan, federation, node_groups=3).parameters, trained.parameters) < 1e-4
    gaussian = {**LAPLACE, "mechanism": "smashed-noise", "delta": 1e-3}
    assert not bitwise(train_spec(frozen(csv, strategy, cut, gaussian)).parameters, trained.parameters)


@pytest.mark.parametrize(("strategy", "cut"), METHODS)
def test_a_target_is_met_exactly(csv, strategy, cut):
    target = {"mechanism": "laplace", "epsilon": 4.0, "delta": 1e-3, "labels": "public"}
    plan, federation = plan_of(frozen(csv, strategy, cut, target, participation=0.5, rounds=6))
    train_run(plan, federation)
    assert len(set(plan.release_noise)) > 1  # clinics that take part more often need more noise
    for clinic in plan.clinics:
        assert clinic.steps == 0 or clinic.epsilon["server"] == pytest.approx(4.0, rel=1e-9)


def test_randomised_labels_are_added(csv):
    both = {"mechanism": "laplace+label-rr", "epsilon": 4.0, "label-epsilon": 1.0}
    plan, federation = plan_of(frozen(csv, "splitfed-v1", "vanilla", both))
    train_run(plan, federation)
    assert [plan.release_noise[0], plan.clinics[0].epsilon["server"]] == pytest.approx([3 * 2 / 3.0, 4.0])


@pytest.mark.parametrize(("strategy", "cut"), METHODS)
def test_beside_dp_sgd_the_server_pays_for_both(csv, strategy, cut):
    both = {"mechanism": "dp-sgd+laplace", "noise-multiplier": 9.0, "epsilon-server": 6.0, "delta": 1e-3}
    plan, federation = plan_of(run_spec(csv, strategy, cut, {**both, "labels": "public"}))
    train_run(plan, federation)
    for clinic, often in zip(plan.clinics, plan.sampled.exposures, strict=True):
        alone = gaussian_epsilon(2 * math.sqrt(often) / 9.0, 1e-3)
        assert max(alone, (6.0 - alone) / 2) < clinic.epsilon["server"] <= 6.0
        assert clinic.epsilon["model-user"] < alone  # sampling amplifies
    with pytest.raises(
        ScenarioError, match=r"privacy\.epsilon-server: .* noise on gradients alone spends more than 0\.01"
    ):
        plan_of(run_spec(csv, strategy, cut, {**both, "labels": "public", "epsilon-server": 0.01}))


@pytest.mark.parametrize(("strategy", "cut"), METHODS)
def test_a_head_trained_on_raw_records_makes_it_worth_nothing(csv, strategy, cut):
    plan, _ = plan_of(run_spec(csv, strategy, cut, LAPLACE))
    assert set(plan.clinics[0].epsilon.values()) == {math.inf}


@pytest.mark.parametrize("cut", ENDS)
def test_rows_lie_within_the_l1_norm_and_the_noise_is_laplace_of_the_stated_scale(csv, cut):
    seen = {}

    def watched(kind, clinic, moment, before, after):
        seen.setdefault(kind, []).append((before, after))

    plan, federation = plan_of(frozen(csv, "splitfed-v1", cut, {**LAPLACE, "tail-clip": 0.2}, rounds=40))
    train_run(with_rows_seen_by(plan, watched), federation)
    assert set(seen) == ({"smashed"} if cut == "vanilla" else {"smashed", "tail-gradient"})
    for kind, pairs in seen.items():
        clip = {"smashed": 0.7, "tail-gradient": 0.2}[kind]
        before, after = (torch.cat(some) for some in zip(*pairs, strict=True))
        assert before.abs().sum(1).max() <= clip * (1 + 1e-6)
        noise = (after - before).flatten().double().numpy()
        scale = 6.0 * clip
        assert np.abs(noise).mean() == pytest.approx(scale, rel=0.02)  # E|x| = b
        assert np.mean(np.abs(noise) > 2 * scale) == pytest.approx(math.exp(-2), rel=0.05)  # a Gaussian: .11


def test_the_gradient_through_the_l1_clip_is_the_exact_one():
    x = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    layer = ClipRows(3.0, 1)
    assert torch.autograd.gradcheck(lambda t: layer.over(t, 2), [x])
    assert layer.over(x, 2).abs().sum(-1).max() <= 3.0 * (1 + 1e-12)
    inside = x.abs().sum(-1) <= 3.0
    assert 0 < inside.sum() < 12
    assert torch.equal(layer.over(x, 2)[inside], x[inside])
    assert torch.equal(ClipRows(1.0, 1)(torch.zeros(2, 3)), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("change", "strategy", "cut", "line"),
    [
        ({}, "fedavg", None, r"privacy\.mechanism: laplace needs a cut"),
        ({"mechanism": "smashed-noise+laplace"}, "split", "vanilla", r"privacy\.mechanism: .*one kind of noise"),
        ({"clip": math.inf}, "split", "vanilla", r"privacy\.clip: inf is only for"),
    ],
)
def test_bad_settings_are_refused_in_one_line(csv, change, strategy, cut, line):
    with pytest.raises(ScenarioError, match=line):
        plan_of(run_spec(csv, strategy, cut, {**LAPLACE, **change}))
