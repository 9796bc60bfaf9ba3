"""Run a study: plan everything, skip what is finished, execute the rest in worker processes, keep the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd

from sim.attacks.attack import attacks_on_every_run
from sim.attacks.observation import Findings, Observation
from sim.data.at_clinics import load_records, records_key
from sim.data.federation import Federation
from sim.flower.actors import Hosts
from sim.foundation.problems import FolderError, SutureError, told
from sim.plan.plan import Plan
from sim.plan.statement import privacy_statement
from sim.privacy.statement_text import STATEMENT_FILE, statement_text
from sim.privacy.tuning_price import told_of
from sim.results.audit_log import release_entries
from sim.results.files import Columns, parquet
from sim.results.plain import from_plain, to_plain
from sim.results.store import read_rows, write_run, write_table, writing_to
from sim.results.study_log import note_interrupted
from sim.scenario.data import DataFile
from sim.scenario.spec import RESULTS_VERSION, code_of
from sim.study.engines import Engine, Row
from sim.study.forecast import Forecast, estimated_seconds
from sim.study.groups import grouped
from sim.study.journal import RunLog, remove_leftovers, write_study
from sim.study.lockstep import Shared
from sim.study.planning import edge_counts, plan_counts, plan_drawn, plan_summary
from sim.study.played import write_first_rounds
from sim.study.provenance import provenance
from sim.study.tables import clinics_table, finished_row, groups_table, predictions_table, rounds_table, split_table
from sim.study.train import TrainedRun, train_run
from sim.tensor.program import Alone, Program


class TuningError(SutureError, RuntimeError):
    """A run has no setting that can be trained."""


@dataclass(frozen=True)
class Chosen:
    """How a run came to its settings.

    Attributes
    ----------
    hopeless : str or None
        Why there are none, so that it fails without being trained.
    privacy : mapping or None
        What choosing them costs, as of :func:`sim.privacy.tuning_price.price_of`; None where nothing was chosen.
    """

    hopeless: str | None = None
    privacy: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Progress:
    """What a study tells while it runs.

    Attributes
    ----------
    start : callable
        Called once with the number of runs to do, the number already there and the seconds it will take.
    finished : callable
        Called with each run's and each trial's row as it ends, whatever its status, and the seconds left.
    tuning : callable
        Called before trials as ``start`` is before runs; the seconds are those of both.
    attacking : callable
        The same before the attacks on finished runs, by the number of runs.
    """

    start: Callable[[int, int, float], None]
    finished: Callable[[Row, float], None]
    tuning: Callable[[int, int, float], None] = lambda to_do, done, seconds: None
    attacking: Callable[[int, int, float], None] = lambda to_do, done, seconds: None


def run_study(
    plans: Sequence[Plan],
    table_ids: Sequence[str],
    out: Path,
    engine: Engine,
    progress: Progress,
    fail_fast: bool = False,
    tuning: Mapping[str, Chosen] = MappingProxyType({}),
) -> pd.DataFrame:
    """Execute planned runs and build the study's table.

    Parameters
    ----------
    plans : sequence of Plan
        All of one study. Runs that are finished in ``out`` are skipped; failed ones are tried again.
    table_ids : sequence of str
        The runs that belong in the table, of which those that exist are taken.
    out : Path
        The results folder; the study gets a folder of its own in it.
    engine : Engine
        Where they are executed; those that seem quickest are begun first.
    progress : Progress
    fail_fast : bool
        Whether a failed run ends the study.
    tuning : mapping of str to Chosen
        By id, how runs came to their settings.

    Returns
    -------
    DataFrame
        As in ``runs.parquet``.

    Raises
    ------
    WorkerDiedError
        If a worker was killed. The table is written all the same.
    FolderError
        If the results folder cannot be written.
    """
    folder = out / plans[0].spec.study
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        note_interrupted(folder)
    done = {row["run_id"] for row in read_rows(folder, [p.spec.run_id for p in plans]) if row["status"] == "ok"}
    quickest_first = sorted(plans, key=estimated_seconds)
    write_study(folder, quickest_first, table_ids)
    pending = [plan for plan in quickest_first if plan.spec.run_id not in done]
    forecast = Forecast(pending, engine.jobs)
    progress.start(len(pending), len(done), forecast.seconds_left())
    run = partial(execute_together, folder=folder, origin=provenance(), tuning=dict(tuning), hosts=engine.hosts)
    try:
        with closing(engine.run(run, grouped(pending, engine.jobs))) as rows:
            for row in rows:
                forecast.finished(row["run_id"], row["wall_seconds"])
                progress.finished(row, forecast.seconds_left())
                if fail_fast and row["status"] != "ok":
                    break
    finally:
        with writing_to(folder):
            note_interrupted(folder, {plan.spec.run_id for plan in pending})
        table = write_table(folder, table_ids)
    write_first_rounds(folder, plans)
    return table


def execute_together(
    plans: Sequence[Plan],
    folder: Path,
    origin: dict[str, Any],
    tuning: Mapping[str, Chosen] = MappingProxyType({}),
    hosts: Hosts | None = None,
) -> Iterator[Row]:
    """Execute runs in lockstep, their tensor work as one program, and yield each one's row when it ends.

    Parameters and errors are those of :func:`execute`. Runs on the same records share them.
    """
    shared = Shared()
    known: dict[tuple[str, str, int], Federation] = {}

    def one(plan: Plan) -> Row:
        of_data = records_key(plan.spec.data, plan.spec.clinics, plan.spec.seed)
        if of_data not in known:
            known[of_data] = load_records(plan.spec.data, plan.spec.clinics, plan.spec.seed, plan.spec.parties)
        return execute(plan, folder, origin, known[of_data], shared, tuning.get(plan.spec.run_id, Chosen()), hosts)

    yield from shared.run([partial(one, plan) for plan in plans])


def execute(
    plan: Plan,
    folder: Path,
    origin: dict[str, Any],
    federation: Federation | None = None,
    program: Program | None = None,
    chosen: Chosen | None = None,
    hosts: Hosts | None = None,
) -> Row:
    """Train one run, attack it, write its folder, and return its row; an error is a row too, with status ``failed``.

    Parameters
    ----------
    plan : Plan
    folder : Path
        The study's.
    origin : dict
        Versions and state of the code.
    federation : Federation, optional
        The run's records, where they are at hand.
    program : Program, optional
        Does the tensor work.
    chosen : Chosen, optional
        How it came to its settings.
    hosts : Hosts, optional
        Where its clinics are, if not in this process.

    Raises
    ------
    FolderError
        If the folder cannot be written.
    """
    program, chosen = program or Alone(), chosen or Chosen()
    started = program.clock()
    log = RunLog(folder, plan.spec.run_id)
    federation = federation or load_records(plan.spec.data, plan.spec.clinics, plan.spec.seed, plan.spec.parties)
    try:
        _refuse(chosen.hopeless)
        trained, findings = _trained_and_attacked(plan, federation, log, program, hosts)
        row = finished_row(plan, trained, findings, federation)
        tables: dict[str, Columns | bytes] = {
            "rounds": rounds_table(plan, trained, federation),
            "clinics": clinics_table(plan, trained, findings, federation),
            "predictions": predictions_table(plan, trained, federation),
            "split": _split(federation),
        }
        if plan.spec.evaluation.groups:
            tables["groups"] = groups_table(plan, trained, federation)
    except FolderError:
        raise
    except Exception as error:
        row = {**plan.columns(), "status": "failed", "error": told(error)}
        row["wall_seconds"] = program.clock() - started
        record, texts = _record(plan, folder, federation, origin, row, chosen)
        log.end(write_run(folder, record, {}, {}, texts), "failed", row["error"])
        return row
    row["wall_seconds"] = program.clock() - started
    record, texts = _record(plan, folder, federation, origin, row, chosen, findings)
    entries = [*trained.trail.entries, *release_entries(record["privacy"]["releases"])]
    log.end(write_run(folder, record, tables, _models(trained), texts, entries), "ok")
    return row


def _split(federation: Federation) -> bytes:
    """Return ``split.parquet``, which is the same for all runs on these records."""
    if federation not in _SPLITS:
        _SPLITS[federation] = parquet(split_table(federation))
    return _SPLITS[federation]


_SPLITS: WeakKeyDictionary[Federation, bytes] = WeakKeyDictionary()


def _refuse(hopeless: str | None) -> None:
    if hopeless is not None:
        raise TuningError(hopeless)


def _trained_and_attacked(
    plan: Plan, federation: Federation, log: RunLog, program: Program, hosts: Hosts | None
) -> tuple[TrainedRun, Findings]:
    """Train a run before the eyes of its attackers, and let them make what they can of it."""
    observation = Observation(attacks_on_every_run(), plan, federation)
    trained = train_run(
        plan,
        federation,
        watch=lambda server_round, seen: log.line("round", round=server_round, **seen.pooled),
        models=observation.round,
        overheard=observation.message if observation.listens else None,
        program=program,
        hosts=hosts,
    )
    return trained, observation.found(trained.parameters)


def _models(trained: TrainedRun) -> dict[str, dict[str, Any]]:
    best = {} if trained.best_round is None else {"model_best": trained.best_parameters}
    return {"model": trained.parameters, **best}


def _record(
    plan: Plan,
    folder: Path,
    federation: Federation,
    origin: dict[str, Any],
    row: Row,
    chosen: Chosen,
    findings: Findings | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what goes into ``run.json``, and the privacy statement as text; a failed run has no findings."""
    spec = plan.spec
    written = spec.model_dump(mode="json")
    if isinstance(spec.data, DataFile) and spec.data.path.is_relative_to(folder.resolve()):
        written["data"]["path"] = str(spec.data.path.relative_to(folder.resolve()))  # the folder may move
    statement = privacy_statement(plan, origin, finished=findings is not None)
    if findings is not None:
        statement["attacks"] = findings.stated()
        statement["not-covered"] += findings.not_covered()
    if chosen.privacy is not None:
        statement["tuning"] = told_of(chosen.privacy)
    # As it will be read again, so that who reads it can write the very same text.
    statement = from_plain(to_plain(statement))
    record = {
        "spec": written,
        "plan": {**plan_summary(plan), "counts": plan_counts(plan), **edge_counts(plan), "drawn": plan_drawn(plan)},
        "privacy": {
            "releases": plan.ledger.to_json(),
            "statistics": dict(federation.statistics),
            "non-private-releases": [found["what"] for found in statement["not-covered"]],
            "statement": statement,
            **({} if chosen.privacy is None else {"tuning": dict(chosen.privacy)}),
        },
        "results-version": RESULTS_VERSION,
        "data-sha256": spec.data.sha256() if isinstance(spec.data, DataFile) else None,
        "public-head": spec.model.public_digest(),
        "code-sha256": code_of(spec),
        "provenance": origin,
        **({} if findings is None else {"audit": findings.rows()}),
        "row": row,
    }
    return record, {STATEMENT_FILE: statement_text(statement)}
