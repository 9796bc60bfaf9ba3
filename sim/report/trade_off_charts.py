"""Charts of score against privacy, time and traffic."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd

from sim.report.look import UNITS, Sheet, Spec, field, told
from sim.report.points import axis_ends
from sim.report.summary import ADVERSARIES

_HEIGHT = 300
_COSTS = {"seconds": "Simulated time of a run", "bytes": "Traffic of a run, all clinics"}
_SCORE = {"title": None, "scale": {"zero": False, "nice": True}, "axis": {"format": ".2f", "tickCount": 6}}
_TOLD = [*told("series", "level"), field("epsilon:N")]


def privacy_panel(sheet: Sheet, adversary: str, axis: Spec, adjacency: str) -> Spec:
    """Draw the score against one adversary's epsilon.

    Parameters
    ----------
    adjacency : str
        Of every epsilon, as of :func:`sim.report.summary.adjacency_of`.
    """
    line = {
        "transform": [{"filter": "datum.joined"}],
        "mark": {"type": "line", "strokeWidth": 1.5},
        "encoding": {
            "y": field("mean:Q", **_SCORE),
            "detail": field("series:N"),
            "strokeDash": sheet.series("strokeDash"),
            "strokeOpacity": sheet.shown(0.6, 0.05),
        },
    }
    bars = {
        "transform": [{"filter": "isValid(datum.lower)"}],
        "mark": {"type": "rule", "strokeWidth": 1.3},
        "encoding": {
            "y": field("lower:Q", **_SCORE),
            "y2": {"field": "upper"},
            "strokeOpacity": sheet.shown(0.55, 0.04),
        },
    }
    dots = {
        "mark": {"type": "point", "filled": True, "size": 65, "cursor": "pointer"},
        "encoding": {
            "y": field("mean:Q", **_SCORE),
            "shape": sheet.series("shape"),
            "opacity": sheet.shown(),
            "tooltip": _TOLD,
        },
    }
    return sheet.chart(
        "trade_offs",
        f"{sheet.score} + ', by ε of the {adversary.lower()}'",
        _HEIGHT,
        transform=[{"filter": f"datum.score === {sheet.score} && datum.adversary === '{adversary}'"}],
        encoding={
            "x": _place(axis, f"ε of the {adversary.lower()}{_named(adjacency)} (left: more private)"),
            "color": sheet.series("color"),
        },
        layer=[line, bars, dots],
    )


def epsilon_axis(largest: pd.DataFrame) -> Spec:
    """Return the axis of epsilons: their logarithms, with 0 and infinity set apart at the ends where they occur."""
    zero, infinite, gap = axis_ends(largest)
    epsilons = largest[list(ADVERSARIES)].to_numpy(float)
    finite = epsilons[np.isfinite(epsilons) & (epsilons > 0)]
    ticks = _log_ticks(float(finite.min()), float(finite.max())) if len(finite) else []
    ends = [*([zero] if (epsilons == 0).any() else []), *([infinite] if np.isinf(epsilons).any() else [])]
    number = "format(pow(10, datum.value), '.2~r')"
    text = f"datum.value > {infinite - gap / 2} ? '∞' : datum.value < {zero + gap / 2} ? '0' : {number}"
    return {"values": sorted([*ticks, *ends]), "labelExpr": text, "grid": True}


def _decades(low: float, high: float) -> range:
    return range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return logarithms of round numbers that span a range: 1, 2, 5, 10, or powers of ten where that is many."""
    decades = _decades(low, high)
    wide = len(decades) > 4
    ticks = [decade + math.log10(step) for decade in decades for step in ((1,) if wide else (1, 2, 5))]
    margin = 0.08
    return [tick for tick in ticks if math.log10(low) - margin <= tick <= math.log10(high) + margin]


def cost_panel(sheet: Sheet, cost: str, amounts: pd.Series[float]) -> Spec:
    """Draw the score against what a run costs in seconds or bytes, all that occur; filled: on the Pareto front."""
    positive = amounts[amounts > 0]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
    decades = _decades(low, high)
    ticks = [10.0**decade for decade in decades][:: math.ceil(len(decades) / 6)]
    zero = [0.0] if (amounts == 0).any() else []
    scale = {"type": "symlog", "constant": low / 3, "domain": [*(zero or [low]), high], "nice": False, "padding": 14}
    axis = {"values": [*zero, *ticks], "labelExpr": UNITS[cost]}
    return _pareto(sheet, field(f"{cost}:Q", title=_COSTS[cost], axis=axis, scale=scale))


def front_panel(sheet: Sheet, axis: Spec, adjacency: str) -> Spec:
    """Draw the score against the chosen adversary's epsilon; filled marks are on the Pareto front."""
    whose = "chosen adversary" if sheet.width == "container" else json.loads(sheet.adversary).lower()
    return _pareto(sheet, _place(axis, f"ε of the {whose}{_named(adjacency)}"))


def _named(adjacency: str) -> str:
    return f", {adjacency}" if adjacency else ""


def _place(axis: Spec, title: str) -> Spec:
    return field("place:Q", title=title, axis=axis, scale={"zero": False, "nice": False, "padding": 14})


def _pareto(sheet: Sheet, x: Spec) -> Spec:
    return sheet.chart(
        "trade_offs",
        sheet.score,
        _HEIGHT,
        transform=[{"filter": f"datum.score === {sheet.score} && datum.adversary === {sheet.adversary}"}],
        mark={"type": "point", "size": 75, "strokeWidth": 1.4, "cursor": "pointer"},
        encoding={
            "x": x,
            "y": field("mean:Q", **_SCORE),
            "color": sheet.series("color"),
            "fill": sheet.series("fill"),
            "shape": sheet.series("shape"),
            "opacity": sheet.shown(),
            "fillOpacity": {"value": 0.0, "condition": {"test": "datum.front", "value": 0.9}},
            "tooltip": _TOLD,
        },
    )
