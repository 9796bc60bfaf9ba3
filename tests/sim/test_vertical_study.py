"""A vertical study from its file to its folder: run, resumed, verified, reported."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from support import write_csv

from sim.privacy.study_ledger import StudyRun
from sim.report.reading import read_results
from sim.report.words import conclusions, what_was_compared

SCENARIO = """
name = "vertical"
seeds = [0]
[data]
source = "csv"
path = "patients.csv"
label = "label"
exclude = ["clinic"]
scaling = "none"
layout = "vertical"
[[parties]]
name = "doctor"
columns = ["x0", "x1"]
profile = "solo-practice"
[[parties]]
name = "laboratory"
columns = ["x2", "x3"]
label = true
profile = "hospital"
[model]
name = "mlp"
hidden = [3, 4]
[train]
rounds = 3
batch-size = 20
learning-rate = 0.1
[privacy]
mechanism = "dp-sgd"
noise-multiplier = 2.0
clip = 0.5
delta = 1e-3
[[strategies]]
name = "vertical"
cut = ["vanilla", "u-shaped"]
set.model.cut = [1, -1]
[[strategies]]
name = "vertical-alone"
[[strategies]]
name = "vertical-alone"
label = "The doctor, given labels"
options = { party = "doctor" }
[[strategies]]
name = "centralised"
"""


@pytest.fixture
def study(tmp_path, suture):
    write_csv(tmp_path / "patients.csv", sizes=[120])
    (tmp_path / "vertical.toml").write_text(SCENARIO, encoding="utf-8")
    code, _, err = suture("run", "vertical.toml", "--out", "results")
    assert code == 0, err
    return tmp_path / "results" / "vertical"


@pytest.mark.slow
def test_a_study_is_run_resumed_verified_and_reported(study, suture):
    runs = pd.read_parquet(study / "runs.parquet")
    assert len(runs) == 6  # five methods and the line of reference
    assert set(runs["status"]) == {"ok"}
    vertical = runs[runs["strategy"] == "vertical"]
    assert set(vertical["epsilon_peer"]) == set(vertical["epsilon_server"]) == {float("inf")}
    assert (vertical["epsilon_model_user"] < 10).all()
    by_cut = vertical.groupby("cut")["bytes_up"].mean()
    assert by_cut["u-shaped"] > by_cut["vanilla"] > 0
    [folder] = {study / run for run in vertical["run_id"][:1]}
    clinics = pd.read_parquet(folder / "clinics.parquet").set_index("name")
    assert clinics.index.tolist() == ["doctor", "laboratory"]
    assert len(set(clinics["records"])) == 1
    assert clinics["test_records"].tolist()[0] == 0 < clinics["test_records"].tolist()[1]
    statement = (folder / "privacy.md").read_text(encoding="utf-8")
    assert "one patient's training record, its columns at all parties together" in statement
    assert "who is a patient" in statement
    code, out, _ = suture("run", study.parent.parent / "vertical.toml", "--out", study.parent)
    assert code == 0
    again = pd.read_parquet(study / "runs.parquet")
    pd.testing.assert_frame_equal(runs, again)  # wall seconds too: nothing was run again
    code, out, _ = suture("verify", study)
    assert (code, "6 of them recounted, all agree" in " ".join(out.split())) == (0, True)
    code, _, err = suture("audit", study)
    assert code == 2
    assert "these runs have parties" in err
    assert "laboratory" in (study / "report.html").read_text(encoding="utf-8")


def test_check_and_plan_name_the_parties(tmp_path, suture):
    write_csv(tmp_path / "patients.csv", sizes=[120])
    (tmp_path / "vertical.toml").write_text(SCENARIO, encoding="utf-8")
    code, out, err = suture("check", "vertical.toml")
    assert code == 0, err
    told = " ".join(out.split())
    assert "Parties: 2 with columns of the same" in told
    assert "doctor holds x0, x1; laboratory holds x2, x3" in told
    code, out, err = suture("plan", "vertical.toml")
    assert code == 0, err


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('columns = ["x2", "x3"]', 'columns = ["x2", "y"]', 'parties.1.columns: "y" is no feature'),
        ("label = true\n", "", "none has label = true"),
        ('layout = "vertical"', 'clinic = "clinic"', "have no effect on a horizontal layout"),
    ],
)
def test_a_fault_is_one_line(tmp_path, suture, old, new, line):
    write_csv(tmp_path / "patients.csv", sizes=[120])
    (tmp_path / "vertical.toml").write_text(SCENARIO.replace(old, new), encoding="utf-8")
    code, _, err = suture("check", "vertical.toml")
    assert code == 2
    assert line in " ".join(err.split())


@pytest.mark.slow
def test_words_are_of_parties_and_patients(study, suture):
    """Three times the patients would stand where sizes of clinics are added up; nobody else's hospital is meant."""
    runs = pd.read_parquet(study / "runs.parquet").set_index("run_id")
    page = " ".join((study / "report.html").read_text(encoding="utf-8").split())
    clinics = pd.read_parquet(study / runs.index[0] / "clinics.parquet")
    training, held_out = clinics["records"].max(), clinics["test_records"].sum()
    assert training + held_out == 120
    assert f"over 2 parties with columns of the same {training} training and {held_out} held-out patients" in page
    assert "Nothing is said about patients elsewhere." in page
    assert "hospitals that took no part" not in page
    assert "instead of training alone" not in page  # no party's patients are its own
    assert "What joining brings" not in page
    results = read_results(study)
    labelled = replace(results, runs=results.runs.assign(strategy="Of our own, " + results.runs["strategy"]))
    assert "over 2 parties with columns" in what_was_compared(labelled)
    assert "Nothing is said about patients elsewhere." in conclusions(labelled)[-1][1]
    code, out, _ = suture("compare", study, "--by", "strategy,cut")
    assert (code, "other patients of these clinics" in " ".join(out.split())) == (0, False)
    code, out, _ = suture("plan", study.parent.parent / "vertical.toml")
    assert (code, "over all parties" in " ".join(out.split())) == (0, True)
    for run, row in runs.iterrows():
        statement = (study / run / "privacy.md").read_text(encoding="utf-8")
        assert f"2 parties, {training} training patients." in statement
        assert "clinic that is protected least" not in statement
        assert "at 2 clinics" not in statement
        assert ("to predict for a patient all parties send their rows" in statement) == (row["strategy"] == "vertical")
        assert StudyRun.of(json.loads((study / run / "run.json").read_text(encoding="utf-8"))).shared
    given = [
        run for run in runs.index if "doctor is given them as they are" in (study / run / "privacy.md").read_text()
    ]
    assert runs.loc[given, "strategy"].tolist() == ["The doctor, given labels"]
