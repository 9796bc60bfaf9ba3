"""All records in one place: the upper baseline. Every clinic sends its training records to the server, once.

before the first round, every clinic sends its records
for each round t = 1, 2, ...
server     local epochs of minibatch SGD on the records of all clinics; the optimiser's state lives on
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sim.methods.messages import Kind
from sim.methods.method import Method, State

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange
    from sim.methods.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Pooled(State):
    """What the clinics have sent, and the part that is trained on it."""

    pool: Pool


def begin(exchange: Exchange, state: State) -> Pooled:
    """Fetch what every clinic sends once: its records, or its rows behind the parts that are sent to it."""
    return Pooled(**vars(state), pool=exchange.pool(state.model))


def pooled_round(exchange: Exchange, state: Pooled) -> Pooled:
    """Train on the pool for a round; nothing crosses."""
    return replace(state, model=state.model | state.pool.train(exchange))


METHOD = Method(
    name="centralised",
    label="Centralised",
    family="baseline",
    layouts=("horizontal", "vertical"),
    clinic_parts="none",
    body="shared",
    once_up=(Kind.RECORDS, Kind.LABELS),
    begin=begin,
    round=pooled_round,
)
