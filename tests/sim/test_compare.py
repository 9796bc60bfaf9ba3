"""Means, paired differences and what is concluded from them, against scipy and by hand."""

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support import call_suture

from sim.foundation.problems import ScenarioError
from sim.report.compare import as_text, compare, readable
from sim.report.held_out import HeldOut
from sim.results.store import as_table

RNG = np.random.default_rng(5)
SEEDS = range(6)
BASE = RNG.normal(0.7, 0.05, len(SEEDS))
SCORES = {
    ("fedavg", ""): BASE,
    ("split", "vanilla"): BASE + 0.05 + RNG.normal(0, 0.004, len(SEEDS)),
    ("splitfed-v1", "u-shaped"): BASE + 0.049 + RNG.normal(0, 0.02, len(SEEDS)),
}


def runs(**changes):
    rows = [
        {
            "run_id": f"{s}{c}{seed}{e}",
            "study": "s",
            "strategy": s,
            "method": s,
            "cut": c,
            "seed": seed,
            "status": "ok",
            "rounds": 1,
        }
        | {"auc": scores[seed] - 0.1 / e, "loss": 1 - scores[seed], "privacy.epsilon": float(e)}
        for (s, c), scores in SCORES.items()
        for seed in SEEDS
        for e in (1, 8)
    ]
    return as_table([row | changes for row in rows])


def half_width(values, ratio=0.5):
    """Nadeau & Bengio's, of a study whose share of held-out records is not known: a third is taken."""
    return stats.t.ppf(0.975, len(values) - 1) * math.sqrt((1 / len(values) + ratio) * np.var(values, ddof=1))


def test_means_and_differences_have_corrected_resampled_intervals():
    found = compare(runs(), ["strategy", "cut"], "auc", {"epsilon": "8"})
    assert found.best == "Split learning, vanilla"
    best = SCORES["split", "vanilla"] - 0.1 / 8
    mean = found.means.set_index("group").loc[found.best]
    assert (mean["mean"], mean["half_width"]) == pytest.approx((best.mean(), half_width(best)))
    two = runs()[runs()["strategy"] != "splitfed-v1"]
    row = compare(two, ["strategy", "cut"], "auc", {"epsilon": "8"}).differences.set_index("group").loc["FedAvg"]
    pairs = SCORES["fedavg", ""] - SCORES["split", "vanilla"]
    assert (row["mean"], row["half_width"]) == pytest.approx((pairs.mean(), half_width(pairs)))


def test_pairs_resolve_what_the_means_do_not():
    """Seeds move all methods alike: the two intervals of the means overlap, the difference is clear all the same."""
    found = compare(runs(), ["strategy", "cut"], "auc", {"privacy.epsilon": "8.0"})
    means = found.means.set_index("group")
    one, two = means.loc["FedAvg"], means.loc["Split learning, vanilla"]
    assert one["mean"] + one["half_width"] > two["mean"] - two["half_width"]
    said = found.conclusion()
    assert "It is better than FedAvg." in said
    assert (
        "About SplitFed V1, U-shaped nothing can be concluded: the data allow for no difference and for one of more "
        "than .01." in said
    )
    assert "No method was tuned" in said
    assert "over seeds, widened because these deal the same patients anew" in said


def test_equal_within_the_margin_is_told_from_no_conclusion():
    table = runs()
    twin = table[table["strategy"] == "split"].assign(strategy="twin")
    twin["auc"] -= 0.002 + 0.0001 * twin["seed"]
    rough = twin.assign(strategy="rough", auc=twin["auc"] + 0.02 * np.cos(twin["seed"]))
    at = {"epsilon": "8"}
    found = compare(pd.concat([table, twin, rough]), ["strategy", "cut"], "auc", at)
    said = found.differences.set_index("group")["verdict"]
    assert said["rough, vanilla"] == "no conclusion"
    alone = compare(pd.concat([table[table["strategy"] == "split"], twin]), ["strategy", "cut"], "auc", at)
    assert alone.differences["verdict"].tolist() == ["equal within the margin"]
    assert "twin, vanilla is equal to it within .01." in alone.finding()
    assert "nothing can be concluded" not in alone.finding()


