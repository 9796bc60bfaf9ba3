"""Noise on rows at the cut: what is sent, what it is worth, and what makes it worth nothing."""

import math

import numpy as np
import pytest
import torch
from support import DP_SGD, NO_PRIVACY, bitwise, distance, plan_of, run_spec, train_spec, with_rows_seen_by, write_csv

from sim.foundation.problems import ScenarioError
from sim.methods import row_noise
from sim.methods.messages import Kind
from sim.models.clip import ClipRows
from sim.privacy.accounting import epsilon
from sim.study.train import train_run

ENDS = {"vanilla": ["head"], "u-shaped": ["head", "tail"]}
METHODS = [(s, cut) for s in ("split", "splitfed-v1", "splitfed-v2", "splitfed-v3") for cut in ENDS]
NOISED = {"mechanism": "smashed-noise", "noise-multiplier": 5.0, "clip": 0.7, "delta": 1e-3, "labels": "public"}
BOTH = {
    "mechanism": ["dp-sgd", "smashed-noise"],
    "noise-multiplier": 3.0,
    "smashed-noise-multiplier": 5.0,
    "delta": 1e-3,
    "labels": "public",
}


@pytest.fixture
def csv(tmp_path):
    return write_csv(tmp_path / "clinics.csv")


def frozen(csv, strategy, cut, privacy=NOISED, **more):
    return run_spec(csv, strategy, cut, privacy, model={"freeze": ENDS[cut]}, **more)


@pytest.mark.parametrize(("strategy", "cut"), METHODS)
def test_frozen_ends_and_noised_rows_are_worth_the_exact_gaussian(csv, strategy, cut):
    """mu^2 = E (sum of (reach C / s)^2): 3 epochs, rows after a rectifier at sqrt(2), tail gradients at 2."""
    spec = frozen(csv, strategy, cut)
    plan, federation = plan_of(spec)
    trained = train_run(plan, federation)  # holds executed and planned ledgers equal
    import dp_accounting as dp

    mu = math.sqrt(3 * (2 + (4 if cut == "u-shaped" else 0))) / 5.0
    expected = epsilon(dp.GaussianDpEvent(1 / mu), 1e-3)
    for clinic in plan.clinics:
        assert clinic.epsilon == pytest.approx(dict.fromkeys(clinic.epsilon, expected), rel=1e-9)
    job = plan.job
    initial = job.network.initial_parameters(spec.seed)
    for part in ("head", "tail"):
        for name in job.part(part).shapes() if part in ENDS[cut] else ():
            assert torch.equal(trained.parameters[name], initial[name].expand_as(trained.parameters[name]))
    assert any(not torch.equal(trained.parameters[n], initial[n]) for n in job.part("body").shapes())
    assert distance(train_run(plan, federation, node_groups=3).parameters, trained.parameters) < 1e-4


@pytest.mark.parametrize(("strategy", "cut"), METHODS)
def test_beside_dp_sgd_the_server_gets_no_amplification(csv, strategy, cut):
    plan, federation = plan_of(run_spec(csv, strategy, cut, BOTH))
    train_run(plan, federation)
    import dp_accounting as dp

    kinds = 2 + (4 if cut == "u-shaped" else 0)
    for clinic, often in zip(plan.clinics, plan.sampled.exposures, strict=True):
        mu = math.sqrt(often * (kinds / 25 + 4 / 9))
        assert clinic.epsilon["server"] == pytest.approx(epsilon(dp.GaussianDpEvent(1 / mu), 1e-3), rel=1e-6)
        alone = plan_of(run_spec(csv, strategy, cut, {**DP_SGD, "noise-multiplier": 3.0}))[0].clinics[0]
    assert plan.clinics[0].epsilon["model-user"] == pytest.approx(alone.epsilon["model-user"], rel=1e-6)


@pytest.mark.parametrize(("strategy", "cut"), METHODS)
def test_no_noise_and_no_clip_is_plain_training_bitwise(csv, strategy, cut):
    none = {**NOISED, "noise-multiplier": 0, "clip": math.inf, "tail-clip": math.inf}
    assert bitwise(
        train_spec(frozen(csv, strategy, cut, none)).parameters,
        train_spec(frozen(csv, strategy, cut, NO_PRIVACY)).parameters,
    )
    assert set(plan_of(frozen(csv, strategy, cut, none))[0].clinics[0].epsilon.values()) == {math.inf}


@pytest.mark.parametrize(("strategy", "cut"), METHODS)
def test_a_head_trained_on_raw_records_makes_noise_worth_nothing(csv, strategy, cut):
    plan, federation = plan_of(run_spec(csv, strategy, cut, NOISED))
    train_run(plan, federation)
    assert set(plan.clinics[0].epsilon.values()) == {math.inf}
    target = {key: value for key, value in NOISED.items() if key != "noise-multiplier"} | {"epsilon": 3.0}
    with pytest.raises(
        ScenarioError, match=r"privacy\.epsilon: no noise .* 3 against the server: .*without noise .*freeze"
    ):
        plan_of(run_spec(csv, strategy, cut, target))


def test_labels_that_are_sent_count_unless_public(csv):
    private = {key: value for key, value in NOISED.items() if key != "labels"}
    assert plan_of(frozen(csv, "splitfed-v1", "vanilla", private))[0].clinics[0].epsilon["server"] == math.inf
    assert plan_of(frozen(csv, "splitfed-v1", "u-shaped", private))[0].clinics[0].epsilon["server"] < 5


