"""A study gives the same numbers however it is run, interrupted and resumed."""

import dataclasses
import math
import os
import re
import signal
import subprocess
import sys
import time
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from support import (
    STUDY,
    assert_all_runs_are_whole,
    assert_same_results,
    call_suture,
    executed,
    run_spec,
    suture_command,
    write_csv,
    write_scenario,
)

from sim import Scenario, run
from sim.api.progress import shown_progress
from sim.data.federation import load_federation
from sim.foundation.problems import ScenarioError
from sim.scenario import load_scenario
from sim.scenario.spec import expand
from sim.study.engines import InProcess, default_jobs
from sim.study.forecast import estimated_seconds
from sim.study.planning import plan_runs
from sim.study.runner import Progress, execute, run_study

RUNS = 4 * 2 * 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Run the study from Python in this process; return its file, its folder and the table that came back."""
    folder = tmp_path_factory.mktemp("whole")
    path = write_scenario(folder)
    table = run(path, folder / "out", jobs=1).runs
    return path, folder / "out" / "small", table


def test_the_table_that_comes_back_is_the_one_on_disk(whole):
    _, study, table = whole
    pd.testing.assert_frame_equal(table, pd.read_parquet(study / "runs.parquet"))
    assert len(table) == RUNS
    assert set(table["mechanism"]) == {"none", "dp-sgd"}
    assert set(table["status"]) == {"ok"}
    weights = {(study / run_id / "model.safetensors").read_bytes() for run_id in table["run_id"]}
    assert len(weights) >= RUNS - 2  # the two pairs that may be equal are splitfed-v1 and fedavg without noise


def test_a_scenario_object_gives_the_same_table(whole):
    path, study, table = whole
    scenario = load_scenario(path)
    assert isinstance(scenario, Scenario)
    before = {item: item.stat().st_mtime_ns for item in study.glob("*/*")}
    pd.testing.assert_frame_equal(run(scenario, study.parent).runs, table)
    assert {item: item.stat().st_mtime_ns for item in study.glob("*/*")} == before  # the same runs, none repeated


def test_order_and_company_of_the_runs_do_not_matter(whole, tmp_path):
    path, study, _ = whole
    plans = list(plan_runs(expand(load_scenario(path))))[::-3]
    run_study(
        plans, [plan.spec.run_id for plan in plans], tmp_path, InProcess(), Progress(lambda *_: None, lambda *_: None)
    )
    for plan in plans:
        ours, theirs = (
            (folder / plan.spec.run_id / "model.safetensors").read_bytes() for folder in (study, tmp_path / "small")
        )
        assert ours == theirs


def test_killed_before_the_first_run_is_finished(whole, tmp_path):
    """Killed while it imports, plans or trains its first run, the command leaves nothing that counts as a run."""
    path, uninterrupted, _ = whole
    rng = np.random.default_rng()
    arguments = suture_command("run", path, "--out", tmp_path, "--jobs", 1)
    with subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        time.sleep(rng.uniform(0, 2))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if (tmp_path / "small").exists():
        assert_all_runs_are_whole(tmp_path / "small")
    assert_same_results(uninterrupted, executed(path, tmp_path))


DEADLY = '''
import os
import signal
from pathlib import Path

from flwr.serverapp.strategy import FedAvg


class Deadly(FedAvg):
    """Ends its own process from outside, as the system does when memory is short."""

    def aggregate_train(self, server_round, replies):
        if Path(__file__).with_name("deadly").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().aggregate_train(server_round, replies)
'''
WITH_DEADLY = (
    STUDY.replace("seeds = [0, 1]", "seeds = [0]")
    .replace("rounds = 10", "rounds = 2")
    .replace('name = "centralised"', 'name = "deadly_for_tests.Deadly"')
)


def test_a_dead_worker_is_told_and_the_study_goes_on_from_there(tmp_path, monkeypatch, capfd):
    path = write_scenario(tmp_path, WITH_DEADLY)
    (tmp_path / "deadly_for_tests.py").write_text(DEADLY, encoding="utf-8")
    (tmp_path / "deadly").touch()
    places = filter(None, (os.environ.get("PYTHONPATH"), str(tmp_path)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    study = tmp_path / "out" / "small"
    monkeypatch.syspath_prepend(tmp_path)
    assert call_suture("run", path, "--out", tmp_path / "out", "--jobs", 2) == 1
    told = "a worker process was killed from outside (out of memory?); what had finished is kept, and the same command"
    error = " ".join(capfd.readouterr().err.split())
    assert told in error
    assert "BrokenProcessPool" not in error
    assert_all_runs_are_whole(study)
    finished = {folder.parent.name for folder in study.glob("*/run.json")}
    assert set(pd.read_parquet(study / "runs.parquet")["run_id"]) == finished  # the table is written all the same
    assert len(finished) < 8

    (tmp_path / "deadly").unlink()
    try:
        executed(path, tmp_path / "out")
        uninterrupted = executed(path, tmp_path / "uninterrupted")
    finally:
        sys.modules.pop("deadly_for_tests", None)
    assert len(pd.read_parquet(study / "runs.parquet")) == 8
    assert_same_results(uninterrupted, study)


# What identifies a run


def test_changed_bytes_of_the_data_are_other_runs(tmp_path):
    path = write_scenario(tmp_path, STUDY.replace("seeds = [0, 1]", "seeds = [0]").replace("[3, inf]", "[inf]"))
    csv = tmp_path / "clinics.csv"
    first = run(path, tmp_path / "out").runs
    text = csv.read_text(encoding="utf-8")
    last_digit = text.rstrip()[-1]
    changed = text.rstrip()[:-1] + ("1" if last_digit != "1" else "2") + "\n"
    assert len(changed) == len(text)
    csv.write_text(changed, encoding="utf-8")
    second = run(path, tmp_path / "out").runs
    assert not set(first["run_id"]) & set(second["run_id"])
    assert len(second) == len(first) == 4
    pd.testing.assert_frame_equal(second, pd.read_parquet(tmp_path / "out" / "small" / "runs.parquet"))

    csv.write_text(text, encoding="utf-8")
    again = run(path, tmp_path / "out").runs
    pd.testing.assert_frame_equal(again, first)  # even to the wall clock: nothing was repeated


def test_a_moved_scenario_finds_its_runs_again(whole, tmp_path):
    path, study, table = whole
    moved = write_scenario(tmp_path)
    assert (tmp_path / "clinics.csv").read_bytes() == path.with_name("clinics.csv").read_bytes()
    pd.testing.assert_frame_equal(run(moved, study.parent).runs, table)


# The pieces


def test_progress_hears_of_every_run_once_and_at_once(whole, tmp_path):
    path, _, _ = whole
    plans = [plan for plan in plan_runs(expand(load_scenario(path))) if plan.spec.seed == 0][:3]
    ids = [plan.spec.run_id for plan in plans]
    seen = []

    def finished(row, seconds_left):
        assert seconds_left >= 0
        there = {folder.parent.name for folder in (tmp_path / "small").glob("*/run.json")}
        seen.append((row["run_id"], row["status"], there))

    progress = Progress(lambda to_do, done, seconds_left: seen.append((to_do, done)), finished)
    table = run_study(plans, ids, tmp_path, InProcess(), progress)
    assert table["run_id"].tolist() == ids
    begun = [plan.spec.run_id for plan in sorted(plans, key=estimated_seconds)]
    assert seen == [(3, 0), *((run_id, "ok", set(begun[: i + 1])) for i, run_id in enumerate(begun))]
    seen.clear()
    run_study(plans, ids[:2], tmp_path, InProcess(), progress)
    assert seen == [(0, 3)]
    assert pd.read_parquet(tmp_path / "small" / "runs.parquet")["run_id"].tolist() == ids[:2]


def test_a_run_that_departs_from_its_plan_fails(whole, tmp_path):
    path, _, _ = whole
    plan = next(plan_runs(expand(load_scenario(path))))
    wrong = {key: sizes + (key == ("up", "model")) for key, sizes in plan.traffic.items()}
    row = execute(dataclasses.replace(plan, traffic=wrong), tmp_path, {})
    assert row["status"] == "failed"
    assert row["error"].startswith("PlanMismatchError: bytes up, model: planned")
    noised = {part: (steps[0] + 1, *steps[1:]) for part, steps in plan.noised_steps.items()}
    row = execute(dataclasses.replace(plan, noised_steps=noised), tmp_path, {})
    assert row["error"].startswith("PlanMismatchError: noised steps, model: planned")


def test_all_runs_are_planned_before_problems_are_raised(whole):
    path, _, _ = whole
    specs = expand(load_scenario(path, ["model.hidden=[4]", "privacy.delta=0.4"]))
    plans, iterator = [], plan_runs(specs)
    with pytest.raises(ScenarioError) as caught:
        plans.extend(iter(lambda: next(iterator), None))
    # Only the runs without privacy and without a cut can be planned, and each problem is told once.
    assert {(plan.spec.strategy.name, plan.spec.privacy.mechanism) for plan in plans} == {
        *(("fedavg", "none"), ("centralised", "none"), ("local", "none"))
    }
    assert sorted(line.partition("privacy.delta")[1] or "model.cut" for line in caught.value.problems) == [
        "model.cut",
        "privacy.delta",
    ]


def test_majority_and_worst_clinic_are_those_of_the_held_out_records(whole):
    path, study, table = whole
    spec = expand(load_scenario(path))[0]
    federation = load_federation(spec.data, spec.seed)
    majority = max((0, 1), key=lambda label: int((federation.train.y == label).sum()))
    assert table["majority_accuracy"][0] == float((federation.test.y == majority).mean())
    clinics = pd.read_parquet(study / spec.run_id / "clinics.parquet")
    assert table["worst_clinic_auc"][0] == clinics["auc"].min()


def test_the_display_escapes_what_it_prints():
    text = StringIO()
    with shown_progress(Console(file=text, width=200)) as progress:
        progress.start(2, 0, 61.0)
        row = {"run_id": "abc", "strategy": "fedavg", "cut": "", "seed": 3, "status": "failed", "error": "[red] [/x]"}
        progress.finished(row, 30.0)
        assert "failed abc fedavg seed 3: [red] [/x]" in text.getvalue()


def test_one_job_for_each_processor_that_may_be_used():
    assert 1 <= default_jobs() <= (os.cpu_count() or math.inf)


@pytest.mark.parametrize("strategy", ["fedavg", "split", "local", "flwr.serverapp.strategy.FedAvg"])
def test_a_model_that_diverges_is_said_to(tmp_path, strategy):
    spec = run_spec(write_csv(tmp_path / "clinics.csv"), strategy, learning_rate=1e6, rounds=20)
    [plan] = plan_runs([spec])
    row = execute(plan, tmp_path, {})
    assert row["status"] == "failed"
    assert re.fullmatch(
        "DivergedError: the model diverged: after round [12] it has no finite outputs; lower the learning rate",
        row["error"],
    )
