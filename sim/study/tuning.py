"""Tuning: trials first, from which each run's settings are chosen, then the runs.

Every run chooses by its own validation records, which are none of its held-out ones; see
:class:`sim.scenario.contests.Contest`. Which settings are tried depends on nothing but the scenario, and what a trial
comes to on its spec alone: the choice is the same with any number of processes, and after any interruption.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sim.data.folds import runs_of
from sim.plan.plan import HOW_IT_LEARNS, Plan
from sim.privacy.ledger import Ledger
from sim.privacy.tuning_price import price_of, tuning_price
from sim.results.store import writing_to
from sim.results.trials import note_trial, read_trials, write_trials
from sim.scenario import Scenario
from sim.scenario.contests import Contest, contests
from sim.scenario.spec import TUNED, RunSpec
from sim.study.engines import Engine
from sim.study.forecast import Forecast, estimated_seconds
from sim.study.groups import grouped
from sim.study.journal import write_study
from sim.study.planning import plan_runs
from sim.study.runner import Chosen, Progress
from sim.study.trials import try_together

Row = dict[str, Any]


@dataclass(frozen=True)
class Choices:
    """What tuning chose.

    Attributes
    ----------
    specs : dict of str to RunSpec
        The runs with their settings, by the id that they had without; a run that has nothing to tune, or none of whose
        settings could be trained, is as it was.
    hopeless : dict of str to str
        By id the runs that cannot be executed, with the reason.
    trials : list of dict
        The rows of ``trials.parquet``.
    """

    specs: dict[str, RunSpec]
    hopeless: dict[str, str]
    trials: list[Row]


def tuned(
    scenario: Scenario, plans: Sequence[Plan], trials: Sequence[Plan], out: Path, engine: Engine, progress: Progress
) -> tuple[list[Plan], list[str], dict[str, Chosen]]:
    """Execute the trials that have not ended, and choose.

    Parameters
    ----------
    scenario : Scenario
        The whole study.
    plans : sequence of Plan
        The runs that are asked for, at the scenario's values.
    trials : sequence of Plan
        Those of these runs.
    out : Path
        The results folder.
    engine : Engine
    progress : Progress

    Returns
    -------
    plans : list of Plan
        The runs that are asked for, with their settings.
    table_ids : list of str
        The runs of the whole study that have their settings.
    tuning : dict of str to Chosen
        By id, how runs came to their settings.
    """
    folder = out / scenario.name
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_study(folder, sorted(plans, key=estimated_seconds), [], trials)
    pending = unfinished(trials, folder)
    forecast, afterwards = Forecast(pending, engine.jobs), Forecast(plans, engine.jobs).seconds_left()
    progress.tuning(len(pending), len(trials) - len(pending), forecast.seconds_left() + afterwards)
    with closing(engine.run(partial(try_together, hosts=engine.hosts), grouped(pending, engine.jobs))) as rows:
        for row in rows:
            note_trial(folder, row)
            forecast.finished(row["trial_id"], row["wall_seconds"])
            progress.finished(row, forecast.seconds_left() + afterwards)
    found = contests(scenario, runs_of(scenario))
    chosen = choices(found, folder)
    write_trials(folder, chosen.trials)
    final = list(plan_runs([chosen.specs[plan.spec.run_id] for plan in plans]))
    tuning = dict(_tuning(found, chosen, {plan.spec.run_id: plan for plan in (*trials, *final)}))
    return final, [spec.run_id for spec in chosen.specs.values()], tuning


def _tuning(contests: Sequence[Contest], choices: Choices, plans: Mapping[str, Plan]) -> Iterator[tuple[str, Chosen]]:
    """Yield how each run that is planned came to its settings, with what that costs where its epsilon may be finite."""
    for contest in contests:
        spec = choices.specs.get(contest.base.run_id)
        run = None if spec is None else plans.get(spec.run_id)
        if run is None or not contest.trials:
            continue
        privacy = _price(run, contest, plans) if run.spec.privacy.mechanisms else None
        yield run.spec.run_id, Chosen(choices.hopeless.get(run.spec.run_id), privacy)


def _price(run: Plan, contest: Contest, plans: Mapping[str, Plan]) -> dict[str, Any]:
    """Return what choosing a run's settings costs; settings that change its plan may change what it releases."""
    times = Counter(plans[trial.run_id].ledger.to_json() for trial in contest.trials)
    made = run.ledger.to_json()
    by_plan = {each.model_dump_json(exclude=HOW_IT_LEARNS): each for each in (*contest.candidates, run.spec)}
    others = [each for each in by_plan.values() if each is not run.spec]
    not_made = sorted({plan.ledger.to_json() for plan in plan_runs(others)} - {made})
    runs = [run.ledger, *map(Ledger.from_json, not_made)]
    trials = [(Ledger.from_json(releases), count) for releases, count in times.items()]
    unit, delta = run.spec.privacy.unit, run.spec.privacy.delta or 0.0
    return price_of(list(times.items()), not_made, tuning_price(runs, trials, len(run.clinics), delta, unit))


def unfinished(trials: Sequence[Plan], folder: Path) -> list[Plan]:
    """Return the trials that have not ended yet, each once; those that failed, but for diverging, are tried again."""
    over = {name for name, row in read_trials(folder).items() if row["status"] == "ok" or _diverged(row)}
    return list({plan.spec.run_id: plan for plan in trials if plan.spec.run_id not in over}.values())


def choices(contests: Sequence[Contest], folder: Path) -> Choices:
    """Choose each run's settings by its trials; runs that lack a trial are left out."""
    ended = read_trials(folder)
    specs: dict[str, RunSpec] = {}
    hopeless: dict[str, str] = {}
    rows: list[Row] = []
    for contest in contests:
        results = [ended.get(trial.run_id) for trial in contest.trials]
        known = [result for result in results if result is not None]
        if len(known) < len(results):
            continue
        best = _best(known)
        spec = contest.base if best is None else contest.candidates[best]
        specs[contest.base.run_id] = spec
        if best is None and known:
            hopeless[spec.run_id] = f"none of the {len(known)} settings could be trained; {known[0]['error']}"
        rows += _rows(contest, known, best)
    return Choices(specs, hopeless, rows)


def _best(results: Sequence[Row]) -> int | None:
    """Return the first of the best: by score, then by loss; None where all failed."""

    def rank(number: int) -> tuple[float, float, int]:
        score, loss = (results[number][key] for key in ("score", "loss"))
        return (math.inf if math.isnan(score) else -score, math.inf if math.isnan(loss) else loss, number)

    return min((number for number, row in enumerate(results) if row["status"] == "ok"), key=rank, default=None)


def _rows(contest: Contest, results: Sequence[Mapping[str, Any]], best: int | None) -> Iterator[Row]:
    for number, (trial, result) in enumerate(zip(contest.trials, results, strict=True)):
        yield {
            "trial_id": trial.run_id,
            "study": trial.study,
            "strategy": trial.strategy.label or trial.strategy.name,
            "method": trial.strategy.name,
            "cut": trial.strategy.cut or "",
            "seed": trial.seed,
            "held_out": ", ".join(trial.data.test_sites or ()),
            **trial.swept,
            **{f"{TUNED}{key}": value for key, value in trial.tuned.items()},
            "score": result["score"],
            "loss": result["loss"],
            "status": result["status"],
            "chosen": number == best,
        }


def _diverged(row: Mapping[str, Any]) -> bool:
    return str(row["error"]).startswith("DivergedError")
