"""The tables of a run: its row in that of the study, its rounds, and its clinics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.attacks.attack import AttackError
from sim.attacks.observation import Findings
from sim.data.federation import Federation, Records
from sim.data.groups import read_groups
from sim.models.joined import network_without
from sim.plan.plan import ClinicPlan, Plan
from sim.privacy.ledger import COLUMN_OF
from sim.privacy.uncovered import publishes_class_counts
from sim.results.files import Columns
from sim.study.train import TrainedRun
from sim.tensor.evaluation import Evaluation, Evaluator
from sim.tensor.scoring import Scorer, scorer_of

Row = dict[str, Any]
_MEASURED = ("time", "amount")
"""What was seen of a record, and is no whole number."""


def finished_row(plan: Plan, trained: TrainedRun, findings: Findings, federation: Federation) -> Row:
    """Return the row of ``runs.parquet`` of a run that has been trained and attacked."""
    best: Row = {}
    if trained.best_round is not None:
        scores = trained.evaluations[trained.best_round].pooled
        best = {
            "best_round": trained.best_round,
            **{f"best_{name}": scores[name] for name in _scorer(plan).every_round},
        }
    return {
        **plan.columns(),
        "status": "ok",
        **_scores(plan, trained.evaluations[-1], federation.test_names),
        **best,
        **findings.row(),
        **_majority_accuracy(federation),
    }


def rounds_table(plan: Plan, trained: TrainedRun, federation: Federation) -> Columns:
    """Return ``rounds.parquet``: a row before the first round and one after each."""
    scorer = _scorer(plan)
    scored = [_scores(plan, evaluation, federation.test_names) for evaluation in trained.evaluations]
    of_rounds = [name for name in scored[0] if name not in scorer.last_round]
    table: Columns = {"round": np.arange(len(scored))} | {name: [row[name] for row in scored] for name in of_rounds}
    for metric in scorer.every_round if trained.validations else ():
        table[f"validation_{metric}"] = [validation.pooled[metric] for validation in trained.validations]
    if trained.clips:
        table["clip"] = trained.clips
    table["participants"], table["returned"] = [0, *plan.participants], [0, *plan.returned]
    table["sim_seconds"] = np.cumsum([0.0, *plan.round_seconds])
    table["bytes"] = [0, *plan.bytes_after]
    for adversary, spent in plan.epsilon_spent.items():
        table[COLUMN_OF[adversary]] = spent
    return table


def clinics_table(plan: Plan, trained: TrainedRun, findings: Findings, federation: Federation) -> Columns:
    """Return ``clinics.parquet``: a row a clinic, those that train before those that are held out as a whole.

    Of parties in regions it is a row a party of each region, and then one a region, with what its patients tell.

    Raises
    ------
    AttackError
        If an attack takes a column that is there already.
    """
    facts = plan.job.facts
    planned = _with_others([_flat(clinic) for clinic in plan.clinics], facts.held_out or facts.places.regions)
    if facts.places.regions:
        planned["records"][len(plan.clinics) :] = [facts.sizes[holder] for holder in facts.places.holders]
    scores, names = trained.evaluations[-1].by_clinic, planned["name"]
    tested = {name: place for place, name in enumerate(federation.test_names)}
    at = [tested.get(name, -1) for name in names]

    def of_tested(values: NDArray[Any], where_none: float = np.nan) -> NDArray[Any]:
        return np.append(values, where_none).astype(type(where_none))[at]

    counts = np.diff(federation.test.offsets)
    table: Columns = {"name": names, "test_records": of_tested(counts, 0)} | planned
    table |= {metric: of_tested(values, 0 if metric == "pairs" else np.nan) for metric, values in scores.items()}
    if publishes_class_counts(plan.spec) and federation.classes:
        everyone = {name: place for place, name in enumerate(federation.everyone)}
        here = [everyone.get(name, -1) for name in names]
        table |= {column: np.append(own, 0)[here] for column, own in _class_counts(federation).items()}
    if plan.job.parties is not None and plan.job.parties.heads:
        score = plan.job.outcome.headline.pooled
        missing = [np.nan] * (len(names) - len(plan.clinics))
        table[f"absent_{score}"] = [*_where_absent(plan, trained, federation, score), *missing]
    measured = findings.of_clinics(names)
    for column in measured.keys() & table.keys():
        raise AttackError(f'an attack takes column "{column}" of clinics.parquet; name another')
    return table | measured


def _where_absent(plan: Plan, trained: TrainedRun, federation: Federation, score: str) -> list[float]:
    """Return, by place, the score on its region's held-out patients where that party is missing at prediction."""
    places, found = federation.places, []
    parties = range(len(plan.job.parties.heads) if plan.job.parties is not None else 0)
    networks = [network_without(plan.job.network, party) for party in parties]
    without = [Evaluator(each, federation.test, scorer=_scorer(plan)).evaluate(trained.parameters) for each in networks]
    for party, region in zip(places.party_of, places.region_of, strict=True):
        found.append(float(without[party].by_clinic[score][region]))
    return found


