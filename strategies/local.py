"""Every clinic alone: the lower reference line. Nothing crosses, and each clinic ends with a model of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from sim.engine.messages import OBSERVED, array_record
from strategies.cohorts import CohortStrategy


@final
class Local(CohortStrategy):
    """Each clinic trains its own model on its own records; the optimiser's state lives on between rounds."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let another round pass at every clinic."""
        everyone = self.job.in_lane_order(range(len(self.job.sizes)))
        return self.instructions(grid, "train.alone", everyone, {}, {"server-round": server_round})

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Look at the clinics' own models, ``[clinic, ...]`` in the clinics' order."""
        gathered = self.gather(replies)
        by_clinic = sorted(range(len(gathered.clinics)), key=lambda lane: gathered.clinics[lane])
        return array_record({n: v[by_clinic].clone() for n, v in gathered.arrays[OBSERVED].items()}), None
