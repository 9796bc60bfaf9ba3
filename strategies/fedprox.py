"""FedProx: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, algorithm 2.

As federated averaging, but every clinic minimises F_k(w) + mu/2 |w - w_t|^2, which holds it near the global model w_t.
Clinics are drawn uniformly and weighted by their records, as in federated averaging; the paper draws them by their
share of the records and weights them alike.
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
class FedProx(CohortStrategy):
    """Clinics train the whole model in parallel, each pulled towards the global model; the server averages."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send w and mu to the round's clinics."""
        instruction = {"server-round": server_round, "proximal-mu": self.job.spec.strategy.proximal_mu}
        clinics = self.job.participants(server_round)
        self.before = self.common(arrays)
        return self.instructions(grid, "train", clinics, {MODEL: self.before}, instruction)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the w_k of those who came back, with weights n_k / n."""
        gathered = self.gather(replies)
        if not gathered.clinics:
            return None, None
        return self.model(self.average(gathered.arrays[MODEL], gathered.clinics, self.before, server_round)), None


METHOD = Method(
    name="fedprox",
    label="FedProx",
    citation="Li et al., MLSys 2020",
    family="FL",
    clinic_parts="averaged",
    round=lambda exchange, state: state,
    takes=("proximal-mu",),
)
