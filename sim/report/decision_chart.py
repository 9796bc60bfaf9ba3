"""The decision map as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sim.foundation.text import listed
from sim.report.look import GREY, Sheet, Spec, field, layer, numbers
from sim.results.decision_map import DecisionMap

_ROW = 46
_NAMES = {
    "uplink": "Uplink of every clinic",
    "downlink": "Downlink of every clinic",
    "latency": "Latency of every clinic",
    "compute": "Computer of every clinic",
    "workers": "Workers of the server",
}


def x_title(key: str) -> str:
    """Title the axis of a key that is re-timed."""
    table, _, name = key.partition(".")
    of_all = _NAMES.get(name) if table == "clinics" else _NAMES.get(name) if key == "server.workers" else None
    return of_all or key


def map_panel(sheet: Sheet, shown: DecisionMap) -> Spec:
    """Draw a stripe a method at every point; faint where it is not settled, dots where alone is not worse."""
    columns, rows = shown.columns, shown.rows
    x = field("x:Q", title=x_title(shown.x), axis=_axis(columns), scale={"domain": [0, len(columns)], "nice": False})
    y = field("y:Q", title=None, axis=_axis(rows), scale={"domain": [0, len(rows)], "nice": False})
    cell = {"x": x, "x2": {"field": "x2"}, "y": y, "y2": {"field": "y2"}}
    said = [field(f"{name}:N") for name in ("row", "column", "shared", "note")]
    own = {
        **cell,
        "color": sheet.series("color"),
        "opacity": {"condition": {"test": "datum.settled", "value": 1}, "value": 0.45},
        "tooltip": [*said, *numbers("seconds", form=".4~s"), *numbers("auc")],
    }
    stripes = layer("rect", own, "datum.series !== ''", cursor="pointer")
    blank = layer("rect", {**cell, "tooltip": said}, "datum.series === ''", fill=GREY, fillOpacity=0.1)
    inside = [
        {"filter": "datum.first"},
        {"calculate": "datum.x + 0.5", "as": "cx"},
        {"calculate": "floor(datum.y) + 0.5", "as": "cy"},
    ]
    dots = {
        "transform": [*inside, {"filter": "datum.alone"}],
        "mark": {"type": "point", "size": 30, "filled": True, "color": "white", "stroke": "black", "opacity": 1},
        "encoding": {"x": field("cx:Q"), "y": field("cy:Q")},
    }
    layers = [
        *([stripes] if any(point.method for point in shown.points) else []),
        blank,
        *([dots] if _sometimes_alone(shown) else []),
    ]
    return sheet.chart("map", "''", _ROW * len(rows), layer=layers)


def _sometimes_alone(shown: DecisionMap) -> bool:
    return len({point.alone for point in shown.points if point.method}) > 1


def _axis(values: Sequence[str]) -> Spec:
    """Name each cell in its middle; of many, as many as there is room for."""
    return {
        "values": [place + 0.5 for place in range(len(values))],
        "labelExpr": f"{json.dumps(list(values), ensure_ascii=False)}[floor(datum.value)]",
        "labelOverlap": "greedy",
        "labelSeparation": 4,
        "grid": False,
        "ticks": False,
    }


def map_note(shown: DecisionMap) -> str:
    """Say how to read a map."""
    said = [
        "At each point, the quickest of the methods whose mean score is within the margin of the best; stripes: others "
        "that are nearly as quick (within 10 %).",
        "Faint: another is quicker and has a lower mean, but is not told apart."
        if any(not point.settled for point in shown.points)
        else "",
        f"Blank: no method {'meets the conditions' if shown.within else 'has a score'}."
        if any(not point.method for point in shown.points)
        else "",
        f"Conditions: {listed(shown.within)}." if shown.within else "",
        "Times are those of the first seed.",
    ]
    if _sometimes_alone(shown):
        said.append("Dots: training alone is not shown to be worse.")
    elif any(point.alone for point in shown.points):
        said.append("Nowhere on the map is training alone shown to be worse.")
    return " ".join(filter(None, said))
