"""Randomised labels: what is sent, how often, and what it is worth to whom."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm
from support import DP_SGD, bitwise, call_suture, distance, plan_of, run_spec, train_spec, write_csv
from wire import record

from sim.data.facts import run_key
from sim.data.federation import load_federation
from sim.foundation.problems import ScenarioError
from sim.plan.plan import make_plan
from sim.privacy.mechanisms.label_rr import LabelRr
from sim.study.runner import execute
from sim.study.train import train_run

RR = {"mechanism": "label-rr", "label-epsilon": 1.0}
ROWS = {"mechanism": "smashed-noise", "noise-multiplier": 5.0, "delta": 1e-3}
SPLIT = ("split", "splitfed-v1", "splitfed-v2", "splitfed-v3")
SENDING = [*((s, "vanilla") for s in SPLIT), ("centralised", None)]
KEEPING = [*((s, "u-shaped") for s in SPLIT), ("fedavg", None), ("fedprox", None), ("local", None)]


@pytest.fixture
def csv(tmp_path):
    return write_csv(tmp_path / "clinics.csv", classes=3)


def with_labels_of(federation, key, epsilon):
    """Return the federation with the answers in the place of the training labels."""
    uniform, answer = LabelRr().uniform(epsilon, 3), LabelRr().answers
    train, offsets = federation.train, federation.train.offsets
    answers = [answer(train.y[offsets[k] : offsets[k + 1]], uniform, 3, key, k) for k in range(len(offsets) - 1)]
    return replace(federation, train=replace(train, y=np.concatenate(answers)))


@pytest.mark.parametrize(("strategy", "cut"), SENDING)
def test_it_is_training_on_the_answers_and_judged_on_the_truth(csv, strategy, cut):
    plan, federation = plan_of(run_spec(csv, strategy, cut, RR))
    trained = train_run(plan, federation)
    assert distance(train_run(plan, federation, node_groups=3).parameters, trained.parameters) < 1e-5
    plain = run_spec(csv, strategy, cut).model_copy(update={"study": "answers"})
    answered = with_labels_of(load_federation(plain.data, plain.seed), run_key(plan.spec.digest, federation.facts), 1.0)
    expected = train_run(make_plan(plain, answered.facts), answered)
    assert bitwise(trained.parameters, expected.parameters)
    assert trained.evaluations == expected.evaluations  # held-out labels are untouched in both
    assert distance(train_spec(run_spec(csv, strategy, cut)).parameters, trained.parameters) > 1e-3


@pytest.mark.parametrize(("strategy", "cut"), SENDING)
def test_a_label_is_worth_its_epsilon_to_everyone_and_a_record_everything(csv, strategy, cut):
    plan, _ = plan_of(run_spec(csv, strategy, cut, RR))
    assert plan.columns()["epsilon_label"] == pytest.approx(1.0, rel=1e-9)
    assert plan.columns()["delta"] == 0
    for clinic in range(len(plan.clinics)):
        assert set(plan.clinics[clinic].epsilon.values()) == {math.inf}
        for adversary in ("model-user", "peer-clinic", "server"):
            assert plan.ledger.epsilon(adversary, clinic, 0.0, unit="label") == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("strategy", SPLIT)
def test_beside_dp_sgd_the_model_user_has_the_epsilon_of_dp_sgd_alone(csv, strategy):
    both = {**DP_SGD, "mechanism": ["dp-sgd", "label-rr"], "label-epsilon": 1.0}
    plan, federation = plan_of(run_spec(csv, strategy, "vanilla", both))
    train_run(plan, federation)
    alone, _ = plan_of(run_spec(csv, strategy, "vanilla", DP_SGD))
    for clinic, other in zip(plan.clinics, alone.clinics, strict=True):
        assert clinic.epsilon == other.epsilon
        assert clinic.epsilon["server"] == math.inf > clinic.epsilon["model-user"]


def gaussian_delta(epsilon, mu):
    """Balle & Wang 2018, theorem 8."""
    return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)


def both_epsilon(mu, label_epsilon, delta, truth, other):
    """Epsilon of a Gaussian and one answer: the losses add up, and the answer's is +-label_epsilon or 0."""

    def excess(eps):
        third = (1 - truth - other) * gaussian_delta(eps, mu)
        return (
            truth * gaussian_delta(eps - label_epsilon, mu) + other * gaussian_delta(eps + label_epsilon, mu) + third
        ) - delta

    return brentq(excess, 0, 50)


