"""The server's half of one batch in split learning, shared by every strategy that cuts the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from sim.flower.messages import ConfigValue
from sim.methods.forms import sendable
from sim.methods.protocol import CUT_KINDS
from sim.methods.row_noise import TAIL_GRADIENT, arrived_rows
from sim.methods.sampling import loss_weights
from sim.methods.trainer import Trainer
from sim.tensor.clipping import joint_factors
from sim.tensor.rows import at_least_one_row, narrowed, unpadded
from strategies.cohorts import CohortStrategy, Gathered

SMASHED = "smashed"


class Turn:
    """The server's end of a clinic's turn, or of several clinics' in parallel lanes.

    Parameters
    ----------
    strategy : CohortStrategy
    grid : Grid
    clinics : sequence of int
        In lane order.
    server_round : int
    first, steps : int
        The turn's first batch and their number.

    Attributes
    ----------
    finished : list of Message
        Last answers of nodes whose clinics had fewer batches than others; they carry the clinics' parts.
    """

    def __init__(
        self, strategy: CohortStrategy, grid: Grid, clinics: Sequence[int], server_round: int, first: int, steps: int
    ) -> None:
        self._strategy = strategy
        self._grid = grid
        self._clinics = list(clinics)
        self._round = server_round
        self._first, self._steps = first, steps
        self.finished: list[Message] = []
        self._name = "round" if len(self._clinics) > 1 else f"clinic-{self._clinics[0]}"

    @classmethod
    def of_lost(cls, strategy: CohortStrategy, grid: Grid, clinic: int, server_round: int) -> Turn:
        """Return the turn of a clinic that is lost after the batches which the plan gives it."""
        batches = strategy.job.attendance(server_round).batches_of(clinic)
        return cls(strategy, grid, [clinic], server_round, 0, batches)

    def begin(self, parts: Mapping[str, Mapping[str, Tensor]]) -> Gathered:
        """Send the clinics' parts, by message kind, and return the first batch's smashed data."""
        config: dict[str, ConfigValue] = {
            "server-round": self._round,
            "turn": self._name,
            "first": self._first,
            "steps": self._steps,
        }
        return self._strategy.exchange(self._grid, "train.begin", self._clinics, parts, config)

    def run(self, body: Trainer, parts: Mapping[str, Mapping[str, Tensor]]) -> list[Message]:
        """Do every batch of the turn; the messages with the last cut gradient are left to send."""
        smashed = self.begin(parts)
        if not self._steps:
            return []
        messages = self.serve(body, smashed, self._first)
        for step in range(self._first + 1, self._first + self._steps):
            replies = self._strategy.received(self._grid.send_and_receive(messages))
            self.finished += [reply for reply in replies if SMASHED not in reply.content]
            smashed = self._strategy.joined([reply for reply in replies if SMASHED in reply.content])
            messages = self.serve(body, smashed, step)
        return messages

    def serve(self, body: Trainer, smashed: Gathered, step: int) -> list[Message]:
        """Train the body on a batch and return the messages that carry its cut gradient.

        Vanilla, the loss stands here. U-shaped, the body's outputs go to the clinic, whose tail returns their gradient.
        With joint clipping the body waits for the norms of the clinic's gradients, and the messages carry clip factors.
        """
        job = self._strategy.job
        sizes = np.array([job.sizes[k] for k in smashed.clinics])
        rows = np.array(smashed.rows)
        normaliser = job.sampling.normaliser(sizes, rows)
        moment = (self._round, step)
        arrived = arrived_rows(job, SMASHED, smashed.arrays[SMASHED][SMASHED], smashed.clinics)
        outputs = body.forward(arrived, rows=smashed.rows, want_input_gradient=True, moment=moment)
        cotangent = None
        if job.protocol.topology == "vanilla":
            body.loss(
                at_least_one_row(smashed.arrays["labels"]["labels"]), torch.from_numpy(loss_weights(rows, normaliser))
            )
        else:
            answer = self._ask("train.tail", "body-output", outputs, smashed, step, TAIL_GRADIENT)
            cotangent = arrived_rows(job, TAIL_GRADIENT, answer, smashed.clinics, torch.from_numpy(normaliser.copy()))
        if job.dp is None or not job.dp.joint:
            gradient = body.backward(self._round, step, normaliser, cotangent)
            return self._down("train.step", "cut-gradient", gradient, smashed, step)
        squared, gradient = body.hold(normaliser, cotangent)
        at_clinic = at_least_one_row(self._ask("train.step", "cut-gradient", gradient, smashed, step, "norms"))
        factors = joint_factors(squared + at_clinic, job.dp.part_clip)
        body.release(self._round, step, normaliser, factors)
        return self._down("train.clip", "clip-factors", factors, smashed, step)

    def _ask(self, message_type: str, kind: str, rows: Tensor, smashed: Gathered, step: int, answer: str) -> Tensor:
        replies = self._grid.send_and_receive(self._down(message_type, kind, rows, smashed, step))
        return self._strategy.gather(replies).arrays[answer][answer]

    def lose(self, body: Trainer, parts: Mapping[str, Mapping[str, Tensor]]) -> Gathered:
        """Do every batch of a clinic that is lost after them: body copy and parts go no further."""
        answers = self._grid.send_and_receive(self.run(body, parts))
        self._strategy.count_noise(body)
        return self._strategy.gather(answers)

    def _down(self, message_type: str, kind: str, rows: Tensor, smashed: Gathered, step: int) -> list[Message]:
        rows = sendable(self._strategy.job, kind, rows)
        if kind in CUT_KINDS:
            rows = narrowed(rows, self._strategy.job.cut_dtype)
        sent = {kind: {kind: unpadded(rows, smashed.rows)}}
        return self._strategy.instructions(
            self._grid,
            message_type,
            smashed.clinics,
            sent,
            {"turn": self._name, "step": step},
            smashed.rows,
        )
