"""Split learning by relay: Gupta & Raskar, "Distributed learning of deep neural network over multiple agents", 2018.

    for each round t = 1, 2, ...
        for each clinic k in S_t, in turn                   order = "random" or "fixed"
            k receives head and optimiser state from the clinic before it
            for each batch b of its turn                    alternate = "clinic": all its batches
                clinic   A <- head(x_b)                     alternate = "mini-batch": one (Gawali et al. 2020)
                server   forward and backward of the body;  cut gradient down
                clinic   backward of the head

A lost clinic hands nothing on: the next one receives what the lost one did, and the body keeps the batches that it has
seen. The hand-over passes through the server. Handing the optimiser's state on with the head makes the relay equal to
training on the clinics' records one after another.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from torch import Tensor

from sim.flower.messages import MODEL, OPTIMIZER
from sim.methods.job import Job
from sim.methods.method import Method
from sim.methods.trainer import Trainer
from strategies.cohorts import CohortStrategy
from strategies.serving import Turn


@final
class Split(CohortStrategy):
    """One head, handed from clinic to clinic, and one body.

    Parameters
    ----------
    job : Job
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._body: Trainer | None = None
        self._parts: dict[str, dict[str, Tensor]] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Do the whole round; no message is left to send."""
        parameters = self.common(arrays)
        if not self._parts:
            head = self.clinic_parts_of(parameters)
            self._parts = {MODEL: head, OPTIMIZER: self.job.initial_optimizer_state(head)}
        for k, steps in _turns(self.job.schedule(server_round), self.job.by_mini_batch):
            self._body = self.body_serving(k, self._body, parameters)
            turn = Turn(self, grid, [k], server_round, steps[0], len(steps))
            reply = self.gather(grid.send_and_receive(turn.run(self._body, self._parts)))
            self.count_noise(self._body)
            if reply.clinics:
                self._parts = {MODEL: reply.arrays[MODEL], OPTIMIZER: reply.arrays[OPTIMIZER]}
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return head and body as the last batch left them."""
        if self._body is None:
            return None, None
        body = {name: value.clone() for name, value in self._body.parameters.items()}
        return self.model({**self._parts[MODEL], **body}), None


def _turns(schedule: list[tuple[int, int]], by_mini_batch: bool) -> list[tuple[int, list[int]]]:
    """Group a schedule of (clinic, step) into turns: one batch each, or all of a clinic's."""
    if by_mini_batch:
        return [(k, [step]) for k, step in schedule]
    return [(k, [step for _, step in batches]) for k, batches in groupby(schedule, key=itemgetter(0))]


METHOD = Method(
    name="split",
    label="Split learning",
    citation="Gupta & Raskar 2018",
    family="SL",
    clinic_parts="handed-on",
    round=lambda exchange, state: state,
    body="shared",
    cuts=("vanilla", "u-shaped"),
    takes=("order", "alternate"),
)
