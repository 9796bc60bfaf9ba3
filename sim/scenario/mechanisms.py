"""What ``[privacy]`` must know of the mechanisms that it names, before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final, Literal, Protocol, get_args

from sim.foundation.plugins import loaded, registered
from sim.foundation.problems import show, suggest

MECHANISMS: Final = "suture.mechanisms"
"""The group of entry points."""
Place = Literal["gradients", "rows", "labels", "updates"]


class MechanismFacts(Protocol):
    """What ``[privacy]`` asks of a mechanism; see :class:`sim.privacy.mechanisms.mechanism.Mechanism`."""

    place: Place  # Where it acts
    unit: Literal["record", "clinic"]  # What it protects
    pure: bool  # Whether its epsilon needs no delta
    keys: frozenset[str]  # The keys that it gives an effect, by field

    def problem(self, key: str, value: Any, given: Mapping[str, Any]) -> str:
        """Say what is wrong with a key; empty if nothing is."""


def facts(name: str) -> MechanismFacts:
    """Return what a registered mechanism is; a path of a scenario's own is never imported."""
    if name not in registered(MECHANISMS):
        raise ValueError(f"{show(name)} does not exist; {suggest(name, names())}")
    found: MechanismFacts = loaded(MECHANISMS, name)
    return found


@cache
def names() -> tuple[str, ...]:
    """Return all mechanisms in the order in which a combination is written: by the place where they act."""
    return tuple(sorted(registered(MECHANISMS), key=lambda name: get_args(Place).index(facts(name).place)))


def at(place: Place, among: Iterable[str]) -> str | None:
    """Return the mechanism that acts at a place, if there is one."""
    return next((name for name in among if facts(name).place == place), None)
