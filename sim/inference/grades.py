"""Scores of predicted grades, ordered classes: of records of each clinic, and of all.

A model is given the probability of every grade. Two records of different grades are in order if the higher one has the
higher expected grade; the share of pairs in order is the AUC's generalisation to several grades (Van Calster et al.,
"Discrimination ability of prediction models for ordinal outcomes", Biometrical Journal 2012). The predicted grade is
the median one, as Shi, Cao & Raschka (2023) take it; Cohen's kappa weighs how far off it is by the square. The ranked
probability score (Epstein 1969) is best for true probabilities alone.
"""

from __future__ import annotations

from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

GRADE_METRICS: Final = ("within_clinic_ordinal_auc", "ordinal_auc", "ranked_probability", "quadratic_kappa")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def expected_grades(probabilities: Floats) -> Floats:
    """Return each record's expected grade, from 0; ``[record]`` of ``[record, grade]``."""
    return np.asarray(probabilities @ np.arange(probabilities.shape[1]))


def ranked_probability(probabilities: Floats, grade: Ints) -> Floats:
    """Return each record's squared differences of cumulative probability and truth, summed over the grades."""
    below = np.cumsum(probabilities, axis=1)[:, :-1]
    truth = grade[:, None] <= np.arange(below.shape[1])
    return np.asarray(((below - truth) ** 2).sum(1))


def pairs_of_grades(score: Floats, grade: Ints, block: Ints) -> tuple[Floats, Floats]:
    """Return of each record how many pairs with one of another grade in its block are in order, ties half, and all."""
    placed, others = np.zeros(len(score)), np.zeros(len(score))
    for low, high in combinations(np.unique(grade).tolist(), 2):
        two = np.flatnonzero((grade == low) | (grade == high))
        upper, of = grade[two] == high, np.unique(block[two], return_inverse=True)[1].reshape(-1)
        own = of * 2 + upper
        sizes = np.bincount(own, minlength=2 * (int(of.max(initial=-1)) + 1)).reshape(-1, 2)
        rest = np.where(upper, sizes[of, 0], sizes[of, 1])
        below = midranks(score[two], of) - midranks(score[two], own)
        placed[two] += np.where(upper, below, rest - below)
        others[two] += rest
    return placed, others


def midranks(value: Floats, block: Ints) -> Floats:
    """Rank values within blocks, from 1; equal ones share their mean rank."""
    order = np.lexsort((value, block))
    v, b = value[order], block[order]
    new = np.ones(len(v), dtype=np.bool_)
    new[1:] = (np.diff(v) != 0) | (np.diff(b) != 0)
    first = np.flatnonzero(new)
    ties = np.diff(np.append(first, len(v)))
    begins = np.append(0, np.cumsum(np.bincount(block)))[b]
    ranks = np.empty(len(v))
    ranks[order] = np.repeat(first + (ties + 1) / 2, ties) - begins
    return ranks


def grade_scores(probabilities: Floats, grade: Ints, offsets: Ints) -> tuple[dict[str, Floats], dict[str, float]]:
    """Return scores by clinic, with its number of pairs of different grades, and over all records.

    Probabilities are ``[record, grade]``, grades ``[record]``; `offsets`, ``[clinic + 1]``, say where each clinic's
    records begin, and the end of the last.
    """
    clinics, one = len(offsets) - 1, np.zeros(len(grade), dtype=np.int64)
    clinic, score = np.repeat(np.arange(clinics), np.diff(offsets)), expected_grades(probabilities)
    error = ranked_probability(probabilities, grade)
    predicted = (np.cumsum(probabilities, axis=1) < 0.5).sum(1).clip(max=probabilities.shape[1] - 1)
    placed, others = pairs_of_grades(score, grade, clinic)
    with np.errstate(invalid="ignore", divide="ignore"):
        won, pairs = (np.bincount(clinic, own, minlength=clinics) for own in (placed, others))
        every = [np.asarray(own.sum()) for own in pairs_of_grades(score, grade, one)]
        by_clinic = {
            "ordinal_auc": won / pairs,
            "ranked_probability": np.bincount(clinic, error, minlength=clinics) / np.diff(offsets),
            "quadratic_kappa": _kappas(predicted, grade, clinic, clinics),
            "pairs": pairs / 2,
        }
        pooled = {
            "within_clinic_ordinal_auc": float(won.sum() / pairs.sum()),
            "ordinal_auc": float(every[0] / every[1]),
            "ranked_probability": float(error.mean()) if len(error) else np.nan,
            "quadratic_kappa": float(_kappas(predicted, grade, one, 1)[0]),
        }
    return by_clinic, pooled


def _kappas(predicted: Ints, grade: Ints, group: Ints, groups: int) -> Floats:
    """Return ``[group]`` 1 less the mean squared difference over that of grades and predictions paired by chance."""
    size = np.bincount(group, minlength=groups)
    apart = np.bincount(group, (predicted - grade) ** 2.0, minlength=groups) / size
    mean, square, other, other_square = (
        np.bincount(group, of**power, minlength=groups) / size for of in (predicted, grade) for power in (1.0, 2.0)
    )
    return 1 - apart / (square + other_square - 2 * mean * other)
