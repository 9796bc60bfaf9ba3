"""Charts of ROC and calibration curves, of clinics that took no part, and of tuning."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sim.report.look import GREY, Sheet, Spec, field, told

_SIDE = 300
_UNIT = {"domain": [0, 1], "nice": False}


def _diagonal() -> Spec:
    return {
        "data": {"values": [{"x": 0, "y": 0}, {"x": 1, "y": 1}]},
        "mark": {"type": "line", "color": GREY, "strokeDash": [4, 3], "strokeWidth": 1},
        "encoding": {"x": field("x:Q"), "y": field("y:Q")},
    }


def _curve(sheet: Sheet, table: str, x: Spec, y: Spec, *, marks: bool) -> Spec:
    lines = {
        "mark": {"type": "line", "strokeWidth": 1.6, "cursor": "pointer"},
        "encoding": {
            "x": x,
            "y": y,
            "color": sheet.series("color"),
            "strokeDash": sheet.series("strokeDash"),
            "strokeOpacity": sheet.shown(0.9, 0.08),
        },
    }
    dots = {
        "mark": {"type": "point", "filled": True, "size": 40, "cursor": "pointer"},
        "encoding": {
            "x": x,
            "y": y,
            "color": sheet.series("color"),
            "shape": sheet.series("shape"),
            "opacity": sheet.shown(1.0, 0.06),
            "tooltip": [*told("series", "level")[:2], field("predicted:Q", format=".3f"),
                        field("observed:Q", format=".3f"), field("records:Q")],
        },
    }  # fmt: skip
    kept = [{"filter": f"datum.level === {sheet.level}"}]
    layer = [{**part, "transform": kept} for part in (lines, *([dots] if marks else []))]
    return sheet.chart(table, sheet.level, _SIDE, layer=[_diagonal(), *layer])


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
    scale = {"zero": False, "nice": True}
    position = {
        "y": field("clinic:N", sort=list(clinics), title=None, axis={"labelLimit": 200, "grid": False, "ticks": False}),
        "yOffset": field("series:N", sort=sheet.names, scale={"domain": sheet.names}),
        "color": sheet.series("color"),
        "opacity": sheet.shown(0.95, 0.06),
    }
    bars = {
        "mark": {"type": "rule", "strokeWidth": 1.4},
        "encoding": {
            **position,
            "x": field("lower:Q", title=word, scale=scale, axis={"tickCount": 8}),
            "x2": {"field": "upper"},
        },
    }
    dots = {
        "transform": [{"filter": "datum.kind !== 'another'"}],
        "mark": {"type": "point", "filled": True, "size": 60, "cursor": "pointer"},
        "encoding": {
            **position,
            "x": field("mean:Q", scale=scale),
            "shape": {"condition": {"test": "datum.kind === 'mean'", "value": "diamond"}, "value": "circle"},
            "tooltip": [field("clinic:N"), field("series:N"), *(
                field(f"{name}:Q", format=".3f") for name in ("mean", "lower", "upper")
            )],
        },
    }  # fmt: skip
    rows = len(clinics) * max(18, min(60, 9 * len(sheet.given) + 6))
    kept = [{"filter": f"datum.level === {sheet.level}"}]
    return sheet.chart("elsewhere", sheet.level, rows, transform=kept, layer=[bars, dots])


def groups_panel(sheet: Sheet, groups: Sequence[str], word: str, place: str) -> Spec:
    """Draw the score of each group of patients, a row a group."""
    scale = {"zero": False, "nice": True}
    position = {
        "y": field(
            "patients:N", sort=list(groups), title=None, axis={"labelLimit": 220, "grid": False, "ticks": False}
        ),
        "yOffset": field("series:N", sort=sheet.names, scale={"domain": sheet.names}),
        "color": sheet.series("color"),
        "opacity": sheet.shown(0.95, 0.06),
    }
    x = field("mean:Q", title=f"Within-{place} {word}", scale=scale, axis={"tickCount": 8})
    bars = {
        "transform": [{"filter": "isValid(datum.lower)"}],
        "mark": {"type": "rule", "strokeWidth": 1.3},
        "encoding": {**position, "x": {**x, "field": "lower"}, "x2": {"field": "upper"}},
    }
    dots = {
        "mark": {"type": "point", "filled": True, "size": 55, "cursor": "pointer"},
        "encoding": {
            **position,
            "x": x,
            "shape": sheet.series("shape"),
            "tooltip": [*told("patients", "series", "level"), field("records:Q", format=",.0f")],
        },
    }
    kept = [{"filter": f"datum.level === {sheet.level}"}]
    rows = len(groups) * max(22, min(90, 8 * len(sheet.given) + 8))
    return sheet.chart("groups", sheet.level, rows, transform=kept, layer=[bars, dots])


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
    y = field("validation_score:Q", title=None, scale={"zero": False, "nice": True})
    lines = {
        "mark": {"type": "line", "strokeWidth": 1.6},
        "encoding": {
            "x": x,
            "y": y,
            "color": sheet.series("color"),
            "strokeDash": sheet.series("strokeDash"),
            "strokeOpacity": sheet.shown(0.8, 0.08),
        },
    }
    dots = {
        "mark": {"type": "point", "filled": True, "cursor": "pointer"},
        "encoding": {
            "x": x,
            "y": y,
            "color": sheet.series("color"),
            "shape": sheet.series("shape"),
            "size": {"condition": {"test": "datum.best", "value": 110}, "value": 25},
            "opacity": sheet.shown(1.0, 0.06),
            "tooltip": [*told("series", "level")[:2], field("text:N", title=key),
                        field("validation_score:Q", format=".3f"), field("chosen:Q", format=".0%")],
        },
    }  # fmt: skip
    return sheet.chart(
        "tuning",
        sheet.level,
        220,
        transform=[{"filter": f"datum.level === {sheet.level} && datum.key === {json.dumps(key)}"}],
        layer=[lines, dots],
    )
