"""The records that stand behind one node: those of all its clinics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.data.federation import Records
from sim.methods.job import Job
from sim.methods.parties import seen_by
from sim.scenario.clinics import LABEL_FLIP


@dataclass(frozen=True)
class NodeGroup:
    """The training records that one node holds, for all its clinics, in one flat tensor.

    Attributes
    ----------
    clinics : tuple of int
        In lane order; none at a node that there is no clinic for.
    x : Tensor
        ``[record, *feature]``
    y : Tensor
        ``[record]``
    first : ndarray
        By clinic, where its records begin; -1 for clinics of other node_groups.
    gathered : dict
        What was gathered for the clinics that take turns in the round that is on, and the lane of each.
    """

    clinics: tuple[int, ...]
    x: Tensor
    y: Tensor
    first: NDArray[np.int64]
    gathered: dict[int, Any] = field(default_factory=dict)

    @classmethod
    def build(cls, job: Job, train: Records, clinics: Sequence[int]) -> NodeGroup:
        """Take the clinics' records out of the federation, their labels randomised if they are to leave so.

        A party has its columns, and zeros in the place of others' and of labels that it does not hold.
        """
        ordered = job.in_lane_order(clinics)
        if job.parties is None:
            rows = [slice(*train.offsets[k : k + 2].tolist()) for k in ordered]
            records = [(train.x[own], train.y[own]) for own in rows]
        else:
            records = [seen_by(job.parties, k, train) for k in ordered]
        flipped = {k for k, (kind, _) in job.hostile.items() if kind == LABEL_FLIP}
        told = zip(ordered, (y for _, y in records), strict=True)
        labels = [len(job.facts.classes) - 1 - y if k in flipped else y for k, y in told]
        if job.labels is not None:
            of = job.labels
            answers = of.mechanism.answers
            labels = [answers(y, of.uniform, of.classes, job.key, k) for k, y in zip(ordered, labels, strict=True)]
        first = np.full(len(job.sizes), -1)
        first[ordered] = np.cumsum([0, *(len(y) for _, y in records[:-1])])
        return cls(
            tuple(ordered),
            torch.from_numpy(np.concatenate([train.x[:0], *(x for x, _ in records)])),
            torch.from_numpy(np.concatenate([train.y[:0], *labels])),
            first,
        )

    @cached_property
    def places(self) -> dict[int, int]:
        """Where each clinic stands among the group's."""
        return {k: place for place, k in enumerate(self.clinics)}

    def batch(self, clinics: list[int], index: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Gather the records of one step, or of several.

        Parameters
        ----------
        clinics : list of int
            The clinic of each lane.
        index : ndarray
            ``[..., lane, batch]`` positions within each clinic's records; negative ones are padding.

        Returns
        -------
        x : Tensor
            ``[..., lane, batch, *feature]``; padding is 0, and no copy of a record, whose values could then reach
            others through it.
        y : Tensor
            ``[..., lane, batch]``, likewise.
        """
        flat = torch.from_numpy((np.maximum(index, 0) + self.first[clinics][:, None]).ravel())
        x, y = self.x.index_select(0, flat), self.y.index_select(0, flat)
        padding = torch.from_numpy(np.flatnonzero(index < 0))
        for gathered in (x, y):
            gathered.index_fill_(0, padding, 0)
        return x.view(*index.shape, *self.x.shape[1:]), y.view(index.shape)


def node_groups_of(clinics: int, nodes: int) -> list[list[int]]:
    """Share clinics out to nodes in contiguous groups of nearly equal size."""
    return [group.tolist() for group in np.array_split(np.arange(clinics), nodes)]


def records_of(job: Job, train: Records, clinics: Sequence[int]) -> Records:
    """Return the records that nodes with these clinics work on; all of them under a vertical layout."""
    if job.parties is not None:
        return train
    sizes = np.diff(train.offsets)
    here = np.isin(np.arange(len(sizes)), clinics)
    rows = np.repeat(here, sizes)
    return Records(train.x[rows], train.y[rows], np.append(0, np.cumsum(sizes * here)))
