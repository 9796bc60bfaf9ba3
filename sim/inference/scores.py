"""Scores of held-out records, and how much each record moves them.

A score's *influence values* are one number a record; summed over the records of a patient and squared, they estimate
the score's variance over patients. For an AUC they are the placement values of DeLong, DeLong & Clarke-Pearson
(Biometrics 1988), here also for the within-clinic AUC, that is clinics' own AUCs weighted by their comparable pairs.
They are centred within clinics (of an AUC of classes within these too), since clinics are given and patients drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.inference.amounts import deviations
from sim.inference.grades import expected_grades, midranks, pairs_of_grades, ranked_probability
from sim.inference.survival import Times, integrated_brier, log_losses, pairs_in_order, time_lost

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predicted probabilities of held-out records of several models, one row a record and model."""

    model: Ints  # Which model made them, from 0
    models: int
    clinic: Ints
    patient: Ints
    label: Ints  # The class; whether the event was seen; 0 of amounts
    probabilities: Floats  # [row, class]; of times [row, interval] the share without the event at its end
    times: Times | None = None
    amount: Floats | None = None  # Of amounts, whose prediction stands as the one probability

    @classmethod
    def of(cls, table: pd.DataFrame, model: Ints, models: int) -> Predictions:
        """Read the columns ``clinic, patient`` of a table, and what was seen of a record and predicted.

        That is ``label, probability_0, probability_1, ...``, or ``time, event, survival_EDGE, ...``, or ``amount,
        predicted``.
        """
        kind = "survival_" if "time" in table else "probability_"
        ends = {name: float(name.rpartition("_")[2]) for name in table.columns if name.startswith(kind)}
        columns = sorted(ends, key=ends.__getitem__)
        times = amount = None
        if "amount" in table:
            label, columns = np.zeros(len(table), dtype=np.int64), ["predicted"]
            amount = table["amount"].to_numpy(np.float64)
        elif "time" in table:
            label = table["event"].to_numpy(np.int64)
            times = Times(table["time"].to_numpy(np.float64), label == 1, np.array(sorted(ends.values())))
        else:
            label = table["label"].to_numpy(np.int64)
        return cls(
            model=model,
            models=models,
            clinic=pd.factorize(table["clinic"])[0].astype(np.int64),
            patient=table["patient"].to_numpy(np.int64),
            label=label,
            probabilities=table[columns].to_numpy(np.float64),
            times=times,
            amount=amount,
        )

    def at(self, rows: NDArray[np.bool_], model: Ints, models: int) -> Predictions:
        """Return some of the rows, as those of other models."""
        return Predictions(
            model=model,
            models=models,
            clinic=self.clinic[rows],
            patient=self.patient[rows],
            label=self.label[rows],
            probabilities=self.probabilities[rows],
            times=None if self.times is None else self.times.at(rows),
            amount=None if self.amount is None else self.amount[rows],
        )


class ScoredRuns:
    """Predictions of runs, each of which is scored once, however often it is compared.

    Attributes
    ----------
    names : ndarray
        ``[run]`` ids.
    clinics : Index
        Names.
    of : Predictions
        Of all runs, ``of.model`` the run.
    """

    def __init__(self, predictions: pd.DataFrame) -> None:
        run, names = pd.factorize(predictions["run_id"])
        self.names, self.clinics = names.astype(object), pd.factorize(predictions["clinic"])[1]
        self.of = Predictions.of(predictions, run.astype(np.int64), len(names))
        self._kept: dict[tuple[str, bool], tuple[Floats, Floats]] = {}

    def scores(self, name: str, *, at_clinics: bool = False) -> tuple[Floats, Floats]:
        """Return the :func:`scores` of each run; or of each run at each clinic, by the numbers of `at_clinic`."""
        if (name, at_clinics) not in self._kept:
            of = self.of
            if at_clinics:
                of = replace(of, model=self.at_clinic, models=of.models * len(self.clinics))
            self._kept[name, at_clinics] = scores(of, name)
        return self._kept[name, at_clinics]

    @property
    def at_clinic(self) -> Ints:
        """``[row]`` a number of its run and clinic."""
        return self.of.model * len(self.clinics) + self.of.clinic

    def found(self, of_run: pd.Series[Any]) -> tuple[NDArray[np.bool_], Ints]:
        """Return which rows are of runs that have a number, by their ids, and the numbers of these rows."""
        numbers = of_run.reindex(self.names).to_numpy(np.float64)[self.of.model]
        known = ~np.isnan(numbers)
        return known, numbers[known].astype(np.int64)

    def regrouped(
        self, rows: NDArray[np.bool_], group: Ints, groups: int, name: str, *, at_clinics: bool = False
    ) -> tuple[Floats, Floats]:
        """Return the :func:`scores` of groups of some rows.

        Those of a group that is no more than a run, or a run at a clinic, are known.
        """
        own = (self.at_clinic if at_clinics else self.of.model)[rows]
        there, first = np.unique(group, return_index=True)
        if len(np.unique(own)) != len(there) or not (own == own[first][np.searchsorted(there, group)]).all():
            return scores(self.of.at(rows, group, groups), name)
        known, influence = self.scores(name, at_clinics=at_clinics)
        value = np.full(groups, np.nan)
        value[there] = known[own[first]]
        return value, influence[rows]


