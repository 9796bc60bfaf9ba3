"""Hostile clinics: what they send, by hand from what each clinic trains; and what averaging withstands them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from support import NO_PRIVACY, plan_of, run_spec, write_csv

from sim import run
from sim.foundation.problems import ScenarioError
from sim.foundation.rng import stream
from sim.plan.plan import make_plan
from sim.plan.statement import privacy_statement
from sim.scenario import load_scenario
from sim.scenario.spec import expand
from sim.scenario.study import ClinicGroup
from sim.study.train import train_run

HOSTILE = 2
KINDS = ("sign-flip", "scaled", "noise")
MEDIAN = "flwr.serverapp.strategy.FedMedian"


def with_hostile(spec, kind, strength=3.0):
    bad = ClinicGroup(profile="hospital", sites=(f"k{HOSTILE}",), hostile=kind, hostile_strength=strength)
    return spec.model_copy(update={"clinics": (bad, ClinicGroup(profile="hospital"))})


def trained(spec, **ways):
    plan, federation = plan_of(spec)
    return train_run(plan, federation, **ways).parameters, plan


def one_round(ragged, name, cut=None, **train):
    return run_spec(ragged, name, cut, rounds=1, **train)


def by_hand(kind, strength, before, own, shares):
    """Average what the clinics send, ``own`` being ``[clinic, ...]`` what they have trained."""
    sent = own.clone()
    update = own[HOSTILE] - before
    sent[HOSTILE] = before + (-strength if kind == "sign-flip" else strength) * update
    return (shares.reshape(-1, *(1,) * (own.dim() - 1)) * sent).sum(0)


def initial(plan):
    return {name: value[0] for name, value in plan.job.network.initial_parameters(plan.spec.seed).items()}


def shares_of(plan):
    sizes = torch.tensor(plan.job.sizes, dtype=torch.float64)
    return (sizes / sizes.sum()).float()


@pytest.mark.parametrize("kind", ["sign-flip", "scaled"])
@pytest.mark.parametrize(("name", "own", "cut"), [("fedavg", "local", None), ("splitfed-v1", "splitfed-v3", "vanilla")])
def test_a_hostile_update_is_averaged_as_by_hand(ragged, kind, name, own, cut):
    alone, plan = trained(one_round(ragged, own, cut))
    before = initial(plan)
    found, _ = trained(with_hostile(one_round(ragged, name, cut), kind))
    at_clinics = plan.job.part(plan.job.protocol.clinic_parts[0]).shapes()
    for parameter in at_clinics:
        expected = by_hand(kind, 3.0, before[parameter], alone[parameter], shares_of(plan))
        torch.testing.assert_close(found[parameter][0], expected, atol=1e-6, rtol=1e-5)


def test_noise_is_normal_and_as_strong_as_stated(ragged):
    honest, plan = trained(one_round(ragged, "fedavg"))
    alone, _ = trained(one_round(ragged, "local"))
    found, _ = trained(with_hostile(one_round(ragged, "fedavg"), "noise", 5.0))
    before, share = initial(plan), shares_of(plan)[HOSTILE]
    noise = torch.cat(
        [((found[n] - honest[n])[0] + share * (alone[n][HOSTILE] - before[n])).flatten() / share for n in honest]
    )
    assert float(noise.std()) == pytest.approx(5.0, rel=0.2)
    assert abs(float(noise.mean())) < 5.0 * 4 / len(noise) ** 0.5
    other = with_hostile(one_round(ragged, "fedavg").model_copy(update={"seed": 6}), "noise", 5.0)
    again, _ = trained(other)
    assert not any(torch.equal(again[n], found[n]) for n in found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "cut"), [("fedavg", None), ("fedprox", None), ("splitfed-v1", "u-shaped"), ("splitfed-v2", "vanilla")]
)
def test_a_hostile_clinic_is_the_same_on_one_node_and_on_several(ragged, kind, name, cut):
    spec = with_hostile(run_spec(ragged, name, cut, rounds=2), kind, 2.0)
    one, _ = trained(spec)
    several, _ = trained(spec, node_groups=3)
    by_messages, _ = trained(spec, shortcut=False)
    honest, _ = trained(run_spec(ragged, name, cut, rounds=2))
    assert any(not torch.allclose(one[n], honest[n], atol=1e-4) for n in one)
    for n in one:
        torch.testing.assert_close(one[n], several[n], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one[n], by_messages[n], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "cut"), [("local", None), ("centralised", None), ("splitfed-v3", "vanilla")])
def test_where_a_clinic_sends_no_part_it_can_do_no_harm(ragged, name, cut):
    honest, _ = trained(run_spec(ragged, name, cut, rounds=2))
    found, _ = trained(with_hostile(run_spec(ragged, name, cut, rounds=2), "scaled", 100.0))
    assert all(torch.equal(found[n], honest[n]) for n in honest)


def test_strength_one_scaled_is_honest_and_zero_sends_back_what_came(ragged):
    honest, plan = trained(one_round(ragged, "fedavg"))
    found, _ = trained(with_hostile(one_round(ragged, "fedavg"), "scaled", 1.0))
    alone, _ = trained(one_round(ragged, "local"))
    idle, _ = trained(with_hostile(one_round(ragged, "fedavg"), "sign-flip", 0.0))
    before, share = initial(plan), shares_of(plan)[HOSTILE]
    for n in honest:
        torch.testing.assert_close(found[n], honest[n], atol=1e-6, rtol=1e-5)
        expected = honest[n][0] - share * (alone[n][HOSTILE] - before[n])
        torch.testing.assert_close(idle[n][0], expected, atol=1e-6, rtol=1e-5)


def test_flowers_median_of_hostile_and_honest_updates_is_numpys(ragged):
    alone, plan = trained(one_round(ragged, "local"))
    found, _ = trained(with_hostile(one_round(ragged, MEDIAN), "sign-flip", 50.0))
    before = initial(plan)
    for n, own in alone.items():
        sent = own.numpy().copy()
        sent[HOSTILE] = before[n].numpy() - 50.0 * (sent[HOSTILE] - before[n].numpy())
        np.testing.assert_allclose(found[n][0].numpy(), np.median(sent, axis=0), atol=1e-5)


def test_clinic_level_privacy_bounds_what_one_clinic_does(ragged):
    """By hand: a clipped update moves the average by 1 / clinics of the clip at most, whatever its strength."""
    private = {"mechanism": "clinic-level", "noise-multiplier": 0.0, "clip": 0.1, "delta": 1e-3}
    spec = run_spec(ragged, "fedavg", None, private, rounds=1)
    honest, plan = trained(spec)
    found, _ = trained(with_hostile(spec, "scaled", 1e4))
    moved = torch.cat([(found[n] - honest[n]).flatten() for n in honest]).norm()
    assert 0 < float(moved) <= 2 * 0.1 / len(plan.job.sizes) + 1e-6


def test_hostile_clinics_are_refused_under_secure_aggregation(ragged):
    privacy = NO_PRIVACY | {"mechanism": "clinic-level", "epsilon": 5.0, "delta": 1e-3, "secure-aggregation": True}
    with pytest.raises(ScenarioError, match="secure-aggregation: hidden updates of hostile clinics"):
        plan_of(with_hostile(run_spec(ragged, "fedavg", None, privacy), "noise"))


@pytest.mark.parametrize(
    ("name", "cut"), [("fedavg", None), ("centralised", None), ("split", "vanilla"), ("splitfed-v2", "u-shaped")]
)
def test_flipped_labels_are_those_of_records_with_the_other_class(ragged, name, cut):
    spec = run_spec(ragged, name, cut, rounds=2)
    plan, federation = plan_of(spec)
    first, last = federation.train.offsets[HOSTILE : HOSTILE + 2]
    y = federation.train.y.copy()
    y[first:last] = 1 - y[first:last]
    flipped = replace(federation, train=replace(federation.train, y=y))
    expected = train_run(make_plan(spec, flipped.facts), flipped).parameters
    found, _ = trained(with_hostile(spec, "label-flip", None))
    honest = train_run(plan, federation).parameters
    assert all(torch.equal(found[n], expected[n]) for n in found)
    assert any(not torch.equal(found[n], honest[n]) for n in found)


def smashed_of(spec):
    sent = []
    spec_of_one = spec.model_copy(update={"train": spec.train.model_copy(update={"rounds": 1})})
    trained(
        spec_of_one, shortcut=False, overheard=lambda _, reply: sent.append((reply.clinics, reply.rows, reply.payload))
    )
    return [(clinics, rows, payload["smashed"]) for clinics, rows, payload in sent if "smashed" in payload]


def test_noisy_rows_are_the_hostile_clinic_s_alone_and_as_noisy_as_stated(ragged):
    spec = run_spec(ragged, "splitfed-v1", "vanilla", batch_size=64, rounds=1)
    [(clinics, rows, honest)], [(_, _, found)] = smashed_of(spec), smashed_of(with_hostile(spec, "row-noise", 5.0))
    change = found - honest
    lane = clinics.index(HOSTILE)
    assert not change[[place for place in range(len(clinics)) if place != lane]].any()
    own = change[lane, : rows[lane]].flatten()
    assert float(own.std()) == pytest.approx(5.0, rel=0.25)
    assert abs(float(own.mean())) < 5.0 * 4 / len(own) ** 0.5
    assert not change[lane, rows[lane] :].any()


def test_a_step_on_noisy_rows_is_the_one_by_hand(tmp_path):
    """The server's part learns from the noisy rows, and the clinic from the gradient that comes back in these."""
    csv = write_csv(tmp_path / "two.csv", (24, 9))
    settings = {"batch_size": 64, "learning_rate": 0.5, "rounds": 1}
    spec = run_spec(csv, "splitfed-v3", "vanilla", **settings)
    bad = ClinicGroup(profile="hospital", sites=("k0",), hostile="row-noise", hostile_strength=2.0)
    spec = spec.model_copy(update={"clinics": (bad, ClinicGroup(profile="hospital"))})
    plan, federation = plan_of(spec)
    own = {name: value[0].clone().requires_grad_() for name, value in plan.job.network.initial_parameters(5).items()}
    last = federation.train.offsets[1]
    x, y = torch.tensor(federation.train.x[:last]), torch.tensor(federation.train.y[:last]).float()
    index = plan.job.batches(1, [0]).index[0, 0, :last]
    (w1, b1), (w2, b2), (w3, b3) = zip(*[iter(own.values())] * 2, strict=True)
    noise = torch.from_numpy(stream(5, "hostile-rows", 0, 1, 0).standard_normal((int(last), 6), dtype="float32"))
    rows = torch.nn.functional.linear(x[index], w1, b1).relu() + 2.0 * noise
    hidden = torch.nn.functional.linear(rows, w2, b2).relu()
    logits = torch.nn.functional.linear(hidden, w3, b3).flatten()
    torch.nn.functional.binary_cross_entropy_with_logits(logits, y[index]).backward()
    for shortcut in (True, False):
        found, _ = trained(spec, shortcut=shortcut)
        for name in list(own)[:2]:  # the head, which is the clinic's own
            torch.testing.assert_close(found[name][0], own[name].detach() - 0.5 * own[name].grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "cut"), [("split", "vanilla"), ("splitfed-v1", "u-shaped"), ("release-once", "vanilla")]
)
def test_noisy_rows_are_the_same_without_messages_and_on_several_nodes(ragged, name, cut):
    spec = with_hostile(run_spec(ragged, name, cut, rounds=2), "row-noise", 2.0)
    one, _ = trained(spec)
    honest, _ = trained(run_spec(ragged, name, cut, rounds=2))
    assert any(not torch.allclose(one[n], honest[n], atol=1e-4) for n in one)
    for ways in ({"shortcut": False}, {"node_groups": 3}):
        other, _ = trained(spec, **ways)
        for n in one:
            torch.testing.assert_close(one[n], other[n], atol=1e-5, rtol=1e-4)


