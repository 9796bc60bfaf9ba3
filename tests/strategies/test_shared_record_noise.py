"""DP-SGD under secure aggregation: whose noise counts for a record, and parts of cut networks that are summed."""

import math

import dp_accounting as dp
import numpy as np
import pytest
import torch
from support import NO_PRIVACY, bitwise, distance, plan_of, run_spec, train_spec, with_noise_by, write_csv

import clients.whole
from sim.foundation.problems import ScenarioError
from sim.methods.messages import Kind
from sim.privacy.accounting import epsilon
from sim.study.train import train_run

SGD = {"mechanism": "dp-sgd", "noise-multiplier": 1.5, "clip": 0.5, "delta": 1e-3, "secure-aggregation": True}
ONE_STEP = {"batch_size": 64}  # no less than the records of the largest clinic
RATE, CLIP = 0.1, 0.5


@pytest.fixture
def csv(tmp_path):
    return write_csv(tmp_path / "clinics.csv")


def gaussians(noise, rounds):
    return epsilon(dp.SelfComposedDpEvent(dp.GaussianDpEvent(noise), rounds), 1e-3)


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
@pytest.mark.parametrize("colluding", [0, 2, 3])
def test_one_step_a_round_is_one_gaussian_of_all_clinics(csv, strategy, colluding):
    privacy = {**SGD, "colluding-clinics": colluding}
    plan, federation = plan_of(run_spec(csv, strategy, privacy=privacy, **ONE_STEP))
    train_run(plan, federation)
    left = 4 - colluding
    for clinic in plan.clinics:
        assert clinic.epsilon["server"] == pytest.approx(gaussians(1.5 * math.sqrt(4 / left), 3), rel=1e-9)
        assert clinic.epsilon["peer-clinic"] == pytest.approx(gaussians(1.5 * math.sqrt(3 / left), 3), rel=1e-9)
        if colluding:
            assert clinic.epsilon["server-and-peers"] == pytest.approx(gaussians(1.5, 3), rel=1e-9)


def test_each_clinic_adds_its_part_alone(csv):
    drawn = {}

    def watch(original, sums, std, normaliser, key, purpose, clinics, server_round, step):
        for k, scale, records in zip(clinics, std, normaliser, strict=True):
            drawn[k] = scale, records
        original(sums, std, normaliser, key, purpose, clinics, server_round, step)

    plan, federation = plan_of(run_spec(csv, privacy={**SGD, "colluding-clinics": 1}, rounds=1, **ONE_STEP))
    train_run(with_noise_by(plan, watch), federation)
    # Three parts of variance (1.5 C)^2 / 3 hide a record; each clinic's sum is divided by its own records, as noise is.
    assert drawn == {k: (pytest.approx(1.5 * CLIP / math.sqrt(3)), n) for k, n in enumerate((5, 15, 26, 42))}


def test_the_noise_in_the_average_is_what_is_counted(csv):
    spec = run_spec(csv, privacy={**SGD, "colluding-clinics": 1}, rounds=1, model={"hidden": [400, 40]}, **ONE_STEP)
    plan, federation = plan_of(spec)
    silent = with_noise_by(plan, lambda original, *arguments: None)
    noised, clean = (train_run(each, federation).parameters for each in (plan, silent))
    records = len(federation.train.y)
    noise = np.concatenate([(noised[n] - clean[n]).flatten().numpy() for n in noised]) * records / RATE
    [counted] = plan.job.secure.multipliers(1.5, {4: 1}, 0)
    assert noise.std() / CLIP == pytest.approx(counted, rel=0.02)


def test_a_record_weighs_the_same_whichever_clinic_it_is_at(csv):
    """The average is the model less rate / N times the sum of all records' clipped gradients: closed form."""
    silent = {**SGD, "noise-multiplier": 0}
    spec = run_spec(csv, privacy=silent, model={"name": "logistic"}, rounds=1, **ONE_STEP)
    plan, federation = plan_of(spec)
    models = []
    train_run(plan, federation, models=lambda server_round, model: models.append(model))
    begun, after = ({name: value[0].numpy().astype(float) for name, value in model.items()} for model in models)
    [weight] = [name for name in begun if name.endswith("weight")]
    [bias] = [name for name in begun if name.endswith("bias")]
    x, y = federation.train.x.astype(float), federation.train.y
    residual = 1 / (1 + np.exp(-(x @ begun[weight][0] + begun[bias][0]))) - y
    gradients = residual[:, None] * np.column_stack([x, np.ones(len(x))])
    gradients *= np.minimum(1, CLIP / np.linalg.norm(gradients, axis=1))[:, None]
    moved = -RATE * gradients.sum(0) / len(x)
    found = np.append(after[weight][0] - begun[weight][0], after[bias][0] - begun[bias][0])
    np.testing.assert_allclose(found, moved, atol=1e-6)


