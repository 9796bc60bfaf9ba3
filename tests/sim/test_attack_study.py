"""The attacks of a study: what is made again and what is not, what fails alone, and what stands in the table."""

import json
import math
import tomllib

import numpy as np
import pandas as pd
import pytest
import torch
from support import SCENARIO, plan_of, run_spec, write_csv

from sim.attacks.shadows import Population
from sim.foundation.problems import ScenarioError
from sim.methods.replies import ExchangeError
from sim.results.attack_log import read_attacks
from sim.results.attacks import COLUMNS, attacks_table
from sim.results.store import write_table
from sim.scenario import parse_scenario
from sim.scenario.study import AttackTable
from sim.study.attacking import attack_study, train_further
from sim.study.engines import InProcess
from sim.study.runner import Progress, execute
from sim.study.train import train_run

SILENT = Progress(lambda to_do, done, seconds: None, lambda row, seconds: None)
METHOD = '\n[[strategies]]\nname = "fedavg"\n\n'
FROZEN = {"freeze": ["head"]}


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("attacks") / "clinics.csv", sizes=(200, 300, 100))


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
    with pytest.raises(ExchangeError, match=r"KeyError at test_attack_study\.py") as caught:
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
