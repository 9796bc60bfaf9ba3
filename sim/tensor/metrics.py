"""Scores of predicted probabilities, of many groups of records at once; no loop goes over groups or records.

Several classes are scored one against the rest, as a mean over the classes that can be; two classes by class 1 alone.
What a formula has no number for is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.tensor.calibration import LEAST_PROBABILITY, calibration_intercept, calibration_slope, sums

__all__ = [
    "EVERY_ROUND",
    "LAST_ROUND",
    "Concordance",
    "area_under_curve",
    "clinic_and_pooled",
    "costly_metrics",
    "of_several_models",
]

EVERY_ROUND: Final = (
    "within_clinic_auc", "auc", "balanced_accuracy", "accuracy", "loss", "brier", "calibration_error",
)  # fmt: skip
"""Metrics of an evaluation after a round."""
LAST_ROUND: Final = ("auprc", "calibration_intercept", "calibration_slope", "sensitivity", "net_benefit")
"""Metrics of the last model only, since they cost more."""
BINS: Final = 10

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Concordance:
    """Pairs of a record of a class and one of another, ``[class, group]``: those in order, ties half, and all."""

    above: Floats
    pairs: Floats

    def auc(self) -> Floats:
        """Return ``[group]`` the mean over classes that have a pair of the share in order."""
        return _mean_over_classes(self.above, self.pairs)

    def together(self, models: int) -> Concordance:
        """Return the pairs of all groups of each model as one: none of them is of records of two groups."""
        above, pairs = (value.reshape(len(value), models, -1).sum(2) for value in (self.above, self.pairs))
        return Concordance(above, pairs)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Steps:
    """A group's different scores, ascending and one group after another: each a step of its ROC curve."""

    group: Ints  # [step]
    positives: Floats  # [step] Records of the class with that score
    negatives: Floats
    groups: int

    @classmethod
    def of(cls, score: Floats, positive: Mask, group: Ints, groups: int) -> _Steps:
        """Return the steps of records that are sorted by group, and in it by score."""
        new = np.ones(len(score), dtype=np.bool_)
        new[1:] = (score[1:] != score[:-1]) | (group[1:] != group[:-1])
        first = np.flatnonzero(new)
        step = np.cumsum(new) - 1
        positives = np.bincount(step[positive], minlength=len(first)).astype(np.float64)
        sizes = np.diff(np.append(first, len(score)))
        return cls(group=group[first], positives=positives, negatives=sizes - positives, groups=groups)

    def _totals(self, counts: Floats) -> Floats:
        return sums(counts, self.group, self.groups)

    def _from_above(self, counts: Floats) -> Floats:
        """Return ``[step]`` how many of a group's records have that score or a higher one."""
        upwards = np.cumsum(counts[::-1])[::-1]
        ends = np.searchsorted(self.group, np.arange(self.groups), side="right")
        above: Floats = upwards - np.append(upwards, 0.0)[ends][self.group]
        return above

    def concordance(self) -> tuple[Floats, Floats]:
        """Return ``[group]`` the pairs in order, ties half, and all pairs."""
        positives, negatives = self._totals(self.positives), self._totals(self.negatives)
        before = np.cumsum(negatives) - negatives
        below = np.cumsum(self.negatives) - self.negatives / 2 - before[self.group]
        return self._totals(self.positives * below), positives * negatives

    def average_precision(self) -> Floats:
        """Return ``[group]`` the precision at each score, weighted by the recall gained there."""
        true, false = self._from_above(self.positives), self._from_above(self.negatives)
        return self._totals(self.positives * true / (true + false)) / self._totals(self.positives)

    def sensitivity(self, specificity: float) -> Floats:
        """Return ``[group]`` the highest share of positives above a score that leaves that share of negatives below."""
        false = self._from_above(self.negatives)
        allowed = (1 - specificity) * self._totals(self.negatives) * (1 + 1e-12)
        caught = np.where(false <= allowed[self.group], self._from_above(self.positives), 0.0)
        most = np.zeros(self.groups)
        np.maximum.at(most, self.group, caught)
        return most / self._totals(self.positives)


