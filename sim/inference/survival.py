"""Scores of predicted times to an event, with censoring: of records of one clinic, of each, or of all.

Predictions are the share ``S(t)`` without the event at the end of each interval up to the horizon. What comes behind
the horizon is not scored: an event there counts as none yet. Whoever of two records has the event first is known if the
earlier time is that of an event; two at the same moment are no pair, and one that is censored at that moment outlived
it. Weights for censoring come from the Kaplan-Meier curve of all the records that are scored, those of other clinics
too: the clinics' own would be of too few.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

TIME_METRICS: Final = (
    "within_clinic_concordance", "concordance", "uno_concordance", "integrated_brier", "loss", "calibration_error",
    "horizon_calibration",
)  # fmt: skip
GROUPS: Final = 10
"""Of the calibration at the horizon: by tenths of the predicted risk."""
_BLOCK: Final = 2_000_000
"""Most pairs that are compared at a time."""
_LEAST: Final = float(np.finfo(np.float32).tiny)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Times:
    """What was seen of records.

    Attributes
    ----------
    time : ndarray
        ``[record]`` of the event, or of the end of follow-up.
    event : ndarray of bool
        ``[record]``
    edges : ndarray
        ``[interval]`` where each ends.
    """

    time: Floats
    event: Mask
    edges: Floats

    @property
    def counted(self) -> Mask:
        """``[record]`` Whether its event was seen, up to the horizon."""
        return np.asarray(self.event & (self.time <= self.edges[-1]))

    def at(self, some: slice | Mask | Ints) -> Times:
        """Return those of some of the records."""
        return Times(self.time[some], self.event[some], self.edges)


class Pairs(NamedTuple):
    """Of each record, ``[record]``: the weight of its pairs that are in order, ties half, and of all its pairs."""

    won: Floats
    all: Floats

    def share(self) -> float:
        """Return the share in order; NaN without a pair."""
        return float(self.won.sum() / self.all.sum()) if self.all.sum() else np.nan


def time_lost(survival: Floats, edges: Floats) -> Floats:
    """Return ``[record]`` the mean time lost to the event up to the horizon: by it records are ranked."""
    widths = np.diff(edges, prepend=0.0)
    before = np.column_stack([np.ones(len(survival)), survival[:, :-1]])
    return np.asarray(((1 - (before + survival) / 2) * widths).sum(1))


def kaplan_meier(time: Floats, event: Mask) -> tuple[Floats, Floats]:
    """Return the times of events, ascending, and the share without one behind each (Kaplan & Meier 1958)."""
    when, counts = np.unique(time[event], return_counts=True)
    at_risk = len(time) - np.searchsorted(np.sort(time), when)
    return when, np.cumprod(1 - counts / at_risk, dtype=np.float64)


def _step(curve: tuple[Floats, Floats], at: Floats, *, before: bool = False) -> Floats:
    """Return a curve's values at some times, or just before them."""
    when, share = curve
    return np.append(1.0, share)[np.searchsorted(when, at, side="left" if before else "right")]


