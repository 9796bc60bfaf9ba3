"""What joining brings, ROC curves and clinics that took no part: scikit-learn and hand-made predictions decide."""

import re
from dataclasses import replace
from math import inf

import numpy as np
import pandas as pd
import pytest
from report_studies import make_predictions, make_runs, make_study
from sklearn.metrics import roc_auc_score

from sim.report.gallery import gallery, study_pictures
from sim.report.held_out import HeldOut
from sim.report.html import write_report
from sim.report.joining import ALONE, OTHERS, grouped, joining, joining_points
from sim.report.pictures import draw
from sim.report.points import calibration, elsewhere_points, placements, roc, with_levels
from sim.report.summary import successful_runs, trains_alone
from sim.report.words import answers

pytestmark = pytest.mark.usefixtures("no_vega")

CLINICS = {"north": 60, "south": 40, "east": 25}
LIFT = {"local": 0.6, "fedavg": 1.2, "splitfed-v1": 1.2, "elsewhere": 1.0}
METHODS = [("local", ""), ("fedavg", ""), ("splitfed-v1", "vanilla")]


def away_runs(seeds=(0, 1, 2)):
    """One run a clinic that is held out, and seed."""
    runs = pd.concat(
        [
            make_runs(epsilons=[inf], methods=[("elsewhere", "")], seeds=seeds).assign(held_out=clinic)
            for clinic in CLINICS
        ],
        ignore_index=True,
    )
    return runs.assign(run_id=[f"away{row}" for row in runs.index])


