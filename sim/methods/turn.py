"""The server's end of a clinic's turn in split learning, shared by every method that cuts the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor

from sim.methods.crossing import packed, places_sent
from sim.methods.feed import padded
from sim.methods.forms import sendable
from sim.methods.job import Job
from sim.methods.messages import CUT_KINDS, Begin, Clip, Close, Kind, OfBatch, Open, Reply, Step, Tail
from sim.methods.node_group import NodeGroup
from sim.methods.protocol import Direction, Kinds
from sim.methods.row_noise import arrived_rows
from sim.methods.sampling import Ints, loss_weights
from sim.methods.trainer import Trainer
from sim.methods.turn_training import TurnTraining
from sim.models import Parameters
from sim.tensor.clipping import joint_factors
from sim.tensor.rows import unpadded

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange


class OpenTurn(Protocol):
    """A clinic's end of a turn in this process."""

    @property
    def group(self) -> NodeGroup:
        """The records behind it."""

    @property
    def trainers(self) -> dict[str, Trainer]:
        """The clinics' parts in training."""

    def trained(self, steps: int) -> None:
        """Note that the next so many batches are done."""


class Shortcut(Protocol):
    """What leads from the server to the clinics where both are in one process."""

    def ask(self, asked: Open | Close) -> Reply:
        """Open or close a turn, and count what its message and the reply would carry."""

    def open_turn(self, name: str) -> OpenTurn:
        """Return the clinics' end of an open turn."""

    def train(self, work: TurnTraining) -> None:
        """Have a turn's batches done; whatever fails is told without a value of a record."""

    def count_rows(
        self, direction: Direction, kinds: Mapping[Kind, int], clinics: Sequence[int], messages: Ints, rows: Ints
    ) -> None:
        """Count a turn's messages of one sort as if they had been sent.

        Parameters
        ----------
        direction : {"up", "down"}
        kinds : mapping of Kind to int
            Bytes of one record's row of each kind that the message carries.
        clinics : sequence of int
        messages, rows : ndarray
            ``[lane]`` how many there are, and records in all of them.
        """