def scored_runs(predictions: pd.DataFrame | ScoredRuns, models: pd.DataFrame) -> ScoredRuns:
    """Return predictions as runs that are scored; of a table only those of some models, by their ``run_id``."""
    if isinstance(predictions, ScoredRuns):
        return predictions
    return ScoredRuns(predictions[predictions["run_id"].isin(models["run_id"])])


def scores(predictions: Predictions, name: str) -> tuple[Floats, Floats]:
    """Return a score of each model, and each row's influence on that of its model.

    Parameters
    ----------
    name : str
        One of :func:`scored`.

    Returns
    -------
    value : ndarray
        ``[model]``, NaN where the score is not defined.
    influence : ndarray
        ``[row]``
    """
    known = _OF_AMOUNTS if predictions.amount is not None else _OF_GRADES if predictions.times is None else _OF_TIMES
    return known[name](predictions)


def scored(columns: Collection[str]) -> frozenset[str]:
    """Name the scores whose variance over patients is known, by the columns of a table of predictions."""
    return frozenset(_OF_TIMES if "time" in columns else _OF_AMOUNTS if "amount" in columns else _OF_GRADES)


def _aucs(of: Predictions, block: Ints) -> tuple[Floats, Floats]:
    """Concordant over comparable pairs within blocks, by model; of several classes the mean of one against the rest."""
    classes = [1] if of.probabilities.shape[1] == 2 else range(of.probabilities.shape[1])
    parts = [_auc(of, block, of.probabilities[:, c], of.label == c) for c in classes]
    values = np.array([value for value, _ in parts])
    found = ~np.isnan(values)
    share = found.sum(0)
    with np.errstate(invalid="ignore"):
        mean = np.where(found, values, 0.0).sum(0) / share
    influence = sum((each for _, each in parts), np.zeros(len(block)))
    return mean, influence / np.maximum(share, 1)[of.model]


