"""The batches of a turn, or of a round of local training, as tensors: gathered at once, and joined over runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sim.methods.job import Job
from sim.methods.node_group import NodeGroup
from sim.methods.sampling import Ints, loss_weights


@dataclass(frozen=True, kw_only=True)
class Feed:
    """What lanes train on, step by step.

    Attributes
    ----------
    x : Tensor
        ``[step, lane, width, *feature]``; padding is 0.
    y, weights : Tensor
        ``[step, lane, width]`` labels and weights in the loss, 0 for padding.
    rows, normaliser : ndarray
        ``[step, lane]`` records in each batch, and what its summed gradient is divided by.
    active : ndarray
        ``[step]`` how many lanes, counted from the first, take the step.
    width : ndarray
        ``[step, lane]`` how wide a lane's batch is computed.
    """

    x: Tensor
    y: Tensor
    weights: Tensor
    rows: Ints
    normaliser: Ints
    active: Ints
    width: Ints

    @classmethod
    def gathered(cls, job: Job, group: NodeGroup, clinics: list[int], server_round: int, steps: slice) -> Feed:
        """Gather some steps of a round for clinics in lane order."""
        drawn = job.batches(server_round, clinics)
        rows, normaliser = drawn.rows[steps], drawn.normaliser[steps]
        width = job.width(rows.max(1, initial=0))
        widest = int(width.max(initial=1))
        index = np.full((*rows.shape, widest), -1)
        some = drawn.index[steps, :, :widest]
        index[:, :, : some.shape[2]] = some
        x, y = group.batch(clinics, index)
        return cls(
            x=x,
            y=y,
            weights=torch.from_numpy(loss_weights(rows, normaliser, widest)),
            rows=rows,
            normaliser=np.broadcast_to(normaliser, rows.shape),
            active=drawn.active[steps],
            width=np.broadcast_to(width[:, None], rows.shape),
        )

    @classmethod
    def of_turn(cls, job: Job, group: NodeGroup, clinics: list[int], server_round: int, steps: slice) -> Feed:
        """Gather some steps of a turn; for clinics that come one by one all of the round is gathered at once."""
        of_all: Feed
        turns = job.taking_turns(server_round) if job.dense else {}
        if len(clinics) > 1 or clinics[0] not in turns:
            return cls.gathered(job, group, clinics, server_round, steps)
        if server_round not in group.gathered:
            group.gathered.clear()
            here = [k for k in turns if group.first[k] >= 0]
            of_all = cls.gathered(job, group, here, server_round, slice(None))
            of_all = replace(of_all, width=job.width(of_all.rows))  # each lane as wide as it is alone
            group.gathered[server_round] = of_all, {k: lane for lane, k in enumerate(here)}
        of_all, lanes = group.gathered[server_round]
        lane: int = lanes[clinics[0]]
        return of_all.lanes(lane, lane + 1, steps)

    @classmethod
    def joined(cls, feeds: Sequence[Feed]) -> tuple[Feed, list[Ints]]:
        """Join the lanes of several feeds, those with the most steps first.

        Returns
        -------
        Feed
        list of ndarray
            Of each feed, where its lanes are now.
        """
        taken = [(feed.active[:, None] > np.arange(feed.rows.shape[1])).sum(0) for feed in feeds]
        lanes = np.cumsum([0, *(len(own) for own in taken)])
        order = np.argsort(-np.concatenate(taken), kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        places = [place[first:last] for first, last in pairwise(lanes)]
        steps, widest = max(len(feed.active) for feed in feeds), max(feed.x.shape[2] for feed in feeds)
        first, shape = feeds[0], (steps, len(order), widest)
        x, y = first.x.new_zeros(*shape, *first.x.shape[3:]), first.y.new_zeros(shape)
        weights = first.weights.new_zeros(shape)
        rows, width = np.zeros(shape[:2], dtype=np.int64), np.zeros(shape[:2], dtype=np.int64)
        normaliser, active = np.ones(shape[:2], dtype=np.int64), np.zeros(steps, dtype=np.int64)
        for feed, own in zip(feeds, places, strict=True):
            there, wide = len(feed.active), feed.x.shape[2]
            for whole, part in ((x, feed.x), (y, feed.y), (weights, feed.weights)):
                whole[:there, torch.from_numpy(own), :wide] = part
            for numbers, some in ((rows, feed.rows), (width, feed.width), (normaliser, feed.normaliser)):
                numbers[:there, own] = some
            active[:there] += feed.active
        joined = cls(x=x, y=y, weights=weights, rows=rows, normaliser=normaliser, active=active, width=width)
        return joined, places

    def lanes(self, first: int, last: int, among: slice = slice(None)) -> Feed:
        """Return the feed of a range of lanes, without the steps in which none of them is at work."""
        active = np.clip(self.active - first, 0, last - first)
        at, own = slice(*among.indices(int(np.count_nonzero(active)))), slice(first, last)
        arrays = ("x", "y", "weights", "rows", "normaliser", "width")
        return Feed(active=active[at], **{name: getattr(self, name)[at, own] for name in arrays})

    def step(self, s: int) -> Iterator[Batch]:
        """Return the batches of a step: one of all lanes at work, or one for each width at which some of them are."""
        lanes, width = self.at_work[s]
        if width:
            x, y, weights = self._steps[s]
            if lanes < x.shape[0] or width < x.shape[1]:
                x, y, weights = x[:lanes, :width], y[:lanes, :width], weights[:lanes, :width]
            rows, normaliser = self.rows[s, :lanes], self.normaliser[s, :lanes]
            yield Batch(slice(0, lanes), x.contiguous(), y.contiguous(), weights.contiguous(), rows, normaliser)
            return
        widths = self.width[s, :lanes]
        for each in np.unique(widths).tolist():
            some = np.flatnonzero(widths == each)
            x, y, weights = (of_all[s, some, :each].contiguous() for of_all in (self.x, self.y, self.weights))
            yield Batch(some, x, y, weights, self.rows[s, some], self.normaliser[s, some])

    @cached_property
    def _steps(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """By step, ``[lane, width]``: records, labels and weights."""
        return list(zip(self.x.unbind(), self.y.unbind(), self.weights.unbind(), strict=True))

    @cached_property
    def at_work(self) -> list[tuple[int, int]]:
        """By step: how many lanes are at work, and at which width; 0 if they differ, or none is."""
        if self.width.shape[1] == 1:
            return list(zip(self.active.tolist(), (self.width[:, 0] * self.active).tolist(), strict=True))
        first = self.width[:, :1]
        beyond = np.arange(self.width.shape[1]) >= self.active[:, None]
        alike = (beyond | (self.width == first)).all(1) & (self.active > 0)
        widths = np.where(alike, first[:, 0], 0) if first.size else np.zeros(len(self.active), dtype=np.int64)
        return list(zip(self.active.tolist(), widths.tolist(), strict=True))


class Batch(NamedTuple):
    """One step of lanes that are computed at one width.

    Attributes
    ----------
    lanes : slice or ndarray
        Which they are: the first ones, or some by number.
    x : Tensor
        ``[lane, width, *feature]``
    y, weights : Tensor
        ``[lane, width]``
    rows, normaliser : ndarray
        ``[lane]``
    """

    lanes: slice | Ints
    x: Tensor
    y: Tensor
    weights: Tensor
    rows: Ints
    normaliser: Ints


def padded(rows: Tensor, width: int) -> Tensor:
    """Return rows ``[lane, batch, ...]`` padded with zeros to a width."""
    if rows.shape[1] == width:
        return rows
    wide = rows.new_zeros(rows.shape[0], width, *rows.shape[2:])
    wide[:, : rows.shape[1]] = rows
    return wide
