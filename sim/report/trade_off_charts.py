"""Charts of score against privacy, time and traffic."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from sim.report.look import HAS_INTERVAL, UNITS, Sheet, Spec, dots, field, interval, layer, told
from sim.report.points import axis_ends
from sim.report.summary import adversaries_in

_TICKS = 6
_HEIGHT, _LOW = 300, 200
_LONGEST = 0.15  # intervals of few seeds are cut, so that differences between methods can still be seen
_COSTS = {"seconds": "Simulated time of a run", "bytes": "Traffic of a run, all clinics"}
_SCORE = {"title": None, "scale": {"zero": False, "nice": True}, "axis": {"tickCount": 6}}
_TOLD = [*told("series", "level"), field("epsilon:N")]


def score_ends(points: pd.DataFrame) -> dict[str, list[float]]:
    """Return by score the ends of what is drawn of it, so that panels beside each other have one axis."""
    low = points["lower"].fillna(points["mean"]).clip(lower=points["mean"] - _LONGEST)
    high = points["upper"].fillna(points["mean"]).clip(upper=points["mean"] + _LONGEST)
    ends = pd.DataFrame({"low": low, "high": high}).groupby(points["score"]).agg({"low": "min", "high": "max"})
    return {str(score): [round(row["low"] - 0.005, 3), round(row["high"] + 0.005, 3)] for score, row in ends.iterrows()}


def privacy_panel(
    sheet: Sheet, adversary: str, axis: Spec, adjacency: str, ends: Mapping[str, Sequence[float]], first: bool
) -> Spec:
    """Draw the score against one adversary's epsilon, all of one adjacency.

    `ends` are those of each score's axis; the first of the panels that share it stands at the left and has its labels.
    """
    of_score = f"{json.dumps(dict(ends))}[{sheet.score}]"
    scale = {"nice": False, "domainMin": {"expr": f"{of_score}[0]"}, "domainMax": {"expr": f"{of_score}[1]"}}
    beside = "windowSize()[0] > 640" if sheet.width == "container" else "true"
    labels = {} if first else {"labelExpr": f"{beside} ? '' : datum.label"}
    score = {"title": None, "scale": {"zero": False, **scale}, "axis": {"tickCount": 6, **labels}}
    line = {
        "y": field("mean:Q", **score),
        "detail": field("series:N"),
        "strokeDash": sheet.series("strokeDash"),
        "strokeOpacity": sheet.shown(0.6, 0.05),
    }
    spread = {**interval("y", **score), "strokeOpacity": sheet.shown(0.55, 0.04)}
    shape = {"shape": sheet.series("shape"), "opacity": sheet.shown()}
    layers = [
        layer("line", line, "datum.joined", strokeWidth=1.5, clip=True),
        layer("rule", spread, HAS_INTERVAL, strokeWidth=1.3, clip=True),
        dots(65, {"y": field("mean:Q", **score), **shape, "tooltip": _TOLD}),
    ]
    return sheet.chart(
        "privacy",
        f"{sheet.score} + ', by ε of the {adversary.lower()}'",
        _LOW,
        transform=[{"filter": f"datum.score === {sheet.score} && datum.adversary === '{adversary}'"}],
        encoding={
            "x": _place(axis, f"ε of the {adversary.lower()}{_named(adjacency)} (left: more private)"),
            "color": sheet.series("color"),
        },
        layer=layers,
    )


def scores_panel(sheet: Sheet) -> Spec:
    """Draw the score of each series at one level, with its interval."""
    scale = {"zero": False, "nice": True}
    bars = layer("rule", interval("x", scale=scale), HAS_INTERVAL, strokeWidth=1.3)
    shape, tooltip = sheet.series("shape"), told("series", "level")
    axis = {"labelLimit": 220, "grid": False, "ticks": False}
    return sheet.chart(
        "scores",
        f"{sheet.score} + ', ' + {sheet.level}",
        22 * len(sheet.given),
        transform=[{"filter": sheet.at_score}],
        encoding={
            "y": field("series:N", sort=sheet.names, title=None, axis=axis),
            "x": field("mean:Q", title="Score on held-out records", scale=scale),
            "color": sheet.series("color"),
            "opacity": sheet.shown(),
        },
        layer=[bars, dots(65, {"x": field("mean:Q"), "shape": shape, "tooltip": tooltip})],
    )


def epsilon_axis(largest: pd.DataFrame) -> Spec:
    """Return the axis of epsilons: their logarithms, with 0 and infinity set apart at the ends where they occur."""
    zero, infinite, gap = axis_ends(largest)
    epsilons = largest[list(adversaries_in(largest))].to_numpy(float)
    finite = epsilons[np.isfinite(epsilons) & (epsilons > 0)]
    each = sorted({float(f"{value:.2g}") for value in finite})
    few = len(each) <= _TICKS and all(b > 1.2 * a for a, b in pairwise(each))
    ticks = [math.log10(value) for value in each] if few else _log_ticks(each[0], each[-1])
    ends = [*([zero] if (epsilons == 0).any() else []), *([infinite] if np.isinf(epsilons).any() else [])]
    number = "format(pow(10, datum.value), '.2~r')"
    text = f"datum.value > {infinite - gap / 2} ? '∞' : datum.value < {zero + gap / 2} ? '0' : {number}"
    return {"values": sorted([*ticks, *ends]), "labelExpr": text, "grid": True}


def _log_ticks(low: float, high: float) -> list[float]:
    """Return logarithms of round numbers that span a range: 1, 2, 5, 10, or powers of ten where that is many."""
    first, last, margin = math.log10(low), math.log10(high), 0.08
    decades = range(math.floor(first), math.ceil(last) + 1)
    steps = (1,) if len(decades) > 4 else (1, 2, 5)
    ticks = [decade + math.log10(step) for decade in decades for step in steps]
    return [tick for tick in ticks if first - margin <= tick <= last + margin]


def cost_panel(sheet: Sheet, cost: str, amounts: pd.Series[float]) -> Spec:
    """Draw the score against what a run costs in seconds or bytes, all that occur; filled: on the Pareto front."""
    positive = amounts[amounts > 0]
    low, high = float(positive.min()), float(positive.max())
    zero = [0.0] if (amounts == 0).any() else []
    ticks = [10.0**tick for tick in _log_ticks(low, high)]
    narrow = len(ticks) < 3 and not zero
    scale = {
        **({"type": "linear", "zero": False} if narrow else {"type": "symlog", "constant": low / 3, "nice": False}),
        "domain": [*(zero or [low]), high], "padding": 14,
    }  # fmt: skip
    axis = {"labelExpr": UNITS[cost], **({"tickCount": 4} if narrow else {"values": [*zero, *ticks]})}
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
