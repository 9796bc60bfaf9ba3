"""The tables of a run: its row in that of the study, its rounds, and its clinics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.attacks.attack import AttackError
from sim.attacks.observation import Findings
from sim.data.federation import Federation, Records
from sim.data.groups import read_groups
from sim.models.joined import network_without
from sim.plan.plan import ClinicPlan, Plan
from sim.privacy.ledger import COLUMN_OF
from sim.privacy.uncovered import publishes_class_counts
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


def rounds_table(plan: Plan, trained: TrainedRun, federation: Federation) -> pd.DataFrame:
    """Return ``rounds.parquet``: a row before the first round and one after each."""
    scorer = _scorer(plan)
    rounds = pd.DataFrame([_scores(plan, evaluation, federation.test_names) for evaluation in trained.evaluations])
    rounds = rounds.drop(columns=list(scorer.last_round))
    for metric in scorer.every_round if trained.validations else ():
        rounds[f"validation_{metric}"] = [validation.pooled[metric] for validation in trained.validations]
    if trained.clips:
        rounds["clip"] = trained.clips
    rounds.insert(0, "round", range(len(rounds)))
    rounds["participants"], rounds["returned"] = [0, *plan.participants], [0, *plan.returned]
    rounds["sim_seconds"] = np.cumsum([0.0, *plan.round_seconds])
    rounds["bytes"] = [0, *plan.bytes_after]
    for adversary, spent in plan.epsilon_spent.items():
        rounds[COLUMN_OF[adversary]] = spent
    return rounds


def clinics_table(plan: Plan, trained: TrainedRun, findings: Findings, federation: Federation) -> pd.DataFrame:
    """Return ``clinics.parquet``: a row a clinic, those that train before those that are held out as a whole.

    Raises
    ------
    AttackError
        If an attack takes a column that is there already.
    """
    scores = pd.DataFrame(trained.evaluations[-1].by_clinic, index=pd.Index(federation.test_names))
    scores.insert(0, "test_records", np.diff(federation.test.offsets))
    clinics = _with_strangers(pd.DataFrame([_flat(clinic) for clinic in plan.clinics]), plan.job.facts.held_out)
    clinics = clinics.join(scores, on="name")
    clinics.insert(1, "test_records", clinics.pop("test_records").fillna(0).astype("int64"))
    clinics["pairs"] = clinics["pairs"].fillna(0).astype("int64")
    if publishes_class_counts(plan.spec) and federation.classes:
        counts = pd.DataFrame(_class_counts(federation), index=pd.Index(federation.everyone))
        clinics = clinics.join(counts.reindex(plan.job.facts.everyone, fill_value=0), on="name")
    if plan.job.parties is not None and plan.job.parties.heads:
        score = plan.job.outcome.headline.pooled
        clinics[f"absent_{score}"] = _where_absent(plan, trained, federation, score)
    measured = findings.of_clinics(clinics["name"])
    for column in measured.keys() & set(clinics):
        raise AttackError(f'an attack takes column "{column}" of clinics.parquet; name another')
    return clinics.assign(**measured)


def _where_absent(plan: Plan, trained: TrainedRun, federation: Federation, score: str) -> list[float]:
    """Return, by party, the model's score on held-out patients where that party is missing at prediction."""
    networks = [network_without(plan.job.network, party) for party in range(len(plan.clinics))]
    judges = (Evaluator(each, federation.test, scorer=_scorer(plan)) for each in networks)
    return [judge.evaluate(trained.parameters).pooled[score] for judge in judges]


def predictions_table(plan: Plan, trained: TrainedRun, federation: Federation) -> pd.DataFrame:
    """Return ``predictions.parquet``: a row a held-out record, with what was seen and what the last model predicts."""
    predicted, test, scorer = trained.evaluations[-1].predicted, federation.test, _scorer(plan)
    table = pd.DataFrame(
        {"record": test.row, "patient": test.patient, "clinic": _clinic_of(test, federation.test_names)}
    )
    names, columns = scorer.columns(predicted.shape[1])
    of_records = zip(names, scorer.seen(test).T, strict=True)
    seen = {name: own if name in _MEASURED else own.astype(np.int64) for name, own in of_records}
    return table.assign(**seen, **dict(zip(columns, predicted.T, strict=True)))


def split_table(federation: Federation) -> pd.DataFrame:
    """Return ``split.parquet``: a row a record and the part that it is in, in the order of the source."""
    parts = {"train": federation.train, "validation": federation.validation, "test": federation.test}
    tables = []
    for name, part in parts.items():
        clinic = _clinic_of(part, federation.test_names if part is federation.test else federation.names)
        tables.append(pd.DataFrame({"record": part.row, "clinic": clinic, "part": name}))
    return pd.concat(tables).sort_values("record")


def groups_table(plan: Plan, trained: TrainedRun, federation: Federation) -> pd.DataFrame:
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
    return pd.DataFrame(rows)


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


def _with_strangers(clinics: pd.DataFrame, held_out: Sequence[str]) -> pd.DataFrame:
    """Add a row for each clinic that takes no part: nothing is asked of it, and no guarantee is about it."""
    nothing = {column: 0 if values.dtype.kind == "i" else np.nan for column, values in clinics.items()}
    strangers = pd.DataFrame([nothing | {"name": name} for name in held_out], columns=clinics.columns)
    return pd.concat([clinics, strangers.astype(clinics.dtypes)], ignore_index=True) if held_out else clinics


def _flat(clinic: ClinicPlan) -> Row:
    """Return a clinic's plan as one flat row, epsilon in a column an adversary."""
    row = asdict(clinic)
    epsilon = row.pop("epsilon")
    return {**row, **{COLUMN_OF[adversary]: value for adversary, value in epsilon.items()}}