@pytest.mark.parametrize("strategy", SPLIT)
def test_over_a_frozen_head_the_servers_epsilon_composes_rows_and_labels(csv, strategy):
    privacy = {**ROWS, "mechanism": ["smashed-noise", "label-rr"], "label-epsilon": 2.0}
    plan, federation = plan_of(run_spec(csv, strategy, "vanilla", privacy, model={"freeze": ["head"]}))
    train_run(plan, federation)
    mu = math.sqrt(3 * 2) / 5.0  # three epochs, rows after a rectifier
    expected = both_epsilon(mu, 2.0, 1e-3, math.exp(2) / (math.exp(2) + 2), 1 / (math.exp(2) + 2))
    for clinic in plan.clinics:
        assert clinic.epsilon == pytest.approx(dict.fromkeys(clinic.epsilon, expected), rel=2e-3)
    assert plan.columns()["epsilon_label"] == pytest.approx(2.0)


def test_a_target_pays_for_rows_and_labels(csv):
    privacy = {"mechanism": "smashed-noise+label-rr", "epsilon": 3.0, "label-epsilon": 1.0, "delta": 1e-3}

    def planned(**change):
        return plan_of(run_spec(csv, "splitfed-v1", "vanilla", privacy | change, model={"freeze": ["head"]}))[0]

    for clinic in planned().clinics:
        assert 2.0 < clinic.epsilon["server"] <= 3.0
    with pytest.raises(ScenarioError, match=r"privacy\.epsilon: the labels alone spend label-epsilon 4"):
        planned(**{"label-epsilon": 4.0})
    unlimited = planned(epsilon=math.inf)
    assert (unlimited.spec.privacy.mechanism, unlimited.columns()["epsilon_label"]) == ("label-rr", pytest.approx(1.0))


def sent_labels(csv, privacy, **train):
    """Return every label that leaves, by clinic and record."""
    found, steps = {}, Counter()
    run = record(*plan_of(run_spec(csv, "splitfed-v1", "vanilla", privacy, **train)))
    for reply in (reply for reply in run.replies if "labels" in reply.kinds):
        batches = run.job.batches(reply.server_round, run.job.participants(reply.server_round))
        index = batches.index[steps[reply.server_round]]
        steps[reply.server_round] += 1
        [labels] = [values for (kind, _), values in reply.arrays.items() if kind == "labels"]
        for (clinic, lane), rows in zip(reply.lanes(), reply.rows, strict=True):
            for number, label in zip(index[lane, :rows], labels[lane, :rows], strict=True):
                found.setdefault((clinic, int(number)), []).append(int(label))
    return found


@pytest.mark.parametrize(("epsilon", "classes"), [(1.0, 3), (2.0, 2)])
def test_labels_leave_true_as_often_as_stated_and_the_same_every_time(tmp_path, epsilon, classes):
    csv = write_csv(tmp_path / "many.csv", [3000, 2000], classes=classes)
    privacy = {"mechanism": "label-rr", "label-epsilon": epsilon}
    sent = sent_labels(csv, privacy, batch_size=500, rounds=3)
    assert all(len(labels) == 3 and len(set(labels)) == 1 for labels in sent.values())
    train = load_federation(run_spec(csv).data, 5).train
    truth = {(k, i): train.y[train.offsets[k] + i] for k, i in sent}
    kept = np.mean([labels[0] == truth[key] for key, labels in sent.items()])
    expected = math.exp(epsilon) / (math.exp(epsilon) + classes - 1)
    assert kept == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / len(sent)))
    wrong = [(labels[0] - truth[key]) % classes for key, labels in sent.items() if labels[0] != truth[key]]
    shares = np.bincount(wrong, minlength=classes)[1:] / len(wrong)
    assert shares == pytest.approx(1 / (classes - 1), abs=4 * math.sqrt(0.25 / len(wrong)))


