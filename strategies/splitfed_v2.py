"""SplitFed V2: Thapa et al., "SplitFed: When Federated Learning Meets Split Learning", AAAI 2022, section 3.2.

    for each round t = 1, 2, ...
        W^C_k <- W^C for each clinic k in S_t
        for each clinic k in S_t, in random order           (alternate = "clinic"), or
        for each batch b, for each clinic k in random order (alternate = "mini-batch", Gawali et al. 2020)
            clinic   A_k <- head(x_b)
            server   forward and backward of the one W^S;   cut gradient down
            clinic   backward of W^C_k
        W^C <- sum of (n_k / n) W^C_k

There is one body, and its optimiser's state lives on from batch to batch and round to round. The heads are averaged.
Of a lost clinic the body keeps the batches that it has seen; its head never arrives, and the sum goes over the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sim.methods.method import Method, State

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange
    from sim.methods.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class OneBody(State):
    """The one body in training, None before the first batch."""

    body: Trainer | None = None


def begin(exchange: Exchange, state: State) -> OneBody:
    """Have no body in training yet."""
    return OneBody(**vars(state))


def one_body_round(exchange: Exchange, state: OneBody) -> OneBody:
    """Serve the clinics' batches one after another with one body, and average the heads."""
    heads, body = exchange.clinic_parts(state.model), state.body
    turns = {k: exchange.turn([k]) for k in sorted(exchange.participants)}
    for k, turn in turns.items():
        if not exchange.batches_of(k):
            turn.begin(heads)
    for k, batches in exchange.turns:
        body = exchange.body_serving(k, body, state.model)
        if batches[0] == 0:
            turns[k].begin(heads)
        turns[k].serve(body, len(batches))
        exchange.count_noise(body, [k])
    back = exchange.joined([turn.back for turn in turns.values()])
    if body is not None:
        state = replace(state, body=body, model=state.model | exchange.snapshot(body))
    return exchange.average(state, back.to_average, back.clinics) if back.clinics else state


METHOD = Method(
    name="splitfed-v2",
    label="SplitFed V2",
    citation="Thapa et al., AAAI 2022",
    family="SplitFed",
    cuts=("vanilla", "u-shaped", "multi-hop", "multi-hop-u-shaped"),
    clinic_parts="averaged",
    body="shared",
    takes=("order", "alternate"),
    begin=begin,
    round=one_body_round,
)