def test_noisy_rows_do_nothing_where_none_is_sent_and_are_refused_where_a_mechanism_bounds_them(ragged):
    honest, _ = trained(run_spec(ragged, "fedavg"))
    found, _ = trained(with_hostile(run_spec(ragged, "fedavg"), "row-noise"))
    assert all(torch.equal(found[n], honest[n]) for n in honest)
    noise = {"mechanism": "smashed-noise", "noise-multiplier": 1.0, "smashed-clip": 1.0, "delta": 1e-3}
    with pytest.raises(ScenarioError, match="smashed-noise bounds and noises what row-noise would"):
        plan_of(with_hostile(run_spec(ragged, "splitfed-v1", "vanilla", noise), "row-noise"))
    with pytest.raises(ValueError, match="has no effect on labels, which are all flipped"):
        ClinicGroup(profile="hospital", hostile="label-flip", hostile_strength=2.0)


def test_a_study_of_hostile_clinics_alone_is_refused(ragged):
    spec = run_spec(ragged, "fedavg")
    bad = ClinicGroup(profile="hospital", hostile="noise")
    with pytest.raises(ScenarioError, match=r"clinics.hostile: every clinic that trains is hostile"):
        plan_of(spec.model_copy(update={"clinics": (bad,)}))


def test_the_statement_names_hostile_clinics(ragged):
    plan, _ = plan_of(with_hostile(run_spec(ragged, "fedavg"), "noise"))
    assert f"k{HOSTILE}: nothing is promised to them" in str(privacy_statement(plan, {}, finished=True))


@pytest.mark.slow
def test_the_median_withstands_what_averaging_does_not(tmp_path):
    scenario = load_scenario("scenarios/hostile.toml")
    assert {spec.strategy.label or spec.strategy.name for spec in expand(scenario)} >= {"fedavg", "Median", "Krum"}
    few = {"seeds": [0], "sweep.clinics.1.hostile-strength": [0, 1, 50]}
    study = run("scenarios/hostile.toml", tmp_path, set=few, progress=False)
    score = study.runs.set_index(["strategy", "clinics.1.hostile-strength"])["within_clinic_auc"]
    assert score["fedavg", 50] < 0.6
    for robust in ("Median", "Trimmed mean", "Krum"):
        assert score[robust, 50] > 0.85, robust
        assert abs(score[robust, 1] - score["fedavg", 1]) < 0.02, "it costs little where nobody does harm"
    drawn = pd.DataFrame(study.figures["dose"].spec["datasets"]["doses"])
    assert set(drawn["series"]) == {"FedAvg", "Krum", "Median = Trimmed mean"}, "of four clinics the same, one line"
    curve = drawn[drawn["series"] == "FedAvg"].set_index("dose")["mean"]
    assert curve.to_dict() == pytest.approx(score["fedavg"].to_dict())
