"""Every clinic alone: the lower reference line. Nothing crosses, and each clinic ends with a model of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from sim.engine.learner import expand
from sim.engine.messages import OBSERVED, array_record, tensors_in
from sim.job import Job
from sim.models import Parameters
from strategies.cohorts import CohortStrategy


@final
class Local(CohortStrategy):
    """Each clinic trains its own model on its own records; the optimiser's state lives on between rounds.

    Parameters
    ----------
    job : Job
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._observed: Parameters = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let another round pass at every clinic that is there."""
        if not self._observed:
            self._observed = expand(tensors_in(arrays), len(self.job.sizes))
        there = self.job.participants(server_round)
        return self.instructions(grid, "train.alone", there, {}, {"server-round": server_round})

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Look at the clinics' own models, ``[clinic, ...]`` in the clinics' order."""
        gathered = self.gather(replies)
        self._observed = {name: value.clone() for name, value in self._observed.items()}
        for name, value in gathered.arrays.get(OBSERVED, {}).items():
            self._observed[name][gathered.clinics] = value
        return array_record(self._observed), None