def _auc(of: Predictions, block: Ints, score: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    blocks = int(block.max(initial=-1)) + 1
    own = block * 2 + positive
    sizes = np.bincount(own, minlength=2 * blocks).reshape(blocks, 2)
    others = np.where(positive, sizes[block, 0], sizes[block, 1]).astype(np.float64)
    below = midranks(score, block) - midranks(score, own)
    placed = np.where(positive, below, others - below)  # how many records of the other class are on the right side
    return _of_pairs(of, placed, others, own)


def _concordance(of: Predictions, block: Ints) -> tuple[Floats, Floats]:
    """In order over comparable pairs within blocks, by model: a U-statistic, whose influence is each record's pairs."""
    times = _times(of)
    lost, placed, others = time_lost(of.probabilities, times.edges), np.zeros(len(block)), np.zeros(len(block))
    order = np.argsort(block, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
        placed[own], others[own] = pairs_in_order(lost[own], times.at(own))
    return _of_pairs(of, placed, others, _within(of))


def _ordered(of: Predictions, block: Ints) -> tuple[Floats, Floats]:
    """Return the share of pairs of different grades within blocks that are in order, by model."""
    placed, others = pairs_of_grades(expected_grades(of.probabilities), of.label, block)
    return _of_pairs(of, placed, others, block)


def _of_pairs(of: Predictions, placed: Floats, others: Floats, cell: Ints) -> tuple[Floats, Floats]:
    """Return the share of each model's pairs that are in order, and each record's influence: it is in `others`."""
    won, pairs = (np.bincount(of.model, w, minlength=of.models) / 2 for w in (placed, others))
    with np.errstate(invalid="ignore", divide="ignore"):
        value = won / pairs
        centre, factor = _centres(placed, others, cell, value[of.model], of.patient)
        influence = (placed - centre * others) * factor / pairs[of.model]
    return value, np.where(pairs[of.model] > 0, influence, 0.0)


def _explained(of: Predictions, block: Ints) -> tuple[Floats, Floats]:
    """Return the share of squared deviations from each block's mean that is explained, by model: a ratio of sums."""
    rest, spread = _rest(of) ** 2, deviations(_amount(of), block) ** 2
    left, every = (np.bincount(of.model, own, minlength=of.models) for own in (rest, spread))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(every > 0, left / every, np.nan)
        centre, factor = _centres(rest, spread, _within(of), ratio[of.model], of.patient)
        influence = -(rest - np.where(np.isfinite(centre), centre, 0.0) * spread) * factor / every[of.model]
    return 1 - ratio, np.where(every[of.model] > 0, influence, 0.0)


def _amount(of: Predictions) -> Floats:
    if of.amount is None:
        raise TypeError("these are no predictions of amounts")
    return of.amount


def _rest(of: Predictions) -> Floats:
    return _amount(of) - of.probabilities[:, 0]


def _times(of: Predictions) -> Times:
    if of.times is None:
        raise TypeError("these are no predictions of times")
    return of.times


def _integrated_brier(of: Predictions) -> Floats:
    errors = np.zeros(len(of.model))
    for model in range(of.models):
        own = np.flatnonzero(of.model == model)
        if len(own):
            errors[own] = integrated_brier(of.probabilities[own], _times(of).at(own))
    return errors


def _means(of: Predictions, loss: Floats) -> tuple[Floats, Floats]:
    ones = np.ones(len(loss))
    size = np.bincount(of.model, minlength=of.models)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.bincount(of.model, loss, minlength=of.models) / size
    centre, factor = _centres(loss, ones, _within(of), value[of.model], of.patient)
    return value, (loss - centre) * factor / size[of.model]


def _recall(of: Predictions) -> tuple[Floats, Floats]:
    """Return the mean over the classes that are present of the share that is recognised."""
    classes = of.probabilities.shape[1]
    cell = of.model * classes + of.label
    hit = (of.probabilities.argmax(1) == of.label).astype(np.float64)
    size = np.bincount(cell, minlength=of.models * classes).reshape(of.models, classes)
    hits = np.bincount(cell, hit, minlength=of.models * classes).reshape(of.models, classes)
    present = (size > 0).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / size
        value = np.nansum(recall, axis=1) / present
    own = _within(of) * classes + of.label
    centre, factor = _centres(hit, np.ones(len(hit)), own, recall.ravel()[cell], of.patient)
    return value, (hit - centre) * factor / (size.ravel()[cell] * present[of.model])


def _centres(amount: Floats, weight: Floats, cell: Ints, overall: Floats, patient: Ints) -> tuple[Floats, Floats]:
    """Return around what the amounts of a cell vary, and the factor that makes their variance unbiased.

    A cell of several patients has its own mean, and loses one degree of freedom by it; one patient alone says nothing
    of how patients of the cell vary, and is compared with all.
    """
    patients = _distinct(cell, patient)
    total, of = np.bincount(cell, amount), np.bincount(cell, weight)
    several = patients[cell] > 1
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.where(several, (total / of)[cell], overall)
        factor = np.where(several, np.sqrt(patients / (patients - 1.0))[cell], 1.0)
    return np.where(weight > 0, centre, 0.0), factor


def _distinct(cell: Ints, patient: Ints) -> Ints:
    """Count the patients of each cell."""
    order = np.lexsort((patient, cell))
    new = np.ones(len(cell), dtype=np.bool_)
    new[1:] = (np.diff(cell[order]) != 0) | (np.diff(patient[order]) != 0)
    return np.bincount(cell[order][new], minlength=int(cell.max(initial=-1)) + 1)


def _within(of: Predictions) -> Ints:
    """Return ``[row]`` a number of its clinic in its model; as many numbers as such pairs occur."""
    pairs = of.model * (int(of.clinic.max(initial=-1)) + 1) + of.clinic
    return np.asarray(pd.factorize(pairs)[0], dtype=np.int64)


def _truth(of: Predictions) -> Floats:
    return np.asarray(of.probabilities[np.arange(len(of.label)), of.label])


def _brier(of: Predictions) -> Floats:
    if of.probabilities.shape[1] == 2:
        return (1 - _truth(of)) ** 2
    return np.asarray(1 - 2 * _truth(of) + (of.probabilities**2).sum(1))


Score = Callable[[Predictions], tuple[Floats, Floats]]
SCORED: Final[Mapping[str, Score]] = MappingProxyType(
    {
        "within_clinic_auc": lambda of: _aucs(of, _within(of)),
        "auc": lambda of: _aucs(of, of.model),
        "balanced_accuracy": _recall,
        "accuracy": lambda of: _means(of, (of.probabilities.argmax(1) == of.label).astype(np.float64)),
        "loss": lambda of: _means(of, -np.log(np.maximum(_truth(of), np.finfo(np.float32).tiny))),
        "brier": lambda of: _means(of, _brier(of)),
    }
)
"""The scores of classes whose variance over patients is known, and how they are computed."""
_OF_GRADES: Final[Mapping[str, Score]] = {
    **SCORED,
    "within_clinic_ordinal_auc": lambda of: _ordered(of, _within(of)),
    "ordinal_auc": lambda of: _ordered(of, of.model),
    "ranked_probability": lambda of: _means(of, ranked_probability(of.probabilities, of.label)),
}
_OF_AMOUNTS: Final[Mapping[str, Score]] = {
    "within_clinic_r2": lambda of: _explained(of, _within(of)),
    "r2": lambda of: _explained(of, of.model),
    "mae": lambda of: _means(of, np.abs(_rest(of))),
}
_OF_TIMES: Final[Mapping[str, Score]] = {
    "within_clinic_concordance": lambda of: _concordance(of, _within(of)),
    "concordance": lambda of: _concordance(of, of.model),
    "integrated_brier": lambda of: _means(of, _integrated_brier(of)),
    "loss": lambda of: _means(of, log_losses(of.probabilities, _times(of))),
}
