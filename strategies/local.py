"""Every clinic alone: the lower baseline. Nothing crosses, and each clinic keeps a model of its own.

for each round t = 1, 2, ...
for each clinic k in S_t in parallel
w_k <- w_k trained on the clinic's own records; the optimiser's state lives on
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.methods.messages import TrainAlone
from sim.methods.method import Method, State

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange


def lonely_round(exchange: Exchange, state: State) -> State:
    """Let another round pass at every clinic that is there; the models stay where they are."""
    exchange.send(TrainAlone(clinics=exchange.participants, server_round=exchange.server_round))
    return state


METHOD = Method(
    name="local",
    label="Local",
    family="baseline",
    clinic_parts="own",
    round=lonely_round,
)