def _of_classes(probabilities: Floats, y: Ints, *partitions: Ints) -> list[list[_Steps]]:
    """Return for each partition, given by its offsets, the steps of each class that is scored.

    Records of one score are a step whatever their order, so that no sort but the one by group need be stable.
    """
    groups = [len(offsets) - 1 for offsets in partitions]
    of_record = [_numbered(offsets) for offsets in partitions]
    found: list[list[_Steps]] = [[] for _ in partitions]
    for c in [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1]):
        score, positive = np.ascontiguousarray(probabilities[:, c]), y == c
        ascending = np.argsort(score)
        for classes, group, several in zip(found, of_record, groups, strict=True):
            order = ascending
            if several > 1:
                short = group.astype(np.min_scalar_type(several))[ascending]  # which NumPy sorts in one pass a byte
                order = ascending[np.argsort(short, kind="stable")]
            classes.append(_Steps.of(score[order], positive[order], group[order], several))
    return found


def _numbered(offsets: Ints) -> Ints:
    """Return ``[record]`` the group of each."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _concordance(classes: list[_Steps]) -> Concordance:
    above, pairs = zip(*(steps.concordance() for steps in classes), strict=True)
    return Concordance(np.array(above), np.array(pairs))


def _mean_over_classes(values: Floats, weights: Floats) -> Floats:
    """Return ``[group]`` the mean of value over weight over the classes that have a weight; NaN where none has."""
    there = weights > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Floats = np.where(there, values / weights, 0.0).sum(0) / there.sum(0)
    return means


@dataclass(frozen=True, eq=False, kw_only=True)
class _Tally:
    """What is summed over a group's records, ``[group]``, by class or by bin of the calibration."""

    sizes: Floats
    present: Floats  # [group, class] Records of the class
    hits: Floats  # [group, class] Those of them that are predicted right
    losses: Floats
    squares: Floats
    gaps: Floats  # [group, bin] Right predictions less confidence

    @classmethod
    def of(cls, probabilities: Floats, y: Ints, offsets: Ints) -> _Tally:
        sizes, classes = np.diff(offsets), probabilities.shape[1]
        groups = len(sizes)
        group = _numbered(offsets)
        own = probabilities[np.arange(len(y)), y]
        predicted, confidence = _highest(probabilities)
        correct = (predicted == y).astype(np.float64)
        cell = group * classes + y
        bins = group * BINS + np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        squares = (probabilities[:, 1] - y) ** 2 if classes == 2 else (probabilities**2).sum(1) - 2 * own + 1
        return cls(
            sizes=sizes.astype(np.float64),
            present=np.bincount(cell, minlength=groups * classes).astype(np.float64).reshape(groups, classes),
            hits=sums(correct, cell, groups * classes).reshape(groups, classes),
            losses=sums(-np.log(np.maximum(own, LEAST_PROBABILITY)), group, groups),
            squares=sums(squares, group, groups),
            gaps=sums(correct - confidence, bins, groups * BINS).reshape(groups, BINS),
        )

    def together(self, models: int) -> _Tally:
        """Return the sums of all groups of each model as one."""
        of_models = {name: value.reshape(models, -1, *value.shape[1:]) for name, value in vars(self).items()}
        return _Tally(**{name: value.sum(1) for name, value in of_models.items()})

    def metrics(self) -> dict[str, Floats]:
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = np.where(self.present > 0, self.hits / self.present, 0.0)
            return {
                "balanced_accuracy": recall.sum(1) / (self.present > 0).sum(1),
                "accuracy": self.hits.sum(1) / self.sizes,
                "loss": self.losses / self.sizes,
                "brier": self.squares / self.sizes,
                "calibration_error": np.abs(self.gaps).sum(1) / self.sizes,
            }


def _highest(probabilities: Floats) -> tuple[Ints, Floats]:
    """Return each record's class of the highest probability, the first of equals, and that probability."""
    most = probabilities[:, 0].copy()
    predicted = np.zeros(len(most), dtype=np.int64)
    for c in range(1, probabilities.shape[1]):
        higher = probabilities[:, c] > most
        predicted[higher] = c
        np.maximum(most, probabilities[:, c], out=most)
    return predicted, most


def clinic_and_pooled(probabilities: Floats, y: Ints, offsets: Ints) -> tuple[dict[str, Floats], dict[str, float]]:
    """Return the metrics of every round by clinic, with the number of its pairs, and over all records.

    Parameters
    ----------
    probabilities : ndarray
        ``[record, class]``
    y : ndarray
        ``[record]``
    offsets : ndarray
        ``[clinic + 1]`` where each clinic's records begin, and the end of the last.

    Returns
    -------
    dict of str to ndarray
        ``[clinic]``. AUC; balanced accuracy, the mean recall of the classes that are present; accuracy; mean log loss,
        of a probability of 1.2e-38 at least; Brier score, of two classes the squared error of class 1, of several the
        sum over classes; and the expected calibration error over ten equal bins of the predicted class's probability
        (Naeini et al., AAAI 2015). All are NaN without records.
    dict of str to float
        The same over all records, and the within-clinic AUC: as the AUC, from pairs of records of the same clinic only,
        so that knowing the clinics' shares of cases brings nothing.
    """
    [scores] = of_several_models(probabilities[None], y[None], offsets)
    return scores


