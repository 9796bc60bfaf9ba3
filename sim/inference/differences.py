"""Intervals of methods, and of all differences between them at once.

The half-width of an interval is the root of two squares, each with its own quantile of Student's t: that of the
patients, who are many, and that of the repetition, of which there is one a seed. Intervals that hold together are
widened by the distribution of the largest of all statistics (Hothorn, Bretz & Westfall, Biometrical Journal 2008), so
that naming the best, which is chosen by the same figures, costs nothing more. Seeds are few: the variance between them
is the mean over all methods or pairs, with the degrees of freedom of all, or a method's or pair's own where that is
larger. A single method keeps to its own where patients are new on each seed: what a seed brings is then common to all.

Two seeds alone give no interval: with one degree of freedom it would be 12.7 standard errors, most often wider than the
scale. Differences of what patients are known of keep theirs.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import combinations
from typing import Final

import numpy as np
import pandas as pd
import scipy

from sim.foundation.rng import stream
from sim.inference.evidence import Evidence, Mask, Moments
from sim.inference.scores import Floats

LEVEL: Final = 0.05
"""Share of studies in which an interval, or any of those that hold together, may be wrong."""
_DRAWS: Final = 10_000
_AT_ONCE: Final = 256
_NOTHING: Final = 1e-20
"""Less variance than this between seeds is a rounding error."""


class Verdict(StrEnum):
    """What the interval of a difference says."""

    APART = "different"
    EQUAL = "equal within the margin"
    OPEN = "no conclusion"


def estimates(evidence: Evidence, pools: Sequence[Hashable] = ()) -> pd.DataFrame:
    """Return each method's mean with its 95 % interval.

    ``method, n, mean, half_width, patients, repetition``: `n` seeds; half-widths of the whole interval and of each
    source alone, NaN where that is not known. The whole is that of the sources that are known, and NaN where seeds vary
    and leave one degree of freedom to say by how much.

    Parameters
    ----------
    pools : sequence
        By method, with which others it shares its variance between seeds; all share one where not given.
    """
    tables = []
    for seeds, members in _pooled(evidence.complete, pools):
        own = evidence.among({evidence.methods[member]: evidence.methods[member] for member in members})
        moments = own.moments(seeds, np.eye(len(members)))
        rest, degrees = np.maximum(moments.between - moments.explained, 0.0), moments.seeds - 1
        if evidence.influence and evidence.same_patients:
            rest, degrees = np.maximum(rest, rest.mean()), degrees * len(members)
        tables.append(_known(_table(moments, rest, degrees, LEVEL), rest, degrees).assign(place=members))
    table = pd.concat(tables).sort_values("place", ignore_index=True)
    table.insert(0, "method", list(evidence.methods))
    return table[["method", "n", "mean", "half_width", "patients", "repetition"]]


def all_differences(evidence: Evidence) -> pd.DataFrame:
    """Return the differences of all pairs of methods, with intervals that hold together with 95 %.

    ``first, second, n, mean, half_width``: first less second, on the `n` seeds that both have; NaN half-widths where
    these are fewer than two, or two that are all that is known of two methods. A difference that is nothing on every
    seed and for every patient has no width.
    """
    pairs = np.array(list(combinations(range(len(evidence.methods)), 2)), dtype=np.int64).reshape(-1, 2)
    complete = evidence.complete
    both = complete[:, pairs[:, 0]] & complete[:, pairs[:, 1]]
    contrasts = np.eye(len(evidence.methods))[pairs[:, 0]] - np.eye(len(evidence.methods))[pairs[:, 1]]
    tables = []
    for seeds, chosen in _patterns(both):
        moments = evidence.moments(seeds, contrasts[chosen])
        tables.append(_together(evidence, moments, seeds, contrasts[chosen], len(pairs)).assign(place=chosen))
    if not tables:
        return pd.DataFrame(columns=["first", "second", "n", "mean", "half_width"])
    table = pd.concat(tables).sort_values("place", ignore_index=True)
    names = np.array(evidence.methods, dtype=object)
    table.insert(0, "first", names[pairs[:, 0]])
    table.insert(1, "second", names[pairs[:, 1]])
    return table[["first", "second", "n", "mean", "half_width"]]


def against(differences: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return ``group, n, mean, half_width`` of :func:`all_differences`: each other method less this one."""
    ahead, behind = (differences[differences[side] == method] for side in ("second", "first"))
    behind = behind.rename(columns={"second": "group"}).assign(mean=-behind["mean"])
    both = pd.concat([ahead.rename(columns={"first": "group"}), behind], ignore_index=True)
    return both[["group", "n", "mean", "half_width"]]


