"""The picture of average ranks over data sets: two methods whose bars do not overlap can be told apart.

A bar is Nemenyi's critical difference wide (Demšar, JMLR 2006), half of it to each side of the average rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmarks.across import average_ranks
from sim.report.look import colours_of, field

_WIDTH, _ROW = 330, 24


def rank_picture(table: pd.DataFrame) -> dict[str, Any]:
    """Return the Vega-Lite specification of the ranks in a table, see :func:`benchmarks.across.scores`, by level."""
    levels = list(dict.fromkeys(table["level"]))
    whole_names = sorted(set(table["method"]))
    colours = colours_of(name.partition(",")[0] for name in whole_names)
    look = {name: colours[name.partition(",")[0]] for name in whole_names}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "background": "white",
        "config": {"view": {"stroke": None}, "font": "sans-serif"},
        "columns": 2,
        "spacing": 24,
        "concat": [_panel(str(level), *average_ranks(table[table["level"] == level]), look) for level in levels],
    }


def _panel(level: str, ranks: pd.Series[float], gap: float, look: Mapping[str, str]) -> dict[str, Any]:
    rows = [
        {"method": name, "rank": rank, "from": rank - gap / 2, "to": rank + gap / 2} for name, rank in ranks.items()
    ]
    colour = field("method:N", scale={"domain": list(look), "range": list(look.values())}, legend=None)
    axis = {"title": "Average rank, 1 the best", "values": list(range(1, len(ranks) + 1)), "format": "d"}
    scale = {"domain": [1 - gap / 2, len(ranks) + gap / 2], "nice": False}
    names = {"labelLimit": 200, "ticks": False, "domain": False}
    return {
        "title": {"text": level, "anchor": "start", "fontSize": 13},
        "width": _WIDTH,
        "height": _ROW * len(ranks),
        "data": {"values": rows},
        "encoding": {"y": field("method:N", sort=list(ranks.index), title=None, axis=names), "color": colour},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.6},
                "encoding": {"x": field("from:Q", axis=axis, scale=scale), "x2": {"field": "to"}},
            },
            {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 1}, "encoding": {"x": field("rank:Q")}},
        ],
    }