@pytest.mark.parametrize(
    "train", [{"batch_size": 8}, {"local_epochs": 2, **ONE_STEP}, {"optimizer": "adam", **ONE_STEP}]
)
def test_with_more_than_one_plain_step_a_clinic_has_its_own_noise_alone(csv, train):
    apart = {key: value for key, value in SGD.items() if key != "secure-aggregation"}
    together, alone = (plan_of(run_spec(csv, privacy=privacy, **train))[0] for privacy in (SGD, apart))
    assert [clinic.epsilon for clinic in together.clinics] == [clinic.epsilon for clinic in alone.clinics]
    assert together.job.dp.noise_std == alone.job.dp.noise_std


def test_a_target_is_met_against_the_server_with_its_clinics(csv):
    target = {key: value for key, value in SGD.items() if key != "noise-multiplier"} | {"epsilon": 3.0}
    plan, _ = plan_of(run_spec(csv, privacy={**target, "colluding-clinics": 1}, **ONE_STEP))
    assert 2.99 < plan.columns()["epsilon_server_and_peers"] <= 3.0
    assert plan.columns()["epsilon_server"] < 2.7


def test_a_target_against_the_server_costs_less_noise_than_each_clinics_own(csv):
    target = {key: value for key, value in SGD.items() if key != "noise-multiplier"} | {"epsilon": 3.0}
    local = plan_of(run_spec(csv, privacy={**target, "secure-aggregation": False}, **ONE_STEP))[0].job.dp.noise_std
    shared = plan_of(run_spec(csv, privacy=target, **ONE_STEP))[0].job.dp.noise_std
    assert np.array(shared) == pytest.approx(np.array(local) / 2, rel=1e-4)  # four clinics


CUTS = [(name, cut) for name in ("splitfed-v1", "splitfed-v2") for cut in ("vanilla", "u-shaped")]


@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize(("strategy", "cut"), CUTS)
def test_heads_that_are_averaged_are_summed_unseen(csv, strategy, cut, shortcut):
    plain, _ = plan_of(run_spec(csv, strategy, cut, NO_PRIVACY))
    plan, federation = plan_of(run_spec(csv, strategy, cut, {"mechanism": "none", "secure-aggregation": True}))
    sent = []
    trained = train_run(
        plan, federation, shortcut=shortcut, overheard=None if shortcut else lambda told, reply: sent.append(reply)
    )
    assert distance(trained.parameters, train_run(plain, federation).parameters) < 1e-5
    assert plan.columns()["epsilon_server"] == math.inf
    assert all(Kind.MODEL not in reply.parts for reply in sent)
    heads = {name for part in plan.job.protocol.clinic_parts for name in plan.job.part(part).shapes()}
    assert all(reply.parts[Kind.MASKED].keys() == heads for reply in sent if reply.parts)


@pytest.mark.parametrize(("strategy", "cut"), CUTS)
def test_nodes_with_some_of_the_clinics_send_masks_that_cancel(csv, strategy, cut):
    spec = run_spec(csv, strategy, cut, {"mechanism": "none", "secure-aggregation": True})
    assert distance(train_spec(spec, 3).parameters, train_spec(spec).parameters) < 1e-5


def test_frozen_heads_and_lost_clinics_are_in_no_sum(csv):
    privacy = {"mechanism": "none", "secure-aggregation": True, "tolerated-drop-outs": 3}
    for strategy in ("splitfed-v1", "splitfed-v2"):
        spec = run_spec(csv, strategy, "u-shaped", privacy, {"freeze": ["head"]}, rounds=4)
        [group] = spec.clinics
        spec = spec.model_copy(update={"clinics": (group.model_copy(update={"drop_out": 0.4}),)})
        plan, federation = plan_of(spec)
        assert plan.columns()["lost_clinic_rounds"] > 0
        trained = train_run(plan, federation)  # every byte and noised step as planned
        [first] = [name for name in plan.job.part("head").shapes() if name.endswith("weight")]
        assert torch.equal(trained.parameters[first], plan.job.network.initial_parameters(plan.job.seed)[first])


def test_heads_that_are_all_frozen_leave_nothing_to_sum(csv):
    spec = run_spec(
        csv, "splitfed-v1", "vanilla", {"mechanism": "none", "secure-aggregation": True}, {"freeze": ["head"]}
    )
    plain = run_spec(csv, "splitfed-v1", "vanilla", NO_PRIVACY, {"freeze": ["head"]})
    assert bitwise(train_spec(spec).parameters, train_spec(plain).parameters)


def test_a_model_that_diverges_ends_the_run_and_says_so(csv, monkeypatch):
    trained = clients.whole._train

    def diverging(trainer, here, server_round):
        trained(trainer, here, server_round)
        next(iter(trainer.parameters.values()))[0, 0] = math.inf

    monkeypatch.setattr(clients.whole, "_train", diverging)
    with pytest.raises(ArithmeticError, match="the model diverged: after round 1"):
        train_spec(run_spec(csv, privacy={"mechanism": "none", "secure-aggregation": True}))


@pytest.mark.parametrize(("strategy", "cut"), [("split", "vanilla"), ("splitfed-v3", "vanilla"), ("centralised", None)])
def test_where_nothing_is_averaged_it_is_refused(csv, strategy, cut):
    with pytest.raises(ScenarioError, match="nothing that clinics send is averaged"):
        plan_of(run_spec(csv, strategy, cut, {"mechanism": "none", "secure-aggregation": True}))
