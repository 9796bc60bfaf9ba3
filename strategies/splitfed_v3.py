"""SplitFed V3: Gawali et al., "Comparison of Privacy-Preserving Distributed Deep Learning Methods in Healthcare", 2020.

    for each round t = 1, 2, ...
        for each clinic k in S_t in parallel
            W^S_k <- W^S                                    one copy of the body a clinic; W^C_k is the clinic's own
            for each batch b, as in SplitFed V1
        W^S <- sum of (n_k / n) W^S_k

The sum goes over the clinics that were not lost on the way. Heads (and tails) stay at their clinics, with their
optimiser's state, and are never averaged: there is no single global model, and every clinic is evaluated with its own.
A lost clinic's head keeps what it has learned.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from sim.methods.job import Job
from sim.methods.method import Method
from sim.methods.trainer import Trainer
from strategies.cohorts import CohortStrategy
from strategies.serving import Turn


@final
class SplitFedV3(CohortStrategy):
    """Own heads at the clinics and one body copy a clinic at the server; only the bodies are averaged.

    Parameters
    ----------
    job : Job
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._bodies: Trainer | None = None
        self._turn: Turn | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Do every batch of the round; the last cut gradients' messages are left to send."""
        self.before = self.common(arrays)
        for k in self.job.lost(server_round):
            Turn.of_lost(self, grid, k, server_round).lose(self.body_copies([k], self.before), {})
        clinics = self.job.returning(server_round, self.job.participants(server_round))
        self._turn = None
        if not clinics:
            return []
        self._bodies = self.body_copies(clinics, self.before)
        self._turn = Turn(self, grid, clinics, server_round, 0, max(self.job.steps(k) for k in clinics))
        return self._turn.run(self._bodies, {})

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the bodies with weights n_k / n."""
        body = self.before
        if self._bodies is not None and self._turn is not None:
            self.gather(replies, self._turn.finished)
            self.count_noise(self._bodies)
            self.keep_own(self._bodies.clinics, self._bodies.parameters)
            body = self.average(self._bodies.parameters, self._bodies.clinics, self.before, server_round)
        return self.model(body), None


METHOD = Method(
    name="splitfed-v3",
    label="SplitFed V3",
    citation="Gawali et al. 2020",
    family="SplitFed",
    clinic_parts="own",
    round=lambda exchange, state: state,
    body="copies",
    cuts=("vanilla", "u-shaped"),
)