class OfOneBatch(TypedDict):
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
        self._next = first
        self._name = "round" if len(clinics) > 1 else f"clinic-{clinics[0]}"
        self._smashed = Reply(clinics=[])
        self._finished: list[Reply] = []

    @property
    def back(self) -> Reply:
        """The clinics' parts as they come back, after the last batch."""
        return self._exchange.joined(self._finished)

    def run(self, body: Trainer, model: Parameters | None = None, optimizer: Parameters | None = None) -> Reply:
        """Do every batch of the turn, and return the clinics' parts as they come back."""
        self.begin(model, optimizer)
        self.serve(body, self._steps)
        return self.back

    def begin(self, model: Parameters | None = None, optimizer: Parameters | None = None) -> None:
        """Send the clinics' parts, where they cross, and wait for the first batch's smashed data."""
        kind = Begin if self._exchange.shortcut is None else Open
        self._smashed = self._exchange.ask(
            kind(
                clinics=self._clinics,
                server_round=self._exchange.server_round,
                turn=self._name,
                first=self._first,
                steps=self._steps,
                model=model,
                optimizer=optimizer,
            )
        )

    def serve(self, body: Trainer, steps: int) -> None:
        """Train the body, and with it the clinics' parts, on the next batches; after the last the parts come back."""
        end = self._next + steps
        if self._exchange.shortcut is not None:
            self._serve_at_once(self._exchange.shortcut, body, end)
        else:
            for step in range(self._next, end):
                replies = self._exchange.send(self._served(body, self._smashed, step))
                # Nodes whose clinics have fewer batches than others answer with the parts already.
                self._finished += [reply for reply in replies if Kind.SMASHED not in reply.payload]
                self._smashed = self._exchange.joined([reply for reply in replies if Kind.SMASHED in reply.payload])
        self._next = end

    def _serve_at_once(self, shortcut: Shortcut, body: Trainer, end: int) -> None:
        """Do what the messages of some batches would do, and count them."""
        exchange, clinics = self._exchange, self._clinics
        if end > self._next:
            opened = shortcut.open_turn(self._name)
            work = TurnTraining(
                job=exchange.job,
                group=opened.group,
                clinics=clinics,
                trainers={**opened.trainers, "body": body},
                server_round=exchange.server_round,
                first=self._next,
                last=end,
            )
            shortcut.train(work)
            opened.trained(end - self._next)
            drawn = exchange.job.batches(exchange.server_round, clinics)
            messages = (drawn.active[self._next : end, None] > np.arange(len(clinics))).sum(0)
            rows = drawn.rows[self._next : end].sum(0)
            ways: tuple[tuple[Direction, tuple[Kinds, ...]], ...] = (
                ("up", exchange.job.protocol.batch_up),
                ("down", exchange.job.protocol.batch_down),
            )
            for way, carried in ways:
                for kinds in carried:
                    each = {kind: work.bytes_of(kind) for kind in kinds}
                    shortcut.count_rows(way, each, clinics, messages, rows)
        if end >= self._first + self._steps and self._steps:
            self._finished = exchange.send(Close(clinics=clinics, turn=self._name))

    def _served(self, body: Trainer, smashed: Reply, step: int) -> OfBatch:
        """Train the body on a batch and return what goes down in the end: the cut gradient, or clip factors.

        Vanilla, the loss stands here. U-shaped, the body's outputs go to the clinic, whose tail returns their gradient.
        With joint clipping the body waits for the norms of the clinic's gradients.
        """
        job, server_round = self._exchange.job, self._exchange.server_round
        rows = np.array(smashed.rows)
        width = int(job.width(rows.max(initial=0)))
        normaliser = job.sampling.normaliser(np.array([job.sizes[k] for k in smashed.clinics]), rows)
        arrived = arrived_rows(job, Kind.SMASHED, smashed.payload[Kind.SMASHED], smashed.clinics)
        x = padded(arrived, width)
        outputs = body.forward(x, rows=smashed.rows, want_input_gradient=True, moment=(server_round, step))
        cotangent = None
        if job.protocol.topology == "vanilla":
            labels = padded(smashed.payload[Kind.LABELS], width)
            body.loss(labels, torch.from_numpy(loss_weights(rows, normaliser, width)))
        else:
            sent = self._down(Kind.BODY_OUTPUT, outputs, smashed)
            answer = self._exchange.ask(Tail(**self._batch(smashed, step), body_output=sent))
            by_lane = torch.from_numpy(normaliser.copy())
            gradient = answer.payload[Kind.TAIL_GRADIENT]
            at = places_sent(job, Kind.BODY_OUTPUT, sent)
            arrived = arrived_rows(job, Kind.TAIL_GRADIENT, gradient, smashed.clinics, by_lane, at)
            cotangent = padded(arrived, width)
        if not job.joint:
            gradient = body.backward(server_round, step, normaliser, cotangent)
            return Step(**self._batch(smashed, step), cut_gradient=self._down(Kind.CUT_GRADIENT, gradient, smashed))
        squared, gradient = body.hold(normaliser, cotangent)
        held = Step(**self._batch(smashed, step), cut_gradient=self._down(Kind.CUT_GRADIENT, gradient, smashed))
        at_clinic = padded(self._exchange.ask(held).payload[Kind.NORMS], width)
        factors = joint_factors(squared + at_clinic, job.dp.part_clip if job.dp is not None else 0.0)
        body.release(server_round, step, normaliser, factors)
        return Clip(**self._batch(smashed, step), clip_factors=self._down(Kind.CLIP_FACTORS, factors, smashed))

    def _batch(self, smashed: Reply, step: int) -> OfOneBatch:
        return {"clinics": smashed.clinics, "turn": self._name, "step": step, "rows": smashed.rows}

    def _down(self, kind: Kind, rows: Tensor, smashed: Reply) -> Tensor:
        return leaving_server(self._exchange.job, kind, rows, smashed)


def leaving_server(job: Job, kind: Kind, values: Tensor, smashed: Reply) -> Tensor:
    """Return rows ``[lane, batch, *feature]`` as the server may let them go, without padding.

    Parameters
    ----------
    smashed : Reply
        What the clinics sent of the batch: the cut gradient goes back for that alone.
    """
    values = sendable(job, kind, values)
    if kind not in CUT_KINDS:
        return unpadded(values, smashed.rows)
    at = places_sent(job, Kind.SMASHED, smashed.payload[Kind.SMASHED]) if kind == Kind.CUT_GRADIENT else None
    return packed(job, kind, values, smashed.rows, at)
