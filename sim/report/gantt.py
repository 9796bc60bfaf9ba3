"""A picture of one round: who does what when, and who waits for whom."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from sim.report.look import Spec, field, numbers, rows

# Okabe and Ito's colours, which people with colour-blindness can tell apart, and grey.
PHASES = {
    "download": ("receives", "#56B4E9"),
    "clinic": ("computes", "#E69F00"),
    "upload": ("sends", "#0072B2"),
    "server": ("the server computes for it", "#CC79A7"),
    "edge": ("the edge server computes for it", "#009E73"),
    "to cloud": ("the edge server sends on", "#D55E00"),
    "from cloud": ("the cloud sends back", "#E9A27B"),
    "waiting": ("waits", "#595959"),
}
_UNITS = (("hours", 3600.0, 7200.0), ("minutes", 60.0, 300.0), ("seconds", 1.0, 1.0), ("milliseconds", 1e-3, 0.0))
"""Name, seconds, and the shortest round it is used for."""


def time_unit(most: float) -> tuple[str, float]:
    """Return the unit in which people would read times up to a largest, and its seconds."""
    return next((name, seconds) for name, seconds, shortest in _UNITS if most >= shortest)


def round_chart(frame: pd.DataFrame, title: str, words: Sequence[str]) -> Spec:
    """Draw a round, a row a clinic and a row a worker of the server.

    Parameters
    ----------
    words : sequence of str
        Lines below the title, as `round_words` returns them.
    """
    total = float(frame["end"].max())
    unit, seconds = time_unit(total)
    bars = frame.assign(
        what=[PHASES[phase][0] for phase in frame["phase"]], start=frame["start"] / seconds, end=frame["end"] / seconds
    )
    present = dict(PHASES[phase] for phase in PHASES if (frame["phase"] == phase).any())
    scale = {"domain": [0, total / seconds], "nice": False}
    colours = {"domain": list(present), "range": list(present.values())}
    return {
        "data": {"values": rows(bars)},
        "title": {"text": title, "subtitle": list(words)},
        "description": " ".join([title, *words]),
        "width": 760,
        "height": {"step": 17},
        "mark": {"type": "bar", "height": 12},
        "encoding": {
            "x": field("start:Q", title=f"{unit} since the round began", scale=scale, axis={"tickCount": 10}),
            "x2": {"field": "end"},
            "y": field("row:N", sort=list(dict.fromkeys(frame["row"])), title=None, axis={"labelLimit": 200}),
            "color": field("what:N", title=None, scale=colours, legend={"orient": "top"}),
            "tooltip": [
                *(field(f"{name}:N") for name in ("row", "what")),
                *numbers("start", "end", form=".4g"),
            ],
        },
    }
