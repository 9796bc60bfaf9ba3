"""Attacks against what they must find: closed forms, models that remember everything, and models that know nothing."""

import json
import math
import tomllib

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from support import NO_PRIVACY, SCENARIO, plan_of, run_spec, write_csv

from sim.attacks.attack import Attack, AttackError, Finding, Observer, attack_of, attacks_on_every_run
from sim.attacks.membership import membership_auc
from sim.attacks.observation import Observation
from sim.attacks.reconstruction import probe_r2
from sim.attacks.shadows import Population
from sim.foundation.problems import ScenarioError
from sim.methods.replies import ExchangeError
from sim.results.attack_log import read_attacks
from sim.results.attacks import COLUMNS, attacks_table
from sim.results.store import read_record, write_table
from sim.scenario import AttackTable, parse_scenario
from sim.study.attacking import attack_study, train_further
from sim.study.engines import InProcess
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


# An attack of one's own

OWN = '''
from sim.attacks.attack import Attack, Finding, Observer


class Eavesdropper(Observer):
    """Counts what it sees."""

    def __init__(self, plan, federation):
        self.rounds, self.rows = [], 0

    def round(self, server_round, model):
        self.rounds.append(server_round)

    def message(self, instruction, reply):
        self.rows += sum(reply.rows) if "smashed" in reply.payload else 0

    def findings(self, model):
        yield Finding(measure="overheard_records", value=self.rows)
        yield Finding(measure="seen_rate", value=len(self.rounds) / 10, chance=0.0, low=0.1, high=0.9)
        yield Finding(measure="seen_rate", value=0.25, clinic="k1")


ATTACK = Attack(
    name="eavesdropper",
    sentence="counting of rows",
    adversary="server",
    uses="nothing but their number",
    begin=Eavesdropper,
)
'''


