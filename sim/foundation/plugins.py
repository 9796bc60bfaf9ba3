"""What others may add by name: entry points of installed distributions, and import paths ``package.module:NAME``."""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from sim.foundation.problems import place_of, show, suggest


@cache
def registered(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name, in the order in which their distributions list them."""
    return {entry.name: entry for entry in entry_points(group=group)}


@cache
def loaded(group: str, name: str) -> Any:
    """Return what stands behind a name of a group, or behind an import path.

    Parameters
    ----------
    group : str
        ``suture.methods``, ``suture.mechanisms`` or ``suture.attacks``.
    name : str
        A registered name, or ``package.module:NAME``.

    Raises
    ------
    ValueError
        In one line: if nothing has that name, or the import fails.
    """
    known = registered(group)
    if name in known:
        return known[name].load()
    if ":" not in name:
        raise ValueError(f'"{name}" does not exist; {suggest(name, tuple(known))}')
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{show(name)} cannot be imported: {place_of(error)}; check the path") from None
