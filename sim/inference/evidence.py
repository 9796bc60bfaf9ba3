"""Mean scores of methods over seeds, and where their variation comes from: patients and repetition, kept apart.

A method is trained once a seed, and each seed deals the same patients anew into those that train and those that are
held out. Two sources make the mean over ``J`` seeds vary:

- *Patients.* With other patients the score would be another. A patient's influence is summed over the seeds in which
  it was held out, and the sums squared are summed over patients. Where a share ``f`` is held out, this comes to
  ``v ((1 - f) / J + f)``, ``v`` the variance on one seed: more seeds do not make more patients.
- *Repetition.* What seeds vary beyond their patients (initial values, batches, noise) is new on each and counts
  ``1/J``.

The two make up the corrected resampled variance of Nadeau & Bengio (Machine Learning 2003), ``s^2 (1/J + test/train)``
for the variance between seeds: of its part that comes from patients this is the first term above, estimated from the
patients, who are many. Where no predictions are known, their formula stands for the whole.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.inference.scores import Floats, Ints, ScoredRuns, scored_runs

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What some seeds say of contrasts between methods."""

    mean: Floats  # [contrast]
    seeds: int
    between: Floats  # Variance between seeds; NaN where there is one
    explained: Floats  # What part of it is that other patients are held out
    weight: float  # By which the rest counts in the variance of the mean
    patients: Floats  # Variance of the mean over patients; NaN where no predictions are known
    degrees: Floats  # Degrees of freedom of `patients`, from how evenly the patients share it
    shares: Floats  # [method, method] `patients` as covariances of the methods; empty where no predictions are known


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Scores of methods by seed, and each patient's influence on them."""

    methods: tuple[str, ...]
    by_seed: Floats  # [seed, method], NaN where there was no run
    # Held-out over training records; 0 where predictions are known, or each seed has patients of its own
    ratio: float
    # By seed: which patients were held out, and their influence ``[patient, method]``; empty where not known
    influence: tuple[tuple[Ints, Floats], ...] = ()
    patients: int = 0
    same_patients: bool = True  # Whether all seeds deal the same patients

    @property
    def complete(self) -> Mask:
        """``[seed, method]`` where there is a value."""
        return ~np.isnan(self.by_seed)

    def among(self, names: Mapping[Any, str]) -> Evidence:
        """Return the evidence on some of the methods, under other names."""
        places = [self.methods.index(method) for method in names]
        influence = tuple((who, part[:, places]) for who, part in self.influence)
        return replace(self, methods=tuple(names.values()), by_seed=self.by_seed[:, places], influence=influence)

    def moments(self, seeds: Mask, contrasts: Floats) -> Moments:
        """Return means and variances of contrasts ``[contrast, method]`` over seeds for which all have a value."""
        values, count = np.nan_to_num(self.by_seed[seeds]) @ contrasts.T, int(seeds.sum())
        unknown = np.full(len(contrasts), np.nan)
        if not count:
            return Moments(
                mean=unknown, seeds=0, between=unknown, explained=unknown, weight=np.nan, patients=unknown,
                degrees=unknown, shares=np.empty((0, 0)),
            )  # fmt: skip
        patients = degrees = unknown
        explained, shares = np.zeros(len(contrasts)), np.empty((0, 0))
        if self.influence:
            parts = [self.influence[seed] for seed in np.flatnonzero(seeds)]
            summed = np.zeros((self.patients, len(self.methods)))
            for who, part in parts:
                summed[who] += part
            summed = summed[summed.any(1)]
            shares = summed.T @ summed / count**2
            patients = _of(contrasts, shares)
            degrees = _degrees(summed @ contrasts.T)
            if count > 1:
                alone = _of(contrasts, np.asarray(sum(part.T @ part for _, part in parts)))
                explained = alone / count - (patients * count**2 - alone) / (count * (count - 1))
        return Moments(
            mean=values.mean(0),
            seeds=count,
            between=values.var(0, ddof=1) if count > 1 else unknown,
            explained=explained,
            weight=1 / count + self.ratio,
            patients=patients,
            degrees=degrees,
            shares=shares,
        )


def _of(contrasts: Floats, covariance: Floats) -> Floats:
    return np.asarray(np.maximum(np.einsum("ij,jk,ik->i", contrasts, covariance, contrasts), 0.0))


def _degrees(shares: Floats) -> Floats:
    """Return Satterthwaite's degrees of freedom of sums of squares ``[contrast]`` of shares ``[patient, contrast]``."""
    squares = shares**2
    total, patients = squares.sum(0), (squares > 0).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        unevenness = (squares**2).sum(0) / total**2 - 1 / patients
        return np.where(total > 0, 2 / np.maximum(unevenness, 1e-9), np.inf)


def from_values(runs: pd.DataFrame, metric: str, ratio: float) -> Evidence:
    """Take the scores from a table of runs, where predictions are not known or do not decide the score.

    Of ``method, seed`` and the metric it has one row a method and seed. The ratio is that of held-out over training
    records; 0 where each seed has patients of its own.
    """
    table = runs.pivot_table(index="seed", columns="method", values=metric, sort=False, dropna=False)
    methods = list(dict.fromkeys(runs["method"]))
    return Evidence(methods=tuple(methods), by_seed=table.reindex(columns=methods).to_numpy(float), ratio=ratio)


def from_predictions(
    predictions: pd.DataFrame | ScoredRuns, models: pd.DataFrame, metric: str, *, same_patients: bool
) -> Evidence:
    """Take scores and influences from the predictions of held-out records.

    Parameters
    ----------
    predictions : DataFrame or ScoredRuns
        ``predictions.parquet`` of runs, with a column ``run_id``; or these, where they are compared several times.
    models : DataFrame
        ``run_id, method, seed``. Several runs of one method and seed are folds: each holds other records out, and the
        score is that of all of them together.
    metric : str
        One of :data:`sim.inference.scores.SCORED`.
    same_patients : bool
        Whether all seeds deal the same patients; otherwise each has its own.
    """
    methods = list(dict.fromkeys(models["method"]))
    seeds = sorted(models["seed"].unique())
    cell = _codes(models["seed"], seeds) * len(methods) + _codes(models["method"], methods)
    runs = scored_runs(predictions, models)
    known, model = runs.found(pd.Series(cell, index=models["run_id"].astype(object)))
    value, influence = runs.regrouped(known, model, len(seeds) * len(methods), metric)
    seed, method = np.divmod(model, len(methods))
    patient = runs.of.patient[known]
    patient = patient if same_patients else patient * len(seeds) + seed
    who, found = pd.factorize(patient)
    return Evidence(
        methods=tuple(methods),
        by_seed=value.reshape(len(seeds), len(methods)),
        ratio=0.0,
        influence=tuple(_by_patient(who, method, influence, seed == s, len(methods)) for s in range(len(seeds))),
        patients=len(found),
        same_patients=same_patients,
    )


def _by_patient(who: Ints, method: Ints, influence: Floats, chosen: Mask, methods: int) -> tuple[Ints, Floats]:
    place, patients = pd.factorize(who[chosen])
    cell = place * methods + method[chosen]
    summed = np.bincount(cell, weights=influence[chosen], minlength=len(patients) * methods).astype(np.float64)
    return np.asarray(patients, dtype=np.int64), summed.reshape(len(patients), methods)


def _codes(values: pd.Series[Any], order: Sequence[Hashable]) -> Ints:
    places = {value: place for place, value in enumerate(order)}
    return np.asarray(values.map(places), dtype=np.int64)
