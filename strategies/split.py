"""Split learning by relay: Gupta & Raskar, "Distributed learning of deep neural network over multiple agents", 2018.

    for each round t = 1, 2, ...
        for each clinic k in S_t, in turn                   order = "random" or "fixed"
            k receives head and optimiser state from the clinic before it
            for each batch b of its turn                    alternate = "clinic": all its batches
                clinic   A <- head(x_b)                     alternate = "mini-batch": one (Gawali et al. 2020)
                server   forward and backward of the body;  cut gradient down
                clinic   backward of the head

A lost clinic hands nothing on: the next one receives what the lost one did, and the body keeps the batches that it has
seen. The hand-over passes through the server. Handing the optimiser's state on with the head makes the relay equal to
training on the clinics' records one after another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sim.methods.messages import Kind
from sim.methods.method import Method, State

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange
    from sim.methods.trainer import Trainer
    from sim.models import Parameters


@dataclass(frozen=True, kw_only=True)
class Relay(State):
    """The head as it is handed on, with its optimiser's state, and the one body in training.

    Attributes
    ----------
    head, optimizer : dict of str to Tensor
        ``[1, *shape]`` each; U-shaped, the tail is among them.
    body : Trainer or None
        None before the first batch.
    """

    head: Parameters
    optimizer: Parameters
    body: Trainer | None = None


def begin(exchange: Exchange, state: State) -> Relay:
    """Hand the initial head to the first clinic."""
    head = exchange.clinic_parts(state.model)
    return Relay(**vars(state), head=head, optimizer=exchange.job.initial_optimizer_state(head))


def relay_round(exchange: Exchange, state: Relay) -> Relay:
    """Let the clinics train in turn: one head, handed from clinic to clinic, and one body."""
    head, optimizer, body = state.head, state.optimizer, state.body
    for k, batches in exchange.turns:
        body = exchange.body_serving(k, body, state.model)
        back = exchange.turn([k], batches[0], len(batches)).run(body, head, optimizer)
        exchange.count_noise(body, [k])
        if back.clinics:
            head, optimizer = back.model, back.parts[Kind.OPTIMIZER]
    model = state.model | head | ({} if body is None else exchange.snapshot(body))
    return replace(state, model=model, head=head, optimizer=optimizer, body=body)


METHOD = Method(
    name="split",
    label="Split learning",
    citation="Gupta & Raskar 2018",
    family="SL",
    cuts=("vanilla", "u-shaped", "multi-hop", "multi-hop-u-shaped"),
    clinic_parts="handed-on",
    body="shared",
    takes=("order", "alternate"),
    begin=begin,
    round=relay_round,
)
