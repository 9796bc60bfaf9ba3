"""Who takes part in a round and which records stand in each batch: draws shared by plan and learning.

Plain numpy: the plan needs the very same counts before any training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.foundation.rng import Keys, lane_streams, stream

AT_ONCE = 2**18
"""Draws of Poisson sampling that are compared at once, unless one lane has more."""
Ints = NDArray[np.int64]
Count = TypeVar("Count", int, Ints)


@dataclass(frozen=True)
class Sampling:
    """How a clinic forms its batches.

    Attributes
    ----------
    poisson : bool
        Poisson sampling (each record joins each batch independently, as the accounting of DP-SGD assumes), otherwise
        shuffled batches without replacement.
    batch_size : int
        Records in a batch; the expected number under Poisson sampling.
    local_epochs : int
        Passes over the data in one round.
    """

    poisson: bool
    batch_size: int
    local_epochs: int

    def steps(self, records: Count) -> Count:
        """Return the number of batches in one round of a clinic with ``records`` records, or of each of several."""
        return self.local_epochs * -(-records // self.batch_size)

    def width(self, rows: Ints, most: int) -> Ints:
        """Return how wide batches are computed: nearly always the same, whatever was drawn.

        Arithmetic on a batch that is padded to another width may round otherwise. With one width for all steps, or for
        all but one in ten thousand under Poisson sampling, runs can share a program and keep their bits.

        Parameters
        ----------
        rows : ndarray
            Of each batch; of any shape.
        most : int
            Records of the largest clinic.
        """
        usual = self.batch_size + (math.ceil(4 * math.sqrt(self.batch_size)) if self.poisson else 0)
        usual = -(-min(usual, most) // 8) * 8
        return usual * np.maximum(1, -(-rows // usual))

    def rates(self, records: Ints) -> NDArray[np.float64]:
        """Return the probability with which one record joins one batch under Poisson sampling, by clinic."""
        return np.minimum(1.0, self.batch_size / records)

    def normaliser(self, records: Ints, rows: Ints) -> Ints:
        """Return what a batch's summed gradient is divided by.

        Parameters
        ----------
        records : ndarray
            ``[lane]`` each clinic's number of training records.
        rows : ndarray
            ``[..., lane]`` rows really drawn.

        Returns
        -------
        ndarray
            ``[..., lane]``: the expected batch size under Poisson sampling, otherwise the rows of the batch.
        """
        if self.poisson:
            return np.broadcast_to(np.minimum(self.batch_size, records), rows.shape)
        return np.maximum(rows, 1)


def loss_weights(rows: Ints, normaliser: Ints, width: int) -> NDArray[np.float32]:
    """Return each row's weight in the loss: 1 / normaliser for a record, 0 for padding.

    Parameters
    ----------
    rows, normaliser : ndarray
        ``[..., lane]``
    width : int

    Returns
    -------
    ndarray
        ``[..., lane, width]``
    """
    inside = np.arange(width) < rows[..., None]
    return (inside / normaliser[..., None]).astype(np.float32)


@dataclass(frozen=True)
class Batches:
    """The batches of one round for several lanes.

    Attributes
    ----------
    index : ndarray
        ``[step, lane, batch]`` positions within the clinic's own records; padding holds -1.
    rows : ndarray
        ``[step, lane]`` records really in the batch; the rest of the row is padding.
    active : ndarray
        ``[step]`` how many lanes, counted from the first, take the step.
    normaliser : ndarray
        ``[step, lane]`` what the summed gradient is divided by.
    """

    index: Ints
    rows: Ints
    active: Ints
    normaliser: Ints

    def lane(self, lane: int) -> Batches:
        """Return the batches of one lane."""
        steps, own = int(np.count_nonzero(self.active > lane)), slice(lane, lane + 1)
        index, rows, normaliser = (each[:steps, own] for each in (self.index, self.rows, self.normaliser))
        return Batches(index, rows, np.ones(steps, dtype=np.int64), normaliser)


def participants(seed: int, server_round: int, clinics: int, share: float) -> Ints:
    """Draw the clinics of a round, without replacement.

    Parameters
    ----------
    seed : int
    server_round : int
        From 1.
    clinics : int
        How many clinics there are.
    share : float
        Share that takes part, in (0, 1]; at least one clinic does.

    Returns
    -------
    ndarray
        Sorted clinic numbers.
    """
    return choose(seed, server_round, np.arange(clinics), wanted(clinics, share))


def wanted(clinics: int, share: float) -> int:
    """Return how many of the clinics a round is meant to have: a share of them, at least one."""
    return max(1, int(share * clinics + 0.5))


def selected(together: int, over_select: float) -> int:
    """Return how many clinics are asked where a round is meant to have so many."""
    return math.ceil(together * over_select - 1e-9)


def choose(seed: int, server_round: int, available: Ints, size: int) -> Ints:
    """Draw ``size`` of the available clinics (all of them if there are no more), without replacement, and sort them."""
    if size >= len(available):
        return np.sort(available)
    drawn = stream(seed, "participants", server_round=server_round).choice(len(available), size=size, replace=False)
    return np.sort(available[drawn])


def draw_batches(
    sampling: Sampling, key: Keys, server_round: int, clinics: Sequence[int] | Ints, records: Sequence[int] | Ints
) -> Batches:
    """Draw one round's batches.

    Parameters
    ----------
    sampling : Sampling
    key : int or str, or a sequence of them
        The run's seed; under Poisson sampling, which amplifies privacy only while nobody knows the draws, its key. One
        a lane where the lanes are of several runs.
    server_round : int
        From 1.
    clinics : sequence of int
        The clinic of each lane; it names the random stream.
    records : sequence of int
        Each lane's number of training records, in descending order, so that the lanes still at work in a step are
        always the first ones.

    Returns
    -------
    Batches

    Raises
    ------
    ValueError
        If the lanes are not ordered by size.
    """
    n = np.asarray(records, dtype=np.int64)
    if np.any(np.diff(n) > 0):
        raise ValueError("lanes must be ordered by descending number of records")
    steps = sampling.steps(n)
    total = int(steps.max(initial=0))
    active = (steps[None, :] > np.arange(total)[:, None]).sum(1)
    draw = _poisson if sampling.poisson else _shuffled
    index, rows = draw(sampling, key, server_round, clinics, n, steps)
    return Batches(index, rows, active, sampling.normaliser(n, rows))


def lane_by_lane(steps: Ints) -> tuple[Ints, Ints]:
    """Return the lane and the step of every batch, ``[batch]``, one lane after another, of so many ``[lane]`` steps."""
    lane = np.repeat(np.arange(len(steps)), steps)
    return lane, np.arange(len(lane)) - (np.cumsum(steps) - steps)[lane]


def draw_rows(
    sampling: Sampling, key: Keys, server_round: int, clinics: Sequence[int] | Ints, records: Ints, steps: Ints
) -> Ints:
    """Return the rows of each lane's first batches, as ``draw_batches`` would draw them.

    Parameters
    ----------
    sampling, key, server_round, clinics, records
        As for ``draw_batches``.
    steps : ndarray
        ``[lane]`` how many batches.

    Returns
    -------
    ndarray
        ``[batch]``, one lane after another.
    """
    lane, step = lane_by_lane(steps)
    if sampling.poisson:
        return draw_batches(sampling, key, server_round, clinics, records).rows[step, lane]
    per_epoch = -(-records // sampling.batch_size)
    return np.minimum(records[lane] - step % per_epoch[lane] * sampling.batch_size, sampling.batch_size)


def _shuffled(
    sampling: Sampling, key: Keys, server_round: int, clinics: Sequence[int] | Ints, n: Ints, steps: Ints
) -> tuple[Ints, Ints]:
    epochs, size = sampling.local_epochs, sampling.batch_size
    per_epoch = steps // epochs
    total = int(steps.max(initial=0))
    padded = int(per_epoch.max(initial=0)) * size
    drawn, ends = np.empty(epochs * int(n.sum())), np.cumsum(epochs * n).tolist()
    streams = lane_streams(key, "batches", len(n))
    for of_lane, clinic, first, last in zip(streams, clinics, [0, *ends], ends, strict=False):
        of_lane.at(clinic, server_round).random(out=drawn[first:last])
    keys = np.full((len(n), epochs, padded), np.inf)
    keys[np.broadcast_to(np.arange(padded) < n[:, None, None], keys.shape)] = drawn
    order = np.argsort(keys, axis=-1)
    step = np.arange(total)[:, None]
    epoch = np.minimum(step // per_epoch, epochs - 1)
    position = (step % per_epoch)[:, :, None] * size + np.arange(size)
    inside = (position < n[:, None]) & (step < steps)[:, :, None]
    place = (np.arange(len(n)) * epochs + epoch)[:, :, None] * padded + position
    own = order.ravel().take(place)
    index = np.where(inside, own, -1)
    return index, inside.sum(-1)


def _poisson(
    sampling: Sampling, key: Keys, server_round: int, clinics: Sequence[int] | Ints, n: Ints, steps: Ints
) -> tuple[Ints, Ints]:
    total, streams = int(steps.max(initial=0)), lane_streams(key, "batches", len(n))
    sizes, rates = steps * n, sampling.rates(n)
    edges, found = np.cumsum([0, *sizes.tolist()]), [np.zeros(0, dtype=np.int64)]
    for some in np.split(np.arange(len(n)), np.flatnonzero(np.diff(edges[:-1] // AT_ONCE)) + 1) if len(n) else ():
        start, own = edges[some[0]], (edges[some[0] : some[-1] + 2] - edges[some[0]]).tolist()
        drawn = np.empty(own[-1])
        for lane, places in zip(some.tolist(), map(slice, own, own[1:]), strict=True):
            streams[lane].at(clinics[lane], server_round).random(out=drawn[places])
        found.append(start + np.flatnonzero(drawn < np.repeat(rates[some], sizes[some])))
    joins = np.concatenate(found)
    of_lane = np.repeat(np.arange(len(n)), np.diff(np.searchsorted(joins, edges)))
    step, record = np.divmod(joins - edges[of_lane], n[of_lane])
    rows = np.bincount(of_lane * total + step, minlength=len(n) * total).reshape(len(n), total)
    place = np.arange(len(joins)) - np.repeat(np.cumsum(rows) - rows.ravel(), rows.ravel())
    index = np.full((total, len(n), max(1, int(rows.max(initial=0)))), -1)
    index[step, of_lane, place] = record
    return index, rows.T
