"""The server's end of a round of vertical split learning: it joins the parties' rows, and shares out the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from sim.methods.messages import Begin, Kind, Reply
from sim.methods.parties import Parties, crossing_at
from sim.methods.trainer import Trainer
from sim.methods.turn import ServedTurns
from sim.models import Parameters
from sim.models.joined import join, shares

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange


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
