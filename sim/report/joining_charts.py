"""Charts of what joining brings to each clinic."""

from __future__ import annotations

import json

from sim.report.joining import ALONE
from sim.report.look import GREY, HAS_INTERVAL, Sheet, Spec, dots, field, interval, layer, told

_SCALE = {"zero": True, "nice": True}
_AXIS = {"tickCount": {"expr": "containerSize()[0] < 500 ? 3 : 5"}}  # where labels have room, 0 is among them
_TOOLTIP = [*told("clinic", "series", "other")[:-1], field("records:Q", format=",.0f")]
_ROW, _FEW_ROWS, _NARROW_ROW = 46, 12, 30


def _shown(sheet: Sheet, against: str) -> Spec:
    """Keep one level and comparison, and of the methods those that are picked, or else the best few."""
    picked = f"length({sheet.picked}) ? indexof({sheet.picked}, datum.series) >= 0 : datum.best"
    return {"filter": f"datum.level === {sheet.level} && datum.against === {json.dumps(against)} && ({picked})"}


def _zero(channel: str) -> Spec:
    return layer("rule", {channel: {"datum": 0}}, color=GREY, strokeDash=[4, 3])


def joining_panel(sheet: Sheet, rows: int, *, grouped: bool, against: str, word: str) -> Spec:
    """Draw what joining brings, a row a clinic, or a row a group of clinics until one is searched for."""
    axis = {"title": f"{word} less that of {against}", "scale": _SCALE, "axis": _AXIS}
    found = f"indexof(lower(datum.clinic), lower({sheet.search})) >= 0"
    kind = [{"filter": f"{sheet.search} === '' ? datum.group : !datum.group && {found}"}] if grouped else []
    position = {
        "y": field(
            "clinic:N",
            sort={"field": "records", "op": "max", "order": "descending"},
            title=None,
            axis={"labelLimit": 210, "grid": False, "ticks": False},
        ),
        "yOffset": field("series:N", sort=sheet.names),
        "color": sheet.series("color"),
    }
    bars = layer("rule", position | interval("x", **axis), HAS_INTERVAL, strokeWidth=1.3)
    mean = {"x": field("mean:Q", **axis), "shape": sheet.series("shape"), "tooltip": _TOOLTIP}
    return sheet.chart(
        "joining",
        sheet.level,
        (_ROW if rows <= _FEW_ROWS else _NARROW_ROW) * rows,
        transform=[_shown(sheet, against), *kind],
        layer=[_zero("x"), bars, dots(60, position | mean, opacity=1)],
    )


def size_panel(sheet: Sheet, word: str) -> Spec:
    """Draw what joining brings against the number of training records of the clinic."""
    marks = {
        "x": field(
            "records:Q",
            title="Training records of the clinic",
            scale={"type": "log", "nice": False, "padding": 12},
            axis={"tickCount": 6, "format": "~s"},
        ),
        "y": field("mean:Q", title=None, scale=_SCALE),
        "color": sheet.series("color"),
        "shape": sheet.series("shape"),
        "tooltip": _TOOLTIP,
    }
    return sheet.chart(
        "joining",
        f"'{word} less that of {ALONE}, ' + {sheet.level}",
        240,
        transform=[_shown(sheet, ALONE), {"filter": "!datum.group"}],
        layer=[_zero("y"), dots(45, marks, opacity=0.75)],
    )
