"""The audits of a study's finished runs: canaries train beside each other as lanes, run by run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path

from sim.attacks.attack import Target
from sim.attacks.audit import Kind, audit
from sim.data.at_clinics import load_records
from sim.foundation.problems import FolderError, ScenarioError, told
from sim.plan.plan import Plan
from sim.results.attack_log import AUDIT, Row, read_attacks
from sim.results.attacks import note_attack, write_attacks
from sim.results.columns import OUTCOME_COLUMNS
from sim.results.store import read_rows, write_table
from sim.study.attacking import finding_row, train_further
from sim.study.engines import Engine
from sim.study.forecast import Forecast, estimated_seconds
from sim.study.journal import read_study
from sim.study.planning import plan_runs
from sim.study.rerun import read_run
from sim.study.runner import Progress

FEWEST, MOST, ESTIMATED_SECONDS = 100, 3000, 50.0
"""Trainings of one audit: as many as are estimated to take so long one by one, which is twice as long as they do."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a study is audited.

    Attributes
    ----------
    canaries : int or None
        Trainings a run, or canaries of the one training; None for as many as take about half a minute a run.
    kind : {"crafted", "ordinary", "mislabelled"}
    one_run : bool
    """

    canaries: int | None
    kind: Kind
    one_run: bool

    def trainings(self, plan: Plan) -> int:
        """Return how many trainings, or canaries of the one training, a run is audited with."""
        if self.canaries is not None:
            return self.canaries
        return FEWEST if self.one_run else max(FEWEST, min(MOST, round(ESTIMATED_SECONDS / estimated_seconds(plan))))

    def audit_id(self, run_id: str) -> str:
        """Return the name of a run's audit: 16 hexadecimal digits of what decides what it comes to."""
        text = json.dumps([run_id, AUDIT, self.canaries, self.kind, self.one_run])
        return blake2b(text.encode(), digest_size=8).hexdigest()


def audit_study(folder: Path, options: Options, engine: Engine, progress: Progress, *, trust: bool) -> list[Row]:
    """Audit the runs that have ended well and have not been audited so, and put what was found into the tables.

    Parameters
    ----------
    folder : Path
        The study's.
    options : Options
    engine : Engine
    progress : Progress
    trust : bool
        Whether code that the folder names may be imported and run.

    Returns
    -------
    list of dict
        How the audit of each run ended, with the run's ``strategy``, ``cut``, ``seed`` and swept keys under ``run``.

    Raises
    ------
    ScenarioError
        If the folder is no study's, or a run cannot be planned again.
    FolderError
        If the folder cannot be written.
    """
    listed = read_study(folder)["table"]
    rows = {row["run_id"]: row for row in read_rows(folder, listed, strict=True) if row["status"] == "ok"}
    if not rows:
        raise ScenarioError([f"{folder}: has no finished run of this results version; run the study first"])
    if any(headline in row for row in rows.values() for headline in OUTCOME_COLUMNS):
        raise ScenarioError(
            [f"{folder}: canaries are of classes, and these runs predict something else; no epsilon is audited"]
        )
    ended = read_attacks(folder)
    names = {run_id: options.audit_id(run_id) for run_id in rows}
    left = [run_id for run_id, name in names.items() if ended.get(name, {}).get("status") != "ok"]
    pending = list(plan_runs([read_run(folder / run_id, trust=trust)[1] for run_id in left]))
    if pending and all(plan.job.edges is not None for plan in pending):
        raise ScenarioError(
            [f"{folder}: no adversary is played behind edge servers yet; none of these runs is audited"]
        )
    pending = [plan for plan in pending if plan.job.edges is None]
    if any(plan.job.parties is not None for plan in pending):
        raise ScenarioError(
            [f"{folder}: canaries are a clinic's records, and these runs have parties; none is audited"]
        )
    forecast = Forecast(pending, engine.jobs)
    progress.attacking(len(pending), len(rows) - len(pending), forecast.seconds_left())
    run = partial(audit_runs, options=options)
    with closing(engine.run(run, [[plan] for plan in pending])) as found:
        for row in found:
            note_attack(folder, row["audit"])
            forecast.finished(row["run_id"], row["wall_seconds"])
            progress.finished(row, forecast.seconds_left())
    write_attacks(folder)
    write_table(folder, listed, strict=True)
    ended = read_attacks(folder)
    return [ended[name] | {"run": rows[run_id]} for run_id, name in names.items()]


def audit_runs(plans: Sequence[Plan], options: Options) -> Iterator[Row]:
    """Audit some runs, and yield for each how it ended; an error is a row too, with status ``failed``."""
    for plan in plans:
        started = time.perf_counter()
        row: Row = {
            "attack_id": options.audit_id(plan.spec.run_id),
            "run_id": plan.spec.run_id,
            "attack": AUDIT,
            "status": "ok",
            "error": "",
            "findings": [],
            "exhibit": None,
        }
        target = Target(
            plan=plan,
            federation=load_records(plan.spec.data, plan.spec.clinics, plan.spec.seed, plan.spec.parties),
            model={},
            options={},
            train=partial(train_further, plan, "server"),
        )
        try:
            found = audit(target, options.trainings(plan), options.kind, one_run=options.one_run)
            row["findings"] = [finding_row(finding, "server") for finding in found]
        except FolderError:
            raise
        except Exception as error:
            row |= {"status": "failed", "error": told(error)}
        row["wall_seconds"] = time.perf_counter() - started
        yield {**plan.columns(), "audit": row, **{key: row[key] for key in ("status", "error", "wall_seconds")}}
