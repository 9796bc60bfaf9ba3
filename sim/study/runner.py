"""Run a study: plan everything, skip what is finished, learn the rest in worker processes, keep the table."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.data.federation import Federation, load_federation
from sim.foundation.problems import FolderError, ScenarioError, SutureError, place_of
from sim.plan.plan import Plan, make_plan
from sim.plan.statement import privacy_statement
from sim.privacy.ledger import COLUMN_OF
from sim.privacy.statement_text import STATEMENT_FILE, statement_text
from sim.privacy.uncovered import not_covered, publishes_class_counts
from sim.results.audit_log import release_entries
from sim.results.store import from_plain, read_rows, to_plain, write_run, write_table, writing_to
from sim.results.study_log import note_interrupted
from sim.scenario import DataFile
from sim.scenario.spec import RESULTS_VERSION, RunSpec, code_digests, imports
from sim.study.engines import Engine, Row
from sim.study.forecast import Forecast, estimated_seconds
from sim.study.journal import RunLog, remove_leftovers, write_study
from sim.study.played import write_first_rounds
from sim.study.provenance import provenance

if TYPE_CHECKING:
    from sim.attacks.attacks import Membership
    from sim.tensor.evaluation import Evaluation


@dataclass(frozen=True)
class Progress:
    """What a study tells while it runs.

    Attributes
    ----------
    start : callable
        Called once with the number of runs to do, the number already there and the seconds it will take.
    finished : callable
        Called with each run's row as it ends, whatever its status, and the seconds left.
    """

    start: Callable[[int, int, float], None]
    finished: Callable[[Row, float], None]


def plan_runs(specs: Sequence[RunSpec]) -> Iterator[Plan]:
    """Plan runs one by one.

    Raises
    ------
    ScenarioError
        At the end, with every problem of every run, each once.
    """
    problems: list[str] = []
    for spec in specs:
        try:
            federation = load_federation(spec.data, spec.seed)
            if "." in spec.strategy.name:
                from sim.flower.imported import check_imported

                check_imported(spec.strategy, len(federation.names))
            yield make_plan(spec, federation.facts)
        except ScenarioError as error:
            problems += error.problems
    if problems:
        raise ScenarioError(problems)


def run_study(
    plans: Sequence[Plan],
    table_ids: Sequence[str],
    out: Path,
    engine: Engine,
    progress: Progress,
    fail_fast: bool = False,
) -> pd.DataFrame:
    """Learn planned runs and build the study's table.

    Parameters
    ----------
    plans : sequence of Plan
        All of one study. Runs that are finished in ``out`` are skipped; failed ones are tried again.
    table_ids : sequence of str
        The runs that belong in the table, of which those that exist are taken.
    out : Path
        The results folder; the study gets a folder of its own in it.
    engine : Engine
        Where they are learned; those that seem quickest are begun first.
    progress : Progress
    fail_fast : bool
        Whether a failed run ends the study.

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
    learn_one = partial(execute, folder=folder, origin=provenance())
    try:
        with closing(engine.run(learn_one, pending)) as rows:
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


def execute(plan: Plan, folder: Path, origin: dict[str, Any]) -> Row:
    """Learn one run, write its folder, and return its row; an error is a row too, with status ``failed``.

    Parameters
    ----------
    plan : Plan
    folder : Path
        The study's.
    origin : dict
        Versions and state of the code.

    Raises
    ------
    FolderError
        If the folder cannot be written.
    """
    from sim.attacks.attacks import attack
    from sim.study.train import train_run

    started = time.perf_counter()
    spec = plan.spec
    log = RunLog(folder, spec.run_id)
    federation = load_federation(spec.data, spec.seed)
    record: dict[str, Any] = {
        "spec": spec.model_dump(mode="json"),
        "plan": {**plan_summary(plan), "counts": plan_counts(plan), "drawn": plan_drawn(plan, len(federation.classes))},
        "privacy": {
            "releases": plan.ledger.to_json(),
            "statistics": dict(federation.statistics),
            "non-private-releases": [found["what"] for found in not_covered(spec)],
        },
        "results-version": RESULTS_VERSION,
        "data-sha256": spec.data.sha256() if isinstance(spec.data, DataFile) else None,
        "public-head": spec.model.public_digest(),
        "code-sha256": code_digests(imports(spec.model, [spec.strategy])),
        "provenance": origin,
    }
    try:
        learned = train_run(plan, federation, watch=lambda r, seen: log.line("round", round=r, **seen.pooled))
    except FolderError:
        raise
    except Exception as error:
        # Our own errors say what to do and quote no record; the text of others may.
        text = f"{type(error).__name__}: {error}" if isinstance(error, SutureError) else place_of(error)
        row = {**plan.columns(), "status": "failed", "error": text}
        row["wall_seconds"] = time.perf_counter() - started
        statement = privacy_statement(plan, origin, finished=False)
        record["privacy"]["statement"] = statement
        run_folder = write_run(folder, {**record, "row": row}, {}, {}, {STATEMENT_FILE: statement_text(statement)})
        log.end(run_folder, "failed", text)
        return row
    final = learned.evaluations[-1]
    best = learned.best_round
    models = {"model": learned.parameters}
    chosen: Row = {}
    if best is not None:
        models["model_best"] = learned.best_parameters
        scores = learned.evaluations[best].pooled
        chosen = {"best_round": best, **{f"best_{metric}": value for metric, value in scores.items()}}
    inferred, r2 = attack(plan, learned.parameters, federation)
    record["audit"] = attack_summary(inferred, r2, federation)
    row = {
        **plan.columns(),
        "status": "ok",
        **_round_row(final, federation),
        **chosen,
        "membership_auc": inferred.auc,
        "smashed_reconstruction_r2": r2,
        "majority_accuracy": majority_accuracy(federation),
        "wall_seconds": time.perf_counter() - started,
    }
    rounds = pd.DataFrame([_round_row(evaluation, federation) for evaluation in learned.evaluations])
    for metric in learned.validations[0].pooled if learned.validations else ():
        rounds[f"validation_{metric}"] = [validation.pooled[metric] for validation in learned.validations]
    if learned.clips:
        rounds["clip"] = learned.clips
    rounds.insert(0, "round", range(len(rounds)))
    rounds["participants"], rounds["returned"] = [0, *plan.participants], [0, *plan.returned]
    rounds["sim_seconds"] = np.cumsum([0.0, *plan.round_seconds])
    rounds["bytes"] = [0, *plan.bytes_after]
    for adversary, spent in plan.epsilon_spent.items():
        rounds[COLUMN_OF[adversary]] = spent
    clinics = pd.DataFrame(
        [{**flat_clinic(clinic), **metrics} for clinic, metrics in zip(plan.clinics, final.clinics, strict=True)]
    )
    clinics.insert(1, "test_records", np.diff(federation.test.offsets))
    if publishes_class_counts(spec):
        clinics = clinics.assign(**_class_counts(federation))
    clinics["membership_auc"] = inferred.clinics
    statement = privacy_statement(plan, origin, finished=True)
    statement["attacks"] = [{"adversary": who, **found} for who, found in record["audit"].items()]
    # As it will be read again, so that who reads it can write the very same text.
    record["privacy"]["statement"] = statement = from_plain(to_plain(statement))
    tables, texts = {"rounds": rounds, "clinics": clinics}, {STATEMENT_FILE: statement_text(statement)}
    lines = [*learned.trail.entries, *release_entries(plan.ledger.to_json())]
    log.end(write_run(folder, {**record, "row": row}, tables, models, texts, lines), "ok")
    return row


