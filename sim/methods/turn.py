"""The server's end of a clinic's turn in split learning, or of those of a region's parties, whose rows it joins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor

from sim.methods.crossing import packed, places_sent
from sim.methods.feed import padded
from sim.methods.forms import sendable
from sim.methods.job import Job
from sim.methods.messages import CUT_KINDS, Begin, Clip, Close, Kind, OfBatch, Open, Reply, Step, Tail
from sim.methods.parties import Parties, crossing_at
from sim.methods.row_noise import arrived_rows
from sim.methods.sampling import loss_weights
from sim.methods.trainer import Trainer
from sim.models import Parameters
from sim.models.heads import join, shares
from sim.tensor.clipping import joint_factors
from sim.tensor.rows import unpadded

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange


class Shortcut(Protocol):
    """What leads from the server to the clinics where both are in one process."""

    def ask(self, asked: Open | Close) -> Reply:
        """Open or close a turn, and count what its message and the reply would carry."""

    def serve(self, turn: str, body: Trainer, steps: int) -> None:
        """Do the next batches of an open turn, and count what their messages would have carried."""


class OfOneBatch(TypedDict):
    """What names a batch in a message."""

    clinics: list[int]
    turn: str
    step: int
    rows: list[int]


class ServedTurns:
    """The server's end of one or more turns whose rows, joined, one body serves batch by batch.

    Parameters
    ----------
    exchange : Exchange
    holder : str
        The turn that brings the labels, or ends in the tail.
    """

    def __init__(self, exchange: Exchange, holder: str) -> None:
        self._exchange, self._holder = exchange, holder

    def _joined(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Return the body's input from the rows of each turn."""
        return rows[self._holder]

    def _shares(self, gradient: Tensor, smashed: Mapping[str, Reply]) -> dict[str, Tensor]:
        """Return each turn's share of the gradient in the body's input."""
        return dict.fromkeys(smashed, gradient)

    def _served(self, body: Trainer, smashed: Mapping[str, Reply], step: int) -> dict[str, OfBatch]:
        """Train the body on a batch and return what goes down in the end: the cut gradients, or clip factors.

        Vanilla, the loss stands here. U-shaped, the body's outputs go to the clinic, whose tail returns their gradient.
        With joint clipping the body waits for the norms of the clinics' gradients.
        """
        job, server_round, holder = self._exchange.job, self._exchange.server_round, smashed[self._holder]
        rows = np.array(holder.rows)
        width = int(job.width(rows.max(initial=0)))
        normaliser = job.sampling.normaliser(np.array([job.sizes[k] for k in holder.clinics]), rows)
        arrived = {
            turn: padded(arrived_rows(job, Kind.SMASHED, reply.payload[Kind.SMASHED], reply.clinics), width)
            for turn, reply in smashed.items()
        }
        moment = server_round, step
        outputs = body.forward(self._joined(arrived), rows=holder.rows, want_input_gradient=True, moment=moment)
        cotangent = None
        if job.protocol.topology == "vanilla":
            labels = padded(holder.payload[Kind.LABELS], width)
            body.loss(labels, torch.from_numpy(loss_weights(rows, normaliser, width)))
        else:
            sent = leaving_server(job, Kind.BODY_OUTPUT, outputs, holder)
            answer = self._exchange.ask(Tail(**of_batch(self._holder, holder, step), body_output=sent))
            gradient = answer.payload[Kind.TAIL_GRADIENT]
            at = places_sent(job, Kind.BODY_OUTPUT, sent)
            cotangent = padded(arrived_rows(job, Kind.TAIL_GRADIENT, gradient, holder.clinics, normaliser, at), width)
        if not job.joint:
            return self._steps(smashed, step, body.backward(server_round, step, normaliser, cotangent))
        squared, gradient = body.hold(normaliser, cotangent)
        for held in self._steps(smashed, step, gradient).values():
            squared = squared + padded(self._exchange.ask(held).payload[Kind.NORMS], width)
        factors = joint_factors(squared, job.dp.part_clip if job.dp is not None else 0.0)
        body.release(server_round, step, normaliser, factors)
        return {
            turn: Clip(
                **of_batch(turn, reply, step), clip_factors=leaving_server(job, Kind.CLIP_FACTORS, factors, reply)
            )
            for turn, reply in smashed.items()
        }

    def _steps(self, smashed: Mapping[str, Reply], step: int, gradient: Tensor) -> dict[str, OfBatch]:
        steps: dict[str, OfBatch] = {}
        for turn, own in self._shares(gradient, smashed).items():
            down = leaving_server(self._exchange.job, Kind.CUT_GRADIENT, own, smashed[turn])
            steps[turn] = Step(**of_batch(turn, smashed[turn], step), cut_gradient=down)
        return steps


