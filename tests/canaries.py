"""Canaries: records with features of their own, put among a clinic's training records by a fair coin each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.data.federation import Records
from sim.foundation.rng import stream


@dataclass(frozen=True)
class Canaries:
    """Canaries and their coins.

    Attributes
    ----------
    x : ndarray of float32, ``[canary, feature]``
    y : ndarray of int64, ``[canary]``
    clinic : ndarray of int64, ``[canary]``
        The clinic among whose records each one is, if it is in.
    included : ndarray of bool, ``[canary]``
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    clinic: NDArray[np.int64]
    included: NDArray[np.bool_]


def one_feature_canaries(count: int, features: int, classes: int, clinics: int, scale: float, seed: int) -> Canaries:
    """Make canaries that each have one feature to themselves (Dirac canaries in the first layer's weights).

    Parameters
    ----------
    count : int
        At most the number of features; canary i has ``scale`` in the i-th last feature, and 0 in all others.
    features, classes, clinics : int
        Of the federation; the canaries are dealt out to the clinics in turn.
    scale : float
    seed : int
        Of labels and coins.

    Returns
    -------
    Canaries

    Raises
    ------
    ValueError
        If there are fewer features than canaries.
    """
    if count > features:
        raise ValueError(f"{count} canaries need as many features; there are {features}")
    draws = stream(seed, "canaries")
    x = np.zeros((count, features), dtype=np.float32)
    x[np.arange(count), features - 1 - np.arange(count)] = scale
    return Canaries(x, draws.integers(0, classes, count), np.arange(count) % clinics, draws.random(count) < 0.5)


def planted(train: Records, canaries: Canaries) -> Records:
    """Return the training records with the included canaries behind their clinics' own."""
    xs, ys, sizes = [], [], []
    for clinic, (first, last) in enumerate(pairwise(train.offsets.tolist())):
        own = canaries.included & (canaries.clinic == clinic)
        xs += [train.x[first:last], canaries.x[own]]
        ys += [train.y[first:last], canaries.y[own]]
        sizes.append(last - first + int(own.sum()))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Records(np.concatenate(xs), np.concatenate(ys), offsets)