def test_clinics_and_seeds_answer_independently():
    zeros = np.zeros(4000, dtype=np.int64)
    answers = [LabelRr().answers(zeros, 0.5, 2, seed, clinic) for seed in (0, 1) for clinic in (0, 1)]
    for i in range(4):
        for j in range(i):
            assert np.corrcoef(answers[i], answers[j])[0, 1] == pytest.approx(0, abs=0.07)


def test_an_unlimited_epsilon_sends_the_labels_as_they_are_and_says_so(csv):
    plan, federation = plan_of(run_spec(csv, "splitfed-v1", "vanilla", {**RR, "label-epsilon": math.inf}))
    assert plan.columns()["epsilon_label"] == math.inf
    plain = train_spec(run_spec(csv, "splitfed-v1", "vanilla"))
    assert bitwise(train_run(plan, federation).parameters, plain.parameters)


@pytest.mark.parametrize(("strategy", "cut"), KEEPING)
def test_it_is_refused_where_labels_stay(csv, strategy, cut):
    with pytest.raises(ScenarioError, match=r"privacy\.mechanism: label-rr .* never leave the clinic; take a vanilla"):
        plan_of(run_spec(csv, strategy, cut, RR))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"label-epsilon": None}, r"privacy\.label-epsilon: give either this"),
        ({"epsilon": 2.0}, r"privacy\.label-epsilon: give either this"),
        ({"noise-multiplier": 1.0}, r"privacy\.noise-multiplier: has no effect with"),
        ({"labels": "public"}, r'privacy\.labels: "public" labels need no label-rr'),
        ({"mechanism": "dp-sgd", "epsilon": 1.0, "delta": 1e-3}, r"privacy\.label-epsilon: has no effect with"),
        ({"mechanism": "clinic-level+label-rr"}, r"privacy\.mechanism: .* cannot be combined"),
        (
            {"mechanism": "dp-sgd+label-rr", "label-epsilon": None, "epsilon": 1.0, "delta": 1e-3},
            r"privacy\.label-epsilon: is missing",
        ),
        ({"mechanism": "dp-sgd+label-rr", "epsilon": 1.0, "delta": 0.0}, r"privacy\.delta: is 0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(csv, change, line):
    privacy = {key: value for key, value in (RR | change).items() if value is not None}
    with pytest.raises(ScenarioError, match=line):
        plan_of(run_spec(csv, "split", "vanilla", privacy))


@pytest.mark.usefixtures("one_key")
def test_epsilon_alone_is_the_labels(csv):
    first, second = (
        plan_of(run_spec(csv, "split", "vanilla", p)) for p in (RR, {"mechanism": "label-rr", "epsilon": 1})
    )
    assert first[0].columns()["epsilon_label"] == second[0].columns()["epsilon_label"]
    assert bitwise(*(train_run(*run).parameters for run in (first, second)))


def test_statement_log_and_command_state_what_a_label_is_worth(csv, tmp_path, capsys):
    both = {"mechanism": "smashed-noise+label-rr", "noise-multiplier": 4.0, "label-epsilon": 1.5, "delta": 1e-3}
    plan, _ = plan_of(run_spec(csv, "release-once", "vanilla", both))
    assert execute(plan, tmp_path, {})["status"] == "ok"
    run = tmp_path / plan.spec.run_id
    outside = json.loads((run / "run.json").read_text(encoding="utf-8"))["privacy"]["statement"]["outside"]
    [labels] = [row for row in outside if row["what"] == "labels"]
    assert labels["marking"] == "dp"
    assert "epsilon 1.5 of one label" in labels["note"]
    for command, told in (
        ("epsilon", "one label, randomised before it leaves: 1.5 against everyone"),
        ("verify", "agree"),
    ):
        call_suture(command, run)
        assert told in capsys.readouterr().out