def of_several_models(
    probabilities: Floats, y: Ints, offsets: Ints
) -> list[tuple[dict[str, Floats], dict[str, float]]]:
    """Return what :func:`clinic_and_pooled` does of each of several models, and the same bits.

    Parameters
    ----------
    probabilities : ndarray
        ``[model, record, class]``
    y : ndarray
        ``[model, record]``: they may be tried on different records, of clinics of the same sizes.
    offsets : ndarray
        ``[clinic + 1]``, the same for all.
    """
    models, records = y.shape
    p, labels, first = probabilities.reshape(-1, probabilities.shape[2]), y.ravel(), np.arange(models) * records
    of_clinics = np.append(0, (first[:, None] + offsets[1:]).ravel())
    tally = _Tally.of(p, labels, of_clinics)
    own, whole = map(_concordance, _of_classes(p, labels, of_clinics, np.append(first, len(labels))))
    pooled = {
        "within_clinic_auc": own.together(models).auc(),
        "auc": whole.auc(),
        **tally.together(models).metrics(),
    }
    by_clinic = {"auc": own.auc(), **tally.metrics(), "pairs": own.pairs.sum(0)}
    by_clinic = {name: value.reshape(models, -1) for name, value in by_clinic.items()}
    return [
        ({name: value[m] for name, value in by_clinic.items()}, {name: float(v[m]) for name, v in pooled.items()})
        for m in range(models)
    ]


def costly_metrics(
    probabilities: Floats, y: Ints, offsets: Ints, specificity: float, threshold: float
) -> dict[str, Floats]:
    """Return the metrics of the last round of each group of records; parameters as for :func:`clinic_and_pooled`.

    Parameters
    ----------
    specificity : float
        At which the sensitivity is the highest of a threshold that has that specificity or more in the group.
    threshold : float
        Probability of class 1 from which the net benefit counts a record as treated.

    Returns
    -------
    dict of str to ndarray
        ``[group]``. AUPRC is the average precision, and it and the sensitivity are NaN without a pair. The calibration
        intercept is that of a logistic model of the label with the predicted log-odds as offset (calibration in the
        large, 0 is ideal), the slope that of the log-odds in a logistic model of intercept and slope (1 is ideal, below
        it predictions are too extreme); NaN with one class, the slope also where a threshold separates the classes. The
        net benefit is the share of true positives less that of false ones times the threshold's odds (Vickers & Elkin,
        Medical Decision Making 26:565, 2006). Calibration and net benefit are NaN for several classes.
    """
    [classes] = _of_classes(probabilities, y, offsets)
    pairs = _concordance(classes).pairs
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.array([steps.average_precision() for steps in classes])
        caught = np.array([steps.sensitivity(specificity) for steps in classes])
    there = (pairs > 0).astype(np.float64)
    found = {
        "auprc": _mean_over_classes(np.where(there > 0, precision, 0.0), there),
        "sensitivity": _mean_over_classes(np.where(there > 0, caught, 0.0), there),
    }
    if probabilities.shape[1] > 2:
        none = np.full(len(offsets) - 1, np.nan)
        return found | {"calibration_intercept": none, "calibration_slope": none, "net_benefit": none}
    sizes = np.diff(offsets)
    group = np.repeat(np.arange(len(sizes)), sizes)
    log_odds = np.diff(np.log(np.maximum(probabilities, LEAST_PROBABILITY)), axis=1)[:, 0]
    worth = np.where(y == 1, 1.0, -threshold / (1 - threshold))
    with np.errstate(invalid="ignore", divide="ignore"):
        net_benefit = sums(np.where(probabilities[:, 1] >= threshold, worth, 0.0), group, len(sizes)) / sizes
    return found | {
        "calibration_intercept": calibration_intercept(log_odds, y, group, sizes),
        "calibration_slope": calibration_slope(log_odds, y, group, sizes),
        "net_benefit": net_benefit,
    }


def area_under_curve(score: Floats, positive: Mask) -> float:
    """Return the AUC of scores ``[record]``: Mann and Whitney's statistic over the number of pairs, ties half."""
    order = np.argsort(score, kind="stable")
    steps = _Steps.of(score[order], positive[order], np.zeros(len(score), dtype=np.int64), 1)
    return float(_concordance([steps]).auc()[0])
