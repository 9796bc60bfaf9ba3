"""Charts of time by phase and traffic by kind."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from sim.report.gantt import PHASES
from sim.report.look import PALETTE, UNITS, Look, Sheet


def time_panel(sheet: Sheet, given: Sequence[Look]) -> alt.Chart:
    """Draw the simulated seconds of each method at one level, by phase."""
    colour = _phase_colour()
    x = alt.X("seconds:Q", title="Sum of seconds", axis=alt.Axis(labelExpr=UNITS["seconds"], tickCount=5))
    return _bars(sheet, given, "phases", x, colour, ["phase:N", alt.Tooltip("seconds:Q", format=".4~s")])


def round_panel(sheet: Sheet, rows: int) -> alt.Chart:
    """Draw one round of the chosen method, a row a clinic and a row a worker of the server.

    Parameters
    ----------
    sheet : Sheet
        The page.
    rows : int
        The most that a method has.
    """
    chart: alt.Chart = (
        alt.Chart(alt.NamedData(name="rounds"))
        .transform_filter("datum.method === method")
        .mark_bar()
        .encode(
            x=alt.X("start:Q", title="Since the round began", axis=alt.Axis(labelExpr=UNITS["seconds"], tickCount=6)),
            x2="end:Q",
            y=alt.Y("row:N", sort=None, title=None, axis=alt.Axis(labelLimit=110, grid=False, ticks=False)),
            color=_phase_colour(),
            tooltip=["row:N", "phase:N", alt.Tooltip("start:Q", format=".4~s"), alt.Tooltip("end:Q", format=".4~s")],
        )
        .properties(width=sheet.width, height=26 * rows, title=alt.TitleParams(alt.ExprRef("method")))
    )
    return chart


def _columns(most: int) -> alt.ExprRef:
    """Return how many names stand in a row of a legend; fewer on a phone."""
    return alt.ExprRef(f"containerSize()[0] < 500 ? 2 : {most}")


def _phase_colour() -> alt.Color:
    phases = {phase: colour for phase, (_, colour) in PHASES.items()}
    phases["waiting"] = "#999999"  # also seen on a dark page
    legend = alt.Legend(title=None, orient="top", columns=_columns(5), columnPadding=10)
    return alt.Color("phase:N", scale=alt.Scale(domain=list(phases), range=list(phases.values())), legend=legend)


def traffic_panel(sheet: Sheet, given: Sequence[Look], kinds: Sequence[str]) -> alt.Chart:
    """Draw the bytes of each method at one level, by kind of message: to the right up, to the left down."""
    # Colours go round after eight kinds; the tooltip and the table name the kind.
    colours = [PALETTE[(5 + place) % len(PALETTE)] if place != 3 else sheet.ink for place in range(len(kinds))]
    colour = alt.Color(
        "kind:N",
        scale=alt.Scale(domain=list(kinds), range=colours),
        legend=alt.Legend(title=None, orient="top", columns=_columns(4), columnPadding=10),
    )
    axis = alt.Axis(labelExpr="format(abs(datum.value), '.2~s') + 'B'", tickCount=5)
    x = alt.X("signed:Q", title="← down | up →", axis=axis)
    return _bars(sheet, given, "traffic", x, colour, ["way:N", "kind:N", alt.Tooltip("bytes:Q", format=".4~s")])


def _bars(
    sheet: Sheet, given: Sequence[Look], table: str, x: alt.X, colour: alt.Color, told: list[object]
) -> alt.Chart:
    y = alt.Y(
        "series:N",
        sort=[look.series for look in given],
        title=None,
        axis=alt.Axis(labelLimit=150, grid=False, ticks=False),
    )
    chart: alt.Chart = (
        alt.Chart(alt.NamedData(name=table))
        .transform_filter(f"datum.level === {sheet.level}")
        .mark_bar(cursor="pointer")
        .encode(x=x, y=y, color=colour, opacity=sheet.shown(1.0, 0.2), tooltip=["series:N", "level:N", *told])
        .properties(width=sheet.width, height=22 * len(given), title=alt.TitleParams(alt.ExprRef(sheet.level)))
    )
    return chart
