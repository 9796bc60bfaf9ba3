"""Attacks against what they must find: closed forms, models that remember everything, and models that know nothing."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from support import NO_PRIVACY, learn_run, plan_of, run_spec, write_csv

from sim.attacks.attacks import _membership_auc, attack, membership, probe_r2
from sim.methods.job import Job
from sim.study.runner import attack_summary, execute
from sim.study.train import train_run

FROZEN = {"freeze": ["head"]}


def noised(multiplier):
    mechanism = {"mechanism": "smashed-noise", "noise-multiplier": multiplier, "clip": 2.0}
    return {**mechanism, "delta": 1e-3, "labels": "public"}


@pytest.fixture(scope="module")
def random_labels(tmp_path_factory):
    """Features that say nothing of the labels: who fits the training records has learned them by heart."""
    path = tmp_path_factory.mktemp("attacks") / "random.csv"
    rng = np.random.default_rng(0)
    lines = [
        ",".join([f"k{k}", f"class{rng.integers(2)}", *(f"{v:.5f}" for v in rng.normal(size=12))])
        for k in range(3)
        for _ in range(60)
    ]
    header = ",".join(["clinic", "label", *(f"x{i}" for i in range(12))])
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("attacks") / "clinics.csv", sizes=(200, 300, 100))


def attacked(spec):
    plan, federation = plan_of(spec)
    return attack(plan, train_run(plan, federation).parameters, federation)


def test_losses_of_two_normal_distributions_by_the_closed_form():
    rng = np.random.default_rng(1)
    members, others = rng.normal(0, 1, 20000), rng.normal(0.7, 1, 20000)
    assert _membership_auc(members, others) == pytest.approx(norm.cdf(0.7 / math.sqrt(2)), abs=0.01)
    assert _membership_auc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert math.isnan(_membership_auc(members, np.zeros(0)))


@pytest.mark.parametrize(("strategy", "cut"), [("fedavg", None), ("local", None), ("splitfed-v3", "u-shaped")])
def test_membership_is_told_from_a_model_that_learned_by_heart_and_not_from_an_untrained_one(
    random_labels, strategy, cut
):
    how = {"model": {"hidden": [64, 32]}, "optimizer": "adam", "learning_rate": 0.01}
    found = [attacked(run_spec(random_labels, strategy, cut, rounds=r, **how))[0] for r in (0, 60)]
    assert found[0].auc == pytest.approx(0.5, abs=0.1)
    assert abs(found[0].advantage) < 0.15
    assert found[1].auc > 0.75
    assert found[1].advantage > 0.35
    assert min(found[1].clinics) > 0.6


def test_each_clinic_is_attacked_through_its_own_records(random_labels):
    spec = run_spec(random_labels, "local", model={"hidden": [64, 32]}, rounds=20, learning_rate=0.3)
    plan, federation = plan_of(spec)
    parameters = train_run(plan, federation).parameters
    network = Job.build(spec, federation.facts).network
    found = membership(network, parameters, federation)
    for k in range(3):
        members, others = (
            _own_losses(network, parameters, records, k) for records in (federation.train, federation.test)
        )
        wins = [(m < o) + 0.5 * (m == o) for m in members for o in others]
        assert found.clinics[k] == pytest.approx(np.mean(wins), abs=1e-9)


def _own_losses(network, parameters, records, k):
    """Binary cross-entropy of one clinic's records by hand: rectified linear layers, one logit."""
    rows = slice(records.offsets[k], records.offsets[k + 1])
    a = records.x[rows].astype(np.float64)
    layers = list(network.whole.shapes())
    for i in range(0, len(layers), 2):
        weight, bias = (parameters[name][k].double().numpy() for name in layers[i : i + 2])
        a = a @ weight.T + bias
        a = np.maximum(a, 0) if i + 2 < len(layers) else a
    return np.logaddexp(0, np.where(records.y[rows] == 1, -a[:, 0], a[:, 0]))


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0, 3.0])
def test_rows_that_are_the_records_with_noise_give_back_the_records_by_the_closed_form(noise):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4500, 5)) * 2
    rows = x + 2 * noise * rng.normal(size=x.shape)
    assert probe_r2(rows[:500], x[:500], rows[500:], x[500:]) == pytest.approx(1 / (1 + noise**2), abs=0.03)


@pytest.mark.parametrize("width", [3, 40, 400])
def test_rows_of_nothing_but_noise_give_nothing(width):
    rng = np.random.default_rng(3)
    x, rows = rng.normal(size=(200, 5)), rng.normal(size=(200, width))
    assert probe_r2(rows[:100], x[:100], rows[100:], x[100:]) < 0.02


def test_wide_rows_that_hold_the_records_give_them_back():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(400, 5))
    rows = x @ rng.normal(size=(5, 300))
    assert probe_r2(rows[:200], x[:200], rows[200:], x[200:]) > 0.999


@pytest.mark.parametrize(
    ("strategy", "cut"), [("split", "vanilla"), ("splitfed-v1", "u-shaped"), ("splitfed-v3", "vanilla")]
)
def test_noise_at_the_cut_takes_away_what_the_server_can_reconstruct(csv, strategy, cut):
    wide = {"hidden": [12, 5], "freeze": ["head", "tail"] if cut == "u-shaped" else ["head"]}
    mechanisms = (NO_PRIVACY, noised(0.1), noised(10.0))
    r2 = [attacked(run_spec(csv, strategy, cut, p, model=wide, learning_rate=1e-4))[1] for p in mechanisms]
    assert r2[0] > 0.8
    assert r2[0] > r2[1] > 0.2
    assert r2[2] < 0.1


def test_a_frozen_head_is_attacked_with_the_mean_of_all_its_noised_rows(csv):
    few, many = (
        attacked(run_spec(csv, "split", "vanilla", noised(0.5), model=FROZEN, rounds=r, learning_rate=1e-3))[1]
        for r in (1, 40)
    )
    assert many > few + 0.15


def test_nothing_is_reconstructed_where_nothing_is_cut(csv):
    plan, federation = plan_of(run_spec(csv, "fedavg"))
    inferred, r2 = attack(plan, learn_run(plan.spec).parameters, federation)
    assert math.isnan(r2)
    summary = attack_summary(inferred, r2, federation)
    assert list(summary) == ["model-user"]
    told = summary["model-user"]
    worst = federation.names.index(told["worst_clinic"])
    assert inferred.clinics[worst] == max(inferred.clinics)
    assert told["worst_clinic_auc"] == round(inferred.clinics[worst], 4)


def test_a_run_keeps_its_attacks_and_its_statement_shows_them(csv, tmp_path):
    plan, _ = plan_of(run_spec(csv, "split", "vanilla", noised(0.5), model=FROZEN, rounds=1, learning_rate=1e-3))
    row = execute(plan, tmp_path, {})
    inferred, r2 = attacked(plan.spec)
    assert (row["membership_auc"], row["smashed_reconstruction_r2"]) == (inferred.auc, r2)
    folder = tmp_path / plan.spec.run_id
    assert pd.read_parquet(folder / "clinics.parquet")["membership_auc"].tolist() == list(inferred.clinics)
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["audit"]["server"]["r2"] == round(r2, 4)
    statement = (folder / "privacy.md").read_text(encoding="utf-8")
    assert f"r2: {round(r2, 4)}" in statement
    assert f"auc: {round(inferred.auc, 4)}" in statement
