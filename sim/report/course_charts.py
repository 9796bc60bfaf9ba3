"""Charts of learning curves and of each clinic's results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import altair as alt

from sim.report.look import INTERVAL, Chart, Look, Sheet


def learning_panel(sheet: Sheet, given: Sequence[Look], lowest: Mapping[str, float]) -> Chart:
    """Draw the score after each round at one level, a line a series, with bands.

    Parameters
    ----------
    sheet : Sheet
    given : sequence of Look
    lowest : mapping of str to float
        By score, the lowest mean: the axis begins there, since intervals of untrained models are wide.
    """
    data = alt.Chart(alt.NamedData(name="learning")).transform_filter(
        f"datum.score === {sheet.score} && datum.level === {sheet.level}"
    )
    colour = sheet.series(given, "color")
    x = alt.X(
        "round:Q", title="Round", axis=alt.Axis(tickMinStep=1, tickCount=10, grid=False), scale=alt.Scale(nice=False)
    )
    floor = alt.ExprRef(f"{json.dumps(dict(lowest))}[{sheet.score}]")
    scale, axis = alt.Scale(zero=False, nice=True, domainMin=floor), alt.Axis(format=".2f", tickCount=6)
    told = ["series:N", "level:N", "round:Q", *INTERVAL]
    picked = f"indexof({sheet.picked}, datum.series) >= 0"
    strength = alt.OpacityValue(0.05, condition={"test": picked, "value": 0.22})
    bands = (
        data.transform_filter("isValid(datum.lower)")
        .transform_calculate(shown=f"max(datum.lower, {floor.expr})")
        .mark_area(opacity=1)
        .encode(
            x=x,
            y=alt.Y("shown:Q", title=None, scale=scale, axis=axis),
            y2="upper:Q",
            fill=sheet.series(given, "fill"),
            detail="series:N",
            fillOpacity=strength,
        )
    )
    lines = data.mark_line(strokeWidth=2, cursor="pointer").encode(
        x=x,
        y=alt.Y("mean:Q", title=None, scale=scale, axis=axis),
        color=colour,
        strokeDash=sheet.series(given, "strokeDash"),
        opacity=sheet.shown(0.9, 0.08),
    )
    dots = data.transform_filter("datum.round % 5 == 0").mark_point(filled=True, size=45, cursor="pointer").encode(
        x=x,
        y="mean:Q",
        color=colour,
        shape=sheet.series(given, "shape"),
        opacity=sheet.shown(1.0, 0.06),
        tooltip=told,
    )  # fmt: skip
    title = alt.TitleParams(alt.ExprRef(f"{sheet.score} + ', ' + {sheet.level}"))
    return alt.layer(bands, lines, dots).properties(width=sheet.width, height=340, title=title)


def clinics_panel(sheet: Sheet, given: Sequence[Look], clinics: Sequence[str]) -> Chart:
    """Draw each clinic's score at one level, the series side by side.

    Parameters
    ----------
    sheet : Sheet
    given : sequence of Look
    clinics : sequence of str
        From top to bottom.
    """
    score = f"""({sheet.score} === "Worst clinic's AUC" ? "AUC" : {sheet.score})"""
    data = alt.Chart(alt.NamedData(name="clinics")).transform_filter(
        f"datum.score === {score} && datum.level === {sheet.level}"
    )
    y = alt.Y(
        "clinic:N",
        sort=list(clinics),
        title=None,
        axis=alt.Axis(labelLimit=110, grid=False, ticks=False),
        scale=alt.Scale(paddingInner=0.2),
    )
    offset = alt.YOffset(
        "series:N", sort=[look.series for look in given], scale=alt.Scale(domain=[look.series for look in given])
    )
    scale = alt.Scale(zero=False, nice=True)
    base = data.encode(y=y, yOffset=offset, color=sheet.series(given, "color"), opacity=sheet.shown(0.9, 0.06))
    bars = (
        base.transform_filter("isValid(datum.lower)")
        .mark_rule(strokeWidth=1.3)
        .encode(x=alt.X("lower:Q", title="Score on the clinic's held-out records", scale=scale), x2="upper:Q")
    )
    dots = base.mark_point(filled=True, size=55, cursor="pointer").encode(
        x=alt.X("mean:Q", scale=scale),
        shape=sheet.series(given, "shape"),
        tooltip=[*map(alt.Tooltip, ("clinic:N", "series:N", "level:N")), *INTERVAL],
    )  # fmt: skip
    band = max(28, min(110, 9 * len(given) + 14)) if len(clinics) <= 8 else 44
    title = alt.TitleParams(alt.ExprRef(f"{score} + ', ' + {sheet.level}"))
    return alt.layer(bars, dots).properties(width=sheet.width, height=band * len(clinics), title=title)
