"""How well scores tell labels: the AUC within clinics, one class against the rest, with its interval over records."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import numpy as np
import scipy
from numpy.typing import NDArray

from sim.attacks.attack import Finding
from sim.data.federation import Records

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

_PERMUTATIONS: Final = 20


@dataclass(frozen=True, eq=False)
class Labelled:
    """Records whose labels an adversary guesses: ``[record]`` class and clinic, and how many classes there are.

    Only pairs of one clinic count, so that knowing the clinics' shares of cases brings nothing: guessing comes to .5.
    """

    y: Ints
    clinic: Ints
    classes: int

    @classmethod
    def of(cls, records: Records, classes: int) -> Self:
        """Return all records of the clinics."""
        return cls(records.y, records.clinic, classes)

    def some(self, mask: Mask | Ints) -> Labelled:
        """Return some of the records."""
        return Labelled(self.y[mask], self.clinic[mask], self.classes)

    def auc(self, scores: Floats) -> float:
        """Return the AUC of scores ``[record, class]``: the mean over classes, of two that of the second."""
        return float(np.diag(self._table(self._ranks(scores)))[self._scored].mean()) if any(self._scored) else np.nan

    def finding(self, measure: str, scores: Floats, clinic: str = "", bound: float = np.nan) -> Finding:
        """Return what scores ``[record, class]`` tell of the labels."""
        auc = self.auc(scores)
        low, high = self.interval(auc)
        return Finding(measure=measure, value=auc, chance=0.5, low=low, high=high, clinic=clinic, bound=bound)

    def finding_up_to_names(self, measure: str, scores: Floats, rng: np.random.Generator) -> Finding:
        """Return what scores ``[record, cluster]`` tell of the labels once the clusters are named as fits best.

        Chance is what the best naming makes of labels that are dealt anew within each clinic.
        """
        ranks = self._ranks(scores)
        auc = self._best_named(ranks)
        permuted = [self._permuted(rng)._best_named(ranks) for _ in range(_PERMUTATIONS)]
        low, high = self.interval(auc)
        return Finding(measure=measure, value=auc, chance=float(np.mean(permuted)), low=low, high=high)

    def interval(self, auc: float) -> tuple[float, float]:
        """Return the 95 % interval of an AUC over records, also of a perfect one.

        Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2",
        Statistics in Medicine 2006, method 5; variances of clinics are added by their shares of pairs, and standard
        errors of classes averaged, as if they moved together.
        """
        if np.isnan(auc):
            return np.nan, np.nan
        grid = np.linspace(0.0, 1.0, 2001)
        inside = grid[np.abs(grid - auc) <= scipy.special.ndtri(0.975) * self._standard_error(grid)]
        return float(min(inside.min(initial=auc), auc)), float(max(inside.max(initial=auc), auc))

    @cached_property
    def _counts(self) -> Floats:
        """``[clinic, class]`` how many records."""
        clinics = int(self.clinic.max(initial=0)) + 1
        cells = np.bincount(self.clinic * self.classes + self.y, minlength=clinics * self.classes)
        return cells.reshape(clinics, self.classes).astype(np.float64)

    @cached_property
    def _pairs(self) -> Floats:
        """``[clinic, class]`` pairs of a record of the class and another."""
        return np.asarray(self._counts * (self._counts.sum(1, keepdims=True) - self._counts))

    @property
    def _scored(self) -> list[bool]:
        """Whether a class is told from the rest; of two the second alone."""
        return [bool(pairs > 0) and (self.classes > 2 or c == 1) for c, pairs in enumerate(self._pairs.sum(0))]

    def _ranks(self, scores: Floats) -> Floats:
        """Return the ranks of scores ``[record, column]`` among the clinic's own, ties at their mean."""
        ranks = np.empty(scores.shape)
        for k in np.unique(self.clinic):
            ranks[self.clinic == k] = scipy.stats.rankdata(scores[self.clinic == k], axis=0)
        return ranks

    def _table(self, ranks: Floats) -> Floats:
        """Return ``[class, column]`` the share of pairs of a clinic in which the class's record ranks higher."""
        above = np.eye(self.classes)[self.y].T @ ranks - (self._counts * (self._counts + 1) / 2).sum(0)[:, None]
        pairs = self._pairs.sum(0)[:, None]
        return np.where(pairs > 0, above / np.maximum(pairs, 1), 0.5)

    def _best_named(self, ranks: Floats) -> float:
        table = self._table(ranks)
        named = scipy.optimize.linear_sum_assignment(-table)
        return float(table[named].mean())

    def _permuted(self, rng: np.random.Generator) -> Labelled:
        """Return the records with labels that are dealt anew within each clinic."""
        y = np.empty_like(self.y)
        y[np.argsort(self.clinic, kind="stable")] = self.y[np.lexsort((rng.random(len(y)), self.clinic))]
        return Labelled(y, self.clinic, self.classes)

    def _standard_error(self, auc: Floats) -> Floats:
        counts, sizes = self._counts, self._counts.sum(1)
        errors = []
        for c in np.flatnonzero(self._scored):
            some = self._pairs[:, c] > 0
            m, n = counts[some, c], sizes[some] - counts[some, c]
            shares = m * n / (m * n).sum()
            more = (m + n)[:, None] / 2 - 1
            variance = auc * (1 - auc) * (1 + more * ((1 - auc) / (2 - auc) + auc / (1 + auc))) / (m * n)[:, None]
            errors.append(np.sqrt(np.square(shares) @ variance))
        return np.asarray(np.mean(errors, axis=0))


def few_of_each(labelled: Labelled, known: int, rng: np.random.Generator) -> Mask:
    """Draw the records whose labels are known: so many in all, or a few more, as many of each class as there are."""
    mask = np.zeros(len(labelled.y), dtype=np.bool_)
    for c in range(labelled.classes):
        mask[rng.permutation(np.flatnonzero(labelled.y == c))[: -(-known // labelled.classes)]] = True
    return mask
