"""Hierarchical SplitFed: edge servers run SplitFed V1 with their own clinics, and a cloud averages the edge servers.

SplitFed V1 (Thapa et al., AAAI 2022) at each edge server, on the schedule of Liu et al., "Client-Edge-Cloud
Hierarchical Federated Learning", ICC 2020, algorithm 1:

    for each round t = 1, 2, ...
        for each edge server e in parallel
            (W^C_e, W^S_e) <- a round of SplitFed V1 with its own clinics, from where its last one ended
        if t is a multiple of cloud-every, or the last round
            W <- sum over e of (n_e / n) W_e                W is (W^C, W^S), head and body
            W_e <- W for each edge server e

n_e are the records with which an edge server has trained since the cloud last averaged: those of its clinics that came
back, once a round. So with cloud-every = 1 this is SplitFed V1. The cloud gets averages alone, no rows and no labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.methods.messages import EdgeRound, Gather
from sim.methods.method import Method, State
from strategies.splitfed_v1 import splitfed_round

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange


def hierarchical_round(exchange: Exchange, state: State) -> State:
    """Let the edge servers do a round with their clinics, and average them when it is the cloud's turn."""
    everyone, t = exchange.everyone, exchange.server_round
    begins, ends = exchange.meets_at_cloud(t - 1), exchange.meets_at_cloud(t)
    exchange.send(EdgeRound(clinics=everyone, server_round=t, model=state.model if begins else None))
    return exchange.average_edges(state, exchange.ask(Gather(clinics=everyone))) if ends else state


METHOD = Method(
    name="hierarchical-splitfed",
    label="Hierarchical SplitFed",
    citation="Liu et al., ICC 2020, with Thapa et al., AAAI 2022",
    family="SplitFed",
    cuts=("vanilla", "u-shaped"),
    clinic_parts="averaged",
    body="copies",
    options={"cloud-every": 2},
    edge_round=splitfed_round,
    round=hierarchical_round,
)
