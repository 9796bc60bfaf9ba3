"""What every clinic has sent to the server once, and the part that the server trains on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sim.methods.job import Job
from sim.methods.messages import CUT_KINDS, Kind, Upload
from sim.methods.node_group import NodeGroup
from sim.methods.parties import Parties
from sim.methods.row_noise import arrived_rows
from sim.methods.trainer import LocalTraining, Trainer, expand, trainer_for
from sim.models import Parameters, Part

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange

POOL = 0
"""The pool is one big clinic, in the place of the first."""


@dataclass(frozen=True)
class Pool:
    """Records, or rows behind a public head, of all clinics, one clinic after another.

    Attributes
    ----------
    job : Job
        The run's, with the pool for its only clinic.
    trainer : Trainer
        Of the whole model, or of the body; its optimiser's state lives on between rounds.
    """

    job: Job
    records: NodeGroup
    trainer: Trainer

    @classmethod
    def fetched(cls, exchange: Exchange, model: Mapping[str, Tensor]) -> Pool:
        """Ask every clinic once for what it sends, and gather it."""
        job = exchange.job
        if job.parties is not None:
            return cls._by_column(exchange, job.parties, model)
        head = exchange.clinic_parts(model) if job.protocol.clinic_parts else None
        everyone = job.in_lane_order(range(len(job.sizes)))
        sent = exchange.ask(Upload(clinics=everyone, head=head))
        kind, _ = job.protocol.once_up
        x, y = sent.payload[kind], sent.payload[Kind.LABELS]
        if kind in CUT_KINDS:
            x = arrived_rows(job, kind, x, sent.clinics)
        lanes = sorted(range(len(everyone)), key=lambda lane: sent.clinics[lane])
        x, y = (torch.cat([rows[lane, : sent.rows[lane]] for lane in lanes]) for rows in (x, y))
        return cls._of(job, job.network.whole if head is None else job.part("body"), x, y.to(torch.int64), model)

    @classmethod
    def _by_column(cls, exchange: Exchange, parties: Parties, model: Mapping[str, Tensor]) -> Pool:
        """Put the columns that parties send of the same patients into whole records, one region after another."""
        job = exchange.job
        each = [torch.zeros(job.sizes[holder], *job.network.input_shape) for holder in parties.holders]
        labels = [torch.empty(0, dtype=torch.int64) for _ in parties.holders]
        for place, columns in enumerate(parties.columns):
            sent, region = exchange.ask(Upload(clinics=[place])), parties.region_of[place]
            each[region][:, list(columns)] = sent.payload[Kind.RECORDS][0]
            if place in parties.holders:
                labels[region] = sent.payload[Kind.LABELS][0].to(torch.int64)
        return cls._of(job, job.network.whole, torch.cat(each), torch.cat(labels), model)

    @classmethod
    def _of(cls, job: Job, part: Part, x: Tensor, y: Tensor, model: Mapping[str, Tensor]) -> Pool:
        records = NodeGroup((POOL,), x, y, np.zeros(1, dtype=np.int64))
        pooled = replace(job, sizes=(len(y),), parties=None)
        return cls(pooled, records, trainer_for(pooled, part, [POOL], expand(part.select(model), 1)))

    def train(self, exchange: Exchange) -> Parameters:
        """Train for a round; return the parameters ``[1, *shape]`` as they are then."""
        exchange.program.do(
            LocalTraining(trainer=self.trainer, group=self.records, job=self.job, server_round=exchange.server_round)
        )
        if self.job.dp is not None:  # a step on the pool is one on every clinic's records
            everyone = torch.ones(len(exchange.job.sizes), dtype=torch.int64)
            exchange.noised[self.trainer.part.name] = self.trainer.noised_steps * everyone
        return exchange.snapshot(self.trainer)