@pytest.mark.parametrize("cut", ENDS)
def test_a_target_is_met_and_not_overshot(csv, cut):
    target = {"mechanism": "smashed-noise", "epsilon": 3.0, "delta": 1e-3, "labels": "public"}
    plan, federation = plan_of(frozen(csv, "splitfed-v1", cut, target, participation=0.5, rounds=6))
    train_run(plan, federation)
    assert len(set(plan.release_noise)) > 1  # clinics that take part more often need more noise
    for clinic in plan.clinics:
        assert clinic.steps == 0 or 2.98 < clinic.epsilon["server"] <= 3.0


def test_reference_noise_of_one_release():
    """Published values: s/C for one release of rows that may be negative, delta 1e-5, epsilon 1, 3, 8 and 16."""
    import dp_accounting as dp

    for target, multiplier in ((1, 7.46), (3, 2.78), (8, 1.20), (16, 0.69)):
        assert epsilon(dp.GaussianDpEvent(multiplier / 2), 1e-5) == pytest.approx(target, rel=0.01)


def sent_rows(csv, privacy, cut="vanilla"):
    """Record what is noised and what leaves, by clinic, round and step."""
    seen = []
    plan, federation = plan_of(frozen(csv, "splitfed-v1", cut, privacy, rounds=40))
    watched = with_rows_seen_by(plan, lambda kind, clinic, moment, *rows: seen.append((kind, clinic, *moment, *rows)))
    train_run(watched, federation)
    return seen


@pytest.mark.parametrize("cut", ENDS)
def test_rows_are_clipped_first_and_noise_has_the_stated_size_and_is_never_reused(csv, cut):
    seen = sent_rows(csv, {**NOISED, "tail-clip": 0.2}, cut)
    for kind, clip in (("smashed", 0.7), ("tail-gradient", 0.2)):
        own = [entry for entry in seen if entry[0] == kind]
        if not own:
            assert cut == "vanilla"
            continue
        rows = torch.cat([entry[4] for entry in own])
        assert rows.norm(dim=1).max() <= clip * (1 + 1e-6)
        noise = [entry[5] - entry[4] for entry in own]
        values = torch.cat([n.flatten() for n in noise]).numpy()
        assert np.std(values) == pytest.approx(5.0 * clip, rel=0.02)
        assert abs(values.mean()) < 5.0 * clip * 5 / math.sqrt(len(values))
        firsts = [tuple(n[0, :2].tolist()) for n in noise]
        assert len(set(firsts)) > 0.99 * len(firsts)  # clinics, rounds and steps have streams of their own


def test_noise_on_tail_gradients_is_that_of_one_record_whatever_the_batch(csv):
    """A record's own gradient is noised, not its share of a mean: larger batches do not get less noise."""
    norms = []
    for size in (4, 16):
        seen = []
        plan, federation = plan_of(
            frozen(csv, "splitfed-v1", "u-shaped", {**NOISED, "tail-clip": 1.0}, batch_size=size)
        )
        watched = with_rows_seen_by(plan, lambda kind, clinic, moment, *rows, seen=seen: seen.append((kind, *rows)))
        train_run(watched, federation)
        tails = [(before, after) for kind, before, after in seen if kind == "tail-gradient"]
        norms.append(np.median(torch.cat([before.norm(dim=1) for before, _ in tails])))
        assert torch.cat([after - before for before, after in tails]).std() == pytest.approx(5.0, rel=0.1)
    assert norms[1] == pytest.approx(norms[0], rel=0.3)
    job, rows = plan.job, torch.randn(1, 16, 5, generator=torch.Generator().manual_seed(0)) / 100
    arrived = []
    for divisor in (4.0, 16.0):
        sent = row_noise.leaving_rows(job, Kind.TAIL_GRADIENT, rows, [16], [0], (1, 0), torch.tensor([divisor]))
        arrived.append(row_noise.arrived_rows(job, Kind.TAIL_GRADIENT, sent, [0], torch.tensor([divisor])) - rows)
    assert torch.allclose(arrived[0], 4 * arrived[1], atol=job.rows.grid_step("tail-gradient", 0))


def test_the_gradient_through_the_clip_is_the_exact_one():
    x = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    layer = ClipRows(1.5)
    assert torch.autograd.gradcheck(lambda t: layer.over(t, 2), [x])
    assert layer.over(x, 2).norm(dim=-1).max() <= 1.5 * (1 + 1e-12)
    inside = x.norm(dim=-1) <= 1.5
    assert 0 < inside.sum() < 12
    assert torch.equal(layer.over(x, 2)[inside], x[inside])
    assert torch.equal(ClipRows(1.0)(torch.zeros(2, 3)), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("change", "strategy", "cut", "line"),
    [
        ({}, "fedavg", None, r"privacy\.mechanism: smashed-noise needs a cut"),
        ({"clip": math.inf}, "split", "vanilla", r"privacy\.clip: inf is only for"),
        ({"mechanism": ["none", "dp-sgd"]}, "split", "vanilla", r"privacy\.mechanism: .* none alone"),
        ({"mechanism": "smashed"}, "split", "vanilla", r'privacy\.mechanism: .*did you mean "smashed-noise"'),
        ({"epsilon-server": 3.0}, "split", "vanilla", r"privacy\.epsilon-server: .*for rows noised beside gradients"),
        ({"delta": 0.1}, "split", "vanilla", r"privacy\.delta: 0\.1 is not below 1 / "),
    ],
)
def test_bad_settings_are_refused_in_one_line(csv, change, strategy, cut, line):
    with pytest.raises(ScenarioError, match=line):
        plan_of(run_spec(csv, strategy, cut, {**NOISED, **change}, model={"freeze": ["head"]} if cut else {}))


def test_a_frozen_tail_needs_a_tail(csv):
    with pytest.raises(ScenarioError, match=r"model\.freeze: split has no tail"):
        plan_of(run_spec(csv, "split", "vanilla", NOISED, model={"freeze": ["tail"]}))
