"""The server's end of a clinic's turn in split learning, shared by every method that cuts the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from torch import Tensor

from sim.methods.forms import sendable
from sim.methods.messages import CUT_KINDS, Begin, Clip, Kind, OfBatch, Reply, Step, Tail
from sim.methods.row_noise import arrived_rows
from sim.methods.sampling import loss_weights
from sim.methods.trainer import Trainer
from sim.models import Parameters
from sim.tensor.clipping import joint_factors
from sim.tensor.rows import at_least_one_row, narrowed, unpadded

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange


class _Batch(TypedDict):
    """What names a batch in a message."""

    clinics: list[int]
    turn: str
    step: int
    rows: list[int]


class Turn:
    """A clinic's turn, or those of several clinics in parallel lanes.

    Parameters
    ----------
    exchange : Exchange
    clinics : list of int
        In lane order.
    first, steps : int
        The turn's first batch and their number.
    """

    def __init__(self, exchange: Exchange, clinics: list[int], first: int, steps: int) -> None:
        self._exchange = exchange
        self._clinics = clinics
        self._first, self._steps = first, steps
        self._name = "round" if len(clinics) > 1 else f"clinic-{clinics[0]}"

    def begin(self, model: Parameters | None = None, optimizer: Parameters | None = None) -> Reply:
        """Send the clinics' parts, where they cross, and return the first batch's smashed data."""
        return self._exchange.ask(
            Begin(
                clinics=self._clinics,
                server_round=self._exchange.server_round,
                turn=self._name,
                first=self._first,
                steps=self._steps,
                model=model,
                optimizer=optimizer,
            )
        )

    def run(self, body: Trainer, model: Parameters | None = None, optimizer: Parameters | None = None) -> Reply:
        """Do every batch of the turn, and return the clinics' parts as they come back."""
        smashed = self.begin(model, optimizer)
        finished: list[Reply] = []
        for step in range(self._first, self._first + self._steps):
            replies = self._exchange.send(self._served(body, smashed, step))
            # Nodes whose clinics have fewer batches than others answer with the parts already.
            finished += [reply for reply in replies if Kind.SMASHED not in reply.payload]
            smashed = self._exchange.joined([reply for reply in replies if Kind.SMASHED in reply.payload])
        return self._exchange.joined(finished)

    def serve(self, body: Trainer, smashed: Reply, step: int) -> Reply:
        """Train the body on one batch; return the clinic's next batch, or its parts after the last."""
        return self._exchange.ask(self._served(body, smashed, step))

    def _served(self, body: Trainer, smashed: Reply, step: int) -> OfBatch:
        """Train the body on a batch and return what goes down in the end: the cut gradient, or clip factors.

        Vanilla, the loss stands here. U-shaped, the body's outputs go to the clinic, whose tail returns their gradient.
        With joint clipping the body waits for the norms of the clinic's gradients.
        """
        job, server_round = self._exchange.job, self._exchange.server_round
        rows = np.array(smashed.rows)
        normaliser = job.sampling.normaliser(np.array([job.sizes[k] for k in smashed.clinics]), rows)
        arrived = arrived_rows(job, Kind.SMASHED, smashed.payload[Kind.SMASHED], smashed.clinics)
        outputs = body.forward(arrived, rows=smashed.rows, want_input_gradient=True, moment=(server_round, step))
        cotangent = None
        if job.protocol.topology == "vanilla":
            labels = at_least_one_row(smashed.payload[Kind.LABELS])
            body.loss(labels, torch.from_numpy(loss_weights(rows, normaliser)))
        else:
            sent = self._down(Kind.BODY_OUTPUT, outputs, smashed)
            answer = self._exchange.ask(Tail(**self._batch(smashed, step), body_output=sent))
            by_lane = torch.from_numpy(normaliser.copy())
            gradient = answer.payload[Kind.TAIL_GRADIENT]
            cotangent = arrived_rows(job, Kind.TAIL_GRADIENT, gradient, smashed.clinics, by_lane)
        if not job.joint:
            gradient = body.backward(server_round, step, normaliser, cotangent)
            return Step(**self._batch(smashed, step), cut_gradient=self._down(Kind.CUT_GRADIENT, gradient, smashed))
        squared, gradient = body.hold(normaliser, cotangent)
        held = Step(**self._batch(smashed, step), cut_gradient=self._down(Kind.CUT_GRADIENT, gradient, smashed))
        at_clinic = at_least_one_row(self._exchange.ask(held).payload[Kind.NORMS])
        factors = joint_factors(squared + at_clinic, job.dp.part_clip if job.dp is not None else 0.0)
        body.release(server_round, step, normaliser, factors)
        return Clip(**self._batch(smashed, step), clip_factors=self._down(Kind.CLIP_FACTORS, factors, smashed))

    def _batch(self, smashed: Reply, step: int) -> _Batch:
        return {"clinics": smashed.clinics, "turn": self._name, "step": step, "rows": smashed.rows}

    def _down(self, kind: Kind, rows: Tensor, smashed: Reply) -> Tensor:
        rows = sendable(self._exchange.job, kind, rows)
        if kind in CUT_KINDS:
            rows = narrowed(rows, self._exchange.job.cut_dtype)
        return unpadded(rows, smashed.rows)