def predictions_table(plan: Plan, trained: TrainedRun, federation: Federation) -> Columns:
    """Return ``predictions.parquet``: a row a held-out record, with what was seen and what the last model predicts."""
    predicted, test, scorer = trained.evaluations[-1].predicted, federation.test, _scorer(plan)
    table: Columns = {"record": test.row, "patient": test.patient, "clinic": _clinic_of(test, federation.test_names)}
    names, columns = scorer.columns(predicted.shape[1])
    of_records = zip(names, scorer.seen(test).T, strict=True)
    table |= {name: own if name in _MEASURED else own.astype(np.int64) for name, own in of_records}
    return table | dict(zip(columns, predicted.T, strict=True))


def split_table(federation: Federation) -> Columns:
    """Return ``split.parquet``: a row a record and the part that it is in, in the order of the source."""
    parts = {"train": federation.train, "validation": federation.validation, "test": federation.test}
    record = np.concatenate([part.row for part in parts.values()])
    order = np.argsort(record, kind="stable")
    clinic = [
        _clinic_of(p, federation.test_names if p is federation.test else federation.names) for p in parts.values()
    ]
    name = np.repeat(np.array(list(parts), dtype=object), [len(part.row) for part in parts.values()])
    return {"record": record[order], "clinic": np.concatenate(clinic)[order], "part": name[order]}


def groups_table(plan: Plan, trained: TrainedRun, federation: Federation) -> Columns:
    """Return ``groups.parquet``: a row a level of each column by which patients are grouped."""
    predicted, scorer = trained.evaluations[-1].predicted.astype(np.float64), _scorer(plan)
    test, seen = federation.test, scorer.seen(federation.test)
    clinic = np.repeat(np.arange(len(federation.test_names)), np.diff(test.offsets))
    rows = []
    for groups in read_groups(plan.spec.data, plan.spec.evaluation.groups, plan.spec.seed):
        of_test, of_train = groups.codes[test.row], groups.codes[federation.train.row]
        for code, level in enumerate(groups.levels):
            own = of_test == code
            sizes = np.bincount(clinic[own], minlength=len(federation.test_names))
            offsets = np.concatenate([[0], np.cumsum(sizes)])
            by_clinic, pooled = scorer.scores(predicted[own], seen[own], offsets, last=True)
            counts = {"records": int(own.sum()), "training_records": int((of_train == code).sum())}
            pairs = int(by_clinic["pairs"].sum())
            rows.append({"group": groups.column, "level": level, **counts, "pairs": pairs, **pooled})
    return {name: [row[name] for row in rows] for name in rows[0]}


def _clinic_of(part: Records, names: Sequence[str]) -> NDArray[np.object_]:
    return np.repeat(np.array(names, dtype=object), np.diff(part.offsets))


def _scorer(plan: Plan) -> Scorer:
    return scorer_of(plan.job.outcome, plan.spec.evaluation)


def _scores(plan: Plan, evaluation: Evaluation, names: tuple[str, ...]) -> Row:
    headline = plan.job.outcome.headline
    worst = evaluation.worst_clinic(headline.pooled)
    named = {
        headline.worst: float(evaluation.by_clinic[headline.pooled][worst]) if worst >= 0 else np.nan,
        "worst_clinic": names[worst] if worst >= 0 else "",
    }
    return {**evaluation.pooled, **named}


def _majority_accuracy(federation: Federation) -> Row:
    """Return the pooled test accuracy of always predicting the most frequent training class, if there are classes."""
    if not federation.classes:
        return {}
    majority = np.bincount(federation.train.y).argmax()
    return {"majority_accuracy": float(np.mean(federation.test.y == majority))}


def _class_counts(federation: Federation) -> dict[str, NDArray[np.int64]]:
    """Count each clinic's records of each class, in training, validation and held out together."""
    parts = (federation.train, federation.validation, federation.test)
    y = np.concatenate([part.y for part in parts])
    places = [np.repeat(np.arange(len(part.offsets) - 1), np.diff(part.offsets)) for part in parts]
    if federation.unseen:
        places[-1] += len(federation.names)
    clinic = np.concatenate(places)
    return {
        f"class {name}": np.bincount(clinic[y == label], minlength=len(federation.everyone))
        for label, name in enumerate(federation.classes)
    }


def _with_others(clinics: Sequence[Row], held_out: Sequence[str]) -> Columns:
    """Add a row for each clinic that takes no part, or region: nothing is asked of it, and no guarantee is about it."""
    table: Columns = {}
    for column in clinics[0]:
        own = [clinic[column] for clinic in clinics]
        nothing = 0 if np.asarray(own).dtype.kind == "i" else None
        table[column] = [*own, *(held_out if column == "name" else [nothing] * len(held_out))]
    return table


def _flat(clinic: ClinicPlan) -> Row:
    """Return a clinic's plan as one flat row, epsilon in a column an adversary."""
    row = dict(vars(clinic))
    epsilon = row.pop("epsilon")
    return {**row, **{COLUMN_OF[adversary]: value for adversary, value in epsilon.items()}}
