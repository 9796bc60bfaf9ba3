"""All records in one place: the upper reference line. Every clinic sends its training records to the server, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import final

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from torch import Tensor

from sim.flower.messages import array_record, tensors_in
from sim.methods.job import Job
from sim.methods.method import Method
from sim.methods.node_group import NodeGroup
from sim.methods.protocol import CUT_KINDS
from sim.methods.row_noise import arrived_rows
from sim.methods.trainer import Trainer, expand, train_whole, trainer_for
from strategies.cohorts import CohortStrategy

POOL = 0
"""The pool is one big clinic, in the place of the first."""


@final
class Centralised(CohortStrategy):
    """Minibatch training on the pooled records; the optimiser's state lives on between rounds.

    Parameters
    ----------
    job : Job
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._pool: NodeGroup | None = None
        self._trainer: Trainer | None = None
        self._pooled = job

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Fetch the records before the first round, then train on them here; no message is left to send."""
        if self._pool is None or self._trainer is None:
            self._pool = fetch_pool(self, grid, "records", {})
            self._pooled = dataclasses.replace(self.job, sizes=(len(self._pool.y),))
            parameters = expand(tensors_in(arrays), 1)
            self._trainer = trainer_for(self._pooled, self.job.network.whole, [POOL], parameters)
        train_whole(self._trainer, self._pool, self._pooled, server_round)
        self.server_noised_steps["model"] = self._trainer.noised_steps.expand(len(self.job.sizes))
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the model as it stands."""
        if self._trainer is None:
            return None, None
        return array_record({name: value.clone() for name, value in self._trainer.parameters.items()}), None


def fetch_pool(strategy: CohortStrategy, grid: Grid, kind: str, parts: Mapping[str, Mapping[str, Tensor]]) -> NodeGroup:
    """Ask every clinic once for all its records, or for its rows behind the parts that are sent to it.

    Parameters
    ----------
    strategy : CohortStrategy
    grid : Grid
    kind : str
        ``records`` or ``smashed``.
    parts : mapping
        Parameters by message kind and name.

    Returns
    -------
    NodeGroup
        One big clinic, the clinics' records one after another.
    """
    everyone = strategy.job.in_lane_order(range(len(strategy.job.sizes)))
    gathered = strategy.exchange(grid, "train.records", everyone, parts, {})
    by_clinic = sorted(range(len(everyone)), key=lambda lane: gathered.clinics[lane])
    x, y = gathered.arrays[kind][kind], gathered.arrays["labels"]["labels"]
    if kind in CUT_KINDS:
        x = arrived_rows(strategy.job, kind, x, gathered.clinics)
    return NodeGroup(
        (POOL,),
        torch.cat([x[lane, : gathered.rows[lane]] for lane in by_clinic]),
        torch.cat([y[lane, : gathered.rows[lane]] for lane in by_clinic]).to(torch.int64),
        np.zeros(1, dtype=np.int64),
    )


METHOD = Method(
    name="centralised",
    label="Centralised",
    citation="",
    family="baseline",
    clinic_parts="none",
    round=lambda exchange, state: state,
    body="shared",
    once_up=("records", "labels"),
)
