"""Charts of learning curves and of each clinic's results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sim.report.look import HAS_INTERVAL, Sheet, Spec, dots, field, interval, layer, told

_SCALE = {"zero": False, "nice": True}


def learning_panel(sheet: Sheet, lowest: Mapping[str, float], *, with_bands: bool) -> Spec:
    """Draw the score after each round at one level, a line a series, with bands where there are several seeds.

    Parameters
    ----------
    lowest : mapping of str to float
        By score, the lowest mean: the axis begins there, since intervals of untrained models are wide.
    with_bands : bool
        Whether there are intervals.
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
