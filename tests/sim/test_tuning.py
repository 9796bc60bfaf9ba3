"""Tuning: the same settings for every method, chosen on validation records alone, and resumed after a kill."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import assert_same_results, plain, write_csv
from tuned_studies import BASE, PRIVATE, of, scenarios_in, tried

from sim import run
from sim.data.at_clinics import load_records
from sim.data.federation import Records
from sim.plan.plan import make_plan
from sim.report.reading import read_results
from sim.report.tuning import at_the_edge
from sim.report.words import conclusions
from sim.results.trials import TRIALS_LOG, note_trial, read_trials, trials_table
from sim.scenario.tune import Range
from sim.study import planning
from sim.study import trials as execution
from sim.study.planning import plan_trials
from sim.study.train import DivergedError
from sim.study.tuning import choices, unfinished


@pytest.fixture
def scenario(tmp_path):
    return scenarios_in(tmp_path)


def test_every_method_point_and_seed_has_the_same_settings(scenario):
    strategies = [{"name": "fedavg"}, {"name": "local"}]
    found = of(scenario(strategies=strategies, sweep={"train.rounds": [1, 2]}))
    assert len(found) == 2 * 2 * 2
    for contest in found:
        rates = [trial.train.learning_rate for trial in contest.trials]
        assert rates == [0.015625, 0.125, 1.0, 8.0]
        assert [trial.tuned for trial in contest.trials] == [{"train.learning-rate": rate} for rate in rates]
        assert {trial.data.validation_share for trial in contest.trials} == {0.25}
        assert {final.data.validation_share for final in contest.candidates} == {0.0}
        assert {spec.seed for spec in (*contest.trials, *contest.candidates)} == {contest.base.seed}


def test_without_refit_the_final_run_trains_on_what_the_trials_trained_on(scenario):
    tune = {"refit": False, "validation-share": 0.5, "train.learning-rate": [0.1, 0.2]}
    [contest, _] = of(scenario(tune=tune))
    assert {final.data.validation_share for final in contest.candidates} == {0.5}


def test_a_key_without_an_effect_on_a_method_is_left_out_for_it(scenario):
    strategies = [{"name": "fedavg"}, {"name": "fedprox"}, {"name": "split", "set": {"train": {"learning-rate": 0.3}}}]
    tune = {
        "train.learning-rate": [0.1, 0.2],
        "strategies.fedprox.proximal-mu": [0.1, 1.0, 10.0],
        "train.momentum": [0.5, 0.9],
    }
    found = {c.base.strategy.name: c for c in of(scenario(strategies=strategies, tune=tune, seeds=[0]))}
    assert {name: len(contest.trials) for name, contest in found.items()} == {"fedavg": 2, "fedprox": 6, "split": 0}
    assert [(t.train.learning_rate, t.strategy.proximal_mu) for t in found["fedprox"].trials] == [
        (rate, mu) for rate in (0.1, 0.2) for mu in (0.1, 1.0, 10.0)
    ]


def test_who_takes_part_is_tuned_only_where_clinics_take_part(scenario):
    names = ["centralised", "local", "fedavg"]
    tune = {"train.learning-rate": [0.1, 0.2], "train.participation": [0.5, 0.7, 1.0]}
    found = of(scenario(strategies=[{"name": name} for name in names], tune=tune, seeds=[0]))
    assert {c.base.strategy.name: len(c.trials) for c in found} == {"centralised": 2, "local": 2, "fedavg": 6}


def test_a_setting_that_belongs_to_another_value_is_tried_once(scenario):
    tune = {"train.optimizer": ["sgd", "momentum"], "train.momentum": [0.5, 0.9], "train.learning-rate": [0.1]}
    [contest, _] = of(scenario(tune=tune))
    assert [(t.train.optimizer, t.train.momentum) for t in contest.trials] == [
        ("sgd", 0.5),
        ("momentum", 0.5),
        ("momentum", 0.9),
    ]


def test_clips_are_tuned_where_there_is_something_to_clip(scenario):
    tune = {"privacy.clip": [0.5, 1.0], "train.learning-rate": [0.1, 0.2]}
    found = of(scenario(privacy=PRIVATE, tune=tune, sweep={"privacy.epsilon": [3.0, math.inf]}, seeds=[0]))
    assert [len(contest.trials) for contest in found] == [4, 2]


def test_draws_are_the_same_for_all_and_spread_over_the_range(scenario):
    one = Range(low=0.01, high=10.0, log=True, trials=30)
    draws = one.draws("train.learning-rate")
    assert draws == one.draws("train.learning-rate") != one.draws("privacy.clip")
    counts, _ = np.histogram(np.log10(draws), bins=np.linspace(-2, 1, 31))
    assert counts.min() >= 0
    assert abs(np.mean(np.log10(draws)) + 0.5) < 0.05  # one in each of thirty equal slices
    assert min(draws) >= 0.01
    assert max(draws) <= 10
    assert all(isinstance(value, int) for value in Range(low=4, high=64, log=True, trials=5).draws("train.batch-size"))
    ranges = {"low": 0.01, "high": 1.0, "log": True, "trials": 4}
    tune = {"train.learning-rate": ranges, "train.batch-size": {"low": 4, "high": 32, "trials": 4}, "model.cut": [1]}
    found = of(scenario(tune=tune | {"train.local-epochs": [1, 2]}))
    settings = [[trial.tuned for trial in contest.trials] for contest in found]
    assert len(settings[0]) == 4 * 2
    assert settings[0] == settings[1]


def entry(trial_id, score, loss=0.5, status="ok"):
    return {
        "trial_id": trial_id,
        "score": score,
        "loss": loss,
        "status": status,
        "error": "" if status == "ok" else "DivergedError: it is gone",
        "wall_seconds": 0.0,
    }


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.5, 0.7, 0.6, 0.65], 1),
        ([(0.7, 0.4), (0.7, 0.3), 0.6, 0.6], 1),
        ([(0.7, 0.3), (0.7, 0.3), 0.6, 0.6], 0),
        ([None, 0.1, None, None], 1),
        ([(math.nan, 0.6), (math.nan, 0.2), (math.nan, 0.3), None], 1),
    ],
)
def test_the_best_score_is_chosen_then_the_lower_loss_then_the_first(scenario, tmp_path, scores, best):
    [contest] = of(scenario(seeds=[0]))
    for trial, score in zip(contest.trials, scores, strict=True):
        score, loss = score if isinstance(score, tuple) else (score, 0.5)
        status = "failed" if score is None else "ok"
        note_trial(tmp_path, entry(trial.run_id, math.nan if score is None else score, loss, status))
    chosen = choices([contest], tmp_path)
    assert chosen.specs == {contest.base.run_id: contest.candidates[best]}
    assert [row["chosen"] for row in chosen.trials] == [number == best for number in range(4)]


def test_a_run_none_of_whose_settings_can_be_trained_fails_in_one_line(scenario, tmp_path, monkeypatch):
    def diverges(*_, **__):
        raise DivergedError("it has no finite outputs")

    monkeypatch.setattr(execution, "train_run", diverges)
    table = run(scenario(), tmp_path).runs
    assert set(table["status"]) == {"failed"}
    assert len(table) == 2
    assert set(table["error"]) == {
        "TuningError: none of the 4 settings could be trained; DivergedError: it has no finite outputs"
    }


def test_the_table_says_what_was_chosen_and_trials_what_was_tried(scenario, tmp_path):
    table = run(scenario(), tmp_path).runs
    trials = trials_table(tmp_path / "tuned")
    assert " ".join(trials.columns) == (
        "trial_id study strategy method cut seed held_out tuned.train.learning-rate score loss status chosen"
    )
    assert len(trials) == 2 * 4
    ranked = trials.sort_values(["score", "loss"], ascending=[False, True])
    best = ranked.drop_duplicates("seed").set_index("seed")["tuned.train.learning-rate"]
    assert table.set_index("seed")["tuned.train.learning-rate"].to_dict() == best.to_dict()
    assert trials[trials["chosen"]].groupby("seed").size().tolist() == [1, 1]
    record = json.loads((tmp_path / "tuned" / table["run_id"][0] / "run.json").read_text())
    assert record["spec"]["tuned"] == {"train.learning-rate": table["tuned.train.learning-rate"][0]}
    assert record["spec"]["train"]["learning-rate"] == table["tuned.train.learning-rate"][0]


@pytest.mark.parametrize("privacy", [{}, PRIVATE])
def test_no_held_out_record_decides(scenario, tmp_path, monkeypatch, privacy):
    """Labels and values of the held-out records are garbage: every trial ends with the same bits."""
    made = scenario(privacy=privacy)
    tried(made, tmp_path / "clean")

    def poisoned(*settings):
        federation = load_records(*settings)
        test = federation.test
        return replace(federation, test=Records(100 * test.x[::-1] - 7, 1 - test.y, test.offsets))

    for module in (planning, execution):
        monkeypatch.setattr(module, "load_records", poisoned)
    tried(made, tmp_path / "poisoned")
    tables = [trials_table(tmp_path / place / "tuned") for place in ("clean", "poisoned")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.slow
def test_the_choice_is_the_same_with_any_number_of_processes(scenario, tmp_path):
    strategies = [{"name": "fedavg"}, {"name": "split", "cut": ["vanilla"]}]
    made = scenario(privacy=PRIVATE, strategies=strategies, model={"name": "mlp", "hidden": [4], "cut": 1})
    for jobs in (1, 2):
        run(made, tmp_path / str(jobs), jobs=jobs)
    pd.testing.assert_frame_equal(*(trials_table(tmp_path / jobs / "tuned") for jobs in ("1", "2")), check_exact=True)
    assert_same_results(tmp_path / "1" / "tuned", tmp_path / "2" / "tuned")


def test_trials_are_worth_the_same_alone_and_as_lanes(scenario, tmp_path):
    made = scenario(privacy=PRIVATE)
    tried(made, tmp_path)
    together = read_trials(tmp_path / "tuned")
    for plan in plan_trials(made)[:3]:
        [alone] = execution.try_together([plan])
        assert alone["score"] == together[plan.spec.run_id]["score"]
        assert alone["loss"] == together[plan.spec.run_id]["loss"]


def test_what_trials_of_several_seeds_share_is_each_ones_own(scenario, monkeypatch):
    model = {"name": "mlp", "hidden": [4], "cut": 1}
    strategies = [{"name": "fedavg"}, {"name": "split", "cut": "vanilla"}]
    made = scenario(privacy=PRIVATE, seeds=[0, 1], strategies=strategies, model=model)
    anew = []
    monkeypatch.setattr(planning, "make_plan", lambda *given: anew.append(make_plan(*given)) or anew[-1])
    plans = plan_trials(made)
    assert (len(plans), len(anew)) == (16, 2)
    for plan in plans:
        data = load_records(plan.spec.data, plan.spec.clinics, plan.spec.seed).for_tuning()
        own = make_plan(plan.spec, data.facts)
        assert plan.noise_multipliers == own.noise_multipliers
        assert plan.ledger == own.ledger
        assert plan.noised_steps == own.noised_steps
        assert (plan.job.key, plan.job.seed, plan.job.facts) == (own.job.key, own.job.seed, own.job.facts)


def test_trials_of_seeds_that_decide_who_comes_are_planned_apart(scenario, monkeypatch):
    anew = []
    monkeypatch.setattr(planning, "make_plan", lambda *given: anew.append(make_plan(*given)) or anew[-1])
    train = {"rounds": 3, "batch-size": 8, "participation": 0.5}
    plan_trials(scenario(seeds=[0, 1], train=train))
    assert len(anew) == 2


@dataclass
class Killed:
    """An engine whose process is killed behind some trials, in the midst of a line."""

    folder: Path
    after: int
    jobs: int = 1
    hosts: None = None

    def run(self, execute, groups):
        for group in groups:
            for row in execute(group):
                yield row
                self.after -= 1
                if not self.after:
                    with (self.folder / TRIALS_LOG).open("a") as file:
                        file.write('{"trial_id": "01')
                    raise KeyboardInterrupt


def test_a_killed_study_loses_at_most_the_trials_it_was_at(scenario, tmp_path):
    made = scenario(privacy=PRIVATE)
    tried(made, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tried(made, tmp_path / "cut", Killed(tmp_path / "cut" / "tuned", after=3))
    assert len(unfinished(plan_trials(made), tmp_path / "cut" / "tuned")) == 8 - 3
    tried(made, tmp_path / "cut")
    pd.testing.assert_frame_equal(
        *(trials_table(tmp_path / place / "tuned") for place in ("whole", "cut")), check_exact=True
    )
    assert not unfinished(plan_trials(made), tmp_path / "cut" / "tuned")


def test_methods_that_differ_at_one_rate_are_equal_where_each_has_its_own(scenario, tmp_path):
    """A loss of eight times the weight wants an eighth of the rate, and then learns the same, bit for bit."""
    strategies = [
        {"name": "fedavg", "label": "plain"},
        {"name": "fedavg", "label": "weighted", "set": {"train": {"class-weights": [8.0, 8.0]}}},
    ]
    shared = {"rounds": 3, "batch-size": 8, "learning-rate": 1.0}
    tables = {
        "tuned": run(scenario(strategies=strategies), tmp_path / "tuned").runs,
        "shared": run(scenario(strategies=strategies, train=shared, tune=None), tmp_path / "shared").runs,
    }
    gaps = {}
    for name, table in tables.items():
        losses = table.pivot_table(index="seed", columns="strategy", values="loss")
        gaps[name] = (losses["weighted"] - losses["plain"]).abs()
    assert (gaps["shared"] > 0.01).all()
    assert (gaps["tuned"] == 0).all()
    rates = tables["tuned"].pivot_table(index="seed", columns="strategy", values="tuned.train.learning-rate")
    assert (rates["plain"] == 8 * rates["weighted"]).all()


def test_a_finished_study_tries_nothing_again(scenario, tmp_path, monkeypatch):
    made = scenario()
    run(made, tmp_path)
    monkeypatch.setattr("sim.study.trials.train_run", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr("sim.study.runner.train_run", lambda *_, **__: pytest.fail("trained again"))
    run(made, tmp_path)


@pytest.mark.slow
def test_compare_and_advise_say_what_the_report_says_of_a_tuned_study(tmp_path, suture):
    """The best rates are above all that are tried, and FedProx has more to choose among."""
    write_csv(tmp_path / "clinics.csv")
    path = tmp_path / "tuned.toml"
    mixed = '[[strategies]]\nname = "fedprox"\n[tune]\n"strategies.fedprox.proximal-mu" = [0.1, 1.0]\n'
    low = BASE.replace("[0.015625, 0.125, 1.0, 8.0]", "[1e-6, 1e-5, 1e-4, 1e-3]")
    path.write_text(low.replace("[tune]\n", mixed).replace("reference = false", "reference = true"), encoding="utf-8")
    assert suture("run", path)[0] == 0
    study = read_results(tmp_path / "results" / "tuned")
    [(_, finding), (_, scope)] = conclusions(study)
    assert "did not choose among the same: FedAvg among 4 settings" in scope
    said = plain(suture("compare", tmp_path / "results" / "tuned")[1])
    assert said.endswith(plain(f"{finding} {scope}"))
    [edge, *_] = at_the_edge(study.trials)
    assert edge in said
    advice = plain(suture("advise", path)[1])
    assert scope in advice
    assert "did best at the" in advice


def test_the_status_of_a_study_counts_its_trials(scenario, tmp_path, suture):
    made = scenario()
    study = tmp_path / "cut" / "tuned"
    with pytest.raises(KeyboardInterrupt):
        tried(made, tmp_path / "cut", Killed(study, after=3))
    code, out, _ = suture("status", study)
    assert code == 0
    assert out.splitlines()[0] == "3 of 8 trials finished; the runs follow"
    tried(made, tmp_path / "cut")
    assert suture("status", study)[1].splitlines()[0] == "8 of 8 trials finished; the runs follow"
    run(made, tmp_path / "cut")
    assert suture("status", study)[1].splitlines()[0] == "2 of 2 runs finished"


def test_the_plan_says_what_tuning_may_change(tmp_path, suture):
    write_csv(tmp_path / "clinics.csv")
    path = tmp_path / "tuned.toml"
    path.write_text(BASE, encoding="utf-8")
    note = "note: tune: train.learning-rate stand at the scenario's values, and each run chooses its own; no cost here"
    assert note in suture("plan", path)[2]
    path.write_text(BASE.replace('"train.learning-rate"', '"train.rounds"').replace(
        "[0.015625, 0.125, 1.0, 8.0]", "[2, 4]").replace("rounds = 3\n", "learning-rate = 0.1\n"))  # fmt: skip
    assert "with train.rounds time, traffic and epsilon may change" in suture("plan", path)[2]


def test_check_counts_the_trials_and_names_who_has_another_budget(tmp_path, suture):
    write_csv(tmp_path / "clinics.csv")
    path = tmp_path / "tuned.toml"
    mixed = '[[strategies]]\nname = "fedprox"\n[tune]\n"strategies.fedprox.proximal-mu" = [0.1, 1.0]\n'
    path.write_text(BASE.replace("[tune]\n", mixed), encoding="utf-8")
    told = plain(suture("check", path)[1])
    assert "Tuning: 24 trials come before the runs, 28 trainings in all." in told
    assert ": 8 settings (FedProx); 4 settings (FedAvg). It takes those with the best within-clinic AUC on 25 %" in told
    path.write_text(path.read_text().partition("[tune]")[0].replace("rounds", "learning-rate = 0.1\nrounds"))
    assert "Tuning: none, all methods train at the settings given" in plain(suture("check", path)[1])


def test_a_trial_may_score_below_zero(tmp_path):
    """R² has no least value: a trial on amounts that is worse than their mean is read again as it was written."""
    row = {"trial_id": "0" * 16, "score": -0.5, "loss": 0.1, "status": "ok", "error": "", "wall_seconds": 0.1}
    note_trial(tmp_path, row)
    assert read_trials(tmp_path)["0" * 16] == row
