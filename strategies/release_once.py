"""Rows released once: every clinic sends each record behind a public head one time, noised; the server trains on them.

    clinic k   A_k <- clip(head(x_k)) + N(0, s^2)       once, before the first round, with the labels
    for each round t = 1, 2, ...
        server     a pass over the rows of all clinics, batch by batch; only the body trains

All that follows the release is post-processing of it (Dwork & Roth, "The Algorithmic Foundations of Differential
Privacy", 2014, proposition 2.1): rounds cost no privacy, and nothing crosses any more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from sim.flower.messages import MODEL, tensors_in
from sim.methods.job import Job
from sim.methods.method import Method
from sim.methods.node_group import NodeGroup
from sim.methods.trainer import Trainer, expand, train_whole, trainer_for
from sim.models import Parameters
from strategies.centralised import POOL, fetch_pool
from strategies.cohorts import CohortStrategy


@final
class ReleaseOnce(CohortStrategy):
    """Minibatch training of the body on pooled rows; the optimiser's state lives on between rounds.

    Parameters
    ----------
    job : Job
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._head: Parameters = {}
        self._pool: NodeGroup | None = None
        self._body: Trainer | None = None
        self._pooled = job

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Fetch the rows before the first round, then train on them here; no message is left to send."""
        if self._pool is None or self._body is None:
            parameters = tensors_in(arrays)
            self._head = self.clinic_parts_of(parameters)
            self._pool = fetch_pool(self, grid, "smashed", {MODEL: self._head})
            part = self.job.part("body")
            self._pooled = dataclasses.replace(self.job, sizes=(len(self._pool.y),))
            self._body = trainer_for(self._pooled, part, [POOL], expand(self.body_of(parameters), 1))
        train_whole(self._body, self._pool, self._pooled, server_round)
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the public head and the body as it stands."""
        if self._body is None:
            return None, None
        body = {name: value.clone() for name, value in self._body.parameters.items()}
        return self.model({**self._head, **body}), None


METHOD = Method(
    name="release-once",
    label="Release once",
    citation="Dwork & Roth 2014, proposition 2.1",
    family="SL",
    clinic_parts="none",
    round=lambda exchange, state: state,
    body="shared",
    cuts=("vanilla",),
    once_up=("smashed", "labels"),
)
