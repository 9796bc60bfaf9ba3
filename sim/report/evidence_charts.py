"""Charts of ROC and calibration curves, of clinics that took no part, of tuning, and of the decision map."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sim.foundation.text import listed
from sim.report.look import GREY, HAS_INTERVAL, Sheet, Spec, dots, field, interval, layer, numbers, told
from sim.results.decision_map import DecisionMap

_SIDE = 300
_ROW = 46
_NAMES = {
    "uplink": "Uplink of every clinic",
    "downlink": "Downlink of every clinic",
    "latency": "Latency of every clinic",
    "compute": "Computer of every clinic",
    "workers": "Workers of the server",
}
_UNIT, _FREE = {"domain": [0, 1], "nice": False}, {"zero": False, "nice": True}


def _curve(sheet: Sheet, table: str, x: Spec, y: Spec, *, marks: bool) -> Spec:
    diagonal = {
        "data": {"values": [{"x": 0, "y": 0}, {"x": 1, "y": 1}]},
        **layer("line", {"x": field("x:Q"), "y": field("y:Q")}, color=GREY, strokeDash=[4, 3], strokeWidth=1),
    }
    tooltip = [*told("series", "level")[:2], *numbers("predicted", "observed"), field("records:Q")]
    parts = [layer("line", {"x": x, "y": y, **sheet.line(0.9, 0.08)}, strokeWidth=1.6, cursor="pointer")]
    if marks:
        parts.append(dots(40, {"x": x, "y": y, **sheet.mark(1.0, 0.06), "tooltip": tooltip}))
    layers = [diagonal, *({**part, "transform": [{"filter": sheet.at_level}]} for part in parts)]
    return sheet.chart(table, sheet.level, _SIDE, layer=layers)


def roc_panel(sheet: Sheet, place: str) -> Spec:
    """Draw the ROC curves of one level, a line a series."""
    x = field("false_positive_rate:Q", title=f"False-positive rate within the {place}", scale=_UNIT)
    y = field("sensitivity:Q", title="Sensitivity", scale=_UNIT)
    return _curve(sheet, "roc", x, y, marks=False)


def calibration_panel(sheet: Sheet) -> Spec:
    """Draw the calibration curves of one level, a line a series; on the diagonal, predictions are right on average."""
    x = field("predicted:Q", title="Predicted probability", scale=_UNIT)
    y = field("observed:Q", title="Observed share of cases", scale=_UNIT)
    return _curve(sheet, "calibration", x, y, marks=True)


def forest_panel(sheet: Sheet, clinics: Sequence[str], word: str) -> Spec:
    """Draw the score at clinics that took no part, a row a clinic, with the summaries below."""
    position = _rows(sheet, "clinic", clinics, 200)
    spread = interval("x", title=word, scale=_FREE, axis={"tickCount": 8})
    mean = {
        "x": field("mean:Q", scale=_FREE),
        "shape": {"condition": {"test": "datum.kind === 'mean'", "value": "diamond"}, "value": "circle"},
        "tooltip": [field("clinic:N"), field("series:N"), *numbers("mean", "lower", "upper")],
    }
    layers = [
        layer("rule", position | spread, strokeWidth=1.4),
        dots(60, position | mean, "datum.kind !== 'another'"),
    ]
    rows = len(clinics) * max(18, min(60, 9 * len(sheet.given) + 6))
    return sheet.chart("elsewhere", sheet.level, rows, transform=[{"filter": sheet.at_level}], layer=layers)


def groups_panel(sheet: Sheet, groups: Sequence[str], word: str, place: str) -> Spec:
    """Draw the score of each group of patients, a row a group."""
    position = _rows(sheet, "patients", groups, 220)
    axis = {"title": f"Within-{place} {word}", "scale": _FREE, "axis": {"tickCount": 8}}
    tooltip = [*told("patients", "series", "level"), field("records:Q", format=",.0f")]
    mean = {"x": field("mean:Q", **axis), "shape": sheet.series("shape"), "tooltip": tooltip}
    layers = [layer("rule", position | interval("x", **axis), HAS_INTERVAL, strokeWidth=1.3), dots(55, position | mean)]
    rows = len(groups) * max(22, min(90, 8 * len(sheet.given) + 8))
    return sheet.chart("groups", sheet.level, rows, transform=[{"filter": sheet.at_level}], layer=layers)


def _rows(sheet: Sheet, column: str, names: Sequence[str], limit: int) -> Spec:
    """Encode a row a name, from top to bottom, with the series beside each other in it."""
    axis = {"labelLimit": limit, "grid": False, "ticks": False}
    return {
        "y": field(f"{column}:N", sort=list(names), title=None, axis=axis),
        "yOffset": field("series:N", sort=sheet.names, scale={"domain": sheet.names}),
        "color": sheet.series("color"),
        "opacity": sheet.shown(0.95, 0.06),
    }


def tuning_panel(sheet: Sheet, key: str, values: Sequence[float]) -> Spec:
    """Draw the validation score against one tuned key, a line a series; the best value of each is large.

    Parameters
    ----------
    values : sequence of float
        Those that were tried; empty where they are no numbers.
    """
    wide = bool(values) and min(values) > 0 and max(values) > 4 * min(values)
    scale = {"type": "log", "nice": False, "padding": 10} if wide else {"zero": False, "padding": 10}
    ticks = {"values": list(values), "labelExpr": "'' + datum.value", "labelOverlap": "greedy"}
    x = field("value:Q", title=key, scale=scale, axis=ticks) if values else field("text:N", title=key, sort=None)
    y = field("validation_score:Q", title=None, scale=_FREE)
    marks = {
        "x": x,
        "y": y,
        "color": sheet.series("color"),
        "shape": sheet.series("shape"),
        "size": {"condition": {"test": "datum.best", "value": 110}, "value": 25},
        "opacity": sheet.shown(1.0, 0.06),
        "tooltip": [
            *told("series", "level")[:2],
            field("text:N", title=key),
            *numbers("validation_score"),
            field("chosen:Q", format=".0%"),
        ],
    }
    layers = [
        layer("line", {"x": x, "y": y, **sheet.line(0.8, 0.08)}, strokeWidth=1.6),
        layer("point", marks, filled=True, cursor="pointer"),
    ]
    kept = [{"filter": f"{sheet.at_level} && datum.key === {json.dumps(key)}"}]
    return sheet.chart("tuning", sheet.level, 220, transform=kept, layer=layers)


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