def test_an_attack_of_ones_own_sees_rounds_and_messages_and_is_in_the_table(csv, tmp_path, monkeypatch):
    (tmp_path / "own_attack_for_tests.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    plan, _ = plan_of(run_spec(csv, "splitfed-v1", "vanilla", rounds=4))
    study = tmp_path / plan.spec.study
    execute(plan, study, {})
    before = write_table(study)
    own = AttackTable(name="own_attack_for_tests:ATTACK")
    attack_study([plan], [own], tmp_path, InProcess(), SILENT)
    table = attacks_table(study)
    assert list(table) == list(COLUMNS)
    assert set(table["run_id"]) == {plan.spec.run_id}
    found = {(row.measure, row.clinic): row for row in table.itertuples()}
    assert found["overheard_records", ""].value == 4 * sum(plan.job.sizes), "each record once a round"
    assert found["seen_rate", ""].value == 0.5, "before the first round and after each of four"
    assert (found["seen_rate", ""].low, found["seen_rate", ""].high, found["seen_rate", ""].chance) == (0.1, 0.9, 0.0)
    assert found["seen_rate", "k1"].value == 0.25
    pd.testing.assert_frame_equal(write_table(study), before)


@pytest.mark.parametrize(
    ("column", "value"),
    [("adversary", "<b>somebody"), ("low", "0.1"), ("bound", None), ("clinic", None), ("attack", 1.0), ("value", 1)],
)
def test_a_table_of_somebody_elses_is_refused_in_one_line(tmp_path, column, value):
    row = {"run_id": "a", "attack": "lira", "adversary": "server", "measure": "auc", "value": 0.5, "low": 0.4}
    good = pd.DataFrame([{**row, "high": 0.6, "chance": 0.5, "bound": math.nan, "clinic": ""}])
    good.to_parquet(tmp_path / "attacks.parquet")
    assert len(attacks_table(tmp_path)) == 1
    good.assign(**{column: [value]}).to_parquet(tmp_path / "attacks.parquet")
    with pytest.raises(ScenarioError, match=f"attacks.parquet: {column}: .*run the scenario again"):
        attacks_table(tmp_path)


@pytest.mark.parametrize(
    ("attack", "change"),
    [
        ("lira", {"measure": "surprise"}),
        ("lira", {"measure": "surprise", "value": None}),
        ("lira", {"value": 2.0}),
        ("lira", {"adversary": "somebody"}),
        ("audit", {"measure": "epsilon", "value": None}),
        ("audit", {"measure": "epsilon", "bound": None}),
        ("audit", {"measure": "epsilon", "value": -1.0}),
    ],
)
def test_a_log_of_somebody_elses_is_refused_in_one_line(tmp_path, attack, change):
    finding = {"adversary": "server", "measure": "auc", "value": 0.5, "low": None, "high": None}
    finding |= {"chance": 0.0, "bound": 1.0, "clinic": ""}
    row = {"attack_id": "a", "run_id": "r", "attack": attack, "status": "ok", "error": "", "wall_seconds": 1.0}
    for line, fine in (({**row, "findings": [finding]}, True), ({**row, "findings": [finding | change]}, False)):
        (tmp_path / "attacks.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
        if fine:
            assert len(read_attacks(tmp_path)) == 1
            continue
        with pytest.raises(ScenarioError, match=r"attacks\.jsonl: line 1 is no attack's"):
            read_attacks(tmp_path)


def test_what_has_been_attacked_is_not_attacked_again_unless_an_option_changes(csv, tmp_path):
    plan, _ = plan_of(run_spec(csv, "fedavg", rounds=1))
    study = tmp_path / plan.spec.study
    execute(plan, study, {})
    few, more = (AttackTable(name="lira", options={"shadows": n}) for n in (2, 3))
    for tables, lines in (([few], 1), ([few], 1), ([few, more], 2), ([more], 2)):
        attack_study([plan], tables, tmp_path, InProcess(), SILENT)
        assert len((study / "attacks.jsonl").read_text(encoding="utf-8").splitlines()) == lines
    with (study / "attacks.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"attack_id": "half')
    attack_study([plan], [AttackTable(name="lira", options={"shadows": 4})], tmp_path, InProcess(), SILENT)
    assert len(read_attacks(study)) == 3, "what a killed process left of a line is cut off"


def test_attacks_on_runs_that_are_left_out_stay_in_the_table(csv, tmp_path):
    plans = [plan_of(run_spec(csv, "fedavg", rounds=rounds))[0] for rounds in (1, 2)]
    study = tmp_path / plans[0].spec.study
    for plan in plans:
        execute(plan, study, {})
    few, more = (AttackTable(name="lira", options={"shadows": n, "rounds": 1}) for n in (2, 3))
    assert attack_study(plans, [few], tmp_path, InProcess(), SILENT)
    attack_study(plans[:1], [more], tmp_path, InProcess(), SILENT)
    table = attacks_table(study)
    assert set(table["run_id"]) == {plan.spec.run_id for plan in plans}
    again = table.groupby(["run_id", "adversary", "measure", "clinic"]).size()
    assert (again == 1).all()


def test_one_attack_with_two_options_is_made_twice_and_with_the_same_is_refused(csv, tmp_path, monkeypatch):
    (tmp_path / "twice_attack_for_tests.py").write_text(
        OWN.replace(
            "def __init__(self, plan, federation):",
            "def __init__(self, plan, federation, options):\n        self.times = options['times']",
        )
        .replace("value=self.rows", "value=self.times * self.rows")
        .replace("begin=Eavesdropper,", "begin=Eavesdropper,\n    options={'times': 1},"),
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    plan, _ = plan_of(run_spec(csv, "splitfed-v1", "vanilla", rounds=1))
    execute(plan, tmp_path / plan.spec.study, {})
    tables = [AttackTable(name="twice_attack_for_tests:ATTACK", options={"times": times}) for times in (1, 3)]
    attack_study([plan], tables, tmp_path, InProcess(), SILENT)
    found = attacks_table(tmp_path / plan.spec.study).query("measure == 'overheard_records'")["value"].tolist()
    assert found == [sum(plan.job.sizes), 3 * sum(plan.job.sizes)]
    twice = SCENARIO + METHOD + 2 * '[[attacks]]\nname = "lira"\n'
    with pytest.raises(ScenarioError, match='attacks: "lira" is listed twice'):
        parse_scenario(tomllib.loads(twice), tmp_path)


def test_an_attack_that_fails_is_told_and_made_again(csv, tmp_path, monkeypatch):
    (tmp_path / "failing_attack_for_tests.py").write_text(
        OWN.replace("return", "pass  #").replace(
            'yield Finding(measure="overheard_records"',
            'raise KeyError("secret")\n        yield Finding(measure="overheard_records"',
        ),
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    plan, _ = plan_of(run_spec(csv, "fedavg", rounds=1))
    execute(plan, tmp_path / plan.spec.study, {})
    for _ in range(2):
        assert not attack_study(
            [plan], [AttackTable(name="failing_attack_for_tests:ATTACK")], tmp_path, InProcess(), SILENT
        )
    lines = (tmp_path / plan.spec.study / "attacks.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert "secret" not in lines[0]
    assert attacks_table(tmp_path / plan.spec.study).empty


@pytest.mark.parametrize("where", ["self.rounds, self.rows", "self.rounds.append", "self.rows +="])
def test_an_observer_that_fails_leaves_the_other_attacks_alone(csv, tmp_path, monkeypatch, where):
    name = f"own_attack_failing_{len(where)}"
    (tmp_path / "own_attack_for_tests.py").write_text(OWN, encoding="utf-8")
    (tmp_path / f"{name}.py").write_text(OWN.replace(where, f'raise KeyError("secret"); {where}'), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    plan, _ = plan_of(run_spec(csv, "fedavg", rounds=1))
    study = tmp_path / plan.spec.study
    execute(plan, study, {})
    tables = [AttackTable(name=f"{module}:ATTACK") for module in (name, "own_attack_for_tests")]
    attack_study([plan], tables, tmp_path, InProcess(), SILENT)
    failed, well = read_attacks(study).values()
    assert (failed["status"], well["status"]) == ("failed", "ok")
    assert f"{name}.py" in failed["error"]
    assert "secret" not in (study / "attacks.jsonl").read_text(encoding="utf-8")


def test_who_fails_at_overhearing_quotes_no_value(csv):
    def overheard(instruction, reply):
        raise KeyError("secret")

    plan, federation = plan_of(run_spec(csv, "fedavg", rounds=1))
    with pytest.raises(ExchangeError, match=r"KeyError at test_attacks\.py") as caught:
        train_run(plan, federation, overheard=overheard)
    assert "secret" not in str(caught.value)


def test_shadow_models_are_the_same_as_lanes_and_alone_and_the_runs_own_on_its_own_records(csv):
    plan, federation = plan_of(run_spec(csv, "splitfed-v1", "vanilla", rounds=2))
    population = Population.of(federation)
    masks = [population.members(), *(population.drawn(1, number) for number in range(3))]
    federations = [population.federation(federation, mask) for mask in masks]
    together = train_further(plan, "model-user", federations)
    alone = [train_further(plan, "model-user", [each])[0] for each in federations]
    for each, other in zip(together, alone, strict=True):
        assert all(torch.equal(each[name], other[name]) for name in each)
    own = train_run(plan, federation).parameters
    assert all(torch.equal(together[0][name], own[name]) for name in own)
    for mask in masks:
        counts = np.add.reduceat(mask.astype(int), population.records.offsets[:-1])
        assert counts.tolist() == list(plan.job.sizes)


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
