"""Charts of ROC and calibration curves, of clinics that took no part, and of tuning."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sim.report.look import GREY, HAS_INTERVAL, Sheet, Spec, dots, field, interval, layer, numbers, told

_SIDE = 300
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
    position, spread = (
        _rows(sheet, "clinic", clinics, 200),
        interval("x", title=word, scale=_FREE, axis={"tickCount": 8}),
    )
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
