"""A study of regions from its file to its folder: all kinds of methods on the same patients, verified, in its words."""

import json
import math

import pandas as pd
import pytest
from support import write_csv

SCENARIO = """
name = "regions"
seeds = [0]
[data]
source = "csv"
path = "patients.csv"
label = "label"
clinic = "clinic"
scaling = "none"
layout = "vertical"
regions = true
[[parties]]
name = "doctor"
columns = ["x0", "x1"]
profile = "solo-practice"
[[parties]]
name = "laboratory"
columns = ["x2"]
label = true
profile = "hospital"
[[parties]]
name = "imaging"
columns = ["x3"]
regions = ["k0"]
profile = "hospital"
[[regions]]
sites = ["k1"]
profile = "rural-dsl"
[model]
name = "mlp"
hidden = [3, 4]
[train]
rounds = 2
batch-size = 20
learning-rate = 0.1
[privacy]
mechanism = "dp-sgd"
noise-multiplier = 2.0
clip = 0.5
delta = 1e-3
[[strategies]]
name = "vertical-splitfed"
cut = ["vanilla", "u-shaped"]
set.model.cut = [1, -1]
[[strategies]]
name = "vertical"
cut = "vanilla"
[[strategies]]
name = "vertical-alone"
[[strategies]]
name = "centralised"
[[strategies]]
name = "fedavg"
"""
PLACES = ["k0: doctor", "k0: laboratory", "k0: imaging", "k1: doctor", "k1: laboratory"]


@pytest.mark.slow
def test_a_study_of_regions_is_run_resumed_verified_and_told(tmp_path, suture):
    write_csv(tmp_path / "patients.csv", sizes=[90, 60])
    (tmp_path / "regions.toml").write_text(SCENARIO, encoding="utf-8")
    code, _, err = suture("run", "regions.toml", "--out", "results")
    assert code == 0, err
    study = tmp_path / "results" / "regions"
    runs = pd.read_parquet(study / "runs.parquet").set_index("run_id")
    assert len(runs) == 7
    assert set(runs["status"]) == {"ok"}
    assert (runs["epsilon_model_user"][runs["method"] != "prevalence"] < 10).all()
    joined = runs["method"].isin(["vertical", "vertical-splitfed"])
    assert set(runs.loc[joined, "epsilon_peer"]) == {math.inf}
    assert set(runs["worst_clinic"]) <= {"k0", "k1"}
    for run in runs.index[joined]:
        clinics = pd.read_parquet(study / run / "clinics.parquet").set_index("name")
        assert clinics.index.tolist() == [*PLACES, "k0", "k1"]
        assert clinics["records"].tolist() == [clinics["records"]["k0"]] * 3 + [clinics["records"]["k1"]] * 2 + [
            clinics["records"]["k0"],
            clinics["records"]["k1"],
        ]
        assert clinics["auc"].notna().tolist() == [False] * 5 + [True] * 2
        assert clinics["absent_auc"].notna().tolist() == [True] * 5 + [False] * 2
        statement = (study / run / "privacy.md").read_text(encoding="utf-8")
        assert "each patient is in one region" in " ".join(statement.split())
    held = {}
    for run, row in runs.iterrows():
        held[row["method"]] = pd.read_parquet(study / run / "predictions.parquet")[["record", "clinic"]]
    assert all(held["fedavg"].equals(each) for each in held.values())
    code, _, _ = suture("run", "regions.toml", "--out", "results")
    assert code == 0
    pd.testing.assert_frame_equal(runs, pd.read_parquet(study / "runs.parquet").set_index("run_id"))
    code, out, _ = suture("verify", study)
    assert (code, "7 of them recounted, all agree" in " ".join(out.split())) == (0, True)
    page = " ".join((study / "report.html").read_text(encoding="utf-8").split())
    assert "Worst region" in page
    assert "Within-region AUC" in page
    assert "Peer party" in page or "ε peer party" in page
    for wrong in ("ithin-clinic", "Worst clinic", "the peer clinic", "ε peer clinic", "each clinic&#39;s"):
        assert wrong not in page, wrong
    assert "over 2 regions with 99 training and 51 held-out patients" in page
    record = json.loads((study / runs.index[0] / "run.json").read_text(encoding="utf-8"))
    assert record["spec"]["regions"][0]["sites"] == ["k1"]


@pytest.mark.parametrize(
    ("right", "wrong", "line"),
    [
        ('regions = ["k0"]', 'regions = ["k9"]', 'parties.2.regions: "k9" is no region'),
        ('columns = ["x3"]', 'columns = ["xx"]', 'parties.2.columns: "xx" is no feature'),
        ('sites = ["k1"]', 'sites = ["k9"]', 'regions.0.sites: "k9" is no region'),
    ],
)
def test_a_wrong_name_is_one_line_though_regions_are_clinics_to_fedavg(tmp_path, suture, right, wrong, line):
    write_csv(tmp_path / "patients.csv", sizes=[60, 40])
    (tmp_path / "regions.toml").write_text(SCENARIO.replace(right, wrong), encoding="utf-8")
    code, _, err = suture("check", "regions.toml")
    assert code == 2
    assert line in err
    assert "clinics." not in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("reference", "link"), [("true", "k0: laboratory, k0: imaging: 1 Gbit/s up"), ("false", "k0: 1 Gbit/s up")]
)
def test_methods_of_regions_alone_are_described_too(tmp_path, suture, reference, link):
    write_csv(tmp_path / "patients.csv", sizes=[60, 40])
    tables, _, _ = SCENARIO.partition("[[strategies]]")
    alone = f'{tables}[evaluation]\nreference = {reference}\n[[strategies]]\nname = "fedavg"\n'
    (tmp_path / "regions.toml").write_text(alone, encoding="utf-8")
    code, out, err = suture("check", "regions.toml")
    assert (code, "Traceback" in err) == (0, False)
    assert link in " ".join(out.split())