def study_of(runs, **clinics):
    predictions = make_predictions(runs, clinics or CLINICS, LIFT)
    held_out = HeldOut(predictions=predictions, ratio=0.5, same_patients=True, margin=0.01)
    rows = [(run_id, name, 10 * count) for run_id in runs["run_id"] for name, count in (clinics or CLINICS).items()]
    table = pd.DataFrame(rows, columns=["run_id", "name", "records"])
    scored = table.assign(test_records=table["records"] // 10, auc=0.7, accuracy=0.7)
    return make_study(runs, held_out=held_out), scored


def mixed():
    runs = pd.concat([make_runs(epsilons=[inf], methods=METHODS), away_runs()], ignore_index=True)
    study, clinics = study_of(runs.drop(columns="privacy.epsilon"))
    return study, clinics


def auc_by_hand(study, series, clinic, records=None):
    """Mean over seeds of scikit-learn's AUC of one series at one clinic, on the records given."""
    own = study.ok[study.ok["series"] == series]
    found = []
    for _, runs in own.groupby("seed"):
        at = study.held_out.predictions
        at = at[at["run_id"].isin(runs["run_id"]) & (at["clinic"] == clinic)]
        at = at if records is None else at[at["record"].isin(records)]
        found.append(roc_auc_score(at["label"], at["probability_1"]))
    return float(np.mean(found))


def test_gains_over_training_alone_are_differences_of_aucs_at_each_clinic():
    study, clinics = mixed()
    table = joining(study.drawn, study.away, clinics, study.held_out)
    assert table["clinic"].drop_duplicates().tolist() == ["north", "south", "east"]  # the largest first
    alone = table[table["against"] == ALONE].set_index(["series", "clinic"])
    for series in ("FedAvg", "SplitFed V1, vanilla"):
        for clinic in CLINICS:
            by_hand = auc_by_hand(study, series, clinic) - auc_by_hand(study, "Local", clinic)
            row = alone.loc[series, clinic]
            assert row["mean"] == pytest.approx(by_hand, abs=1e-6)
            assert row["lower"] < row["mean"] < row["upper"]


def test_the_others_model_is_compared_on_the_same_records():
    """Of the model that was trained without the clinic, the records that are held out with the seed count alone."""
    study, clinics = mixed()
    known = study.held_out.predictions
    joined = known["run_id"].isin(study.drawn["run_id"])
    short = known[~joined | (known["record"] % 1000 < 20)]  # joined models are scored on 20 records a clinic
    table = joining(study.drawn, study.away, clinics, replace(study.held_out, predictions=short))
    others = table[table["against"] == OTHERS].set_index(["series", "clinic"])
    held = [1000 * place + record for place in range(3) for record in range(20)]
    by_hand = auc_by_hand(study, "FedAvg", "north", held) - auc_by_hand(study, "elsewhere", "north", held)
    assert others.loc[("FedAvg", "north"), "mean"] == pytest.approx(by_hand, abs=1e-6)
    assert set(others["other"]) == {"Not joined: elsewhere"}


def test_intervals_of_gains_hold_the_truth():
    """Under no difference, 95 % of the intervals hold 0, less what the pooled variance and few patients cost."""
    hits = []
    for repetition in range(60):
        runs = make_runs(epsilons=[inf], methods=METHODS[:2], seeds=[repetition])
        even = make_predictions(runs, CLINICS, {"local": 1.0, "fedavg": 1.0})
        known = HeldOut(predictions=even, ratio=0.5, same_patients=True, margin=0.01)
        ok = with_levels(successful_runs(runs))
        rows = [(run_id, name, 50) for run_id in runs["run_id"] for name in CLINICS]
        table = joining(ok, ok.iloc[:0], pd.DataFrame(rows, columns=["run_id", "name", "records"]), known)
        hits += ((table["lower"] <= 0) & (table["upper"] >= 0)).tolist()
    assert len(hits) == 180
    assert 0.9 <= np.mean(hits) <= 0.99


def test_many_clinics_are_groups_of_like_size_until_one_is_searched_for():
    sizes = {f"clinic-{number}": 20 + number for number in range(30)}
    study, clinics = study_of(make_runs(epsilons=[inf], methods=METHODS[:2]).drop(columns="privacy.epsilon"), **sizes)
    table = joining(study.drawn, study.away, clinics, study.held_out)
    groups = grouped(table)
    assert groups["clinic"].tolist()[0] == "440 to 490 records (6 clinics)"
    assert len(groups) == 5
    first = table[table["records"] >= 440]
    assert groups["mean"].iloc[0] == pytest.approx(first["mean"].mean())
    names = {"as set": {"Local": "Local", "FedAvg": "FedAvg"}}
    points = joining_points(table, study.drawn, names, "within_clinic_auc")
    assert points.groupby("group").size().to_dict() == {True: 5, False: 30}


def test_a_group_of_clinics_of_one_size_is_no_range():
    sizes = {f"clinic-{number}": 8 * (1 + number % 3) for number in range(30)}
    study, clinics = study_of(make_runs(epsilons=[inf], methods=METHODS[:2]).drop(columns="privacy.epsilon"), **sizes)
    names = grouped(joining(study.drawn, study.away, clinics, study.held_out))["clinic"]
    assert names.unique().tolist() == ["160 to 240 records (20 clinics)", "80 records (10 clinics)"]


def test_the_area_below_the_roc_curve_is_the_within_clinic_auc():
    study, _ = mixed()
    curves = roc(study.drawn, study.held_out.predictions)
    own = curves[curves["series"] == "FedAvg"]
    assert len(own) == 101
    concordant = pairs = 0.0
    known = study.held_out.predictions.merge(study.ok[study.ok["series"] == "FedAvg"][["run_id"]])
    for _, at in known.groupby(["run_id", "clinic"]):
        both = at["label"].sum() * (1 - at["label"]).sum()
        concordant += both * roc_auc_score(at["label"], at["probability_1"])
        pairs += both
    placed, weight = placements(known)
    assert 1 - np.average(placed, weights=weight) == pytest.approx(concordant / pairs, abs=1e-12)
    area = np.trapezoid(own["sensitivity"], own["false_positive_rate"])
    assert area == pytest.approx(concordant / pairs, abs=0.01)


def test_placements_by_hand():
    """Controls at .2 and .6, cases at .6 (tied with one) and .9; a clinic without controls has no pair."""
    rows = [("a", 0, 0.2), ("a", 0, 0.6), ("a", 1, 0.6), ("a", 1, 0.9), ("b", 1, 0.5)]
    table = pd.DataFrame(rows, columns=["clinic", "label", "probability_1"]).assign(run_id="r")
    placed, weight = placements(table)
    assert placed.tolist() == [0.25, 0.0]
    assert weight.tolist() == [2.0, 2.0]


def test_calibration_is_the_share_of_cases_in_tenths():
    study, _ = mixed()
    table = calibration(study.drawn, study.held_out.predictions)
    own = table[table["series"] == "Local"]
    assert own["records"].sum() == 3 * sum(CLINICS.values())
    known = study.held_out.predictions.merge(study.ok[study.ok["series"] == "Local"][["run_id"]])
    lowest = known.nsmallest(int(own["records"].iloc[0]), "probability_1")
    assert own["observed"].iloc[0] == pytest.approx(lowest["label"].mean())
    assert own["predicted"].iloc[0] == pytest.approx(lowest["probability_1"].mean())


def test_clinics_that_took_no_part_have_a_forest_plot():
    study, _ = mixed()
    table = elsewhere_points(study.away, study.held_out)
    assert table["kind"].tolist() == ["clinic"] * 3  # of fewer than five nothing is said about others
    north = table.set_index("clinic").loc["north", "mean"]
    assert north == pytest.approx(auc_by_hand(study, "elsewhere", "north"), abs=1e-6)


def test_the_report_draws_and_tells_all_of_it(tmp_path):
    study, _ = mixed()
    study = make_study(study.runs, held_out=study.held_out)
    shown = gallery(study)
    names = [figure.name for figure in shown.figures]
    assert {"joining", "joining_others", "joining_size", "roc", "calibration", "elsewhere"} <= set(names)
    assert "elsewhere" not in set(shown.tables["scores"]["series"])  # scored on other records
    said = " ".join(answers(study, shown))
    assert re.search(
        r"Joining with FedAvg = SplitFed V1 instead of training alone changes a clinic's AUC by [+-]\.\d{3} \(\w+\) to "
        r"[+-]\.\d{3} \(\w+\); the interval of each clinic by itself is above 0 for \d of 2 clinics with an AUC",
        said,
    )
    text = write_report(study, tmp_path).read_text(encoding="utf-8")
    assert "Runs that hold out whole clinics are scored on other records and are left out here." in text
    pictures = study_pictures(study, shown)
    assert {"roc", "joining", "elsewhere"} <= set(pictures)
    draw({name: pictures[name] for name in ("roc", "elsewhere")}, tmp_path)


def test_the_line_of_reference_is_nobody_to_join_or_to_be_compared_with():
    assert [trains_alone(name) for name in ("local", "prevalence", "centralised", "fedavg")] == [
        True,
        False,
        False,
        False,
    ]
