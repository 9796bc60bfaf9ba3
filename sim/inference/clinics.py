"""Scores of methods at each clinic, and what a method brings to it, with intervals over its patients and over seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from sim.inference.differences import LEVEL
from sim.inference.scores import Floats, Ints, Predictions, ScoredRuns, scored_runs
from sim.inference.survival import Times

_ENOUGH: Final = 5
"""Patients of each class held out on a seed, from which on a clinic's own variance over patients is taken."""


@dataclass(frozen=True, kw_only=True)
class ByClinic:
    """Scores of methods by clinic and seed, and each patient's influence on them."""

    methods: tuple[str, ...]
    clinics: tuple[str, ...]
    by_seed: Floats  # [seed, clinic, method], NaN where a clinic cannot be scored
    clinic: Ints  # [patient]
    summed: Floats  # [patient, method] influences on the mean over seeds of the patient's clinic
    clinic_at: Ints  # [patient at a seed]
    alone: Floats  # [patient at a seed, method] influences on the clinic's score of that seed
    size: Floats  # [clinic] by what variances fall from clinic to clinic: patients, or comparable pairs a patient
    fewest: Floats  # [clinic] patients of the rarer class that are held out on a seed, as a mean

    def contrast(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return values and variances over patients of a contrast, of the clinics that have them.

        A clinic's own variance is too rough an estimate where it has few patients (and none at all where all are
        ranked right), so that the variance of one unit of size is pooled over clinics.
        """
        values = self._values(weights)
        mean = _mean(values)
        known = np.asarray(~np.isnan(mean))
        return mean[known], self._pooled(self._variances(weights), known)[known]

    def estimates(self, reference: str | None = None) -> pd.DataFrame:
        """Return each method's mean at each clinic, or what it has over a reference there.

        ``clinic, method, n, mean, half_width``: `n` seeds on which the clinic can be scored; the 95 % interval is over
        the clinic's patients and over seeds; none of a clinic that has a single pair of patients, or on two seeds that
        no other clinic shares. Clinics that can be scored on none are left out.
        """
        eye = np.eye(len(self.methods))
        against = eye[self.methods.index(reference)] if reference else np.zeros(len(eye))
        methods = [name for name in self.methods if name != reference]
        found = [
            self._estimates(row - against) for row, name in zip(eye, self.methods, strict=True) if name != reference
        ]
        seeds, means, widths = np.array(found).reshape(len(methods), 3, len(self.clinics)).swapaxes(0, 1)
        table = pd.DataFrame(
            {
                "clinic": list(self.clinics) * len(methods),
                "method": [name for name in methods for _ in self.clinics],
                "n": seeds.ravel().astype(np.int64),
                "mean": means.ravel(),
                "half_width": widths.ravel(),
            }
        )
        return table[table["n"] > 0]

    def _estimates(self, weights: Floats) -> tuple[Ints, Floats, Floats]:
        """Return by clinic the number of seeds, the mean and the half-width of a contrast."""
        values = self._values(weights)
        seeds = (~np.isnan(values)).sum(0)
        own = self._variances(weights)
        patients = np.where(self.fewest >= _ENOUGH, own, self._pooled(own, seeds > 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            degrees = np.where(self.fewest >= _ENOUGH, self._degrees(weights, own), 1e6)
            between = np.nansum((values - _mean(values)) ** 2, axis=0) / (seeds - 1)
            alone = np.bincount(self.clinic_at, (self.alone @ weights) ** 2, minlength=len(self.clinics))
            explained = alone / seeds - (own * seeds**2 - alone) / (seeds * (seeds - 1))
            rest = np.maximum(between - explained, 0.0) / seeds
            twice = seeds == 2  # too few for a clinic's own variance between them: that of all such clinics counts
            shared = np.where(twice, np.maximum(rest, rest[twice].mean() if twice.any() else 0.0), rest)
            level, repeated = 1 - LEVEL / 2, np.where(twice, twice.sum(), seeds - 1)
            parts = [
                scipy.special.stdtrit(degrees, level) * np.sqrt(patients),
                np.nan_to_num(scipy.special.stdtrit(repeated, level) * np.sqrt(shared)),
            ]
        width = np.where((self.size > 1) & ~(twice & (twice.sum() == 1) & (rest > 0)), np.hypot(*parts), np.nan)
        return seeds, _mean(values), width

    def _values(self, weights: Floats) -> Floats:
        used = weights != 0
        return np.asarray(self.by_seed[:, :, used] @ weights[used])

    def _variances(self, weights: Floats) -> Floats:
        return np.bincount(self.clinic, (self.summed @ weights) ** 2, minlength=len(self.clinics)).astype(np.float64)

    def _degrees(self, weights: Floats, own: Floats) -> Floats:
        """Return Satterthwaite's degrees of freedom of the variances, from how evenly patients share them."""
        shares = self.summed @ weights
        fourth = np.bincount(self.clinic, shares**4, minlength=len(self.clinics))
        patients = np.bincount(self.clinic, shares != 0, minlength=len(self.clinics))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(2 / np.maximum(fourth / own**2 - 1 / patients, 2e-6))

    def _pooled(self, own: Floats, known: NDArray[np.bool_]) -> Floats:
        several = known & (self.fewest > 1)
        unit = own[several].sum() / (1 / self.size[several]).sum() if several.any() else 0.0
        return np.asarray(unit / self.size)


