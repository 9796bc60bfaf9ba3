"""SplitFed V2: Thapa et al., "SplitFed: When Federated Learning Meets Split Learning", AAAI 2022, section 3.2.

    for each round t = 1, 2, ...
        W^C_k <- W^C for each clinic k in S_t
        for each clinic k in S_t, in random order           (alternate = "clinic"), or
        for each batch b, for each clinic k in random order (alternate = "mini-batch", Gawali et al. 2020)
            clinic   A_k <- head(x_b)
            server   forward and backward of the one W^S;   cut gradient down
            clinic   backward of W^C_k
        W^C <- sum of (n_k / n) W^C_k

There is one body, and its optimiser's state lives on from batch to batch and round to round. The heads are averaged.
Of a lost clinic the body keeps the batches that it has seen; its head never arrives, and the sum goes over the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import final

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from sim.flower.messages import MODEL
from sim.methods.job import Job
from sim.methods.method import Method
from sim.methods.trainer import Trainer
from sim.models import Parameters
from strategies.cohorts import CohortStrategy, Gathered
from strategies.serving import Turn


@final
class SplitFedV2(CohortStrategy):
    """Heads in parallel and averaged; one body that serves the clinics' batches one after another.

    Parameters
    ----------
    job : Job
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._body: Trainer | None = None
        self._trained: dict[int, Gathered] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Do the whole round; no message is left to send."""
        parameters = self.before = self.common(arrays)
        parts = {MODEL: self.clinic_parts_of(parameters)}
        attendance = self.job.attendance(server_round)
        there = attendance.clinics.tolist()
        turns = {k: Turn(self, grid, [k], server_round, 0, attendance.batches_of(k)) for k in there}
        inbox: dict[int, Gathered] = {}
        for k in there:
            if not attendance.batches_of(k):
                turns[k].begin(parts)
        for k, batches in groupby(self.job.schedule(server_round), key=itemgetter(0)):
            self._body = self.body_serving(k, self._body, parameters)
            for _, step in batches:
                if step == 0:
                    inbox[k] = turns[k].begin(parts)
                inbox[k] = self.gather(grid.send_and_receive(turns[k].serve(self._body, inbox[k], step)))
            self.count_noise(self._body)
        self._trained = {k: last for k, last in inbox.items() if last.clinics}
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the heads (and tails) with weights n_k / n; the body is as the last batch left it."""
        if self._body is None:
            return None, None
        clinics = self.job.in_lane_order(list(self._trained))
        each = [self._trained[k].arrays[MODEL] for k in clinics]
        heads = self.clinic_parts_of(self.before)
        if each:
            stacked = {name: torch.cat([parts[name] for parts in each]) for name in heads}
            heads = self.average(stacked, clinics, self.before, server_round)
        body: Parameters = {name: value.clone() for name, value in self._body.parameters.items()}
        return self.model({**heads, **body}), None


METHOD = Method(
    name="splitfed-v2",
    label="SplitFed V2",
    citation="Thapa et al., AAAI 2022",
    family="SplitFed",
    clinic_parts="averaged",
    round=lambda exchange, state: state,
    body="shared",
    cuts=("vanilla", "u-shaped"),
    takes=("order", "alternate"),
)