def of_batch(turn: str, smashed: Reply, step: int) -> OfOneBatch:
    """Return what names the batch that some clinics' reply is of."""
    return {"clinics": smashed.clinics, "turn": turn, "step": step, "rows": smashed.rows}


class Turn(ServedTurns):
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
        self._name = "round" if len(clinics) > 1 else f"clinic-{clinics[0]}"
        super().__init__(exchange, self._name)
        self._clinics = clinics
        self._first, self._batches = first, steps
        self._next = first
        self._smashed = Reply(clinics=[])
        self._finished: list[Reply] = []

    @property
    def back(self) -> Reply:
        """The clinics' parts as they come back, after the last batch."""
        return self._exchange.joined(self._finished)

    def run(self, body: Trainer, model: Parameters | None = None, optimizer: Parameters | None = None) -> Reply:
        """Do every batch of the turn, and return the clinics' parts as they come back."""
        self.begin(model, optimizer)
        self.serve(body, self._batches)
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
                steps=self._batches,
                model=model,
                optimizer=optimizer,
            )
        )

    def serve(self, body: Trainer, steps: int) -> None:
        """Train the body, and with it the clinics' parts, on the next batches; after the last the parts come back."""
        exchange, first, self._next = self._exchange, self._next, self._next + steps
        if exchange.shortcut is None:
            for step in range(first, self._next):
                replies = exchange.send(self._served(body, {self._name: self._smashed}, step)[self._name])
                # Nodes whose clinics have fewer batches than others answer with the parts already.
                self._finished += [reply for reply in replies if Kind.SMASHED not in reply.payload]
                self._smashed = exchange.joined([reply for reply in replies if Kind.SMASHED in reply.payload])
            return
        if steps > 0:
            exchange.shortcut.serve(self._name, body, steps)
        if self._next >= self._first + self._batches and self._batches:
            self._finished = exchange.send(Close(clinics=self._clinics, turn=self._name))


class JoinedTurn(ServedTurns):
    """A round of a region's parties: each has a turn, and in every batch the server waits for the rows of all.

    A party that is away sends nothing, and the server puts zeros in its place; likewise of one that the region does not
    have.
    """

    def __init__(self, exchange: Exchange, parties: Parties, region: int) -> None:
        self.holder = parties.holders[region]
        super().__init__(exchange, f"clinic-{self.holder}")
        self._parties = parties
        self.places = [k for k in exchange.participants if parties.region_of[k] == region]

    def run(self, body: Trainer, model: Mapping[str, Tensor] | None = None) -> dict[int, Parameters]:
        """Train the body, and with it the parties' heads and the tail, batch by batch.

        Parameters
        ----------
        body : Trainer
        model : mapping of str to Tensor, optional
            What the places are sent of the model to begin with, where they do not keep their own.

        Returns
        -------
        dict of int to dict of str to Tensor
            By place ``[1, *shape]`` what comes back of it at the end.
        """
        ask, steps, turns = self._exchange.ask, self._exchange.batches_of(self.holder), {}
        for k in self.places:
            own = None if model is None else {name: model[name] for name in crossing_at(self._exchange.job, k)}
            server_round, turn = self._exchange.server_round, f"clinic-{k}"
            turns[turn] = ask(Begin(clinics=[k], server_round=server_round, turn=turn, first=0, steps=steps, model=own))
        for step in range(steps):
            turns = {turn: ask(last) for turn, last in self._served(body, turns, step).items()}
        return {k: turns[f"clinic-{k}"].parts.get(Kind.MODEL, {}) for k in self.places}

    def _joined(self, rows: Mapping[str, Tensor]) -> Tensor:
        return join({self._party(turn): own for turn, own in rows.items()}, len(self._parties.heads), self._parties.how)

    def _shares(self, gradient: Tensor, smashed: Mapping[str, Reply]) -> dict[str, Tensor]:
        parties = {turn: self._party(turn) for turn in smashed}
        of_party = shares(gradient, list(parties.values()), len(self._parties.heads), self._parties.how)
        return {turn: of_party[party] for turn, party in parties.items()}

    def _party(self, turn: str) -> int:
        return self._parties.party_of[int(turn.removeprefix("clinic-"))]


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
    return packed(job, values, smashed.rows, at)
