"""Time and traffic to a target: the first round at which it holds, means over the runs that reach it."""

import pandas as pd
import pytest
from support import call_suture, plan_of, run_spec, write_csv

from sim.foundation.problems import ScenarioError
from sim.report.study import StudyResults
from sim.report.table import first_rounds_at, target_frame
from sim.results.store import as_table

AUC = {"a0": [0.5, 0.7, 0.81, 0.79], "a1": [0.5, 0.85, 0.9, 0.9], "b0": [0.5, 0.6, 0.6, 0.6]}


def study():
    rows = [
        {"run_id": run, "study": "s", "strategy": {"a": "fedavg", "b": "split"}[run[0]], "cut": "", "seed": int(run[1])}
        | {"status": "ok", "rounds": 3, "auc": auc[-1]}
        for run, auc in AUC.items()
    ]
    rounds = pd.DataFrame(
        [
            {"run_id": run, "round": r, "auc": value, "sim_seconds": 10.0 * r, "bytes": 1000 * r}
            for run, auc in AUC.items()
            for r, value in enumerate(auc)
        ]
    )
    return StudyResults(name="s", runs=as_table(rows), rounds=rounds)


def test_the_first_round_counts_even_if_the_model_gets_worse_again():
    found = first_rounds_at(study(), "auc>=0.8").set_index("run_id")
    assert found.loc["a0", ["target_round", "target_seconds", "target_bytes"]].tolist() == [2, 20, 2000]
    assert found.loc["a1", ["target_round", "target_seconds", "target_bytes"]].tolist() == [1, 10, 1000]
    assert found.loc["b0", ["target_round", "target_seconds", "target_bytes"]].isna().all()


def test_means_are_over_the_runs_that_reach_it():
    frame = target_frame(study(), "auc>=0.8").set_index("Method")
    assert frame.loc["FedAvg"].tolist() == ["2 of 2", "1.5", "15 s", "1.5 kB"]
    assert frame.loc["Split learning"].tolist() == ["0 of 1", "–", "–", "–"]


def test_a_column_that_is_not_there_is_one_line():
    with pytest.raises(ScenarioError) as caught:
        first_rounds_at(study(), "acu>=0.8")
    assert len(caught.value.problems) == 1


def test_the_command_says_where_a_folder_is_no_study(tmp_path, capsys):
    assert call_suture("compare", tmp_path, "--target", "auc>=0.8") == 2
    assert "runs.parquet" in capsys.readouterr().err


def test_planned_traffic_adds_up_round_by_round(tmp_path):
    plan, _ = plan_of(run_spec(write_csv(tmp_path / "data.csv"), "splitfed-v1", "vanilla", rounds=3))
    total = sum(int(sizes.sum()) for sizes in plan.traffic.values())
    assert plan.bytes_after == (total / 3, 2 * total / 3, total)