def test_baselines_are_compared_with_and_never_called_the_best():
    table = runs()
    central = table[table["strategy"] == "split"].assign(strategy="centralised", method="centralised", cut="")
    central["auc"] += 0.05 + 0.001 * central["seed"]
    reference = central.assign(strategy="prevalence", method="prevalence", auc=0.5)
    found = compare(pd.concat([table, central, reference]), ["strategy", "cut"], "auc", {"epsilon": "8"})
    assert found.best == "Split learning, vanilla"
    assert found.finding().startswith("Split learning, vanilla has the highest pooled AUC of the methods that train ")
    assert "Centralised is better." in found.finding()
    assert not found.differences["group"].str.contains("revalence").any()


def test_the_best_of_a_loss_is_the_lowest():
    found = compare(runs(), ["strategy", "cut"], "loss", {"epsilon": "1"})
    assert found.best == "Split learning, vanilla"
    assert "lowest log loss" in found.conclusion()
    assert not found.margin


def test_swept_values_that_are_not_held_make_groups():
    found = compare(runs(), ["strategy", "cut"], "auc", {})
    assert len(found.means) == 6
    assert found.best == "Split learning, vanilla, epsilon 8"


def test_only_seeds_that_both_have_are_paired():
    table = runs()
    table = table[~((table["strategy"] == "fedavg") & (table["seed"] > 1))]
    found = compare(table, ["strategy", "cut"], "auc", {"epsilon": "8"}).differences.set_index("group")
    pairs = (SCORES["fedavg", ""] - SCORES["split", "vanilla"])[:2]
    assert found.loc["FedAvg", "n"] == 2
    assert found.loc["FedAvg", "mean"] == pytest.approx(pairs.mean())


def test_of_many_methods_a_handful_is_named():
    """Ten shifted copies are told from the best, five noisy ones are not; of each kind three are named."""
    table = runs()
    best = table[(table["strategy"] == "split") & (table["privacy.epsilon"] == 8)]
    sure = [best.assign(strategy=f"sure{9 - k}", auc=best["auc"] - 0.3 - 0.01 * k) for k in range(10)]
    noise = np.array([0.05, -0.05, 0.05, -0.05, 0.05, -0.05])
    open_ = [best.assign(strategy=f"open{4 - k}", auc=best["auc"] - 0.01 - 0.001 * k + noise) for k in range(5)]
    said = compare(pd.concat([best, *sure, *open_]), ["strategy", "cut"], "auc", {}).finding()
    assert "It is better than 10 of the other 15 (the nearest: sure9, vanilla; sure8, vanilla; sure7, vanilla)." in said
    assert "About 5 of the other 15 (the nearest: open4, vanilla; open3, vanilla; open2, vanilla) nothing can" in said
    assert said.count("vanilla") == 7
    lone = compare(pd.concat([best, *open_]), ["strategy", "cut"], "auc", {}).finding()
    assert "About the other 5 (the nearest: open4, vanilla; " in lone


def test_a_sentence_begins_with_a_capital_where_all_others_are_alike():
    table = runs()[lambda own: own["strategy"] == "fedavg"]
    alike = [table.assign(strategy=name, run_id=name + table["run_id"]) for name in ("fedprox", "a", "b", "c")]
    assert (
        "seeds). The other 4 (the nearest: "
        in compare(pd.concat([table, *alike]), ["strategy"], "auc", {"epsilon": "8"}).finding()
    )


def test_one_seed_concludes_nothing():
    table = runs()
    found = compare(table[table["seed"] == 0], ["strategy", "cut"], "auc", {"epsilon": "8"})
    assert found.differences["half_width"].isna().all()
    assert "Nothing can be concluded about" in found.conclusion()


@pytest.mark.parametrize(
    ("by", "metric", "at", "line"),
    [
        (["strategy", "cut"], "acu", {}, '--metric: no such metric "acu"; did you mean "auc"?'),
        (["strategie"], "auc", {}, '--by: no such column "strategie"; did you mean "strategy"?'),
        (
            ["strategy", "cut"],
            "auc",
            {"epsilon": "3"},
            "--at: privacy.epsilon never takes the value 3; choose from 1, 8",
        ),
        (["strategy", "cut"], "auc", {"rounds": "3"}, '--at: "rounds" was not swept'),
        (["cut"], "auc", {"epsilon": "8"}, None),
    ],
)
def test_what_cannot_be_compared_is_one_line(by, metric, at, line):
    table = runs()
    if line is None:
        table["cut"], line = "", "has several runs per seed"
    with pytest.raises(ScenarioError) as caught:
        compare(table, by, metric, at)
    [problem] = caught.value.problems
    assert line in problem


