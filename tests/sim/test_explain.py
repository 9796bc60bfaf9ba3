"""What ``suture check`` says in words of a scenario's clinics and their data."""

from support import SCENARIO, write_csv

from sim.commands.explain import explain
from sim.data.federation import load_federation
from sim.scenario import load_scenario
from sim.scenario.spec import expand
from sim.study.planning import plan_runs

METHOD = '\n[[strategies]]\nname = "fedavg"\n'
UNRELIABLE = """
[[clinics]]
profile = "rural-dsl"
availability = { share = 0.8, mean-outage = 3 }
drop-out = 0.1
straggler = { chance = 0.25, slowdown = 4 }
"""


def told(tmp_path, text, word, **csv):
    write_csv(tmp_path / "clinics.csv", **csv)
    (tmp_path / "scenario.toml").write_text(text)
    scenario = load_scenario(tmp_path / "scenario.toml")
    federation = load_federation(expand(scenario)[0].data, 0)
    said = explain(scenario, list(plan_runs(expand(scenario))), federation, 1.0, 1, "guessed")
    return [paragraph for paragraph in said if paragraph.startswith(word)]


def losses(tmp_path, text):
    return told(tmp_path, text, "Availability")


def test_lines_of_the_same_rates_and_another_latency_are_told_apart(tmp_path):
    groups = [f'[[clinics]]\nprofile = "{name}"\ncount = 2\n' for name in ("legacy-broadband", "geo-satellite")]
    [said] = told(tmp_path, SCENARIO + "".join(groups) + METHOD, "Clinics")
    assert "k0, k1: 3 Mbit/s up, 25 Mbit/s down, 20 ms one way." in said
    assert "k2, k3: 3 Mbit/s up, 25 Mbit/s down, 300 ms one way." in said


def test_every_way_to_be_lost_is_said(tmp_path):
    text = SCENARIO.replace("rounds = 2", 'rounds = 2\ndeadline = "90 s"\nparticipation = 0.5\nover-select = 1.5')
    [said] = losses(tmp_path, text + UNRELIABLE + METHOD)
    assert "available in 0.8 of the rounds, with outages of 3 rounds on average" in said
    assert "dropping out of 0.1 of the rounds that they begin; 4 times slower in 0.25 of the rounds" in said
    assert "A round ends after 1.5 min at the latest" in said
    assert "1.5 times as many clinics as needed are asked" in said


def test_nothing_is_said_where_all_come_back(tmp_path):
    assert losses(tmp_path, SCENARIO + METHOD) == []


def test_a_long_list_of_what_is_not_private_is_shortened(tmp_path):
    text = SCENARIO.replace('"none"', '"pooled"')
    wide = text.replace('"x0", "x1", "x2", "x3"', ", ".join(f'"x{i}"' for i in range(8)))
    beginning = (
        "Preprocessing uses non-private statistics; no epsilon is finite where they enter: mean and deviation of x0, x1"
    )
    [said] = told(tmp_path, text + METHOD, "Data")
    assert said.endswith(f"{beginning}, x2, x3.")
    [said] = told(tmp_path, wide + METHOD, "Data", features=8)
    assert said.endswith(f"{beginning} and 6 others.")


def test_one_record_is_not_many(tmp_path):
    [said] = told(tmp_path, SCENARIO + METHOD, "Clinics", sizes=[9, 2])
    assert "the smallest is k1 (1 training record), the largest k0 (6)." in said


def test_attacks_are_counted_where_they_apply(tmp_path):
    attacks = '\n[[strategies]]\nname = "split"\n\n[[attacks]]\nname = "lira"\n\n[[attacks]]\nname = "decoder"\n'
    [line] = told(tmp_path, SCENARIO + METHOD + attacks, "Attacks on finished runs")
    plans = list(plan_runs(expand(load_scenario(tmp_path / "scenario.toml"))))
    trained = [plan for plan in plans if plan.job.method.trains]
    cut = [plan for plan in trained if plan.spec.strategy.cut]
    assert 0 < len(cut) < len(trained)
    assert f"lira by the model user, on {len(trained)} runs; decoder by the server, on {len(cut)} run" in line


def test_a_clinic_whose_name_is_a_number_is_no_count(tmp_path):
    write_csv(tmp_path / "clinics.csv", sizes=[9, 6])
    numbered = (tmp_path / "clinics.csv").read_text().replace("k0", "7").replace("k1", "12")
    (tmp_path / "clinics.csv").write_text(numbered)
    (tmp_path / "scenario.toml").write_text(SCENARIO + METHOD)
    scenario = load_scenario(tmp_path / "scenario.toml")
    federation = load_federation(expand(scenario)[0].data, 0)
    said = "\n".join(explain(scenario, list(plan_runs(expand(scenario))), federation, 1.0, 1, "guessed"))
    assert "the smallest is clinic 12 (" in said
    assert "the largest clinic 7 (" in said
    assert "clinic 12, clinic 7: " in said
    assert "different classes; clinic 7 has" in said


def test_pairs_of_an_ordinal_outcome_are_of_grades(tmp_path):
    graded = SCENARIO.replace("[data]", '[data]\noutcome = "ordinal"\ngrades = ["class0", "class1"]') + METHOD
    [said] = told(tmp_path, graded, "Scores")
    assert "the ordinal AUC within clinics rests on" in said
    assert "held-out records of different grades" in said
    assert "class" not in said


def test_who_is_trusted_and_whose_noise_counts(tmp_path):
    secure = '[privacy]\nmechanism = "clinic-level"\nnoise-multiplier = 1.0\ndelta = 1e-3\nsecure-aggregation = true\n'
    [said] = told(tmp_path, SCENARIO + secure + "colluding-clinics = 2\n" + METHOD, "Secure aggregation")
    assert "fewer than 4 clinics" in said
    assert "of variance 1 / 2 of what a sum needs" in said
    own = secure.replace("clinic-level", "dp-sgd")
    [said] = told(tmp_path, SCENARIO + own + METHOD, "Secure aggregation")
    assert "each clinic's own noise alone counts (FedAvg)." in said
    [said] = told(tmp_path, SCENARIO + own + 'trust = "active"\n' + METHOD, "Trust")
    assert "the server is taken to be active: it may lie" in said
    assert not told(tmp_path, SCENARIO + METHOD, "Trust")


def test_a_strategy_with_a_model_of_its_own_is_told_where_it_is_cut(tmp_path):
    own = """
[[strategies]]
name = "split"
cut = "u-shaped"
set.model = { hidden = [8, 8, 8], cut = 2 }
"""
    text = SCENARIO.replace("hidden = [6, 5]", "hidden = [6]")
    [line] = told(tmp_path, text + own, "U-shaped cut")
    assert line.startswith("U-shaped cut: hidden1, hidden2 and output at the clinic, where the labels stay; hidden3 at")


def test_hostile_clinics_are_named_with_what_they_send(tmp_path):
    bad = '[[clinics]]\nprofile = "hospital"\nsites = ["{}"]\nhostile = "{}"\n'
    groups = bad.format("k0", "sign-flip") + "hostile-strength = 3.0\n" + bad.format("k2", "label-flip")
    [said] = told(tmp_path, SCENARIO + groups + '[[clinics]]\nprofile = "hospital"\n' + METHOD, "Hostile")
    assert said == (
        "Hostile: k0 sends the opposite of its update (sign-flip, hostile-strength 3); "
        "k2 sends what it learns from flipped labels (label-flip)."
    )
    assert not told(tmp_path, SCENARIO + '[[clinics]]\nprofile = "hospital"\n' + METHOD, "Hostile")
