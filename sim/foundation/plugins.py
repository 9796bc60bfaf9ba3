"""What others may add by name: entry points of installed distributions, and import paths ``package.module:NAME``."""

from __future__ import annotations

import importlib
import tomllib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

from sim.foundation.problems import SutureError, place_of, show, suggest

_OWN: Final = ("suture.methods", "suture.mechanisms", "suture.attacks")
"""The groups that Suture itself fills."""


@cache
def registered(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name, in alphabetical order.

    Where these packages lie in a folder of Suture's with its ``pyproject.toml``, as in a clone or an app of Flower's,
    that file is what registers ours: another copy, or none, may be installed. Raises ``SutureError``, in one line, if
    there is none in a group that Suture itself fills.
    """
    installed = entry_points(group=group)
    if (project := _project()) is None:
        found = {entry.name: entry for entry in installed}
    else:
        own = project.get("entry-points", {}).get(group, {})
        found = {name: EntryPoint(name, value, group) for name, value in own.items()}
        dists = {id(each.dist): each.dist for each in installed if each.dist is not None}
        ours = {place for place, dist in dists.items() if dist.name == project["name"]}  # a name takes long to read
        found |= {each.name: each for each in installed if id(each.dist) not in ours}
    if not found and group in _OWN:
        raise SutureError(f'nothing is registered as "{group}": Suture is not installed in this Python; install it')
    return dict(sorted(found.items()))


@cache
def _project() -> dict[str, Any] | None:
    """Return the table ``[project]`` of the ``pyproject.toml`` beside these packages, if it is Suture's."""
    try:
        found = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    project: dict[str, Any] = found.get("project", {})
    return project if project.get("name") == "suture" else None


@cache
def loaded(group: str, name: str) -> Any:
    """Return what stands behind a name of a group, or behind an import path ``package.module:NAME``.

    Raises ``ValueError``, in one line, if nothing has that name, or the import fails.
    """
    known = registered(group)
    if name in known:
        return known[name].load()
    if ":" not in name:
        raise ValueError(f'"{name}" does not exist; {suggest(name, tuple(known))}')
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
        if hasattr(found, attribute):
            return getattr(found, attribute)
        fault = f"{module} has no {show(attribute)}; check the path"
    except ModuleNotFoundError as error:
        fault = f"there is no module {show(error.name)}; install it, or put its folder into PYTHONPATH"
    except (Exception, SystemExit) as error:
        fault = f"{place_of(error)}; check the path"
    raise ValueError(f"{show(name)} cannot be imported: {fault}")
