"""Charts of time by phase and traffic by kind."""

from __future__ import annotations

from collections.abc import Sequence

from sim.methods.messages import Kind
from sim.report.gantt import PHASES
from sim.report.look import GREY, UNITS, Sheet, Spec, field

_KINDS = dict(
    zip(
        map(str, Kind),
        ["#0072B2", "#8C6D31", "#56B4E9", "#999999", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#6A3D9A", "#7A8B00"],
        strict=True,
    )
)
_PHASES = {phase: colour for phase, (_, colour) in PHASES.items()} | {"waiting": "#999999"}  # seen on a dark page too


def time_panel(sheet: Sheet) -> Spec:
    """Draw the simulated seconds of each method at one level, by phase."""
    axis = {"labelExpr": UNITS["seconds"], "tickCount": 5}
    x = field("seconds:Q", title="Sum of seconds", axis=axis)
    return _bars(sheet, "phases", x, _phases(), [field("phase:N"), field("seconds:Q", format=".4~s")])


def round_panel(sheet: Sheet, rows: int) -> Spec:
    """Draw one round of the chosen method, a row a clinic and a row a worker of the server.

    Parameters
    ----------
    sheet : Sheet
        The page.
    rows : int
        The most that a method has.
    """
    return sheet.chart(
        "rounds",
        "method",
        min(26 * rows, max(520, 6 * rows)),
        transform=[{"filter": "datum.method === method"}],
        mark="bar",
        encoding={
            "x": field("start:Q", title="Since the round began", axis={"labelExpr": UNITS["seconds"], "tickCount": 6}),
            "x2": {"field": "end"},
            "y": field("row:N", sort=None, title=None, axis={"labelLimit": 110, "grid": False, "ticks": False}),
            "color": _phases(),
            "tooltip": [
                *(field(f"{name}:N") for name in ("row", "phase")),
                *(field(f"{name}:Q", format=".4~s") for name in ("start", "end")),
            ],
        },
    )


def _colours(name: str, colours: dict[str, str], columns: int) -> Spec:
    """Encode a colour with its legend, of fewer columns on a phone."""
    fitting = {"expr": f"containerSize()[0] < 500 ? 2 : {columns}"}
    legend = {"title": None, "orient": "top", "columns": fitting, "columnPadding": 10}
    return field(f"{name}:N", scale={"domain": list(colours), "range": list(colours.values())}, legend=legend)


def _phases() -> Spec:
    return _colours("phase", _PHASES, 5)


def traffic_panel(sheet: Sheet, kinds: Sequence[str]) -> Spec:
    """Draw the bytes of each method at one level, by kind of message: to the right up, to the left down."""
    colours = {kind: _KINDS.get(kind, GREY) for kind in kinds}
    axis = {
        "labelExpr": "(datum.value < 0 ? '↓ ' : datum.value ? '↑ ' : '') + format(abs(datum.value), '.2~s') + 'B'",
        "tickCount": 5,
    }
    x = field("signed:Q", title="← down | up →", axis=axis)
    said = [field("way:N"), field("kind:N"), field("bytes:Q", format=".4~s")]
    return _bars(sheet, "traffic", x, _colours("kind", colours, 4), said)


def _bars(sheet: Sheet, table: str, x: Spec, colour: Spec, said: Sequence[Spec]) -> Spec:
    axis = {"labelLimit": 150, "grid": False, "ticks": False}
    return sheet.chart(
        table,
        sheet.level,
        22 * len(sheet.given),
        transform=[{"filter": f"datum.level === {sheet.level}"}],
        mark={"type": "bar", "cursor": "pointer"},
        encoding={
            "x": x,
            "y": field("series:N", sort=sheet.names, title=None, axis=axis),
            "color": colour,
            "opacity": sheet.shown(1.0, 0.2),
            "tooltip": [field("series:N"), field("level:N"), *said],
        },
    )
