"""Every clinic alone: the lower reference line. Nothing crosses, and each clinic keeps a model of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from sim.methods.method import Method
from strategies.cohorts import CohortStrategy


@final
class Local(CohortStrategy):
    """Each clinic trains its own model on its own records; the optimiser's state lives on between rounds."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let another round pass at every clinic that is there."""
        there = self.job.participants(server_round)
        return self.instructions(grid, "train.alone", there, {}, {"server-round": server_round})

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Hold nothing: the models stay where they are."""
        self.gather(replies)
        return None, None


METHOD = Method(
    name="local",
    label="Local",
    citation="",
    family="baseline",
    clinic_parts="own",
    round=lambda exchange, state: state,
)
