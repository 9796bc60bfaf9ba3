"""Pictures of the clock: one round of each method, its time against the clinics' uplink, and the clinics' effort."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.foundation.text import seconds_text
from sim.methods.labels import label_of
from sim.plan.drawn_round import round_frame, round_words
from sim.plan.first_round import UPLINKS, Crossing, FirstRound, crossings, first_rounds, uplink_seconds
from sim.plan.plan import Plan
from sim.report.cost_charts import round_chart
from sim.report.look import Spec, colours_of, field, layer, numbers, picture_spec, rows

_WHOLE_OR_VANILLA, _U_SHAPED = "whole or vanilla", "U-shaped"
_DASHES: dict[str, Sequence[float]] = {_WHOLE_OR_VANILLA: [1, 0], _U_SHAPED: [6, 4]}
_SHOWN = 8
_MEASURES = {"GFLOP a clinic, whole run": 1e9, "Peak memory in MB": 1e6, "Joules a clinic, whole run": 1.0}
_RANGE, _WEAKEST = "#56B4E9", "#D55E00"


def crossing_sentences(found: Sequence[Crossing]) -> list[str]:
    """Say from which uplink on which method is the faster one."""
    return [
        f"{crossing.above} is faster than {crossing.below} above {crossing.uplink / 1e6:.3g} Mbit/s "
        f"({seconds_text(crossing.seconds)} a round)."
        for crossing in found
    ]


def uplink_chart(rounds: Sequence[FirstRound], seconds: NDArray[np.float64], found: Sequence[Crossing]) -> Spec:
    """Draw the time of a round against the uplink that all clinics have, and where methods change places.

    Parameters
    ----------
    seconds : ndarray
        ``[method, uplink]``, as ``uplink_seconds`` returns them.
    """
    names = [one.method for one in rounds]
    points = pd.DataFrame(
        [
            (one.method, *_name_and_cut(one.method), uplink / 1e6, value)
            for one, own in zip(rounds, seconds, strict=True)
            for uplink, value in zip(UPLINKS, own, strict=True)
        ],
        columns=["method", "strategy", "cut", "uplink", "seconds"],
    )
    cuts = [cut for cut in _DASHES if (points["cut"] == cut).any()]
    x = field(
        "uplink:Q",
        title="Uplink of every clinic in Mbit/s (downlink, latency and computers as in the scenario)",
        scale={"type": "log", "domain": [0.1, 1000], "nice": False},
        axis={"values": [0.1, 1, 10, 100, 1000], "format": "~g"},
    )
    y = field("seconds:Q", title="Simulated seconds a round", scale={"type": "log", "nice": False, "padding": 8})
    own = colours_of(points["strategy"])
    names_drawn = list(points["strategy"].unique())
    colours = {"domain": names_drawn, "range": [own[name] for name in names_drawn]}
    dashes = {"domain": cuts, "range": [_DASHES[cut] for cut in cuts]}
    legend = {"orient": "top-right", "symbolSize": 500} if len(cuts) > 1 else None
    line = {
        "x": x,
        "y": y,
        "detail": field("method:N"),
        "color": field("strategy:N", title=None, scale=colours, legend={"orient": "top", "columns": 7}),
        "strokeDash": field("cut:N", title=None, scale=dashes, legend=legend),
    }
    lines = {"data": {"values": rows(points)}, **layer("line", line, strokeWidth=2)}
    circle = {"size": 70, "color": "black", "fill": "white", "opacity": 1, "strokeWidth": 1.3}
    crossed = [{"uplink": one.uplink / 1e6, "seconds": one.seconds} for one in found]
    marks = {"data": {"values": crossed}, **layer("point", {"x": x, "y": y}, **circle)}
    words = crossing_sentences(found) or ["No two of FL, SL and SplitFed change places between 0.1 and 1,000 Mbit/s."]
    left = len(words) - _SHOWN
    shown = words if left <= 0 else [*words[:_SHOWN], f"and {left} more crossings."]
    title = "Time of a round against the uplink; circles: FL, SL and SplitFed change places"
    return {
        "title": {"text": title, "subtitle": shown},
        "description": f"Seconds a round of {', '.join(names)} against the uplink. {' '.join(words)}",
        "width": 640,
        "height": 380,
        "layer": [lines, marks],
    }


def _name_and_cut(method: str) -> tuple[str, str]:
    strategy, comma, cut = method.rpartition(", ")
    return (strategy if comma else method), (_U_SHAPED if cut == "U-shaped" and comma else _WHOLE_OR_VANILLA)


def clock_pictures(plans: Sequence[Plan]) -> dict[str, Spec]:
    """Return the clock's pictures of one study's plans, by file stem.

    These are ``round_<method>`` of each method, ``round_time_by_uplink`` and ``clinic_effort``; none where no method
    sends anything.
    """
    rounds = first_rounds(plans)
    charts: dict[str, Spec] = {}
    for one in rounds:
        words = round_words(one.load, one.time, one.names, one.deadline, one.over_select)
        whoever = "party" if one.load.joined else "clinic"
        title = f"{one.method}: the first round, if every {whoever} is available"
        stem = f"round_{re.sub('[^a-z0-9]+', '_', one.method.lower())}"
        charts[stem] = round_chart(round_frame(one.load, one.time, one.names), title, words)
    if rounds:
        seconds = uplink_seconds(rounds)
        charts["round_time_by_uplink"] = uplink_chart(rounds, seconds, crossings(rounds, seconds))
        charts["clinic_effort"] = effort_chart(effort_frame(rounds, plans))
    return {stem: picture_spec(chart) for stem, chart in charts.items()}


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
        span = {"x": field("least:Q", title=measure, scale=scale, axis=axis), "x2": {"field": "most"}, "y": y}
        ranges = layer("bar", span, color=_RANGE, height=10, cornerRadius=4)
        tooltip = [field("method:N"), field("clinic:N"), *numbers("weakest", form=".4g")]
        weakest = {"x": field("weakest:Q"), "y": y, "tooltip": tooltip}
        points = layer("point", weakest, color=_WEAKEST, filled=True, size=90, opacity=1)
        panels.append({"data": {"values": rows(own)}, "width": 230, "height": {"step": 24}, "layer": [ranges, points]})
    sites = "parties" if frame["measure"].str.contains("party").any() else "clinics"
    words = [
        f"Bars: range over {sites}. Point: {frame['clinic'].iloc[0]}, with the most records of those with the slowest "
        "computers.",
        f"Energy: the {sites}' power while they compute, send and receive, without the server's.",
    ]
    title = {"text": f"{'Party' if sites == 'parties' else 'Clinic'} workload by method", "subtitle": words}
    return {"hconcat": panels, "spacing": 20, "title": title, "description": " ".join(words)}
