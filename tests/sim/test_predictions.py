"""Predictions and the split: what a re-analysis needs, in a run's folder."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from support import plan_of, run_spec, write_csv

from sim.foundation.problems import ScenarioError
from sim.results.run_tables import read_run_tables
from sim.results.scores import score_faults
from sim.study.runner import execute


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a CSV in no order of clinics, the run on it, its row and the study's folder."""
    folder = tmp_path_factory.mktemp("predictions")
    csv = write_csv(folder / "own.csv", [30, 25, 40])
    table = pd.read_csv(csv).sample(frac=1, random_state=3)
    table["who"] = [f"{clinic} {i % 9}" for i, clinic in enumerate(table["clinic"])]
    table.to_csv(csv, index=False)
    spec = run_spec(csv, "local", rounds=2)
    data = spec.data.model_copy(
        update={"validation_share": 0.2, "patient": "who", "features": ("x0", "x1", "x2", "x3")}
    )
    spec = spec.model_copy(update={"data": data})
    row = execute(plan_of(spec)[0], folder, {})
    assert row["status"] == "ok"
    return table.reset_index(drop=True), spec, row, folder


def test_the_split_says_of_every_row_of_the_file_where_it_went(run):
    table, spec, _, folder = run
    split = read_run_tables(folder, [spec.run_id], "split")
    assert split["record"].tolist() == list(range(len(table)))
    assert split["clinic"].tolist() == table["clinic"].tolist()
    assert set(split["part"]) == {"train", "validation", "test"}
    clinics = read_run_tables(folder, [spec.run_id], "clinics").set_index("name")
    counts = pd.crosstab(split["clinic"], split["part"])
    assert counts["train"].to_dict() == clinics["records"].to_dict()
    assert counts["test"].to_dict() == clinics["test_records"].to_dict()


def test_predictions_are_of_the_files_rows_and_give_the_rows_scores_again(run):
    table, spec, row, folder = run
    found = read_run_tables(folder, [spec.run_id], "predictions")
    split = read_run_tables(folder, [spec.run_id], "split")
    assert sorted(found["record"]) == split["record"][split["part"] == "test"].tolist()
    own = table.loc[found["record"]]
    same = own["who"].to_numpy()[:, None] == own["who"].to_numpy()
    assert np.array_equal(found["patient"].to_numpy()[:, None] == found["patient"].to_numpy(), same)
    assert found["clinic"].tolist() == own["clinic"].tolist()
    assert [f"class{label}" for label in found["label"]] == own["label"].tolist()
    assert found["clinic"].is_monotonic_increasing
    score = found["probability_1"]
    assert row["auc"] == pytest.approx(sk.roc_auc_score(found["label"], score), rel=1e-12)
    assert row["auprc"] == pytest.approx(sk.average_precision_score(found["label"], score), rel=1e-12)
    assert row["brier"] == pytest.approx(sk.brier_score_loss(found["label"], score.astype(float)), rel=1e-6)
    groups = [group for _, group in found.groupby("clinic")]
    own_aucs = [sk.roc_auc_score(group["label"], group["probability_1"]) for group in groups]
    pairs = [group["label"].sum() * (1 - group["label"]).sum() for group in groups]
    assert row["within_clinic_auc"] == pytest.approx(np.average(own_aucs, weights=pairs), rel=1e-12)


def changed(column, value):
    def change(table):
        values = table[column].astype(object)
        values.iloc[1] = value
        return table.assign(**{column: values.infer_objects()})

    return change


@pytest.mark.parametrize(
    ("stem", "change", "line"),
    [
        ("predictions", lambda table: table.drop(columns="clinic"), "clinic: the column is missing"),
        ("predictions", lambda table: table.drop(columns="probability_1"), "probability_1: the column is missing"),
        ("predictions", changed("probability_1", 1.5), "probability_1: holds something other than probabilities"),
        ("predictions", changed("probability_0", np.nan), "probability_0: lacks a value"),
        ("predictions", changed("label", 2), "label: names a class that has no probability"),
        ("predictions", changed("label", -1), "label: holds something other than whole numbers from 0 on"),
        ("predictions", changed("record", 0.5), "record: holds something other than whole numbers from 0 on"),
        ("predictions", changed("clinic", None), "clinic: lacks a value"),
        ("predictions", lambda table: table.assign(clinic=1), "clinic: holds something other than text"),
        ("predictions", lambda table: pd.concat([table, table]), "record: has a duplicate value"),
        ("predictions", lambda table: table[:0], "has no rows"),
        ("split", lambda table: table.drop(columns="part"), "part: the column is missing"),
        ("split", changed("part", "elsewhere"), "part: is none of train, validation, test"),
        ("split", changed("record", None), "record: lacks a value"),
    ],
)
def test_a_table_of_records_that_does_not_fit_is_refused_in_one_line(run, tmp_path, stem, change, line):
    _, spec, _, folder = run
    own = tmp_path / spec.run_id
    own.mkdir()
    table = read_run_tables(folder, [spec.run_id], stem).drop(columns="run_id")
    change(table).to_parquet(own / f"{stem}.parquet", index=False)
    shutil.copytree(folder / spec.run_id, tmp_path / "sound")
    assert len(read_run_tables(tmp_path, ["sound"], stem)) == len(table)
    with pytest.raises(ScenarioError) as refused:
        read_run_tables(tmp_path, ["sound", spec.run_id], stem)
    [problem] = refused.value.problems
    assert problem.startswith(f"{own / stem}.parquet: {line}")
    assert "\n" not in problem


def faults_of(run, tmp_path, *, row=None, **tables):
    """Count the scores of a run again after its row, or its tables, have been changed."""
    _, spec, _, folder = run
    own = tmp_path / spec.run_id
    shutil.copytree(folder / spec.run_id, own)
    for stem, change in tables.items():
        path = own / f"{stem}.parquet"
        change(pd.read_parquet(path)).to_parquet(path, index=False)
    record = json.loads((own / "run.json").read_text(encoding="utf-8"))
    record["row"] |= row or {}
    return [fault.removeprefix(f"{own}/") for fault in score_faults(own, record)]


def test_the_scores_of_a_run_are_those_of_its_predictions(run, tmp_path):
    assert faults_of(run, tmp_path) == []


@pytest.mark.parametrize("score", ["within_clinic_auc", "auc", "brier", "calibration_slope", "sensitivity"])
def test_a_better_score_than_the_predictions_is_found(run, tmp_path, score):
    [fault] = faults_of(run, tmp_path, row={score: run[2][score] + 0.01})
    assert fault.startswith(f"run.json: row.{score}: ")
    assert fault.endswith(f"the predictions give {run[2][score]:.6g}")


def test_better_predictions_than_the_scores_are_found(run, tmp_path):
    def better(table):
        right = table["label"].astype("float32")
        return table.assign(probability_1=right, probability_0=1 - right)

    found = faults_of(run, tmp_path, predictions=better)
    assert any(fault.startswith("run.json: row.within_clinic_auc: ") for fault in found)
    assert any(fault.startswith("clinics.parquet: auc, clinic 0: ") for fault in found)


def test_predictions_are_of_the_records_that_the_split_holds_out(run, tmp_path):
    other = faults_of(run, tmp_path, predictions=lambda table: table[1:])
    assert other == ["predictions.parquet: is not of the records that split.parquet holds out"]


def test_predictions_stand_clinic_by_clinic(run, tmp_path):
    found = faults_of(run, tmp_path, predictions=lambda table: table.sample(frac=1, random_state=0))
    assert found == ["predictions.parquet: clinic: is not in order, clinic by clinic"]
