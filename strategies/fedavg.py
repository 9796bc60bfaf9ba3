"""Federated averaging.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, algorithm 1:

    for each round t = 1, 2, ...
        S_t <- the round's clinics
        for each clinic k in S_t in parallel
            w_k <- ClientUpdate(k, w)             local epochs of minibatch SGD from w
        w <- sum over k in S_t of (n_k / n) w_k
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from sim.flower.messages import MODEL
from sim.methods.method import Method
from strategies.cohorts import CohortStrategy


@final
class FedAvg(CohortStrategy):
    """Clinics train the whole model in parallel; the server averages, weighted by records."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send w to the round's clinics."""
        clinics = self.job.participants(server_round)
        self.before = self.common(arrays)
        return self.instructions(grid, "train", clinics, {MODEL: self.before}, {"server-round": server_round})

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the w_k of those who came back, with weights n_k / n."""
        gathered = self.gather(replies)
        if not gathered.clinics:
            return None, None
        return self.model(self.average(gathered.arrays[MODEL], gathered.clinics, self.before, server_round)), None


METHOD = Method(
    name="fedavg",
    label="FedAvg",
    citation="McMahan et al., AISTATS 2017",
    family="FL",
    clinic_parts="averaged",
    round=lambda exchange, state: state,
)
