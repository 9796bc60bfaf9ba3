"""Tables of a study: means and intervals by hand, what is pooled and what is not, units, and the console's width."""

import io
from math import inf, nan

import pandas as pd
import pytest
from report_studies import METHODS, make_runs
from rich.console import Console
from rich.text import Text

from sim.foundation.text import bytes_text, epsilon_text, score_text, seconds_text
from sim.methods.labels import method_label
from sim.report.adversaries import ADVERSARIES
from sim.report.figures import curve_table
from sim.report.summary import successful_runs, summarise, swept_keys
from sim.report.table import console_table, results_frame


@pytest.mark.parametrize(
    ("values", "mean", "half_width"),
    [
        ([0.80, 0.82, 0.84], 0.82, 0.0496828),  # t = 4.302653, s = 0.02, 4.302653 * 0.02 / sqrt(3)
        ([0.7, 0.8], 0.75, nan),  # t = 12.706205, s = 0.0707107: .75 +- .635
        ([0.7], 0.7, nan),
        ([0.80, nan, 0.82, 0.84], 0.82, 0.0496828),
        ([nan, nan], nan, nan),
    ],
)
def test_mean_and_interval_by_hand(values: list[float], mean: float, half_width: float) -> None:
    failed = pd.DataFrame({"strategy": ["fedavg"], "status": ["failed"], "auc": [0.1]})
    runs = pd.concat([failed, pd.DataFrame({"strategy": "fedavg", "status": "ok", "auc": values})])
    (row,) = summarise(runs, ["strategy"], "auc").to_dict("records")
    assert row["n"] == sum(value == value for value in values)  # NaN differs from itself
    assert row["mean"] == pytest.approx(mean, nan_ok=True)
    assert row["half_width"] == pytest.approx(half_width, abs=1e-7, nan_ok=True)


def test_method_labels() -> None:
    assert {pair: method_label(*pair) for pair in METHODS} == METHODS
    assert [method_label("fedavg", cut) for cut in ("", None, nan)] == ["FedAvg"] * 3
    assert method_label("split", "vanilla") == "Split learning, vanilla"
    assert method_label("flwr.serverapp.strategy.FedAdam", "") == "FedAdam"
    assert method_label("my_package.mine:FedMine") == "FedMine"
    for label in ("lr 0.05", "FedAvg: slow", "v1.5", "momentum=.9", "A. Split"):
        assert method_label(label) == label


def test_methods_of_one_name_are_not_pooled() -> None:
    ours = make_runs(methods=[("fedavg", "")])
    stock = ours.assign(strategy="flwr.serverapp.strategy.FedAvg", method="flwr.serverapp.strategy.FedAvg")
    methods = successful_runs(pd.concat([stock, ours]))["method_label"].unique().tolist()
    assert methods == ["FedAvg", "FedAvg (flwr.serverapp.strategy.FedAvg)"]


def test_settings_of_a_sweep_are_not_pooled() -> None:
    runs = pd.concat([make_runs(), make_runs().assign(**{"train.local-epochs": 5})]).fillna({"train.local-epochs": 1})
    assert swept_keys(runs) == ["privacy.epsilon", "train.local-epochs"]
    series = curve_table(runs)["series"].unique().tolist()
    assert series[:3] == ["Centralised, local-epochs 1", "Centralised, local-epochs 5", "Local, local-epochs 1"]
    assert set(curve_table(runs)["n"]) == {3}
    assert len(results_frame(runs)) == 5 * 4 * 2


def test_lists_as_swept_values() -> None:
    sweep = {"model.hidden": [[8, 8], None]}
    runs = make_runs(methods=[("fedavg", "")], epsilons=[inf], seeds=[0, 1], **sweep)
    assert results_frame(runs)["model.hidden"].tolist() == ["None", "[8, 8]"]


def test_human_units() -> None:
    times = ["0", "12.3 ms", "42.1 s", "3.2 min", "1.5 h", "2.08 d", "–"]
    assert [seconds_text(s) for s in (0, 0.0123, 42.1, 192, 5400, 180_000, nan)] == times
    assert [bytes_text(b) for b in (0, 12, 12_400, 3_410_000, 250e9)] == ["0", "12 B", "12.4 kB", "3.41 MB", "250 GB"]
    assert [epsilon_text(e) for e in (2.97, 3.0, inf, nan, 0.0)] == ["2.97", "3", "∞", "–", "0"]
    assert [score_text(s, 0.012) for s in (0.853, 1.0, -0.004, nan)] == [".853±.012", "1.000±.012", "-.004±.012", "–"]


def test_table_rows() -> None:
    runs = make_runs()
    runs.loc[runs["seed"] == 0, list(ADVERSARIES)] *= 0.5  # the largest over seeds counts
    frame = results_frame(runs)
    assert len(frame) == 20
    centralised, local, *others = METHODS.values()
    assert list(frame["Method"].unique()) == [*others, centralised, local]  # the baselines last
    row = frame[(frame["Method"] == "SplitFed V1, U-shaped") & (frame["Target ε"] == "3")].iloc[0]
    assert row.tolist() == [
        "SplitFed V1, U-shaped", "3", "3", ".820±.050", ".830±.050", ".740±.050", ".760±.050", ".720",
        "2.97", "2.97", "∞", "3.2 min", "3.42 MB",
    ]  # fmt: skip


def test_console_table_fits_100_columns_with_two_swept_keys() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    runs = make_runs(study="[red]x[/red]", status=["interrupted", *["ok"] * 59])
    rates = [runs.assign(**{"train.learning-rate": rate}) for rate in (0.05, 0.1)]
    console.print(console_table(pd.concat(rates)))
    lines = console.export_text().splitlines()
    assert sum(line.startswith("SplitFed V1, U-shaped ") and "∞" in line for line in lines) == 8  # nothing wraps
    assert not any("…" in line for line in lines)
    assert "[red]x[/red]" in lines[0]  # text of a scenario is no markup
    assert isinstance(next(iter(console_table(make_runs()).columns[0].cells)), Text)
    assert "2 of 120 runs failed" in " ".join(" ".join(lines).split())
