"""SplitFed V1: Thapa et al., "SplitFed: When Federated Learning Meets Split Learning", AAAI 2022, algorithms 1 and 2.

    for each round t = 1, 2, ...
        for each clinic k in S_t in parallel
            W^C_k <- W^C,  W^S_k <- W^S                     one copy of head and body a clinic
            for each batch b
                clinic   A_k <- head(x_b)                   smashed data up (vanilla: with the labels)
                server   forward and backward of W^S_k;     cut gradient down
                clinic   backward of W^C_k
        W^S <- sum of (n_k / n) W^S_k,   W^C <- sum of (n_k / n) W^C_k

So the paper's text and its authors' code; the printed algorithm has one server part, which takes one step from the
clinics' weighted gradients. Both sums go over the clinics that were not lost on the way: a lost one's head never
arrives, and its body copy is dropped with it.

U-shaped (Vepakomma et al. 2018), the clinic also holds the tail and the loss: the body's outputs go down and their
gradient comes up, so that labels never leave.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from sim.flower.messages import MODEL
from sim.methods.job import Job
from sim.methods.method import Method
from sim.methods.trainer import Trainer
from strategies.cohorts import CohortStrategy
from strategies.serving import Turn


@final
class SplitFedV1(CohortStrategy):
    """Heads at the clinics and one body copy a clinic at the server, in parallel; all parts averaged each round.

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
        parameters = self.before = self.common(arrays)
        parts = {MODEL: self.clinic_parts_of(parameters)}
        for k in self.job.lost(server_round):
            Turn.of_lost(self, grid, k, server_round).lose(self.body_copies([k], parameters), parts)
        clinics = self.job.returning(server_round, self.job.participants(server_round))
        self._turn = None
        if not clinics:
            return []
        self._bodies = self.body_copies(clinics, parameters)
        self._turn = Turn(self, grid, clinics, server_round, 0, max(self.job.steps(k) for k in clinics))
        return self._turn.run(self._bodies, parts)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average heads (and tails) and bodies with weights n_k / n."""
        if self._bodies is None or self._turn is None:
            return None, None
        gathered = self.gather(replies, self._turn.finished)
        self.count_noise(self._bodies)
        self.keep_own(gathered.clinics, self._bodies.parameters)
        stacked = {**gathered.arrays[MODEL], **self._bodies.parameters}
        return self.model(self.average(stacked, gathered.clinics, self.before, server_round)), None


METHOD = Method(
    name="splitfed-v1",
    label="SplitFed V1",
    citation="Thapa et al., AAAI 2022",
    family="SplitFed",
    clinic_parts="averaged",
    round=lambda exchange, state: state,
    body="copies",
    cuts=("vanilla", "u-shaped"),
)
