"""What a scenario must know of the methods, mechanisms and attacks that it names, before anything heavy is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final, Literal, Protocol, get_args

from sim.foundation.plugins import loaded, registered
from sim.foundation.problems import show, suggest
from sim.scenario.base import is_number

METHODS: Final = "suture.methods"
ATTACKS: Final = "suture.attacks"
MODELS: Final = "suture.models"
SOURCES: Final = "suture.sources"
PROFILES: Final = "suture.profiles"
MECHANISMS: Final = "suture.mechanisms"
"""The groups of entry points."""
Place = Literal["gradients", "rows", "labels", "updates"]
"""Where a mechanism may act."""
_FLOWER: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_OWN: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class MethodFacts(Protocol):
    """What a scenario asks of a method; see :class:`sim.methods.method.Method`."""

    cuts: tuple[str, ...]  # Where it may cut the network
    takes: tuple[str, ...]  # Which of the keys `order`, `alternate` and `proximal-mu` it has
    options: Mapping[str, bool | int | float | str]  # Keys of its own, with their defaults


class AttackFacts(Protocol):
    """What a scenario asks of an attack; see :class:`sim.attacks.attack.Attack`."""

    on_every_run: bool  # Whether it is made on every run, without being named
    options: Mapping[str, bool | int | float | str]  # Its keys, with their defaults


class MechanismFacts(Protocol):
    """What ``[privacy]`` asks of a mechanism; see :class:`sim.privacy.mechanisms.mechanism.Mechanism`."""

    place: Place  # Where it acts
    unit: Literal["record", "clinic"]  # What it protects
    pure: bool  # Whether its epsilon needs no delta
    keys: frozenset[str]  # The keys that it gives an effect, by field

    def problem(self, key: str, value: Any, given: Mapping[str, Any]) -> str:
        """Say what is wrong with a key; empty if nothing is."""


def is_flower_path(name: str) -> bool:
    """Whether a name is the dotted path of a strategy of Flower's."""
    return _FLOWER.fullmatch(name) is not None


def is_own_path(name: str) -> bool:
    """Whether a name is the import path of a method of a user's own, ``package.module:METHOD``."""
    return _OWN.fullmatch(name) is not None


def method_facts(name: str) -> MethodFacts | None:
    """Return the facts of a method by its name or import path; None for a strategy of Flower's.

    Raises ``ValueError`` if there is no such method.
    """
    if name in registered(METHODS) or is_own_path(name):
        found: MethodFacts = loaded(METHODS, name)
        if not all(hasattr(found, fact) for fact in ("cuts", "takes", "options")):
            raise ValueError(f'"{name}" is no Method; name the METHOD of a module')
        return found
    if is_flower_path(name):
        return None
    raise ValueError(f'unknown strategy "{name}"; {suggest(name, tuple(registered(METHODS)))}')


def attack_facts(name: str) -> AttackFacts:
    """Return the facts of an attack by its name or import path.

    Raises ``ValueError`` if there is no such attack.
    """
    if name not in registered(ATTACKS) and not is_own_path(name):
        raise ValueError(f'unknown attack "{name}"; {suggest(name, tuple(registered(ATTACKS)))}')
    found: AttackFacts = loaded(ATTACKS, name)
    if not all(hasattr(found, fact) for fact in ("on_every_run", "options", "adversary")):
        raise ValueError(f'"{name}" is no Attack; name the ATTACK of a module')
    return found


def mechanism_facts(name: str) -> MechanismFacts:
    """Return what a registered mechanism is; a path of a scenario's own is never imported."""
    if name not in registered(MECHANISMS):
        raise ValueError(f"{show(name)} does not exist; {suggest(name, mechanisms())}")
    found: MechanismFacts = loaded(MECHANISMS, name)
    return found


@cache
def mechanisms() -> tuple[str, ...]:
    """Return all mechanisms in the order in which a combination is written: by the place where they act."""
    return tuple(sorted(registered(MECHANISMS), key=lambda name: get_args(Place).index(mechanism_facts(name).place)))


def at(place: Place, among: Iterable[str]) -> str | None:
    """Return the mechanism that acts at a place, if there is one."""
    return next((name for name in among if mechanism_facts(name).place == place), None)


def example(key: str) -> str:
    """Name a registered method that cuts the network in every way and has a key, where one is asked for."""
    fits = (name for name in registered(METHODS) if key in ("cut", *loaded(METHODS, name).takes))
    return next(name for name in fits if key != "cut" or len(loaded(METHODS, name).cuts) > 2)


def check_options(name: str, given: Mapping[str, object], known: Mapping[str, object]) -> None:
    """Raise ``ValueError`` for the first option that a method or an attack does not have, or of another type."""
    for key, value in given.items():
        if not known:
            raise ValueError(f"{name} takes none; remove them")
        if key not in known:
            raise ValueError(f"{name} has no option {show(key)}; {suggest(key, tuple(known))}")
        if not _alike(value, known[key]):
            raise ValueError(f"{key}: {show(value)} is of another type than its default, {show(known[key])}")


def _alike(value: object, default: object) -> bool:
    """Whether a value may stand in the place of a default: both numbers, or of one type."""
    return is_number(value) if is_number(default) else type(value) is type(default)
