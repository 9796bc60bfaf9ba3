"""Charts of learning curves, of each clinic's results, and of what joining brings to each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sim.report.joining import ALONE
from sim.report.look import GREY, HAS_INTERVAL, Sheet, Spec, dots, field, interval, layer, told

_SCALE = {"zero": False, "nice": True}
_FROM_ZERO = {"zero": True, "nice": True}
_AXIS = {"tickCount": {"expr": "containerSize()[0] < 500 ? 3 : 5"}}  # where labels have room, 0 is among them
_TOOLTIP = [*told("clinic", "series", "other")[:-1], field("records:Q", format=",.0f")]
_ROW, _FEW_ROWS, _NARROW_ROW = 46, 12, 30


def learning_panel(sheet: Sheet, lowest: Mapping[str, float], *, with_bands: bool) -> Spec:
    """Draw the score after each round at one level, a line a series, with bands where there are intervals.

    The axis begins at the lowest mean of each score, since intervals of untrained models are wide.
    """
    floor = f"{json.dumps(dict(lowest))}[{sheet.score}]"
    score = {"title": None, "scale": {**_SCALE, "domainMin": {"expr": floor}}, "axis": {"tickCount": 6}}
    picked = f"indexof({sheet.picked}, datum.series) >= 0"
    bands = {
        "transform": [{"filter": HAS_INTERVAL}, {"calculate": f"max(datum.lower, {floor})", "as": "shown"}],
        "mark": {"type": "area", "opacity": 1},
        "encoding": {
            "y": field("shown:Q", **score),
            "y2": {"field": "upper"},
            "fill": sheet.series("fill"),
            "detail": field("series:N"),
            "fillOpacity": {"value": 0.05, "condition": {"test": picked, "value": 0.22}},
        },
    }
    line = {"y": field("mean:Q", **score), **sheet.line(0.9, 0.08)}
    tooltip = [*told("series", "level")[:2], field("round:Q"), *told()]
    marks = {"y": field("mean:Q"), **sheet.mark(1.0, 0.06), "tooltip": tooltip}
    axis = {"tickMinStep": 1, "tickCount": 10, "grid": False}
    return sheet.chart(
        "learning",
        f"{sheet.score} + ', ' + {sheet.level}",
        340,
        transform=[{"filter": sheet.at_score}],
        encoding={"x": field("round:Q", title="Round", axis=axis, scale={"nice": False})},
        layer=[
            *([bands] if with_bands else []),
            layer("line", line, strokeWidth=2, cursor="pointer"),
            dots(45, marks, "datum.round % 5 == 0"),
        ],
    )


def clinics_panel(sheet: Sheet, clinics: Sequence[str], word: str) -> Spec:
    """Draw each clinic's score at one level, the series side by side; the clinics from top to bottom."""
    score = f"(test(/clinic/i, {sheet.score}) || test(/^Pooled/, {sheet.score}) ? '{word}' : {sheet.score})"
    spread = interval("x", title="Score on the clinic's held-out records", scale=_SCALE)
    shape, tooltip = sheet.series("shape"), told("clinic", "series", "level")
    marks = dots(55, {"x": field("mean:Q", scale=_SCALE), "shape": shape, "tooltip": tooltip})
    band = max(28, min(110, 9 * len(sheet.given) + 14)) if len(clinics) <= 8 else 44
    return sheet.chart(
        "clinics",
        f"{score} + ', ' + {sheet.level}",
        band * len(clinics),
        transform=[{"filter": f"datum.score === {score} && datum.level === {sheet.level}"}],
        encoding={
            "y": field(
                "clinic:N",
                sort=list(clinics),
                title=None,
                axis={"labelLimit": 110, "grid": False, "ticks": False},
                scale={"paddingInner": 0.2},
            ),
            "yOffset": field("series:N", sort=sheet.names, scale={"domain": sheet.names}),
            "color": sheet.series("color"),
            "opacity": sheet.shown(0.9, 0.06),
        },
        layer=[layer("rule", spread, HAS_INTERVAL, strokeWidth=1.3), marks],
    )


def _shown(sheet: Sheet, against: str) -> Spec:
    """Keep one level and comparison, and of the methods those that are picked, or else the best few."""
    picked = f"length({sheet.picked}) ? indexof({sheet.picked}, datum.series) >= 0 : datum.best"
    return {"filter": f"datum.level === {sheet.level} && datum.against === {json.dumps(against)} && ({picked})"}


def _zero(channel: str) -> Spec:
    return layer("rule", {channel: {"datum": 0}}, color=GREY, strokeDash=[4, 3])


def joining_panel(sheet: Sheet, rows: int, *, grouped: bool, against: str, word: str) -> Spec:
    """Draw what joining brings, a row a clinic, or a row a group of clinics until one is searched for."""
    axis = {"title": f"{word} less that of {against}", "scale": _FROM_ZERO, "axis": _AXIS}
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
        "y": field("mean:Q", title=None, scale=_FROM_ZERO),
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
