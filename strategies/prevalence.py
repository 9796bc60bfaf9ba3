"""The line of reference: every clinic predicts its own training records' class frequencies, whoever the patient is.

No method that uses a patient's features should fall below it. Nothing crosses, nothing is noised, and one round is all:
clinic k with n_kc of its n_k training records in class c, of C classes, predicts (n_kc + 1) / (n_k + C).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.methods.messages import TrainAlone
from sim.methods.method import Method, State

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange


def counted_round(exchange: Exchange, state: State) -> State:
    """Let every clinic count its classes."""
    exchange.send(TrainAlone(clinics=exchange.participants, server_round=exchange.server_round))
    return state


METHOD = Method(
    name="prevalence",
    label="Prevalence alone",
    citation="",
    family="baseline",
    layouts=("horizontal", "vertical"),
    clinic_parts="own",
    trains=False,
    round=counted_round,
)
