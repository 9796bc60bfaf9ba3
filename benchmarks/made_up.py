"""Made-up studies whose truth is known: predictions of methods for patients that seeds deal again and again.

A patient's score is normal around a case's mean with what all methods see alike, what a method sees in that patient
(`apart`, the same on every seed) and nothing else; a seed moves a method's AUC (`noise`). A method's true within-clinic
AUC is its `auc`, so that every interval and every sentence can be held against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit, ndtri


@dataclass(frozen=True, kw_only=True)
class Law:
    """How a made-up study comes about."""

    aucs: Sequence[float]  # True within-clinic AUC of each method
    seeds: int = 5
    patients: int = 740
    clinics: int = 4
    held_out: float = 0.34
    apart: float = 0.4  # Share of a score's standard deviation that methods do not have in common
    noise: float | Sequence[float] = 0.004  # Standard deviation over seeds of each method's AUC
    fresh: bool = False  # Whether each seed has patients of its own
    records: int = 1  # Of a patient
    by_clinic: float = 0.0  # Standard deviation over clinics of all methods' AUC
    by_clinic_apart: float = 0.0  # The same, of each method's own
    knows_clinic: Sequence[float] = ()  # How much of a clinic's prevalence each method's scores show
    prevalence: Sequence[float] = (0.45,)  # Of the clinics, in turn
    every_clinic: bool = False  # Whether all patients are held out on each seed, a clinic at a time


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a made-up study leaves behind."""

    predictions: pd.DataFrame  # As runs leave them, with a column ``run_id``
    models: pd.DataFrame  # ``run_id, method, seed``
    truth: np.ndarray  # [method] the within-clinic AUC at just these clinics


def drawn(law: Law, rng: np.random.Generator) -> Study:
    """Draw a study."""
    methods = len(law.aucs)
    shift = law.by_clinic * rng.standard_normal((law.clinics, 1))
    shift = shift + law.by_clinic_apart * rng.standard_normal((law.clinics, methods))
    people = _people(law, rng)
    parts = []
    for seed in range(law.seeds):
        if law.fresh and seed:
            people = _people(law, rng)
        clinic, label, common, own = people
        held = np.ones(law.patients, bool) if law.every_clinic else rng.random(law.patients) < law.held_out
        rows = np.repeat(np.flatnonzero(held), law.records)
        moved = np.asarray(law.aucs) + np.asarray(law.noise) * rng.standard_normal(methods)
        mean = np.sqrt(2) * ndtri(np.clip(moved + shift[clinic], 0.02, 0.98))
        score = mean * label[:, None] + np.sqrt(1 - law.apart**2) * common[:, None] + law.apart * own
        score = score[rows]
        if law.records > 1:
            score = np.sqrt(0.8) * (score - mean[rows] * label[rows, None]) + mean[rows] * label[rows, None]
            score += np.sqrt(0.2) * rng.standard_normal(score.shape)
        if len(law.knows_clinic):
            logit = np.log(_prevalence(law) / (1 - _prevalence(law)))
            score = score + np.asarray(law.knows_clinic) * logit[clinic[rows], None]
        for method in range(methods):
            probability = expit(score[:, method] - 0.5)
            parts.append(
                pd.DataFrame(
                    {
                        "run_id": f"{seed}-{method}",
                        "record": rows * law.records,
                        "patient": rows,
                        "clinic": clinic[rows],
                        "label": label[rows],
                        "probability_0": 1 - probability,
                        "probability_1": probability,
                    }
                )
            )
    models = pd.DataFrame(
        [(f"{seed}-{method}", method_name(method), seed) for seed in range(law.seeds) for method in range(methods)],
        columns=["run_id", "method", "seed"],
    )
    table = pd.concat(parts, ignore_index=True)
    weight = _prevalence(law) * (1 - _prevalence(law))
    truth = weight @ np.clip(np.asarray(law.aucs) + shift, 0.02, 0.98) / weight.sum()
    return Study(predictions=table.assign(clinic="clinic-" + table["clinic"].astype(str)), models=models, truth=truth)


def method_name(method: int) -> str:
    """Name a method."""
    return f"method {method}"


def _prevalence(law: Law) -> np.ndarray:
    return np.resize(np.asarray(law.prevalence, dtype=float), law.clinics)


def _people(law: Law, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    clinic = np.arange(law.patients) % law.clinics
    label = (rng.random(law.patients) < _prevalence(law)[clinic]).astype(np.int64)
    return clinic, label, rng.standard_normal(law.patients), rng.standard_normal((law.patients, len(law.aucs)))
