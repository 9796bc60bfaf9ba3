"""Attacks against what they must find: closed forms, models that remember everything, and models that know nothing."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from support import NO_PRIVACY, plan_of, run_spec, write_csv

from sim.attacks.attack import Attack, AttackError, Finding, Observer, attack_of, attacks_on_every_run
from sim.attacks.membership import membership_auc
from sim.attacks.observation import Observation
from sim.attacks.reconstruction import probe_r2
from sim.results.store import read_record
from sim.study.runner import Progress, execute
from sim.study.train import train_run

SILENT = Progress(lambda to_do, done, seconds: None, lambda row, seconds: None)
METHOD = '\n[[strategies]]\nname = "fedavg"\n\n'
FROZEN = {"freeze": ["head"]}


def noised(multiplier):
    mechanism = {"mechanism": "smashed-noise", "noise-multiplier": multiplier, "clip": 2.0}
    return {**mechanism, "delta": 1e-3, "labels": "public"}


@pytest.fixture(scope="module")
def random_labels(tmp_path_factory):
    """Features that say nothing of the labels: who fits the training records has memorised them."""
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


def attacked(spec, attacks=None):
    """Train a run and make all registered attacks on it, or these."""
    plan, federation = plan_of(spec)
    observation = Observation(attacks_on_every_run() if attacks is None else attacks, plan, federation)
    trained = train_run(plan, federation, models=observation.round, overheard=observation.message)
    return observation.found(trained.parameters)


def membership(spec):
    """Return AUC, advantage, and the AUC of each clinic."""
    found = attacked(spec, [attack_of("membership")])
    [stated] = found.stated()
    return found.row()["membership_auc"], stated["advantage"], found.of_clinics(["k0", "k1", "k2"])["membership_auc"]


def reconstructed(spec):
    return attacked(spec, [attack_of("reconstruction")]).row()["smashed_reconstruction_r2"]


def test_losses_of_two_normal_distributions_by_the_closed_form():
    rng = np.random.default_rng(1)
    members, others = rng.normal(0, 1, 20000), rng.normal(0.7, 1, 20000)
    assert membership_auc(members, others) == pytest.approx(norm.cdf(0.7 / math.sqrt(2)), abs=0.01)
    assert membership_auc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert math.isnan(membership_auc(members, np.zeros(0)))


@pytest.mark.parametrize(("strategy", "cut"), [("fedavg", None), ("local", None), ("splitfed-v3", "u-shaped")])
def test_membership_is_told_from_a_model_that_memorised_and_not_from_an_untrained_one(random_labels, strategy, cut):
    how = {"model": {"hidden": [64, 32]}, "optimizer": "adam", "learning_rate": 0.01}
    (auc, advantage, _), trained = (
        membership(run_spec(random_labels, strategy, cut, rounds=r, **how)) for r in (0, 60)
    )
    assert auc == pytest.approx(0.5, abs=0.1)
    assert abs(advantage) < 0.15
    assert trained[0] > 0.75
    assert trained[1] > 0.35
    assert min(trained[2]) > 0.6


def test_each_clinic_is_attacked_through_its_own_records(random_labels):
    spec = run_spec(random_labels, "local", model={"hidden": [64, 32]}, rounds=20, learning_rate=0.3)
    plan, federation = plan_of(spec)
    parameters = train_run(plan, federation).parameters
    network = plan.job.network
    _, _, clinics = membership(spec)
    for k in range(3):
        members, others = (
            _own_losses(network, parameters, records, k) for records in (federation.train, federation.test)
        )
        wins = [(m < o) + 0.5 * (m == o) for m in members for o in others]
        assert clinics[k] == pytest.approx(np.mean(wins), abs=1e-9)


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
    r2 = [reconstructed(run_spec(csv, strategy, cut, p, model=wide, learning_rate=1e-4)) for p in mechanisms]
    assert r2[0] > 0.8
    assert r2[0] > r2[1] > 0.2
    assert r2[2] < 0.1


@pytest.mark.slow
def test_a_frozen_head_is_attacked_with_the_mean_of_all_its_noised_rows(csv):
    few, many = (
        reconstructed(run_spec(csv, "split", "vanilla", noised(0.5), model=FROZEN, rounds=r, learning_rate=1e-3))
        for r in (1, 40)
    )
    assert many > few + 0.15


def test_nothing_is_reconstructed_where_nothing_is_cut(csv):
    spec = run_spec(csv, "fedavg")
    (_, federation), found = plan_of(spec), attacked(spec)
    assert math.isnan(found.row()["smashed_reconstruction_r2"])
    [told] = found.stated()
    assert told["adversary"] == "model-user"
    clinics = found.of_clinics(["k0", "k1", "k2"])["membership_auc"]
    worst = ["k0", "k1", "k2"].index(told["worst_clinic"])
    assert clinics[worst] == max(clinics)
    assert told["worst_clinic_auc"] == round(clinics[worst], 4)
    assert (told["training_records"], told["held_out_records"]) == (len(federation.train.y), len(federation.test.y))


def test_a_run_keeps_its_attacks_and_its_statement_shows_them(csv, tmp_path):
    plan, _ = plan_of(run_spec(csv, "split", "vanilla", noised(0.5), model=FROZEN, rounds=1, learning_rate=1e-3))
    row = execute(plan, tmp_path, {})
    found = attacked(plan.spec)
    auc, r2 = found.row().values()
    assert (row["membership_auc"], row["smashed_reconstruction_r2"]) == (auc, r2)
    folder = tmp_path / plan.spec.run_id
    clinics = pd.read_parquet(folder / "clinics.parquet")
    assert clinics["membership_auc"].tolist() == found.of_clinics(clinics["name"])["membership_auc"]
    audit = {(each["attack"], each["measure"]): each for each in read_record(folder)["audit"]}
    assert audit["reconstruction", "r2"]["value"] == r2
    assert audit["membership", "auc"]["chance"] == 0.5
    assert audit["membership", "worst_clinic_auc"]["value"] == clinics["membership_auc"].max()
    statement = (folder / "privacy.md").read_text(encoding="utf-8")
    assert f"r2: {round(r2, 4)}" in statement
    assert f"auc: {round(auc, 4)}" in statement


class Watcher(Observer):
    """Keeps what it is shown."""

    def __init__(self, plan, federation):
        self.names, self.lanes = set(), set()
        self.features = set()
        KEPT.append(self)

    def round(self, server_round, model):
        self.names |= set(model)

    def message(self, instruction, reply):
        self.lanes.add(tuple(instruction.clinics))
        self.features |= {(reply.clinics[0], rows.shape[:2]) for rows in reply.payload.values()}

    def findings(self, model):
        return []


KEPT: list[Watcher] = []


def watched(spec, adversary):
    KEPT.clear()
    own = Attack(name="watcher", sentence="", adversary=adversary, uses="", begin=Watcher)
    assert attacked(spec, [own]).stated() == [], "who finds nothing has nothing to say"
    [seen] = KEPT
    return seen


def test_the_server_is_not_shown_what_clinics_keep_and_a_peer_not_what_is_the_servers(csv):
    own_heads = run_spec(csv, "splitfed-v3", "u-shaped")
    heads, bodies, tails = (set(part.shapes()) for part in plan_of(own_heads)[0].job.parts)
    assert watched(own_heads, "server").names == bodies
    assert watched(own_heads, "peer-clinic").names == set()
    assert watched(run_spec(csv, "splitfed-v1", "u-shaped"), "server").names == heads | bodies | tails
    assert watched(run_spec(csv, "splitfed-v1", "u-shaped"), "peer-clinic").names == heads | tails
    assert watched(run_spec(csv, "local"), "server").names == set()


def test_a_peer_clinic_is_shown_one_clinics_messages_at_a_time(csv):
    spec = run_spec(csv, "splitfed-v1", "u-shaped", rounds=1)
    assert watched(spec, "server").lanes >= {(1, 0, 2)}, "all clinics of the node at once"
    peer = watched(spec, "peer-clinic")
    assert peer.lanes == {(0,), (1,), (2,)}
    assert {shape[0] for _, shape in peer.features} == {1}


def test_what_flowers_strategies_exchange_is_overheard(csv):
    assert watched(run_spec(csv, "flwr.serverapp.strategy.FedAvg", rounds=1), "server").lanes == {(0,), (1,), (2,)}


def test_the_model_user_sees_no_round_and_no_message(csv, tmp_path):
    with pytest.raises(AttackError, match="the model user sees the final model alone"):
        watched(run_spec(csv, "fedavg"), "model-user")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("membershp", 'attacks: "membershp" does not exist; did you mean "membership"'),
        ("nowhere.at_all:ATTACK", "cannot be imported"),
        ("math:pi", 'attacks: "math:pi" is no Attack'),
    ],
)
def test_what_is_no_attack_is_said_in_one_line(name, said):
    with pytest.raises(AttackError, match=said) as caught:
        attack_of(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("measure", "column"), [("auc", "auc"), ("auc", "score"), ("auc", "x_r2"), ("thing", "x_auc")])
def test_a_column_is_new_and_ends_in_its_measures_unit(measure, column):
    with pytest.raises(AttackError, match="must be new and end in the unit"):
        Attack(name="x", sentence="", adversary="server", uses="", begin=Watcher, columns={measure: column})


def test_a_measure_without_a_unit_fails():
    with pytest.raises(AttackError, match="has no unit"):
        _ = Finding(measure="surprise", value=1.0).unit
