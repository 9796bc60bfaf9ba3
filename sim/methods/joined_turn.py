"""The server's end of a round of vertical split learning: it joins the parties' rows, and shares out the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sim.methods.feed import padded
from sim.methods.messages import Begin, Clip, Kind, Reply, Step, Tail
from sim.methods.parties import Parties, crossing_at
from sim.methods.row_noise import arrived_rows
from sim.methods.sampling import loss_weights
from sim.methods.trainer import Trainer
from sim.methods.turn import OfOneBatch, leaving_server
from sim.models import Parameters
from sim.models.joined import join, shares
from sim.tensor.clipping import joint_factors

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange


class JoinedTurn:
    """A round of a region's parties: each has a turn, and in every batch the server waits for the rows of all.

    A party that is away sends nothing, and the server puts zeros in its place; likewise of one that the region does not
    have.

    Parameters
    ----------
    exchange : Exchange
    parties : Parties
    region : int
    """

    def __init__(self, exchange: Exchange, parties: Parties, region: int) -> None:
        self._exchange, self._parties = exchange, parties
        self._job, self._round = exchange.job, exchange.server_round
        self.holder = parties.holders[region]
        self.places = [k for k in exchange.participants if parties.region_of[k] == region]
        self._steps = exchange.batches_of(self.holder)

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
        replies = {k: self._begun(k, model) for k in self.places}
        for step in range(self._steps):
            replies = self._served(body, replies, step)
        return {k: reply.parts.get(Kind.MODEL, {}) for k, reply in replies.items()}

    def _begun(self, place: int, model: Mapping[str, Tensor] | None) -> Reply:
        own = None if model is None else {name: model[name] for name in crossing_at(self._job, place)}
        return self._exchange.ask(
            Begin(
                clinics=[place],
                server_round=self._round,
                turn=f"clinic-{place}",
                first=0,
                steps=self._steps,
                model=own,
            )
        )

    def _served(self, body: Trainer, smashed: dict[int, Reply], step: int) -> dict[int, Reply]:
        """Train on a batch; return the next one's rows by party, or the parties' last words."""
        job, parties = self._job, self._parties
        holder = smashed[self.holder]
        rows = np.array(holder.rows)
        width = int(job.width(rows.max(initial=0)))
        normaliser = job.sampling.normaliser(np.array([job.sizes[self.holder]]), rows)
        weights = torch.from_numpy(loss_weights(rows, normaliser, width))
        arrived = {
            k: padded(arrived_rows(job, Kind.SMASHED, reply.payload[Kind.SMASHED], [k]), width)
            for k, reply in smashed.items()
        }
        joined = join({parties.party_of[k]: own for k, own in arrived.items()}, len(parties.heads), parties.how)
        outputs = body.forward(joined, rows=holder.rows, want_input_gradient=True, moment=(self._round, step))
        cotangent = None
        if job.protocol.topology == "vanilla":
            body.loss(padded(holder.payload[Kind.LABELS], width), weights)
        else:
            sent = self._down(Kind.BODY_OUTPUT, outputs, holder)
            tail = Tail(**self._batch(self.holder, step, holder), body_output=sent)
            answer = self._exchange.ask(tail).payload[Kind.TAIL_GRADIENT]
            by_lane = torch.from_numpy(normaliser.copy())
            cotangent = padded(arrived_rows(job, Kind.TAIL_GRADIENT, answer, [self.holder], by_lane), width)
        if not job.joint:
            return self._stepped(smashed, step, body.backward(self._round, step, normaliser, cotangent))
        squared, gradient = body.hold(normaliser, cotangent)
        for reply in self._stepped(smashed, step, gradient).values():
            squared = squared + padded(reply.payload[Kind.NORMS], width)
        factors = joint_factors(squared, job.dp.part_clip if job.dp is not None else 0.0)
        body.release(self._round, step, normaliser, factors)
        sent = self._down(Kind.CLIP_FACTORS, factors, holder)
        return {
            k: self._exchange.ask(Clip(**self._batch(k, step, reply), clip_factors=sent))
            for k, reply in smashed.items()
        }

    def _stepped(self, smashed: dict[int, Reply], step: int, gradient: Tensor) -> dict[int, Reply]:
        """Send each party its share of the gradient, and return the answers."""
        party_of, heads = self._parties.party_of, len(self._parties.heads)
        parts = shares(gradient, [party_of[k] for k in smashed], heads, self._parties.how)
        return {
            k: self._exchange.ask(
                Step(
                    **self._batch(k, step, reply), cut_gradient=self._down(Kind.CUT_GRADIENT, parts[party_of[k]], reply)
                )
            )
            for k, reply in smashed.items()
        }

    def _batch(self, party: int, step: int, smashed: Reply) -> OfOneBatch:
        return {"clinics": [party], "turn": f"clinic-{party}", "step": step, "rows": smashed.rows}

    def _down(self, kind: Kind, rows: Tensor, smashed: Reply) -> Tensor:
        return leaving_server(self._job, kind, rows, smashed)
