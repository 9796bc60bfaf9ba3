"""Scores by group of patients, against scikit-learn on the source's own column."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from support import plan_of, write_csv

from sim.data import heart
from sim.data.groups import read_groups
from sim.foundation.problems import ScenarioError
from sim.results.run_tables import read_run_tables
from sim.scenario import parse_scenario
from sim.scenario.spec import expand
from sim.scenario.study import GroupColumn
from sim.study.runner import execute

HEART = Path(__file__).parents[2] / "scenarios" / "heart.toml"


def test_scores_by_sex_and_age_are_those_of_the_sources_rows(tmp_path):
    written = tomllib.loads(HEART.read_text(encoding="utf-8"))
    written["evaluation"] = {"groups": ["sex", {"column": "age", "bands": [50, 60]}], "reference": False}
    written |= {"strategies": [{"name": "fedavg"}], "seeds": [2], "sweep": {}, "privacy": {}}
    written.pop("tune", None)
    [spec] = expand(parse_scenario(written, HEART.parent))
    assert execute(plan_of(spec)[0], tmp_path, {})["status"] == "ok"
    groups = read_run_tables(tmp_path, [spec.run_id], "groups").set_index(["group", "level"])
    assert list(groups.index) == [
        *(("sex", level) for level in ("0", "1")),
        *(("age", level) for level in ("below 50", "50 to below 60", "60 and above")),
    ]
    header, *lines = (line.split(",") for line in heart.lines())
    source = pd.DataFrame(lines, columns=header)
    predictions = read_run_tables(tmp_path, [spec.run_id], "predictions")
    own = source.loc[predictions["record"]].reset_index(drop=True)
    age = own["age"].astype(float)
    masks = {
        ("sex", "0"): own["sex"].astype(float) == 0,
        ("age", "50 to below 60"): (age >= 50) & (age < 60),
        ("age", "60 and above"): age >= 60,
    }
    for place, mask in masks.items():
        y, score = predictions.loc[mask, "label"], predictions.loc[mask, "probability_1"]
        assert groups.loc[place, "records"] == mask.sum()
        assert groups.loc[place, "auc"] == pytest.approx(sk.roc_auc_score(y, score))
        assert groups.loc[place, "auprc"] == pytest.approx(sk.average_precision_score(y, score))
    split = read_run_tables(tmp_path, [spec.run_id], "split")
    men = source.loc[split.loc[split["part"] == "train", "record"], "sex"].astype(float) == 1
    assert groups.loc[("sex", "1"), "training_records"] == men.sum()
    stated = json.loads((tmp_path / spec.run_id / "run.json").read_text(encoding="utf-8"))["privacy"]["statement"]
    assert any("groups.parquet" in row["where"] for row in stated["not-covered"])


@pytest.fixture
def csv(tmp_path):
    path = write_csv(tmp_path / "clinics.csv", [8, 8])
    table = pd.read_csv(path)
    table["ward"] = ["b", "a", "", "a"] * 4
    table["stage"] = [3, 1, 2, 10] * 4
    table["day"] = np.arange(16) * 1.5
    table["note"] = [f"n{i}" for i in range(16)]
    table.loc[3, "day"] = np.nan
    table = pd.concat([table] * 2, ignore_index=True)
    table["id"] = [f"p{i}" for i in range(32)]
    table.to_csv(path, index=False)
    return path


def groups_of(csv, *columns):
    data = {
        "source": "csv", "path": str(csv), "label": "label", "clinic": "clinic", "features": ["x0"], "scaling": "none",
    }  # fmt: skip
    written = {
        "name": "small", "seeds": [0], "data": data, "model": {"name": "logistic"},
        "train": {"rounds": 1, "batch-size": 8, "learning-rate": 0.1}, "strategies": [{"name": "fedavg"}],
        "evaluation": {"groups": list(columns)},
    }  # fmt: skip
    scenario = parse_scenario(written, csv.parent)
    return read_groups(scenario.data, scenario.evaluation.groups, 0)


def test_levels_are_the_values_in_their_order_and_a_missing_one_is_named(csv):
    ward, stage, day = groups_of(csv, "ward", "stage", {"column": "day", "bands": [3, 9]})
    assert ward.levels == ("a", "b", "missing")
    assert ward.codes[:4].tolist() == [1, 0, 2, 0]
    assert stage.levels == ("1", "2", "3", "10")
    assert day.levels == ("below 3", "3 to below 9", "9 and above", "missing")
    assert day.codes[:8].tolist() == [0, 0, 1, 3, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("column", "line"),
    [
        ("wart", '0: there is no column "wart"; did you mean "ward"?'),
        ("id", '0: column "id" has more than 20 different values; give bands, such as bands = [50, 65]'),
        (
            {"column": "ward", "bands": [1]},
            '0: column "ward" holds something other than numbers, which have no bands; leave them out',
        ),
        ({"column": "day", "bands": [2, 1]}, "0.bands: [2.0, 1.0] does not ascend; write the edges from low to high"),
        ({"column": "day", "band": [2]}, '0.band: unknown key; did you mean "bands"?'),
        (3, "0: 3 is not a table; write it as one"),
    ],
)
def test_a_column_that_cannot_group_is_one_line(csv, column, line):
    with pytest.raises(ScenarioError) as refused:
        groups_of(csv, column)
    assert list(refused.value.problems) == [f"scenario: evaluation.groups.{line}"]


def test_a_made_up_feature_groups_too(csv):
    data = parse_scenario(
        {
            "name": "made", "seeds": [0], "data": {"source": "synthetic", "clinics": 2, "records": 40},
            "model": {"name": "logistic"}, "train": {"rounds": 1, "batch-size": 8, "learning-rate": 0.1},
            "strategies": [{"name": "fedavg"}],
        },
        csv.parent,
    ).data  # fmt: skip
    [found] = read_groups(data, [GroupColumn(column="x1", bands=(0.0,))], 3)
    assert found.levels == ("below 0", "0 and above")
    assert 0 < found.codes.sum() < 40
