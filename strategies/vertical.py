"""Vertical split learning: Ceballos et al., "SplitNN-driven Vertical Partitioning", 2020, arXiv:2008.04137.

    parties p = 1, ..., P hold columns x^p of the same patients; one of them holds their labels
    for each round t = 1, 2, ...
        for each batch b of patients                        the same at every party
            parties  A^p <- head^p(x^p_b)                   smashed data up (vanilla: the holder's with the labels)
            server   A <- A^1, ..., A^P joined              join = "concatenation", "sum" or "mean"
            server   forward and backward of the body;      each party's share of the cut gradient down
            parties  backward of head^p

U-shaped (Vepakomma et al. 2018), the label's holder also has the tail and the loss: the body's outputs go down to it
alone, and nobody else sees a label. Heads and tail stay where they are, with their optimisers' state. Patients are
taken to be aligned by an identifier that the parties share. Of several regions, each trains a model of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sim.methods.method import Method, State

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange
    from sim.methods.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Joining(State):
    """The bodies in training, by who holds the label of their region; none before the first batch."""

    bodies: dict[int, Trainer] = field(default_factory=dict)


def begin(exchange: Exchange, state: State) -> Joining:
    """Begin without a body in training."""
    return Joining(**vars(state))


def vertical_round(exchange: Exchange, state: Joining) -> Joining:
    """Train every party's head, and the body behind their join, on each batch of patients."""
    bodies = {}
    for region in exchange.joined_turns:
        body = exchange.body_serving(region.holder, state.bodies.get(region.holder), state.model)
        region.run(body)
        exchange.count_noise(body, region.places)
        bodies[region.holder] = body
    return replace(state, model=state.model | exchange.side_by_side(bodies.values()), bodies=bodies)


METHOD = Method(
    name="vertical",
    label="Vertical split learning",
    citation="Ceballos et al. 2020",
    family="SL",
    layouts=("vertical",),
    cuts=("vanilla", "u-shaped"),
    clinic_parts="own",
    body="joint",
    options={"join": "concatenation"},
    begin=begin,
    round=vertical_round,
)
