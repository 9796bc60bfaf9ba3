"""Charts of time by phase and traffic by kind, and a picture of one round: who does what when, and who waits."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from sim.methods.messages import Kind
from sim.methods.protocol import ALIGNMENT, SECURE
from sim.plan.load import EDGE_PHASES
from sim.report.look import GREY, Sheet, Spec, field, numbers, prefixed, rows

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
_COLOURS = (
    *("#0072B2", "#8C6D31", "#56B4E9", "#999999", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#6A3D9A", "#7A8B00"),
    *("#A6CEE3", "#33A02C", "#B15928", "#FDBF6F"),
)
_KINDS = dict(zip((*map(str, Kind), SECURE, ALIGNMENT), _COLOURS, strict=True))
_PHASES = {phase: colour for phase, (_, colour) in PHASES.items()} | {"waiting": "#999999"}  # seen on a dark page too


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


def time_panel(sheet: Sheet, most: float, phases: Collection[str]) -> Spec:
    """Draw the simulated time of each method at one level, by phase, in the unit of the longest."""
    unit, seconds = time_unit(most)
    x = field("amount:Q", title=f"Sum in {unit}", axis={"tickCount": 5})
    said = [field("phase:N"), *numbers("seconds", form=".4~s")]
    return _bars(sheet, "phases", x, _phases(phases), said, {"calculate": f"datum.seconds / {seconds}", "as": "amount"})


def round_panel(sheet: Sheet, rows: int, longest: Mapping[str, float], phases: Collection[str]) -> Spec:
    """Draw one round of the chosen method, a row a clinic and a row a worker of the server.

    So many rows are the most that a method has; the longest is the end of each method's round, which decides its unit.
    """
    units = {method: time_unit(seconds) for method, seconds in longest.items()}
    names = json.dumps({method: name for method, (name, _) in units.items()}, ensure_ascii=False)
    seconds = json.dumps({method: seconds for method, (_, seconds) in units.items()}, ensure_ascii=False)
    scaled = [{"calculate": f"datum.{side} / {seconds}[method]", "as": f"{side}_shown"} for side in ("start", "end")]
    return sheet.chart(
        "rounds",
        f"method + ', in ' + {names}[method]",
        min(26 * rows, max(520, 6 * rows)),
        transform=[{"filter": "datum.method === method"}, *scaled],
        mark="bar",
        encoding={
            "x": field("start_shown:Q", title="Since the round began", axis={"tickCount": 6}),
            "x2": {"field": "end_shown"},
            "y": field("row:N", sort=None, title=None, axis={"labelLimit": 110, "grid": False, "ticks": False}),
            "color": _phases(phases),
            "tooltip": [
                *(field(f"{name}:N") for name in ("row", "phase")),
                *numbers("start", "end", form=".4~s"),
            ],
        },
    )


def _colours(name: str, colours: dict[str, str], columns: int) -> Spec:
    """Encode a colour with its legend, of fewer columns on a phone."""
    fitting = {"expr": f"containerSize()[0] < 500 ? 2 : {columns}"}
    legend = {"title": None, "orient": "top", "columns": fitting, "columnPadding": 10}
    return field(f"{name}:N", scale={"domain": list(colours), "range": list(colours.values())}, legend=legend)


def _phases(those: Collection[str]) -> Spec:
    """Encode phases by colour; those of edge servers where there are any."""
    shown = {phase: colour for phase, colour in _PHASES.items() if phase in those or phase not in EDGE_PHASES}
    return _colours("phase", shown, 5)


def traffic_panel(sheet: Sheet, kinds: Sequence[str]) -> Spec:
    """Draw the bytes of each method at one level, by kind of message: to the right up, to the left down."""
    colours = {kind: _KINDS.get(kind, GREY) for kind in kinds}
    arrow = "datum.value < 0 ? '↓ ' : datum.value ? '↑ ' : ''"
    axis = {"labelExpr": f"({arrow}) + {prefixed('abs(datum.value)', 'B', '.2')}", "tickCount": 5}
    x = field("signed:Q", title="← down | up →", axis=axis)
    said = [field("way:N"), field("kind:N"), field("bytes:Q", format=".4~s")]
    return _bars(sheet, "traffic", x, _colours("kind", colours, 4), said)


def _bars(sheet: Sheet, table: str, x: Spec, colour: Spec, said: Sequence[Spec], *made: Spec) -> Spec:
    axis = {"labelLimit": 230, "grid": False, "ticks": False}
    return sheet.chart(
        table,
        sheet.level,
        22 * len(sheet.given),
        transform=[{"filter": sheet.at_level}, *made],
        mark={"type": "bar", "cursor": "pointer"},
        encoding={
            "x": x,
            "y": field("series:N", sort=sheet.names, title=None, axis=axis),
            "color": colour,
            "opacity": sheet.shown(1.0, 0.2),
            "tooltip": [field("series:N"), field("level:N"), *said],
        },
    )
