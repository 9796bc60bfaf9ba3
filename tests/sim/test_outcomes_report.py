"""A study of times, from the file to the report: no word and no figure of it is about classes."""

import json

import pandas as pd
import pytest
from support import SCENARIO, TIMES, call_suture, write_times

from sim.report.advice import advise
from sim.report.compare import compare
from sim.report.gallery import gallery
from sim.report.reading import read_results
from sim.results.store import read_table


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("times")
    write_times(folder / "clinics.csv", sizes=(30, 40, 50))
    data = "\n".join(f"{key} = {json.dumps(value)}" for key, value in TIMES.items() if value is not None)
    text = SCENARIO.replace('label = "label"', data).replace('features = ["x0", "x1", "x2", "x3"]\nscaling', "scaling")
    methods = '[[strategies]]\nname = "fedavg"\n[[strategies]]\nname = "splitfed-v1"\ncut = "vanilla"\n'
    methods += '[[strategies]]\nname = "local"\n'
    text = text.replace("reference = false", "reference = true")
    (folder / "times.toml").write_text(text.replace('"small"', '"times"') + methods, encoding="utf-8")
    assert call_suture("run", str(folder / "times.toml"), "--out", str(folder / "out"), "--jobs", "1") == 0
    return folder / "out" / "times"


def test_the_run_is_recounted(study, capsys):
    assert call_suture("verify", str(study)) == 0
    assert "all agree" in capsys.readouterr().out


def test_the_report_is_about_times(study):
    page = (study / "report.html").read_text(encoding="utf-8")
    text = page[page.index("<body") :]
    text = text[: text.index("<script")] + text[text.rindex("</script>") :]
    text = text.replace("(AUC)", "").replace("threshold: AUC", "")  # that of an attack
    for word in ("AUC", "ROC", "share of cases", "one class", "Balanced accuracy"):
        assert word not in text, word
    for word in ("Within-clinic concordance", "Integrated Brier score", "Kaplan-Meier"):
        assert word in text, word
    shown = gallery(read_results(study))
    assert shown.scores[0] == "Within-clinic concordance"
    assert not {"roc", "calibration"} & {figure.name for figure in shown.figures}


def test_methods_are_compared_and_chosen_by_the_concordance_within_clinics(study, capsys):
    table = read_table(study)
    assert call_suture("compare", study) == 0
    assert "within-clinic concordance" in " ".join(capsys.readouterr().out.split())
    found = compare(table, ["strategy", "cut"], "within_clinic_concordance", {})
    best = table.groupby("strategy")["within_clinic_concordance"].mean().drop(["prevalence", "local"])
    assert dict(zip(found.means["group"], found.means["mean"], strict=True))["FedAvg"] == pytest.approx(best["fedavg"])
    assert "within-clinic concordance" in advise(table, "", "within_clinic_concordance", planned=False).paragraph


def test_metrics_to_choose_from_are_those_that_the_study_has(study, capsys):
    assert call_suture("compare", str(study), "--metric", "mae") == 2
    told = capsys.readouterr().err
    assert '"within_clinic_concordance"' in told
    assert "auc" not in told


def test_predictions_are_survival_curves(study):
    [run, *_] = sorted(study.glob("*/predictions.parquet"))
    table = pd.read_parquet(run)
    curves = table[["survival_1", "survival_2.5", "survival_5", "survival_8"]]
    assert (curves.diff(axis=1).iloc[:, 1:] <= 0).all(axis=None)
    assert set(table["event"]) == {0, 1}
    assert "label" not in table


@pytest.mark.parametrize(
    ("intervals", "line"),
    [
        ("0", "0 is out of range; give a number of at least 1"),
        ("100000", "100000 is out of range; give a number of at most 127"),
        ("[9, 10]", "[9.0, 10.0] do not ascend to the horizon 8; write edges before it"),
    ],
)
def test_wrong_intervals_are_one_line(study, capsys, intervals, line):
    file = study.parents[1] / "times.toml"
    assert call_suture("check", str(file), "--set", f"data.intervals={intervals}") == 2
    assert capsys.readouterr().err.splitlines() == [f"{file}: data.intervals: {line}"]


@pytest.mark.parametrize(
    ("column", "values", "line"),
    [
        ("event", 2, 'event: column "event" holds 1 value besides 0 and 1; list the values that mean an event as '),
        ("event", 0, 'event: column "event" says that nobody had the event; take other records, or list the values '),
        ("days", -1, 'time: column "days" has no number from 0 in row 2; correct it'),
        ("days", "2024-05-01", 'time: column "days" has no number from 0 in row 2; correct it'),
    ],
)
def test_wrong_times_and_events_are_one_line(study, tmp_path, capsys, column, values, line):
    file = study.parents[1] / "times.toml"
    pd.read_csv(file.parent / "clinics.csv").assign(**{column: values}).to_csv(tmp_path / "wrong.csv", index=False)
    assert call_suture("check", str(file), "--set", f'data.path="{tmp_path / "wrong.csv"}"') == 2
    [found] = capsys.readouterr().err.splitlines()
    assert f": data.{line}" in found


def test_amounts_that_are_all_the_same_are_still_amounts(study, tmp_path, capsys):
    text = (study.parents[1] / "times.toml").read_text(encoding="utf-8")
    lines = [
        line for line in text.splitlines() if line.split(" = ")[0] not in ("time", "event", "horizon", "intervals")
    ]
    amounts = 'outcome = "amount"\nlabel = "days"\nlabel-range = [0, 12]'
    text = "\n".join(lines).replace('outcome = "time"', amounts)
    (tmp_path / "same.toml").write_text(text, encoding="utf-8")
    pd.read_csv(study.parents[1] / "clinics.csv").assign(days=5).to_csv(tmp_path / "clinics.csv", index=False)
    assert call_suture("run", str(tmp_path / "same.toml"), "--out", str(tmp_path), "--jobs", "1") == 0
    shown = capsys.readouterr().out
    assert "R²" in shown
    assert "AUC" not in shown


def test_canaries_are_refused(study, capsys):
    assert call_suture("audit", str(study)) == 2
    assert "canaries are of classes" in capsys.readouterr().err


def test_attacks_on_classes_are_refused(study, capsys):
    file = study.parents[1] / "times.toml"
    assert call_suture("check", str(file), "--set", 'attacks=[{name="rmia"}]') == 2
    assert "rmia is about classes, and there are none of times; remove it" in capsys.readouterr().err
