"""Charts of attacks: success against score, and measured against claimed epsilon."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sim.report.look import GREY, Sheet, Spec, field

_HEIGHT = 240


def success_panel(
    sheet: Sheet, table: str, attack: str, measure: str, lines: Mapping[str, float], *, score: str, intervals: bool
) -> Spec:
    """Draw the score against an attack's success, a mark a series and level, joined along the levels.

    Parameters
    ----------
    table : str
        The data.
    attack, measure : str
        In words.
    score : str
        In words.
    lines : mapping of str to float
        Values of the measure to mark: what guessing gives, and the most without privacy.
    intervals : bool
        Whether any mark has one.
    """
    x = field("mean:Q", title=measure, scale={"zero": False, "nice": True}, axis={"tickCount": 5})
    y = field("score:Q", title=score, scale={"zero": False, "nice": True}, axis={"tickCount": 6})
    marked = [
        {
            "data": {"values": [{"at": value, "name": name}]},
            "mark": {"type": "rule", "color": GREY, "strokeDash": [6, 3] if name == "guessing" else [2, 3]},
            "encoding": {"x": field("at:Q"), "tooltip": [field("name:N"), field("at:Q", format=".3f")]},
        }
        for name, value in lines.items()
    ]
    kept = [{"filter": f"datum.attack === {json.dumps(attack)}"}]
    line = {
        "transform": kept,
        "mark": {"type": "line", "strokeWidth": 1.2},
        "encoding": {
            "x": x,
            "y": y,
            "order": field("order:Q"),
            "color": sheet.series("color"),
            "strokeDash": sheet.series("strokeDash"),
            "strokeOpacity": sheet.shown(0.5, 0.05),
        },
    }
    bars = {
        "transform": [*kept, {"filter": "isValid(datum.lower) && isValid(datum.upper)"}],
        "mark": {"type": "rule", "strokeWidth": 1.1},
        "encoding": {
            "x": {**x, "field": "lower"},
            "x2": {"field": "upper"},
            "y": y,
            "color": sheet.series("color"),
            "strokeOpacity": sheet.shown(0.5, 0.04),
        },
    }
    dots = _dots(sheet, kept, x, y, [field(f"{name}:Q", format=".3f") for name in ("mean", "lower", "upper", "score")])
    return sheet.chart(table, json.dumps(attack), _HEIGHT, layer=[*marked, line, *([bars] if intervals else []), dots])


def audit_panel(sheet: Sheet, adversary: str, largest: float) -> Spec:
    """Draw the audited epsilon of one adversary against the claimed one, up to the largest claim.

    On the line the claim is used up.
    """
    kept = [{"filter": f"datum.adversary === {json.dumps(adversary)}"}]
    scale = {"type": "symlog", "constant": 1, "zero": True, "nice": True}
    x = field("claimed:Q", title=f"Claimed ε of the {adversary.lower()}", scale=scale, axis={"tickCount": 5})
    y = field("measured:Q", title="Audited ε, at least", scale=scale, axis={"tickCount": 5})
    line = {
        "data": {"values": [{"claimed": claim, "measured": claim} for claim in (0.0, largest)]},
        "mark": {"type": "line", "color": GREY, "strokeDash": [4, 3]},
        "encoding": {"x": x, "y": y},
    }
    told = [field(f"{name}:Q", format=".3g") for name in ("claimed", "measured")]
    return sheet.chart("audit", json.dumps(adversary), _HEIGHT, layer=[line, _dots(sheet, kept, x, y, told)])


def _dots(sheet: Sheet, kept: Sequence[Spec], x: Spec, y: Spec, told: Sequence[Spec]) -> Spec:
    """Draw a mark a row, which says its series, its level and some numbers."""
    return {
        "transform": kept,
        "mark": {"type": "point", "filled": True, "size": 60, "cursor": "pointer"},
        "encoding": {
            "x": x,
            "y": y,
            "color": sheet.series("color"),
            "shape": sheet.series("shape"),
            "opacity": sheet.shown(),
            "tooltip": [field("series:N"), field("level:N"), *told],
        },
    }
