"""Several studies together, against published figures and hand computation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.across import average_ranks, critical_difference, differences, half_width, scores
from benchmarks.rank_figure import rank_picture
from sim.inference.differences import Verdict


@pytest.mark.parametrize(("methods", "quantile"), [(2, 1.960), (4, 2.569), (10, 3.164)])
def test_the_critical_difference_has_the_quantiles_of_demsars_table(methods, quantile):
    assert critical_difference(methods, 6) == pytest.approx(quantile * (methods * (methods + 1) / 36) ** 0.5, abs=1e-3)


def test_the_critical_difference_is_that_of_demsars_example():
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.01)


def made(rng, gap=0.0, data_sets=8):
    rows = []
    for data in range(data_sets):
        level = 0.8 + 0.05 * rng.standard_normal()
        for method, own in (("A", 0.0), ("B", gap)):
            rows.append({"data": str(data), "level": "no DP", "method": method, "score": level + own})
    table = pd.DataFrame(rows)
    table["score"] += 0.01 * rng.standard_normal(len(table))
    return table


def test_differences_are_those_of_the_paired_t_test():
    table = made(np.random.default_rng(0))
    wide = table.pivot_table(index="data", columns="method", values="score")
    low, high = stats.ttest_rel(wide["B"], wide["A"]).confidence_interval()
    [found] = differences(table, "A", 0.01).to_dict("records")
    assert (found["mean"] - found["half_width"], found["mean"] + found["half_width"]) == pytest.approx((low, high))


def test_intervals_of_several_methods_hold_together():
    values = pd.Series([0.1, 0.2, 0.4])
    assert half_width(values, 3) == pytest.approx(stats.t.ppf(1 - 0.025 / 3, 2) * values.std() / 3**0.5)


def test_verdicts_tell_better_from_equal_and_from_unknown():
    rng = np.random.default_rng(1)
    assert differences(made(rng, 0.2), "A", 0.01)["verdict"].item() == Verdict.APART
    assert differences(made(rng, 0.0, 200), "A", 0.01)["verdict"].item() == Verdict.EQUAL
    assert differences(made(rng, 0.0, 3), "A", 0.01)["verdict"].item() == Verdict.OPEN


def test_ranks_are_averaged_over_data_sets_and_ties_share_theirs():
    rows = [("x", "A", 0.9), ("x", "B", 0.8), ("x", "C", 0.8), ("y", "A", 0.5), ("y", "B", 0.7), ("y", "C", 0.6)]
    ranks, _ = average_ranks(pd.DataFrame(rows, columns=["data", "method", "score"]))
    assert ranks.to_dict() == {"A": 2.0, "B": 1.75, "C": 2.25}


def test_a_data_set_counts_once_whatever_its_seeds():
    runs = pd.DataFrame({"level": "no DP", "series": ["A", "A", "B"], "within_clinic_auc": [0.8, 0.6, 0.9]})
    table = scores({"x": runs}, "within_clinic_auc").set_index("method")["score"]
    assert table.to_dict() == pytest.approx({"A": 0.7, "B": 0.9})


def test_bars_overlap_where_nemenyi_tells_methods_apart_by_nothing():
    """Five data sets, of which each ranks a before b before c: 2.343 sqrt(12 / 30) = 1.48 lies between 1 and 2."""
    rows = [("no DP", method, score, data) for data in "vwxyz" for method, score in (("a", 3), ("b", 2), ("c", 1))]
    [panel] = rank_picture(pd.DataFrame(rows, columns=["level", "method", "score", "data"]))["concat"]
    bars = {row["method"]: (row["from"], row["to"]) for row in panel["data"]["values"]}
    assert list(bars) == ["a", "b", "c"]
    assert bars["a"] == pytest.approx((1 - 1.482 / 2, 1 + 1.482 / 2), abs=1e-3)
    assert bars["a"][1] > bars["b"][0]
    assert bars["a"][1] < bars["c"][0]
