"""Zero-out and replace-one: against dp-accounting's own relation, and never both on one axis or in one comparison."""

import json
import math

import dp_accounting as dp
import pandas as pd
import pytest
from report_studies import datasets, make_runs, make_study
from support import DP_SGD, plan_of, run_spec, write_csv

from sim.privacy.ledger import ADVERSARIES, COLUMN_OF, REPLACE_COLUMN_OF
from sim.report.advice import advise
from sim.report.compare import compare
from sim.report.figures import curve_table, privacy_accuracy_chart
from sim.report.gallery import gallery
from sim.report.table import console_table, results_frame
from sim.report.words import conclusions

DELTA = 1e-3
ROWS = {"mechanism": "smashed-noise", "noise-multiplier": 4.0, "clip": 0.5, "delta": DELTA, "labels": "public"}
BOTH = {**DP_SGD, "mechanism": ["dp-sgd", "smashed-noise"], "smashed-noise-multiplier": 4.0, "labels": "public"}
LABELS = {"mechanism": "label-rr", "label-epsilon": 1.0, "delta": DELTA}
CLINIC = {"mechanism": "clinic-level", "noise-multiplier": 1.5, "delta": DELTA}


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("adjacency") / "clinics.csv")


@pytest.mark.parametrize(
    ("method", "privacy", "name"),
    [
        (("fedavg", None), DP_SGD, "zero-out"),
        (("fedavg", None), CLINIC, "zero-out"),
        (("splitfed-v1", "vanilla"), {**ROWS, "mechanism": "smashed-noise"}, "replace-one"),
        (("splitfed-v1", "vanilla"), BOTH, "replace-one"),
        (("splitfed-v1", "vanilla"), LABELS, "replace-one"),
        (("fedavg", None), {"mechanism": "none"}, ""),
    ],
)
def test_each_mechanism_has_its_adjacency_and_an_epsilon_for_replacement(csv, method, privacy, name):
    spec = run_spec(csv, *method, privacy)
    columns = plan_of(spec)[0].columns()
    assert columns["adjacency"] == name
    for adversary in ADVERSARIES:
        column = COLUMN_OF[adversary]
        own, replaced = columns[column], columns[REPLACE_COLUMN_OF[adversary]]
        assert math.isinf(own) == math.isinf(replaced)
        assert replaced >= own
        assert (replaced == 0) == (own == 0)


def test_replacement_against_dp_accountings_own_relation(csv):
    """The library states noise over the clipping norm there, and takes the factor of two into account itself."""
    plan, _ = plan_of(run_spec(csv, privacy=DP_SGD))
    found = []
    for clinic in plan.clinics:
        accountant = dp.pld.PLDAccountant(dp.NeighboringRelation.REPLACE_ONE)
        noise = dp.GaussianDpEvent(clinic.noise_multiplier)
        step = noise if clinic.sample_rate == 1 else dp.PoissonSampledDpEvent(clinic.sample_rate, noise)
        accountant.compose(dp.SelfComposedDpEvent(step, clinic.steps))
        found.append(accountant.get_epsilon(DELTA))
    assert plan.replace_epsilon["server"] == pytest.approx(max(found), rel=3e-3)


def two_adjacencies() -> pd.DataFrame:
    """FedAvg with noise on gradients, SplitFed with noise on rows, both at a target of 3 and one seed more each."""
    runs = make_runs(epsilons=(3.0, 8.0), methods=[("fedavg", ""), ("splitfed-v1", "vanilla")])
    rows = runs["strategy"] == "splitfed-v1"
    for column in COLUMN_OF.values():
        runs[column] = runs["privacy.epsilon"]
        runs[f"{column}_replace"] = runs["privacy.epsilon"].where(rows, 2.25 * runs["privacy.epsilon"])
    return runs.assign(
        adjacency=rows.map({True: "replace-one", False: "zero-out"}),
        mechanism=rows.map({True: "smashed-noise", False: "dp-sgd"}),
    )


EXPECTED = {("FedAvg", 3.0): "6.75", ("FedAvg", 8.0): "18", ("SplitFed V1", 3.0): "3", ("SplitFed V1", 8.0): "8"}


