"""The names of methods as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from sim.foundation.plugins import registered
from sim.methods.method import Method, method_of
from sim.scenario.lookup import METHODS
from sim.scenario.spec import RunSpec

_IMPORT_PATH: Final = re.compile(r"[^\W\d]\w*([.:][^\W\d]\w*)*[.:](?P<last>[^\W\d]\w*)")
_FAMILIES: Final = ("baseline", "FL", "SL", "SplitFed")
_CUTS: Final[dict[object, str]] = {"vanilla": "vanilla", "u-shaped": "U-shaped", "multi-hop": "multi-hop"}
_CUTS["multi-hop-u-shaped"] = "multi-hop, U-shaped"


def known_method(strategy: str) -> Method | None:
    """Return an installed method by its name; None for a label or an import path, of which nothing is imported."""
    return method_of(strategy) if strategy in registered(METHODS) else None


def method_label(strategy: str, cut: object = None) -> str:
    """Name a method, that is a strategy and where it cuts the model.

    Parameters
    ----------
    strategy : str
        Strategy as in the scenario file: the name of an installed method, an import path, or a label.
    cut : object, optional
        Name of the cut; an empty string, None or NaN for strategies that do not cut the model.

    Returns
    -------
    str
        For example "SplitFed V1, U-shaped", "FedAvg" or, for an import path, its last part; a label as it is.
    """
    method, path = known_method(strategy), _IMPORT_PATH.fullmatch(strategy)
    name = method.label if method else path["last"] if path else strategy
    return f"{name}, {_CUTS.get(cut, cut)}" if isinstance(cut, str) and cut else name


def method_labels(strategies: Iterable[str], cuts: Iterable[object]) -> list[str]:
    """Name the methods of runs; one of an installed one's name, and not it, is told apart by what it is called by."""
    runs = [(method_label(strategy, cut), strategy) for strategy, cut in zip(strategies, cuts, strict=True)]
    installed = {label for label, strategy in runs if known_method(strategy)}
    return [
        f"{label} ({strategy})" if not known_method(strategy) and label in installed else label
        for label, strategy in runs
    ]


def reading_order(method: str, cut: object = None) -> tuple[int, str, int]:
    """Return a method's place in tables and legends: baselines first, then family by family, others last."""
    known, cuts = known_method(method), list(_CUTS)
    family = _FAMILIES.index(known.family) if known else len(_FAMILIES)
    return family, method if known else "", cuts.index(cut) if cut in cuts else len(cuts)


def label_of(spec: RunSpec) -> str:
    """Name a run's method as people read it."""
    return method_label(spec.strategy.label or spec.strategy.name, spec.strategy.cut)
