"""How parties find the patients whom all of them know: private set intersection by commutative encryption.

Meadows 1986; Huberman, Franklin & Hogg 1999: each party hashes its patients' identifiers to points of an elliptic curve
and multiplies them by a secret number of its own; each list goes round, and every other party multiplies it by its own
number. Lists that all have multiplied are equal where the patients are, and the server says which are on all of them.
Every party learns who of its patients all the others know, and everybody the lengths of all lists; whom only some of
the parties share, the server can count and cannot name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal

from sim.methods.job import Job
from sim.methods.protocol import HEADER_BYTES, Direction

POINT_BYTES = 32
"""Of a point of Curve25519."""
POINT_OPERATIONS = 150_000
"""Stated cost of a multiplication on that curve, about 50 microseconds of one core at 3 GHz."""

Stage = tuple[Literal["clinic", "up", "down"], dict[int, int]]
"""A place, ``clinic``, ``up`` or ``down``, and by party operations, or bytes of one message each."""


def stages_of(job: Job) -> list[list[Stage]]:
    """Return, by region, what is done before the first round, one thing after another.

    Nothing where all parties know everybody.
    """
    known, parties = job.facts.known, job.parties
    if parties is None or not parties.heads or not known:
        return []
    regions = range(len(parties.holders))
    return [_ring([k for k, own in enumerate(parties.region_of) if own == region], known) for region in regions]


def _ring(places: Sequence[int], known: Sequence[int]) -> list[Stage]:
    """Return the stages of some places, each of which knows so many patients."""
    stages: list[Stage] = []
    for hop in range(len(places)):
        handed = {k: known[places[place - hop]] for place, k in enumerate(places)}
        points = {k: POINT_BYTES * count for k, count in handed.items()}
        stages += [("down", points)] if hop else []
        stages += [("clinic", {k: POINT_OPERATIONS * count for k, count in handed.items()}), ("up", points)]
    return [*stages, ("down", {k: -(-known[k] // 8) for k in places})]


def messages_of(job: Job) -> Iterator[tuple[Direction, int, int]]:
    """Yield the messages of the intersection: direction, party, and bytes with what a message costs."""
    for place, sizes in chain.from_iterable(stages_of(job)):
        if place == "up" or place == "down":
            yield from ((place, party, size + HEADER_BYTES) for party, size in sizes.items())