def titles(spec: object) -> list[str]:
    """Every axis title in a specification that speaks of epsilon."""
    found = []
    if isinstance(spec, dict):
        if isinstance(title := spec.get("title"), str) and "ε" in title and "field" in spec:
            found.append(title)
        found += [title for part in spec.values() for title in titles(part)]
    elif isinstance(spec, list):
        found += [title for part in spec for title in titles(part)]
    return found


@pytest.mark.parametrize("mixed", [True, False])
def test_an_axis_has_one_adjacency_and_names_it(mixed):
    runs = two_adjacencies()
    if not mixed:
        runs = runs.assign(adjacency="zero-out", mechanism="dp-sgd")
    name = "replace-one" if mixed else "zero-out"
    shown = gallery(make_study(runs))
    assert shown is not None
    points = shown.tables["trade_offs"]
    for series, level, epsilon in points[["series", "level", "epsilon"]].drop_duplicates().itertuples(index=False):
        target = float(level.removeprefix("ε = "))
        method = series.partition(",")[0]
        assert epsilon == (EXPECTED[method, target] if mixed else f"{target:.3g}"), (series, level)
    for figure in shown.figures:
        specs = [*shown.page_specs(figure), shown.paper_spec(figure, "heart")]
        found = [title for spec in specs for title in titles(spec)]
        assert all(name in title for title in found)
        assert bool(found) == (figure.name in ("privacy", "pareto"))
    chart = privacy_accuracy_chart(runs)
    assert titles(chart)
    for title in titles(chart):
        assert name in title
        assert title.startswith("ε of the model user" if mixed else "Target ε")
    drawn = {(row["series"].partition(",")[0], row["target"]) for row in datasets(chart) if "target" in row}
    assert {target for _, target in drawn} == (set(EXPECTED.values()) if mixed else {"3", "8"})
    assert set(curve_table(runs)["n"]) == {3}


def test_tables_have_one_adjacency_and_name_it():
    runs = two_adjacencies()
    assert results_frame(runs)["ε server"].tolist() == ["6.75", "18", "3", "8"]
    assert "All ε are for replace-one." in str(console_table(runs).caption)
    alone = runs[runs["strategy"] == "fedavg"]
    assert results_frame(alone)["ε server"].tolist() == ["3", "8"]
    assert "All ε are for zero-out." in str(console_table(alone).caption)


def test_the_pareto_front_does_not_take_two_adjacencies_for_one():
    """Under its own adjacency FedAvg would dominate with a smaller epsilon; under one, it has the larger."""
    runs = two_adjacencies()
    runs = runs[runs["privacy.epsilon"] == 3.0].assign(auc=lambda r: 0.8, sim_seconds=1.0, bytes_up=1, bytes_down=1)
    runs["epsilon_server"] = runs["epsilon_server"].where(runs["strategy"] != "fedavg", 2.9)
    shown = gallery(make_study(runs))
    points = (
        shown.tables["trade_offs"]
        .query("score == 'Pooled AUC' and adversary.str.contains('server')")
        .set_index("series")
    )
    assert points["front"].to_dict() == {"FedAvg": False, "SplitFed V1, vanilla": True}


def test_comparisons_and_advice_say_so():
    runs = two_adjacencies()
    note = "dp-sgd: zero-out; smashed-noise: replace-one"
    at_three = compare(runs, ["strategy", "cut"], "auc", {"epsilon": "3"})
    assert note in " ".join([at_three.conclusion(), *(text for _, text in conclusions(make_study(runs)))]).replace(
        "smashed-noise: replace-one; dp-sgd: zero-out", note
    )
    spent = compare(runs, ["strategy", "cut"], "epsilon_server", {"epsilon": "3"})
    assert spent.best == "SplitFed V1, vanilla"
    assert sorted(spent.means["mean"]) == [3.0, 6.75]
    advice = advise(runs, "epsilon_server<=5", "auc", planned=False)
    assert advice.best is not None
    assert "SplitFed" in advice.best
    assert not advice.as_good
    assert "compared under replace-one" in advice.paragraph
    alone = runs[runs["strategy"] == "fedavg"]
    assert "replace-one" not in advise(alone, "epsilon_server<=5", "auc", planned=False).paragraph
    assert json.dumps(advice.paragraph)
