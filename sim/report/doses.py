"""Dose and response: the score of each method against the one swept number that is no amount of noise."""

from __future__ import annotations

from functools import partial

import pandas as pd

from sim.report.figure import Figure
from sim.report.figures import spans
from sim.report.held_out import HeldOut
from sim.report.look import Sheet, Spec, dots, field, interval, layer, numbers
from sim.report.points import Names, equals, together_by_level, with_bounds
from sim.report.spoken import spoken
from sim.report.summary import summarise, swept_keys
from sim.results.columns import NOISE_KEYS

_FEWEST = 3
"""Doses; two are a comparison, and no curve."""


def dose_points(ok: pd.DataFrame, held_out: HeldOut | None) -> tuple[pd.DataFrame, list[Names]]:
    """Compute what is drawn: ``series, level, dose, score, n, mean, lower, upper``; `series` is the method alone.

    Also the names of methods, of which equal ones share one, by level. None unless one swept key, besides the amount of
    noise, has at least three values that are numbers.
    """
    keys = [key for key in swept_keys(ok) if key not in NOISE_KEYS]
    doses = pd.to_numeric(ok[keys[0]], errors="coerce") if len(keys) == 1 else pd.Series(dtype=float)
    if doses.nunique() < _FEWEST or doses.isna().any() or doses.dtype == bool:
        return pd.DataFrame(), []
    words = spoken(ok)
    own, by = ok.assign(series=ok["method_label"], dose=doses.astype(float)), ["series", "level", "dose"]
    parts = [
        with_bounds(summarise(own, by, column, held_out), words.least).dropna(subset="mean").assign(score=score)
        for score, column in words.scores.items()
    ]
    own["seed"] = own.groupby(["dose", "seed"]).ngroup()
    columns = ["dose", *(column for column in words.scores.values() if column in own)]
    names = {level: equals(own[own["level"] == level], columns) for level in own["level"].cat.categories}
    return together_by_level(pd.concat(parts, ignore_index=True), names), list(names.values())


def dose_figure(table: pd.DataFrame, ok: pd.DataFrame) -> Figure:
    """Draw the points of :func:`dose_points`."""
    [key] = [key for key in swept_keys(ok) if key not in NOISE_KEYS]
    doses = sorted(table["dose"].unique())
    first = table[table["score"] == table["score"].iloc[0]]
    return Figure(
        name="dose",
        title=f"Score against {key}",
        note=f"Means over seeds at each value of {key}; bars: 95 % confidence intervals.",
        description=f"A line chart of {first['score'].iloc[0]} by {key}, from {doses[0]:g} to {doses[-1]:g}. "
        f"{spans(first)}",
        of="doses",
        panels=[partial(dose_panel, key=key, doses=doses)],
        by_level=True,
    )


def dose_panel(sheet: Sheet, key: str, doses: list[float]) -> Spec:
    """Draw a line a method; doses of several orders of magnitude stand at their logarithms."""
    positive = [dose for dose in doses if dose > 0]
    wide = min(doses) >= 0 and len(positive) > 1 and positive[-1] > 20 * positive[0]
    kind = {"type": "symlog", "constant": positive[0]} if wide else {"type": "linear"}
    scale = {**kind, "zero": False, "nice": False, "padding": 12}
    ticks = {"values": doses, "labelExpr": "'' + datum.value", "labelOverlap": "greedy"}
    x = field("dose:Q", title=key, scale=scale, axis=ticks)
    alike = {"color": sheet.series("color"), "opacity": sheet.shown(0.9, 0.08)}
    spread = interval("y", title=None, scale={"zero": False, "nice": True})
    mean = {**alike, "x": x, "y": field("mean:Q")}
    tooltip = [field("series:N"), field("dose:Q", title=key), *numbers("mean", "lower", "upper")]
    layers = [
        layer("rule", {**alike, "x": x, **spread}, strokeWidth=1),
        layer("line", {**mean, "strokeDash": sheet.series("strokeDash")}, strokeWidth=1.6),
        dots(55, {**mean, "shape": sheet.series("shape"), "tooltip": tooltip}),
    ]
    kept = [{"filter": f"{sheet.at_level} && datum.score === {sheet.score}"}]
    return sheet.chart("doses", sheet.level, 260, transform=kept, layer=layers)
