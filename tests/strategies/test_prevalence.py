"""The line of reference: what a clinic's class frequencies alone predict, and the traps that it shows."""

import math
import tomllib

import numpy as np
import pandas as pd
import pytest
from support import STUDY, plan_of, write_csv

from sim import run
from sim.results.reading import read_json
from sim.results.run_tables import read_run_tables
from sim.results.verification import run_faults
from sim.scenario import parse_scenario
from sim.scenario.spec import expand
from sim.study.runner import execute


def scenario(folder, **tables):
    written = tomllib.loads(STUDY) | {"evaluation": {"reference": True}}
    for table, values in tables.items():
        written[table] = values if isinstance(values, list) else {**written.get(table, {}), **values}
    return parse_scenario(written, folder)


def references(wanted):
    return [spec for spec in expand(wanted) if spec.strategy.name == "prevalence"]


@pytest.mark.parametrize("classes", [2, 3])
def test_every_clinic_predicts_its_smoothed_training_frequencies(tmp_path, classes):
    csv = write_csv(tmp_path / "clinics.csv", [40, 9, 25])
    table = pd.read_csv(csv)
    table["label"] = [f"class{label}" for label in np.random.default_rng(0).integers(0, classes, len(table))]
    table.to_csv(csv, index=False)
    spec = references(scenario(tmp_path))[0]
    row = execute(plan_of(spec)[0], tmp_path, {})
    assert row["status"] == "ok"
    predictions, split = (read_run_tables(tmp_path, [spec.run_id], stem) for stem in ("predictions", "split"))
    train = table.loc[split.loc[split["part"] == "train", "record"]]
    for clinic, own in predictions.groupby("clinic"):
        labels = train.loc[train["clinic"] == clinic, "label"]
        for c in range(classes):
            expected = ((labels == f"class{c}").sum() + 1) / (len(labels) + classes)
            assert own[f"probability_{c}"].to_numpy() == pytest.approx(expected, rel=1e-6)
    assert row["within_clinic_auc"] == 0.5
    assert [row[name] for name in ("bytes_up", "bytes_down", "sim_seconds", "clinic_flops", "server_flops")] == [0] * 5
    epsilons = [row[f"epsilon_{adversary}"] for adversary in ("model_user", "peer", "server")]
    assert (row["mechanism"], epsilons) == ("none", [math.inf, 0, 0])
    assert run_faults(tmp_path / spec.run_id, read_json(tmp_path / spec.run_id, "run.json")) == []


def test_it_runs_once_for_each_seed_and_setting_of_the_data(tmp_path):
    write_csv(tmp_path / "clinics.csv")
    sweep = {
        "privacy.epsilon": [3, 8], "train.learning-rate": [0.1, 0.2], "data.test-share": [0.2, 0.3],
    }  # fmt: skip
    wanted = scenario(tmp_path, sweep=sweep)
    found = references(wanted)
    assert [(spec.data.test_share, spec.seed) for spec in found] == [(0.2, 0), (0.2, 1), (0.3, 0), (0.3, 1)]
    assert [spec.swept for spec in found[::2]] == [
        {"data.test-share": share, "privacy.epsilon": math.inf} for share in (0.2, 0.3)
    ]
    assert len(expand(wanted)) == 4 * 2 * 2 * 2 * 2 + 4


def test_no_setting_of_the_training_makes_another_run(tmp_path):
    write_csv(tmp_path / "clinics.csv")
    plain = references(scenario(tmp_path))
    changed = scenario(
        tmp_path,
        train={"rounds": 7, "deadline": "3 s"},
        model={"hidden": [9]},
        privacy={"clip": 2.0},
        clinics=[{"profile": "hospital", "availability": 0.5, "drop-out": 0.3}],
        strategies=[{"name": "fedavg"}],
    )
    assert [spec.run_id for spec in references(changed)] == [spec.run_id for spec in plain]


def test_it_is_there_once_and_may_be_left_out(tmp_path):
    write_csv(tmp_path / "clinics.csv")
    named = scenario(tmp_path, strategies=[{"name": "prevalence", "label": "base rate"}, {"name": "fedavg"}])
    assert [spec.strategy.label for spec in references(named)] == ["base rate"] * 2
    assert references(scenario(tmp_path, evaluation={"reference": False})) == []


@pytest.mark.slow
def test_only_leaves_the_line_of_reference_in(tmp_path, suture):
    write_csv(tmp_path / "clinics.csv")
    file = tmp_path / "small.toml"
    file.write_text(
        STUDY.replace("rounds = 10", "rounds = 1").replace("reference = false", "reference = true"), encoding="utf-8"
    )
    code, _, err = suture("run", file, "--only", "fedavg", "--out", tmp_path, "--jobs", "1")
    assert code == 0, err
    table = pd.read_parquet(tmp_path / "small" / "runs.parquet")
    assert table.groupby("strategy").size().to_dict() == {"fedavg": 4, "prevalence": 2}
    code, _, err = suture("run", file, "--only", "local", "--out", tmp_path, "--jobs", "1")
    assert code == 0, err
    assert len(pd.read_parquet(tmp_path / "small" / "runs.parquet")) == 10


@pytest.fixture(scope="module")
def many_small_hospitals(tmp_path_factory):
    """186 hospitals of 2 to 23 patients, whose features say nothing and whose shares of cases differ little."""
    rng = np.random.default_rng(7)
    sizes = rng.integers(2, 24, 186)
    clinic = np.repeat(np.arange(186), sizes)
    share = 1 / (1 + np.exp(-rng.normal(-1.8, 0.3, 186)))[clinic]
    table = pd.DataFrame({"clinic": clinic, "label": (rng.random(len(clinic)) < share).astype(int), "x0": 0.0})
    path = tmp_path_factory.mktemp("hospitals") / "many.csv"
    table.to_csv(path, index=False)
    return path


def test_a_split_by_class_tells_the_answer_and_the_within_clinic_auc_does_not_listen(many_small_hospitals, tmp_path):
    """Held-out records drawn by class within small hospitals: the training share predicts them, whoever they are."""
    pooled = {}
    for stratified in (False, True):
        data = {
            "source": "csv", "path": str(many_small_hospitals), "label": "label", "clinic": "clinic",
            "scaling": "none", "stratified": stratified,
        }  # fmt: skip
        written = {
            "name": f"split-{stratified}".lower(), "seeds": [0, 1, 2, 3, 4], "data": data,
            "model": {"name": "logistic"}, "train": {"rounds": 1, "batch-size": 8, "learning-rate": 0.1},
            "strategies": [{"name": "prevalence"}],
        }  # fmt: skip
        table = run(parse_scenario(written, tmp_path), tmp_path).runs
        assert (table["within_clinic_auc"] == 0.5).all()
        pooled[stratified] = table["auc"].mean()
    assert 0.45 < pooled[False] < 0.62
    assert pooled[True] > pooled[False] + 0.1
