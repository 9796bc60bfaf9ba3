"""What ``suture check`` says in words of clinics that are away, lost or slow."""

from support import SCENARIO, write_csv

from sim.data import load_federation
from sim.report.explain import explain
from sim.scenario import load_scenario
from sim.spec import expand
from sim.study.runner import plan_runs

METHOD = '\n[[strategies]]\nname = "fedavg"\n'
UNRELIABLE = """
[[clinics]]
profile = "rural-dsl"
availability = { share = 0.8, mean-outage = 3 }
drop-out = 0.1
straggler = { chance = 0.25, slowdown = 4 }
"""


def losses(tmp_path, text):
    write_csv(tmp_path / "clinics.csv")
    (tmp_path / "scenario.toml").write_text(text)
    scenario = load_scenario(tmp_path / "scenario.toml")
    federation = load_federation(expand(scenario)[0].data, 0)
    said = explain(scenario, list(plan_runs(expand(scenario))), federation, 1.0, 1, "guessed")
    return [paragraph for paragraph in said if paragraph.startswith("Losses")]


def test_every_way_to_be_lost_is_said(tmp_path):
    text = SCENARIO.replace("rounds = 2", 'rounds = 2\ndeadline = "90 s"\nparticipation = 0.5\nover-select = 1.5')
    [said] = losses(tmp_path, text + UNRELIABLE + METHOD)
    assert "there in 0.8 of the rounds, away for 3 rounds on average" in said
    assert "lost in 0.1 of the rounds that they begin; 4 times slower in 0.25 of the rounds" in said
    assert "A round ends after 1.5 min at the latest" in said
    assert "1.5 times as many clinics are asked as are wanted" in said


def test_nothing_is_said_where_all_come_back(tmp_path):
    assert losses(tmp_path, SCENARIO + METHOD) == []