def pairs_in_order(risk: Floats, times: Times, weights: Floats | None = None) -> Pairs:
    """Return what each record's comparable pairs come to (Harrell, Lee & Mark, Statistics in Medicine 15:361, 1996).

    Parameters
    ----------
    risk : ndarray
        ``[record]``; the larger, the earlier the event is expected.
    times : Times
    weights : ndarray, optional
        ``[record]`` of the pairs in which the record has the event first.
    """
    records = len(risk)
    won, pairs = np.zeros(records), np.zeros(records)
    first = np.flatnonzero(times.counted)
    weights = np.ones(records) if weights is None else weights
    for some in np.array_split(first, max(1, -(-len(first) * records // _BLOCK))):
        when, at, w = times.time[some, None], times.time[None], weights[some, None]
        comparable = (when < at) | ((when == at) & ~times.counted[None])
        order = comparable * ((risk[some, None] > risk[None]) + (risk[some, None] == risk[None]) / 2)
        won[some] += w[:, 0] * order.sum(1)
        pairs[some] += w[:, 0] * comparable.sum(1)
        won += (w * order).sum(0)
        pairs += (w * comparable).sum(0)
    return Pairs(won, pairs)


def brier_curve(survival: Floats, times: Times, censoring: tuple[Floats, Floats]) -> Floats:
    """Return ``[record, interval]`` squared errors at each interval's end, weighted for censoring.

    Graf, Schmoor, Sauerbrei & Schumacher, Statistics in Medicine 18:2529, 1999. NaN where nobody is followed up so far.
    """
    over = times.time[:, None] > times.edges[None]
    gone = ~over & times.event[:, None]
    left = _step(censoring, times.edges)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        of_gone = gone * survival**2 / _step(censoring, times.time, before=True)[:, None]
        found: Floats = np.where(left > 0, of_gone + over * (1 - survival) ** 2 / left, np.nan)
    return found


def _integrated(curve: Floats, edges: Floats) -> Floats:
    """Return ``[record]`` the mean over time of squared errors that begin at 0, by the trapezoid rule."""
    known = ~np.isnan(curve).any(0)
    values = np.column_stack([np.zeros(len(curve)), curve[:, known]])
    at = np.append(0.0, edges[known])
    if len(at) < 2:
        return np.full(len(curve), np.nan)
    return np.asarray(((values[:, 1:] + values[:, :-1]) / 2 * np.diff(at)).sum(1) / at[-1])


def integrated_brier(survival: Floats, times: Times) -> Floats:
    """Return ``[record]`` integrated Brier scores, weighted for censoring as all these records are censored."""
    censoring = kaplan_meier(times.time, ~times.event)
    return _integrated(brier_curve(survival, times, censoring), times.edges)


def log_losses(survival: Floats, times: Times) -> Floats:
    """Return ``[record]`` the negative log-likelihood of the intervals that it is known to have reached."""
    ends = times.edges
    middles = (np.append(0.0, ends[:-1]) + ends) / 2
    kept = np.column_stack([np.ones(len(survival)), survival])
    rows = np.arange(len(survival))
    interval = np.minimum(np.searchsorted(ends, times.time), len(ends) - 1)
    survived = np.searchsorted(middles, times.time, side="right")
    gone = kept[rows, interval] - kept[rows, interval + 1]
    likelihood = np.where(times.counted, gone, kept[rows, np.where(times.counted, 0, survived)])
    return np.asarray(-np.log(np.maximum(likelihood, _LEAST)))


def _observed_risk(times: Times) -> float:
    """Return the share that has had the event by the horizon, after Kaplan and Meier."""
    return 1 - float(_step(kaplan_meier(times.time, times.event), times.edges[-1:])[0])


def _calibration(risk: Floats, times: Times) -> tuple[float, float]:
    """Return by how much risks at the horizon differ from those observed: in tenths of the risk, and on the whole."""
    if not len(risk):
        return np.nan, np.nan
    order = np.argsort(risk, kind="stable")
    gaps = [
        len(some) * abs(risk[some].mean() - _observed_risk(times.at(some)))
        for some in np.array_split(order, GROUPS)
        if len(some)
    ]
    return float(sum(gaps)) / len(risk), float(risk.mean()) - _observed_risk(times)


def time_scores(survival: Floats, times: Times, offsets: Ints) -> tuple[dict[str, Floats], dict[str, float]]:
    """Return scores by clinic, with its number of pairs, and over all records.

    Parameters
    ----------
    survival : ndarray
        ``[record, interval]``
    times : Times
    offsets : ndarray
        ``[clinic + 1]`` where each clinic's records begin, and the end of the last.

    Returns
    -------
    dict of str to ndarray
        ``[clinic]``. Harrell's concordance; Uno's, which weights pairs for censoring (Uno, Cai, Pencina, D'Agostino &
        Wei, Statistics in Medicine 30:1105, 2011); the integrated Brier score; the mean negative log-likelihood; and at
        the horizon the mean difference of predicted and observed risk, without sign by tenths of the risk
        (``calibration_error``) and with it over all (``horizon_calibration``). NaN without a pair, or a record.
    dict of str to float
        The same over all records, and the within-clinic concordance: from pairs of records of the same clinic only, so
        that knowing the clinics' risks brings nothing.
    """
    risk, lost = 1 - survival[:, -1], time_lost(survival, times.edges)
    censoring = kaplan_meier(times.time, ~times.event)
    with np.errstate(divide="ignore"):
        weights = np.where(times.counted, _step(censoring, times.time, before=True) ** -2.0, 0.0)
    errors = integrated_brier(survival, times)
    losses = log_losses(survival, times)

    def scored(own: slice) -> dict[str, float]:
        there = times.at(own)
        error, on_the_whole = _calibration(risk[own], there)
        return {
            "uno_concordance": pairs_in_order(lost[own], there, weights[own]).share(),
            "integrated_brier": float(errors[own].mean()) if len(errors[own]) else np.nan,
            "loss": float(losses[own].mean()) if len(losses[own]) else np.nan,
            "calibration_error": error,
            "horizon_calibration": on_the_whole,
        }

    clinics = [slice(a, b) for a, b in pairwise(offsets.tolist())]
    own_pairs = [pairs_in_order(lost[own], times.at(own)) for own in clinics]
    own_scores = [{"concordance": pairs.share(), **scored(own)} for pairs, own in zip(own_pairs, clinics, strict=True)]
    by_clinic = {name: np.array([scores[name] for scores in own_scores]) for name in TIME_METRICS[1:]}
    by_clinic["pairs"] = np.array([pairs.all.sum() / 2 for pairs in own_pairs])
    together = Pairs(*(np.concatenate([each[side] for each in own_pairs]) for side in (0, 1)))
    pooled = {
        "within_clinic_concordance": together.share(),
        "concordance": pairs_in_order(lost, times).share(),
        **scored(slice(None)),
    }
    return by_clinic, pooled
