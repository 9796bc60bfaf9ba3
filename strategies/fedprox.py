"""FedProx: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, algorithm 2.

As federated averaging, but every clinic minimises F_k(w) + mu/2 |w - w_t|^2, which holds it near the global model w_t.
Clinics are drawn uniformly and weighted by their records, as in federated averaging; the paper draws them by their
share of the records and weights them alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.methods.method import Method, State
from strategies.fedavg import federated_round

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange


def proximal_round(exchange: Exchange, state: State) -> State:
    """Do a round of federated averaging in which every clinic is pulled towards the model it was sent."""
    return federated_round(exchange, state, exchange.job.spec.strategy.proximal_mu)


METHOD = Method(
    name="fedprox",
    label="FedProx",
    citation="Li et al., MLSys 2020",
    family="FL",
    clinic_parts="averaged",
    takes=("proximal-mu",),
    round=proximal_round,
)
