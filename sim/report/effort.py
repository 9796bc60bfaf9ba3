"""What each method asks of the clinics: work, memory and energy, and what of the one with the weakest computer."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from sim.methods.labels import label_of
from sim.plan.first_round import FirstRound
from sim.plan.plan import Plan
from sim.report.look import Spec, field, rows

_MEASURES = {"GFLOP a clinic, whole run": 1e9, "Peak memory in MB": 1e6, "Joules a clinic, whole run": 1.0}
_RANGE, _WEAKEST = "#56B4E9", "#D55E00"


def effort_frame(rounds: Sequence[FirstRound], plans: Sequence[Plan]) -> pd.DataFrame:
    """Lay out the effort of the clinics.

    One row for each method and measure: `method`, `measure`, `least`, `most` over the clinics, `weakest` of the clinic
    with the slowest computer (of several, the one with most records) and its `clinic`. Measures that the scenario does
    not give (energy without power) are left out.

    Parameters
    ----------
    rounds : sequence of FirstRound
        One a method.
    plans : sequence of Plan
        Of the same study; of each method the first is taken.
    """
    first: dict[str, Plan] = {}
    for plan in plans:
        first.setdefault(label_of(plan.spec), plan)
    rows = []
    for one in rounds:
        clinics = first[one.method].clinics
        weakest = min(range(len(clinics)), key=lambda k: (one.resources[k].compute_flop_per_s, -clinics[k].records))
        values: tuple[list[float | None], ...] = (
            [clinic.flops for clinic in clinics],
            [clinic.peak_bytes for clinic in clinics],
            [clinic.joules for clinic in clinics],
        )
        for (measure, unit), own in zip(_MEASURES.items(), values, strict=True):
            known = [value / unit for value in own if value is not None]
            if len(known) == len(clinics):
                rows.append((one.method, measure, min(known), max(known), known[weakest], clinics[weakest].name))
    frame = pd.DataFrame(rows, columns=["method", "measure", "least", "most", "weakest", "clinic"])
    if any(one.load.joined for one in rounds):
        frame["measure"] = frame["measure"].str.replace("clinic", "party")
    return frame


def effort_chart(frame: pd.DataFrame) -> Spec:
    """Draw the effort of the clinics, a row a method and a panel a measure; `frame` as `effort_frame` returns it."""
    panels: list[Spec] = []
    for measure, own in frame.groupby("measure", sort=False):
        first = not panels
        y = field(
            "method:N", sort=list(frame["method"].unique()), title=None, axis={"labels": first, "labelLimit": 220}
        )
        axis = {"format": "~g", "tickCount": 4, "labelOverlap": "greedy", "labelSeparation": 8}
        scale = {"type": "log", "nice": False, "padding": 10}
        ranges = {
            "mark": {"type": "bar", "color": _RANGE, "height": 10, "cornerRadius": 4},
            "encoding": {"x": field("least:Q", title=measure, scale=scale, axis=axis), "x2": {"field": "most"}, "y": y},
        }
        points = {
            "mark": {"type": "point", "color": _WEAKEST, "filled": True, "size": 90, "opacity": 1},
            "encoding": {
                "x": field("weakest:Q"),
                "y": y,
                "tooltip": [field("method:N"), field("clinic:N"), field("weakest:Q", format=".4g")],
            },
        }
        panels.append({"data": {"values": rows(own)}, "width": 230, "height": {"step": 24}, "layer": [ranges, points]})
    sites = "parties" if frame["measure"].str.contains("party").any() else "clinics"
    words = [
        f"Bars: range over {sites}. Point: {frame['clinic'].iloc[0]}, with the most records of those with the slowest "
        "computers.",
        f"Energy: the {sites}' power while they compute, send and receive, without the server's.",
    ]
    title = {"text": f"{'Party' if sites == 'parties' else 'Clinic'} workload by method", "subtitle": words}
    return {"hconcat": panels, "spacing": 20, "title": title, "description": " ".join(words)}
