"""A picture of one round: who does what when, and who waits for whom."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

__all__ = ["round_chart"]

# Okabe and Ito's colours, which people with colour-blindness can tell apart, and grey.
PHASES = {
    "download": ("receives", "#56B4E9"),
    "clinic": ("computes", "#E69F00"),
    "upload": ("sends", "#0072B2"),
    "server": ("the server computes for it", "#CC79A7"),
    "waiting": ("waits", "#595959"),
}
_UNITS = (("hours", 3600.0, 7200.0), ("minutes", 60.0, 300.0), ("seconds", 1.0, 1.0), ("milliseconds", 1e-3, 0.0))
"""Name, seconds, and the shortest round it is used for."""


def round_chart(frame: pd.DataFrame, title: str, words: Sequence[str]) -> alt.Chart:
    """Draw a round, a row a clinic and a row a worker of the server.

    Parameters
    ----------
    frame : pandas.DataFrame
        As `round_frame` returns it.
    title : str
        The method.
    words : sequence of str
        Lines below the title, as `round_words` returns them.

    Returns
    -------
    altair.Chart
        Without configuration, so that it can stand in another picture.
    """
    total = float(frame["end"].max())
    unit, seconds, _ = next(unit for unit in _UNITS if total >= unit[2])
    bars = frame.assign(
        what=[PHASES[phase][0] for phase in frame["phase"]], start=frame["start"] / seconds, end=frame["end"] / seconds
    )
    present = [(what, colour) for phase, (what, colour) in PHASES.items() if (frame["phase"] == phase).any()]
    encoded = {
        "x": alt.X(
            "start:Q",
            title=f"{unit} since the round began",
            scale=alt.Scale(domain=[0, total / seconds], nice=False),
            axis=alt.Axis(tickCount=10),
        ),
        "x2": "end:Q",
        "y": alt.Y("row:N", sort=list(dict.fromkeys(frame["row"])), title=None, axis=alt.Axis(labelLimit=200)),
        "color": alt.Color(
            "what:N",
            title=None,
            scale=alt.Scale(domain=[what for what, _ in present], range=[colour for _, colour in present]),
            legend=alt.Legend(orient="top"),
        ),
        "tooltip": ["row:N", "what:N", alt.Tooltip("start:Q", format=".4g"), alt.Tooltip("end:Q", format=".4g")],
    }
    chart: alt.Chart = (
        alt.Chart(bars)
        .mark_bar(height=12)
        .encode(**encoded)
        .properties(
            width=760,
            height=alt.Step(17),
            title=alt.Title(title, subtitle=list(words)),
            description=" ".join([title, *words]),
        )
    )
    return chart
