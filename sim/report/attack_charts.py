"""Charts of attacks: success against score, and measured against claimed epsilon."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sim.report.look import GREY, Sheet, Spec, dots, field, layer, numbers

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
            **layer("rule", at, color=GREY, strokeDash=[6, 3] if name == "guessing" else [2, 3]),
        }
        for at in [{"x": field("at:Q"), "tooltip": [field("name:N"), *numbers("at")]}]
        for name, value in lines.items()
    ]
    own = f"datum.attack === {json.dumps(attack)}"
    line = layer("line", {"x": x, "y": y, "order": field("order:Q"), **sheet.line(0.5, 0.05)}, own, strokeWidth=1.2)
    spread = {"x": {**x, "field": "lower"}, "x2": {"field": "upper"}, "y": y}
    faded = {"color": sheet.series("color"), "strokeOpacity": sheet.shown(0.5, 0.04)}
    bars = layer("rule", spread | faded, own, "isValid(datum.lower) && isValid(datum.upper)", strokeWidth=1.1)
    marks = _marks(sheet, own, x, y, numbers("mean", "lower", "upper", "score"))
    return sheet.chart(table, json.dumps(attack), _HEIGHT, layer=[*marked, line, *([bars] if intervals else []), marks])


def audit_panel(sheet: Sheet, adversary: str, largest: float) -> Spec:
    """Draw the audited epsilon of one adversary against the claimed one, up to the largest claim.

    On the line the claim is used up.
    """
    scale = {"type": "symlog", "constant": 1, "zero": True, "nice": True}
    x = field("claimed:Q", title=f"Claimed ε of the {adversary.lower()}", scale=scale, axis={"tickCount": 5})
    y = field("measured:Q", title="Audited ε, at least", scale=scale, axis={"tickCount": 5})
    line = {
        "data": {"values": [{"claimed": claim, "measured": claim} for claim in (0.0, largest)]},
        **layer("line", {"x": x, "y": y}, color=GREY, strokeDash=[4, 3]),
    }
    own = f"datum.adversary === {json.dumps(adversary)}"
    marks = _marks(sheet, own, x, y, numbers("claimed", "measured", form=".3g"))
    return sheet.chart("audit", json.dumps(adversary), _HEIGHT, layer=[line, marks])


def _marks(sheet: Sheet, own: str, x: Spec, y: Spec, said: Sequence[Spec]) -> Spec:
    """Draw a mark a row, which says its series, its level and some numbers."""
    tooltip = [field("series:N"), field("level:N"), *said]
    return dots(60, {"x": x, "y": y, **sheet.mark(), "tooltip": tooltip}, own)
