"""``suture plan`` from outside: its table, and its JSON against the finished runs."""

import json
import math

import pandas as pd
import pytest

RUNS = 3 * 2 * 2
KNOWN = {
    *("run_id", "study", "strategy", "cut", "seed", "rounds"),
    *("sim_seconds", "bytes_up", "bytes_down", "clinic_flops", "server_flops", "peak_clinic_bytes"),
    *("clinic_joules", "idle_share", "server_busy_share"),
    *("unit", "mechanism", "adjacency", "delta", "epsilon_model_user", "epsilon_peer", "epsilon_server"),
    *("epsilon_model_user_replace", "epsilon_peer_replace", "epsilon_server_replace", "epsilon_label"),
    "privacy.epsilon",
}
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


def test_planned_json_equals_the_finished_rows(suture, finished):
    path, out_folder, _ = finished
    code, out, err = suture("plan", path, "--json")
    assert (code, err) == (0, "")
    planned = json.loads(out, parse_constant=pytest.fail)  # neither NaN nor Infinity
    assert isinstance(planned, list)
    rows = pd.read_parquet(out_folder / "small" / "runs.parquet").set_index("run_id", drop=False)
    assert [run["run_id"] for run in planned] == rows["run_id"].tolist()
    assert len(planned) == RUNS
    for run in planned:
        assert set(run) >= KNOWN | {"clinics"}
        assert set(run) - KNOWN - {"clinics"} <= {"bytes", "phase_seconds", "mean_participants", "lost_clinic_rounds"}
        row = rows.loc[run["run_id"]]
        for column in KNOWN:
            value = float(run[column]) if run[column] in ("inf", "-inf") else run[column]
            assert pd.isna(row[column]) if value is None else row[column] == value, column
        assert run["bytes_up"] == sum(clinic["bytes_up"] for clinic in run["clinics"]) > 0
        assert run["bytes_down"] == sum(clinic["bytes_down"] for clinic in run["clinics"]) > 0


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
