"""A label renames a method and changes nothing else: a labelled baseline is one in every table and sentence."""

from math import inf

import pytest
from report_studies import METHODS, make_runs, make_study
from support import write_scenario

from sim.foundation.problems import ScenarioError
from sim.methods.labels import method_label
from sim.report.advice import advise
from sim.report.compare import compare
from sim.report.decision import candidates_of, decide
from sim.report.figures import curve_table, reference_table
from sim.report.summary import successful_runs
from sim.report.table import baselines_of, results_frame
from sim.report.words import conclusions
from sim.scenario import load_scenario

LABELS = {"centralised": "Pooled records", "local": "On its own", "fedavg": "Averaging", "prevalence": "Base rate"}
SECONDS = {"FedAvg": {"1": 10.0}, "SplitFed V1, vanilla": {"1": 20.0}, "SplitFed V1, U-shaped": {"1": 30.0}}


def plain():
    """Every baseline and three methods; centralised training is far ahead, and so is training alone at no DP."""
    runs = make_runs(epsilons=[3.0, inf], methods=[("prevalence", ""), *METHODS])
    level = runs["strategy"].map({"prevalence": 0.5, "local": 0.95, "centralised": 0.97}).fillna(0.8)
    return runs.assign(within_clinic_auc=level + 0.01 * runs["seed"] + 0.0001 * (runs.index % 3))


def labelled():
    runs = plain()
    return runs.assign(strategy=runs["method"].replace(LABELS))


def named(text):
    """What is said of the plain methods, with their labels."""
    for method, label in LABELS.items():
        text = text.replace(method_label(method), label)
    return text


def test_a_labelled_baseline_is_compared_with_and_never_the_best():
    one, other = (
        compare(runs, ["strategy", "cut"], "within_clinic_auc", {"epsilon": "3"}) for runs in (plain(), labelled())
    )
    assert "of the methods that train together" in other.finding()
    assert other.finding() == named(one.finding())
    assert other.means["group"].tolist() == list(map(named, one.means["group"]))
    assert "Pooled records" not in other.best


def test_a_labelled_baseline_stands_below_the_methods_in_tables_and_sentences():
    assert successful_runs(labelled())["method_label"].tolist() == [
        named(label) for label in successful_runs(plain())["method_label"]
    ]
    assert baselines_of(labelled()) == {"Pooled records", "On its own", "Base rate"}
    assert results_frame(labelled())["Method"].tolist() == list(map(named, results_frame(plain())["Method"]))
    assert conclusions(make_study(labelled())) == [
        (level, named(said)) for level, said in conclusions(make_study(plain()))
    ]
    assert len(reference_table(curve_table(labelled()))) == len(reference_table(curve_table(plain()))) > 0


def test_a_labelled_baseline_is_no_choice_of_the_map_and_says_where_alone_is_as_good():
    found = []
    for runs, rename in ((plain(), str), (labelled(), named)):
        runs = runs[~runs["method"].isin(["centralised", "prevalence"])]
        table = candidates_of(runs, "privacy.epsilon")
        times = {(rename(name), row): own for name, own in SECONDS.items() for row in table["row"].unique()}
        shown = decide(table, times, ("clinics.uplink", "privacy.epsilon"), [])
        found.append([(rename(p.method), [*map(rename, p.others)], p.alone, p.settled) for p in shown.points])
    assert found[0] == found[1] or [(named(a), [*map(named, b)], *rest) for a, b, *rest in found[0]] == found[1]
    assert all(alone for _, _, alone, _ in found[1])


def test_a_labelled_line_of_reference_is_no_method_to_take():
    one, other = (
        advise(runs.assign(within_clinic_auc=runs["within_clinic_auc"].mask(runs["method"] == "prevalence", 0.99)),
               "epsilon_model_user<=3", "within_clinic_auc", planned=False)
        for runs in (plain(), labelled())
    )  # fmt: skip
    assert other.paragraph == named(one.paragraph)
    assert "Base rate" not in other.best


def test_a_label_is_no_other_method_s_name(tmp_path):
    write_scenario(tmp_path)
    path = tmp_path / "small.toml"
    with pytest.raises(ScenarioError, match='label: "local" is the name of a method; choose another label'):
        load_scenario(path, ['strategies=[{name = "fedavg", label = "local"}]'])
    load_scenario(path, ['strategies=[{name = "fedavg", label = "fedavg"}]'])
