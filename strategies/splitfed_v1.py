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

from typing import TYPE_CHECKING

from sim.methods.method import Method, State

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange
    from sim.models import Parameters


def train_in_parallel(exchange: Exchange, state: State) -> tuple[Parameters, Parameters]:
    """Train heads at the clinics and one body copy a clinic at the server, batch by batch in parallel.

    Returns
    -------
    heads, bodies : dict of str to Tensor
        ``[lane, *shape]`` each, a lane for each clinic that was not lost, as ``exchange.returning`` has them. Heads
        that are the clinics' own do not come back.
    """
    heads = exchange.clinic_parts(state.model) if exchange.job.protocol.crosses else None
    for k in exchange.lost:
        dropped = exchange.body([k], state.model)
        exchange.turn([k]).run(dropped, heads)
        exchange.count_noise(dropped, [k])
    if not (clinics := exchange.returning):
        return {}, {}
    bodies = exchange.body(clinics, state.model)
    back = exchange.turn(clinics).run(bodies, heads)
    exchange.count_noise(bodies, clinics)
    return back.to_average if heads else {}, bodies.parameters


def splitfed_round(exchange: Exchange, state: State) -> State:
    """Train heads and body copies in parallel, and average them all."""
    heads, bodies = train_in_parallel(exchange, state)
    return exchange.average(state, heads | bodies, exchange.returning) if bodies else state


METHOD = Method(
    name="splitfed-v1",
    label="SplitFed V1",
    citation="Thapa et al., AAAI 2022",
    family="SplitFed",
    cuts=("vanilla", "u-shaped", "multi-hop", "multi-hop-u-shaped"),
    clinic_parts="averaged",
    body="copies",
    round=splitfed_round,
)
