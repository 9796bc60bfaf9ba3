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
from torch import Tensor

from sim.engine.learner import Learner, expand
from sim.engine.messages import OBSERVED, array_record, tensors_in
from sim.job import Job
from strategies.cohorts import CohortStrategy, Gathered
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
        self._bodies: Learner | None = None
        self._turn: Turn | None = None
        self._observed: dict[str, Tensor] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Do every batch of the round; the last cut gradients' messages are left to send."""
        parameters = tensors_in(arrays)
        if not self._observed:
            self._observed = expand(self.clinic_parts_of(parameters), len(self.job.sizes))
        body = {name: value[:1] for name, value in self.body_of(parameters).items()}
        self.before = body
        self._observed = {name: value.clone() for name, value in self._observed.items()}
        for k in self.job.lost(server_round):
            self._observe(Turn.of_lost(self, grid, k, server_round).lose(self.body_copies([k], body), {}))
        clinics = self.job.returning(server_round, self.job.participants(server_round))
        self._turn = None
        if not clinics:
            return []
        self._bodies = self.body_copies(clinics, body)
        self._turn = Turn(self, grid, clinics, server_round, 0, max(self.job.steps(k) for k in clinics))
        return self._turn.run(self._bodies, {})

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the bodies with weights n_k / n; what the simulator observes of the clinics' own parts goes along."""
        body = self.before
        if self._bodies is not None and self._turn is not None:
            gathered = self.gather([*self._turn.finished, *replies])
            self.count_noise(self._bodies)
            self._observe(gathered)
            body = self.average(self._bodies.parameters, gathered.clinics, self.before, server_round)
        everywhere = expand(body, len(self.job.sizes))
        return array_record(self.in_order({**self._observed, **everywhere})), None

    def _observe(self, gathered: Gathered) -> None:
        """Note what the simulator sees of clinics' own parts."""
        for name, value in gathered.arrays.get(OBSERVED, {}).items():
            self._observed[name][gathered.clinics] = value
