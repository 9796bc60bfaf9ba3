"""``suture plan`` from outside: its table, and its JSON."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from sim.foundation.text import value_text
from sim.report.plan_table import plan_table
from sim.report.summary import in_reading_order

SMALL = ("data.clinics=10", "data.records=1000")
ADVERSARIES = {"model-user", "peer-clinic", "server"}


def test_plan_prints_a_table_and_leaves_nothing(suture, trade_off, tmp_path):
    before = sorted(tmp_path.iterdir())
    code, out, err = suture("plan", trade_off)
    assert (code, err) == (0, "")
    assert "small" in out
    assert [name in out for name in ("FedAvg", "SplitFed V1, vanilla", "SplitFed V1, U-shaped")] == [True] * 3
    assert "∞" in out
    assert "kB" in out
    assert sorted(tmp_path.iterdir()) == before


def test_plan_of_some_strategies_with_other_settings(suture, trade_off):
    code, out, _ = suture(
        "plan", trade_off, "--json", "--only", "fedavg", "--set", "seeds=[7]", "--set", "train.rounds=3"
    )
    assert code == 0
    assert [(p["strategy"], p["seed"], p["rounds"]) for p in json.loads(out)] == [("fedavg", 7, 3)] * 2


def test_a_deadline_nobody_meets_is_said_once_for_all_seeds(suture, trade_off):
    code, out, err = suture("plan", trade_off, "--set", 'train.deadline="1 ms"')
    assert (code, "SplitFed V1, vanilla" in out) == (0, True)
    said = "train.deadline: no clinic meets it in any of 2 rounds; give a longer one"
    assert err.splitlines() == [
        f"{trade_off}: note: {method}, seeds 0, 1: {said}"
        for method in ("fedavg", "splitfed-v1 vanilla", "splitfed-v1 u-shaped")
    ]


def test_planned_clinics(suture, trade_off):
    _, out, _ = suture("plan", trade_off, "--json")
    for run in json.loads(out):
        private = run["mechanism"] == "dp-sgd"
        assert [clinic["name"] for clinic in run["clinics"]] == ["k0", "k1", "k2", "k3"]
        assert [clinic["records"] for clinic in run["clinics"]] == [5, 15, 26, 42]
        for clinic in run["clinics"]:
            assert set(clinic) == {
                *("name", "records", "rounds", "lost_rounds", "sample_rate", "steps", "noise_multiplier"),
                *("epsilon", "bytes_up", "bytes_down", "seconds", "idle_share"),
                *("flops", "peak_bytes", "memory_bytes", "joules"),
            }
            assert clinic["sample_rate"] == min(1, 8 / clinic["records"])
            assert clinic["steps"] == 2 * math.ceil(clinic["records"] / 8)
            assert (clinic["noise_multiplier"] is not None) is private
            assert set(clinic["epsilon"]) == ADVERSARIES
            assert clinic["seconds"] > 0
            assert private is (clinic["epsilon"]["model-user"] != "inf")
            seen_by_server = clinic["epsilon"]["server"] == "inf"
            assert seen_by_server is (not private or run["strategy"] == "splitfed-v1")


HEAVY, NEEDED_FOR_PRIVACY = {"torch", "sympy", "flwr", "pandas"}, {"scipy.signal", "scipy.stats"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "heavy"),
    [
        (("synthetic-1000", *SMALL), HEAVY | NEEDED_FOR_PRIVACY),
        (("rural", "seeds=[0]"), HEAVY | NEEDED_FOR_PRIVACY),
        (("multi-hop", "seeds=[0]"), HEAVY),
    ],
    ids=["synthetic", "rural", "noised-rows"],
)
@pytest.mark.parametrize("command", ["check", "plan"])
def test_planning_a_built_in_network_imports_neither_pytorch_nor_flower_nor_most_of_scipy(command, settings, heavy):
    name, *overrides = settings
    arguments = [command, f"scenarios/{name}.toml", *(word for key in overrides for word in ("--set", key))]
    code = (
        f"import sys; from sim.cli import app; app({arguments}, standalone_mode=False); "
        f"print(sorted({heavy} & sys.modules.keys()))"
    )
    folder = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_events_that_were_loaded_before_their_package_are_its_own():
    code = (
        "import sys; from sim.foundation.lazy import Lazy; lazy = Lazy('dp_accounting'); early = lazy.GaussianDpEvent; "
        "assert 'dp_accounting' not in sys.modules; import dp_accounting as dp; "
        "assert early is dp.GaussianDpEvent is dp.dp_event.GaussianDpEvent; "
        "assert lazy.dp_event is dp.dp_event and lazy.rdp is dp.rdp"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_table_of_plans_has_the_methods_and_swept_values_in_the_order_of_tables_of_results():
    methods = [("splitfed-v1", "vanilla"), ("fedavg", ""), ("splitfed-v1", "u-shaped"), ("local", ""), ("split", "")]
    swept = [{"a.b": 10, "c.d": "y"}, {"a.b": 9.5, "c.d": "x"}, {"c.d": "10"}, {"a.b": math.inf, "c.d": "9"}]
    counted = {"sim_seconds": 1.0, "bytes_up": 1, "bytes_down": 1, "clinic_flops": 1, "server_flops": 1, "clinics": []}
    known = {"study": "s", "adjacency": "", "epsilon_label": None, "e.f": 1, **counted}
    plans = [
        {**known, "method": method, "strategy": method, "cut": cut, "seed": seed, **settings}
        for settings in swept
        for method, cut in methods
        for seed in (1, 0)
    ]
    frame = in_reading_order(pd.DataFrame(plans))
    expected = dict.fromkeys(
        (label, value_text(first), value_text(second))
        for label, first, second in zip(frame["method_label"], frame["a.b"], frame["c.d"], strict=True)
    )
    table = plan_table(plans)
    assert [str(column.header) for column in table.columns][:4] == ["Method", "a.\nb", "c.\nd", "Runs"]
    told = zip(*(map(str, column.cells) for column in table.columns[:3]), strict=True)
    assert list(told) == list(expected)
    assert {str(cell) for cell in table.columns[3].cells} == {"2"}
