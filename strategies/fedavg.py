"""Federated averaging.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, algorithm 1:

    for each round t = 1, 2, ...
        S_t <- the round's clinics
        for each clinic k in S_t in parallel
            w_k <- ClientUpdate(k, w)             local epochs of minibatch SGD from w
        w <- sum over k in S_t of (n_k / n) w_k   over those that came back
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.methods.messages import Train
from sim.methods.method import Method, State

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange


def federated_round(exchange: Exchange, state: State, proximal_mu: float | None = None) -> State:
    """Let the round's clinics train w in parallel, and average what comes back, weighted by records."""
    clinics, w = exchange.participants, exchange.clinic_parts(state.model)
    trained = exchange.ask(Train(clinics=clinics, server_round=exchange.server_round, proximal_mu=proximal_mu, model=w))
    return exchange.average(state, trained.to_average, trained.clinics) if trained.clinics else state


METHOD = Method(
    name="fedavg",
    label="FedAvg",
    citation="McMahan et al., AISTATS 2017",
    family="FL",
    clinic_parts="averaged",
    round=federated_round,
)