def _mean(values: Floats) -> Floats:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(0) / known.sum(0))


def by_clinic(
    predictions: pd.DataFrame | ScoredRuns, models: pd.DataFrame, metric: str, *, same_patients: bool = True
) -> ByClinic:
    """Score each clinic by itself; the within-clinic score of one clinic is its own.

    Several runs of one method and seed hold out other clinics; otherwise parameters are those of
    :func:`sim.inference.evidence.from_predictions`.
    """
    methods = list(dict.fromkeys(models["method"]))
    runs = scored_runs(predictions, models)
    known, place = runs.found(pd.Series(range(len(models)), index=models["run_id"].astype(object)))
    method = models["method"].map({name: number for number, name in enumerate(methods)}).to_numpy(np.int64)[place]
    seed, seeds = pd.factorize(models["seed"].to_numpy()[place])
    clinic, places = pd.factorize(runs.of.clinic[known])
    names, clinics, count = runs.clinics[places], len(places), len(methods)
    model = np.asarray((seed * count + method) * clinics + clinic, dtype=np.int64)
    cells = len(seeds) * count * clinics
    value, influence = runs.regrouped(known, model, cells, metric.removeprefix("within_clinic_"), at_clinics=True)
    of = runs.of.at(known, model, cells)
    by_seed = value.reshape(len(seeds), count, clinics).transpose(0, 2, 1)
    found = np.maximum((~np.isnan(by_seed)).sum(0), 1)  # [clinic, method]
    person = of.patient if same_patients else of.patient * len(seeds) + seed
    place, people = pd.factorize(person * clinics + clinic)
    at, there = pd.factorize(place * len(seeds) + seed)
    alone = np.bincount(at * count + method, influence, minlength=len(there) * count).reshape(len(there), count)
    summed = np.bincount(place * count + method, influence, minlength=len(people) * count)
    of_place = np.asarray(people % clinics, dtype=np.int64)
    size, fewest = _sizes(of, clinics, metric)
    return ByClinic(
        methods=tuple(methods),
        clinics=tuple(map(str, names)),
        by_seed=by_seed,
        clinic=of_place,
        summed=summed.reshape(len(people), count) / found[of_place],
        clinic_at=of_place[there // len(seeds)],
        alone=np.asarray(alone, dtype=np.float64),
        size=size,
        fewest=fewest,
    )


def _sizes(of: Predictions, clinics: int, metric: str) -> tuple[Floats, Floats]:
    """Return by what a clinic's variance falls, and how many patients of its rarer class a model is scored on."""
    if of.times is not None and metric.endswith("concordance"):
        return _sizes_of_times(of, of.times, clinics)
    classes = int(of.label.max(initial=0)) + 1
    models = np.maximum(np.bincount(np.unique(of.model) % clinics, minlength=clinics), 1.0)
    people = int(of.patient.max(initial=-1)) + 1
    each = pd.unique((of.model * classes + of.label) * people + of.patient) // people
    cell = (each // classes) % clinics * classes + each % classes
    counts = np.bincount(cell, minlength=clinics * classes).reshape(clinics, classes) / models[:, None]
    total = counts.sum(1)
    if not metric.endswith("auc"):
        return np.maximum(total, 1e-9), total
    pairs = (counts * (total[:, None] - counts)).sum(1)
    return np.maximum(pairs / np.maximum(total, 1e-9), 1e-9), np.sort(counts, axis=1)[:, -2]


def _sizes_of_times(of: Predictions, times: Times, clinics: int) -> tuple[Floats, Floats]:
    """Return the same of comparable pairs; the rarer class are those who are outlived, or those who outlive."""
    people, blocks = int(of.patient.max(initial=-1)) + 1, np.unique(of.model)
    once = np.unique(of.model * people + of.patient, return_index=True)[1]
    block, of_time, event = np.searchsorted(blocks, of.model[once]), times.time[once], times.counted[once]
    moments = np.unique(np.stack([of_time, ~event], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    line = block * (moments.max(initial=0) + 1) + moments
    ends = np.cumsum(np.bincount(block, minlength=len(blocks)))
    outliving = (ends[block] - np.searchsorted(np.sort(line), line, side="right")) * event
    earliest = np.full(len(blocks), np.iinfo(np.int64).max)
    np.minimum.at(earliest, block[event], line[event])
    counts = [np.bincount(block, own, len(blocks)) for own in (outliving > 0, line > earliest[block])]
    pairs, total = np.bincount(block, outliving, len(blocks)), np.bincount(block, minlength=len(blocks))
    at = blocks % clinics
    of_clinic = [np.bincount(at, own, clinics) for own in (pairs, total, np.minimum(*counts), np.ones(len(blocks)))]
    size = 2 * of_clinic[0] / np.maximum(of_clinic[1], 1.0)
    return np.maximum(size, 1e-9), of_clinic[2] / np.maximum(of_clinic[3], 1.0)