def test_csv_markdown_and_latex_hold_the_same_groups():
    found = compare(runs(strategy="a|b_c"), ["strategy", "cut", "seed"], "auc", {"epsilon": "8"})
    rows = list(csv.DictReader(io.StringIO(as_text(found, "csv"))))
    assert len(rows) == len(found.means) == 18
    assert float(rows[0]["mean"]) == found.means["mean"].max()
    markdown = as_text(found, "markdown").splitlines()
    assert all(line.count("|") - line.count("\\|") == 6 for line in markdown[:20])
    assert as_text(found, "latex").count("\\\\") >= 18
    assert "a|b\\_c" in as_text(found, "latex")


@pytest.mark.parametrize("metric", ["auc", "loss", "sim_seconds"])
def test_methods_that_are_the_same_on_every_seed_are_not_told_apart_by_a_margin(metric):
    table = runs(sim_seconds=1.0)
    table = table[table["strategy"] != "splitfed-v1"]
    twin = table[table["strategy"] == "split"].assign(strategy="fedprox", cut="")
    found = compare(
        pd.concat([table, twin.assign(run_id="t" + twin["run_id"])]), ["strategy", "cut"], metric, {"epsilon": "8"}
    )
    same = [*found.differences.loc[(found.differences[["mean", "half_width"]] == 0).all(axis=1), "group"]]
    verb = "have" if len(same) > 1 else "has"
    assert f"{' and '.join(same)} {verb} the same on every seed." in found.finding()
    assert "equal" not in found.finding()
    assert [*readable(found)["Verdict"]].count("the same") == len(same) > 0


@pytest.mark.parametrize(("margin", "told"), [(0.01, "within .01."), (0.0004, "within .0004."), (0.1, "within .1.")])
def test_the_margin_is_named_as_it_was_set(margin, told):
    table = runs()[lambda own: own["strategy"] == "fedavg"]
    twin = table.assign(strategy="fedprox", run_id="t" + table["run_id"], auc=table["auc"] + 1e-5 * (table["seed"] + 1))
    known = HeldOut(predictions=pd.DataFrame(), ratio=0.5, same_patients=True, margin=margin)
    found = compare(pd.concat([table, twin]), ["strategy"], "auc", {"epsilon": "8"}, known)
    assert f"FedAvg is equal to it {told}" in found.finding()


def test_intervals_over_seeds_are_said_to_be_widened_only_where_they_are():
    made_up = HeldOut(predictions=pd.DataFrame(), ratio=0.5, same_patients=False, margin=0.01)
    found = compare(runs(), ["strategy", "cut"], "auc", {"epsilon": "8"}, made_up)
    best = SCORES["split", "vanilla"] - 0.1 / 8
    mean = found.means.set_index("group").loc[found.best]
    assert mean["half_width"] == pytest.approx(half_width(best, 0.0))
    assert "The 95 % intervals are over seeds; those of differences hold together" in found.scope
    same = compare(runs(), ["strategy", "cut"], "auc", {"epsilon": "8"}, replace(made_up, same_patients=True))
    assert "over seeds, widened because these deal the same patients anew" in same.scope


def test_the_command_reads_the_table_of_a_study(tmp_path, capsys):
    planned = {"sim_seconds": 1.0, "bytes_up": 1, "bytes_down": 1, "unit": "record", "mechanism": "none"}
    epsilons = {"epsilon_model_user": 1.0, "epsilon_peer": 1.0, "epsilon_server": math.inf}
    runs(**planned, **epsilons).to_parquet(tmp_path / "runs.parquet")
    assert call_suture("compare", tmp_path, "--metric", "auc", "--at", "epsilon=8", "--format", "csv") == 0
    frame = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert frame["group"][0] == "Split learning, vanilla"
    assert math.isnan(frame["difference"][0])


@pytest.mark.parametrize(("arguments", "words"), [([], "runs.parquet"), (["--at", "epsilon"], "key=value")])
def test_bad_arguments_are_one_line(tmp_path, capsys, arguments, words):
    code = call_suture("compare", tmp_path, *arguments)
    error = capsys.readouterr().err
    assert (code, len(error.splitlines())) == (2, 1)
    assert words in error


def test_a_study_without_a_successful_run_is_told_where_to_look():
    failed = runs().assign(status="failed")
    with pytest.raises(ScenarioError, match="no successful run is left; suture report says why the others failed"):
        compare(failed, ["strategy"], "auc", {})
