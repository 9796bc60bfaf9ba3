"""Charts of score against privacy, time and traffic."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from sim.report.look import INTERVAL, UNITS, Chart, Look, Sheet
from sim.report.points import axis_ends
from sim.report.summary import ADVERSARIES

_HEIGHT = 300
_COSTS = {"seconds": "Simulated time of a run", "bytes": "Traffic of a run, all clinics"}
_TOOLTIP = [*map(alt.Tooltip, ("series:N", "level:N")), *INTERVAL, alt.Tooltip("epsilon:N")]


def privacy_panel(sheet: Sheet, given: Sequence[Look], adversary: str, axis: alt.Axis, adjacency: str) -> Chart:
    """Draw the score against one adversary's epsilon.

    Parameters
    ----------
    sheet : Sheet
    given : sequence of Look
    adversary : str
    axis : altair.Axis
        As of :func:`epsilon_axis`.
    adjacency : str
        Of every epsilon, as of :func:`sim.report.summary.adjacency_of`.
    """
    data = alt.Chart(alt.NamedData(name="trade_offs")).transform_filter(
        f"datum.score === {sheet.score} && datum.adversary === '{adversary}'"
    )
    x = _place(axis, f"ε of the {adversary.lower()}{_named(adjacency)} (left: more private)")
    y = _score_axis("mean:Q")
    base = data.encode(x=x, color=sheet.series(given, "color"))
    lines = (
        base.transform_filter("datum.joined")
        .mark_line(strokeWidth=1.5)
        .encode(
            y=y,
            detail=alt.Detail("series:N"),
            strokeDash=sheet.series(given, "strokeDash"),
            opacity=sheet.shown(0.6, 0.05),
        )
    )
    bars = (
        base.transform_filter("isValid(datum.lower)")
        .mark_rule(strokeWidth=1.3)
        .encode(y=_score_axis("lower:Q"), y2=alt.Y2("upper:Q"), opacity=sheet.shown(0.55, 0.04))
    )
    dots = base.mark_point(filled=True, size=65, cursor="pointer").encode(
        y=y, shape=sheet.series(given, "shape"), opacity=sheet.shown(), tooltip=_TOOLTIP
    )
    title = alt.TitleParams(alt.ExprRef(f"{sheet.score} + ', by ε of the {adversary.lower()}'"))
    return alt.layer(lines, bars, dots).properties(width=sheet.width, height=_HEIGHT, title=title)


def epsilon_axis(largest: pd.DataFrame) -> alt.Axis:
    """Return the axis of epsilons: their logarithms, with 0 and infinity set apart at the ends where they occur.

    Parameters
    ----------
    largest : DataFrame
        As of :func:`sim.report.points.largest_epsilons`.
    """
    zero, infinite, gap = axis_ends(largest)
    epsilons = largest[list(ADVERSARIES)].to_numpy(float)
    finite = epsilons[np.isfinite(epsilons) & (epsilons > 0)]
    ticks = _log_ticks(float(finite.min()), float(finite.max())) if len(finite) else []
    ends = [*([zero] if (epsilons == 0).any() else []), *([infinite] if np.isinf(epsilons).any() else [])]
    number = "format(pow(10, datum.value), '.2~r')"
    text = f"datum.value > {infinite - gap / 2} ? '∞' : datum.value < {zero + gap / 2} ? '0' : {number}"
    return alt.Axis(values=sorted([*ticks, *ends]), labelExpr=text, grid=True)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return logarithms of round numbers that span a range: 1, 2, 5, 10, or powers of ten where that is many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = len(decades) > 4
    ticks = [decade + math.log10(step) for decade in decades for step in ((1,) if wide else (1, 2, 5))]
    margin = 0.08
    return [tick for tick in ticks if math.log10(low) - margin <= tick <= math.log10(high) + margin]


def cost_panel(sheet: Sheet, given: Sequence[Look], cost: str, amounts: pd.Series[float]) -> Chart:
    """Draw the score against what a run costs in seconds or bytes; filled marks are on the Pareto front.

    Parameters
    ----------
    sheet : Sheet
    given : sequence of Look
    cost : {"seconds", "bytes"}
    amounts : Series of float
        All that occur.
    """
    positive = amounts[amounts > 0]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [10.0**decade for decade in decades][:: math.ceil(len(decades) / 6)]
    zero = [0.0] if (amounts == 0).any() else []
    scale = alt.Scale(type="symlog", constant=low / 3, domain=[0.0 if zero else low, high], nice=False, padding=14)
    axis = alt.Axis(values=[*zero, *ticks], labelExpr=UNITS[cost])
    return _pareto(sheet, given, alt.X(f"{cost}:Q", title=_COSTS[cost], axis=axis, scale=scale))


def front_panel(sheet: Sheet, given: Sequence[Look], axis: alt.Axis, adjacency: str) -> Chart:
    """Draw the score against the chosen adversary's epsilon; filled marks are on the Pareto front."""
    whose = "chosen adversary" if sheet.width == "container" else json.loads(sheet.adversary).lower()
    return _pareto(sheet, given, _place(axis, f"ε of the {whose}{_named(adjacency)}"))


def _named(adjacency: str) -> str:
    return f", {adjacency}" if adjacency else ""


def _place(axis: alt.Axis, title: str) -> alt.X:
    return alt.X("place:Q", title=title, axis=axis, scale=alt.Scale(zero=False, nice=False, padding=14))


def _pareto(sheet: Sheet, given: Sequence[Look], x: alt.X) -> Chart:
    data = alt.Chart(alt.NamedData(name="trade_offs")).transform_filter(
        f"datum.score === {sheet.score} && datum.adversary === {sheet.adversary}"
    )
    dots = data.mark_point(size=75, strokeWidth=1.4, cursor="pointer").encode(
        x=x,
        y=_score_axis("mean:Q"),
        color=sheet.series(given, "color"),
        fill=sheet.series(given, "fill"),
        shape=sheet.series(given, "shape"),
        opacity=sheet.shown(),
        fillOpacity=alt.FillOpacityValue(0.0, condition={"test": "datum.front", "value": 0.9}),
        tooltip=_TOOLTIP,
    )
    title = alt.TitleParams(alt.ExprRef(sheet.score))
    return alt.layer(dots).properties(width=sheet.width, height=_HEIGHT, title=title)


def _score_axis(field: str) -> alt.Y:
    return alt.Y(field, title=None, scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(format=".2f", tickCount=6))