def verdict(mean: float, half_width: float, margin: float) -> Verdict:
    """Say what an interval of a difference shows: that there is one, that it is no more than the margin, or neither.

    Both can hold; a difference that is surely small is called equal.
    """
    if math.isnan(half_width):
        return Verdict.OPEN
    if abs(mean) + half_width <= margin:
        return Verdict.EQUAL
    return Verdict.APART if abs(mean) > half_width else Verdict.OPEN


def shared_level(covariance: Floats, contrasts: Floats) -> float:
    """Return the level at which each of several normal contrasts is tested, so that all hold together.

    `covariance` is ``[method, method]``, `contrasts` are ``[contrast, method]``.
    """
    if len(contrasts) == 1:
        return LEVEL
    values, axes = np.linalg.eigh(covariance)
    drawn = _normals(len(covariance)) @ (axes * np.sqrt(np.maximum(values, 0.0))).T
    error = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", contrasts, covariance, contrasts), 0.0))
    scaled = contrasts[error > 0] / error[error > 0, None]
    largest = np.zeros(_DRAWS)
    for start in range(0, len(scaled), _AT_ONCE):
        statistics = drawn @ scaled[start : start + _AT_ONCE].T
        np.maximum(largest, np.abs(statistics, out=statistics).max(1), out=largest)
    return float(min(2 * scipy.special.ndtr(-np.quantile(largest, 1 - LEVEL)), LEVEL))


@lru_cache(maxsize=4)
def _normals(methods: int) -> Floats:
    """Draw ``[draw, method]`` normals, for all comparisons the same."""
    return stream(0, "inference.together").standard_normal((_DRAWS, methods))


def _together(evidence: Evidence, moments: Moments, seeds: Mask, contrasts: Floats, pairs: int) -> pd.DataFrame:
    """Return intervals of the pairs that share their seeds; those of other seeds take their part of the level."""
    methods = int(contrasts.any(0).sum())
    if not moments.seeds:
        return _table(moments, moments.between, 0, LEVEL)
    nothing = (np.nan_to_num(evidence.by_seed[seeds]) @ contrasts.T == 0).all(0) & ~(moments.patients > 0)
    between = np.maximum(moments.between, moments.between[~nothing].mean() if not nothing.all() else 0.0)
    rest = np.where(nothing, 0.0, np.maximum(between - moments.explained, 0.0))
    noise = moments.weight * float(np.nan_to_num(rest).mean()) / 2 * np.eye(len(evidence.methods))
    covariance = noise + moments.shares if moments.shares.size else noise + np.eye(len(noise)) * (noise.max() == 0)
    level = shared_level(covariance, contrasts) * len(contrasts) / pairs
    degrees = (moments.seeds - 1) * (methods - 1)
    table = _table(moments, rest, degrees, level)
    table = table if evidence.influence else _known(table, rest, degrees)
    return table if moments.seeds > 1 else table.assign(half_width=math.nan)


def _known(table: pd.DataFrame, rest: Floats, degrees: int) -> pd.DataFrame:
    """Take intervals back where seeds vary, and one degree of freedom is all that says by how much."""
    return table.assign(half_width=table["half_width"].mask((degrees == 1) & (rest > _NOTHING)))


def _table(moments: Moments, rest: Floats, degrees: int, level: float) -> pd.DataFrame:
    patients = scipy.special.stdtrit(moments.degrees, 1 - level / 2) * np.sqrt(moments.patients)
    repetition = scipy.special.stdtrit(degrees, 1 - level / 2) * np.sqrt(moments.weight * rest)
    whole = np.hypot(np.nan_to_num(patients), np.nan_to_num(repetition))
    whole[np.isnan(patients) & np.isnan(repetition)] = np.nan
    return pd.DataFrame(
        {
            "n": moments.seeds,
            "mean": moments.mean,
            "half_width": whole,
            "patients": patients,
            "repetition": repetition,
        }
    )


def _pooled(complete: Mask, pools: Sequence[Hashable]) -> Iterator[tuple[Mask, list[int]]]:
    """Yield some seeds, and the methods of one pool that have a value on just those."""
    for seeds, members in _patterns(complete):
        if not pools:
            yield seeds, members
        for pool in dict.fromkeys(pools[member] for member in members) if pools else ():
            yield seeds, [member for member in members if pools[member] == pool]


def _patterns(complete: Mask) -> Iterator[tuple[Mask, list[int]]]:
    """Yield some seeds, and the columns that have a value on just those."""
    patterns, place = np.unique(complete, axis=1, return_inverse=True)
    for number, seeds in enumerate(patterns.T):
        yield seeds, np.flatnonzero(place.ravel() == number).tolist()