def attack_summary(inferred: Membership, r2: float, federation: Federation) -> dict[str, Row]:
    """Return what ``run.json`` says of the attacks, by the adversary who makes them."""
    told = np.array(inferred.clinics)
    worst = -1 if np.isnan(told).all() else int(np.nanargmax(told))
    found: dict[str, Row] = {
        "model-user": {
            "attack": "membership by a threshold on the loss (Yeom et al. 2018)",
            "auc": round(inferred.auc, 4),
            "advantage": round(inferred.advantage, 4),
            "worst_clinic": federation.names[worst] if worst >= 0 else "",
            "worst_clinic_auc": round(inferred.clinics[worst], 4) if worst >= 0 else np.nan,
            "members": len(federation.train.y),
            "others": len(federation.test.y),
        }
    }
    if not np.isnan(r2):
        found["server"] = {
            "attack": "reconstruction of records from smashed rows by ridge regression, fitted on held-out records",
            "r2": round(r2, 4),
        }
    return found


def _round_row(evaluation: Evaluation, federation: Federation) -> Row:
    worst = evaluation.worst_clinic
    named = {
        "worst_clinic_auc": evaluation.clinics[worst]["auc"] if worst >= 0 else np.nan,
        "worst_clinic": federation.names[worst] if worst >= 0 else "",
    }
    return {**evaluation.pooled, **named}


def _class_counts(federation: Federation) -> dict[str, NDArray[np.int64]]:
    """Count each clinic's records of each class, in training, validation and held out together."""
    parts = (federation.train, federation.validation, federation.test)
    y = np.concatenate([part.y for part in parts])
    clinic = np.concatenate([np.repeat(np.arange(len(part.offsets) - 1), np.diff(part.offsets)) for part in parts])
    return {
        f"class {name}": np.bincount(clinic[y == label], minlength=len(federation.names))
        for label, name in enumerate(federation.classes)
    }


def majority_accuracy(federation: Federation) -> float:
    """Return the pooled test accuracy of always predicting the most frequent training label."""
    majority = np.bincount(federation.train.y).argmax()
    return float(np.mean(federation.test.y == majority))


def flat_clinic(clinic: Any) -> Row:
    """Return a clinic's plan as one flat row, epsilon in a column an adversary."""
    row = asdict(clinic)
    epsilon = row.pop("epsilon")
    return {**row, **{COLUMN_OF[adversary]: value for adversary, value in epsilon.items()}}


def plan_counts(plan: Plan) -> dict[str, list[int]]:
    """Return planned bytes by direction and kind and planned noised steps by part, one number a clinic."""
    traffic = {f"{way} {kind}": sizes.tolist() for (way, kind), sizes in sorted(plan.traffic.items())}
    return traffic | {f"noised-steps {part}": list(steps) for part, steps in sorted(plan.noised_steps.items())}


def plan_drawn(plan: Plan, classes: int) -> Row:
    """Return the counts and noise that epsilon follows from, ``[clinic]`` each, and the number of classes."""
    drawn = {name: values.tolist() for name, values in vars(plan.sampled).items()}
    noise = {"noise-multipliers": list(plan.noise_multipliers), "release-noise": list(plan.release_noise)}
    return {**drawn, **noise, "classes": classes}


def plan_summary(plan: Plan) -> Row:
    """Return what ``suture plan --json`` prints of a run: the columns known before training, and its clinics."""
    return {
        **plan.columns(),
        "bytes": {f"{way} {kind}": int(sizes.sum()) for (way, kind), sizes in sorted(plan.traffic.items())},
        "phase_seconds": plan.phase_seconds,
        "clinics": [asdict(clinic) for clinic in plan.clinics],
    }


def default_jobs() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
