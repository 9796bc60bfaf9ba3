"""What each clinic holds: its records and classes as a frame, a table on the terminal and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from rich.text import Text

from sim.foundation.lazy import Lazy
from sim.report.look import Spec, field, picture_spec, rows

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Lazy("pandas")

_MOST_CLINICS = 40
"""More clinics are described by their distribution."""

_MOST_CLASSES = 7
"""More classes are shown as the most frequent ones, and the others together where a figure can."""

_NAMED = 3
_PARTS = ["training", "validation", "held-out"]
_QUANTILES = {"maximum": 1.0, "upper quartile": 0.75, "median": 0.5, "lower quartile": 0.25, "minimum": 0.0}

_MOST_SIGNS = 40
"""The widest that names of clinics are shown in the table, so that they leave room for its numbers."""

# Okabe and Ito's palette without its yellow, which is too pale on white; the pale blue first, as it fills large areas.
_COLOURS = ["#56B4E9", "#D55E00", "#009E73", "#E69F00", "#0072B2", "#CC79A7", "#000000"]
_OTHERS = "#BDBDBD"
_PANEL_WIDTH, _PANEL_HEIGHT = 300, 310


@dataclass(frozen=True)
class Holdings:
    """How many records each clinic holds."""

    # names, classes: of the clinics and of the classes
    names: Sequence[str]
    classes: Sequence[str]
    counts: NDArray[np.int64]  # ``[part, clinic, class]`` records; the parts are training, validation and held-out


def holdings_frame(held: Holdings) -> pd.DataFrame:
    """Count what each clinic holds.

    One row a clinic, in the given order: `clinic`, the number of `training`, `validation` and `held-out` records, and
    for each class its share of all of these (`share of <class>`).
    """
    counts = held.counts
    frame = pd.DataFrame({"clinic": held.names})
    for part, sizes in zip(_PARTS, counts.sum(axis=2), strict=True):
        frame[part] = sizes
    of_class = counts.sum(axis=0)
    shares = pd.DataFrame(
        of_class / of_class.sum(axis=1, keepdims=True), columns=[f"share of {name}" for name in held.classes]
    )
    return pd.concat([frame, shares], axis=1)


def holdings_table(held: Holdings, *, parties: bool = False, regions: bool = False) -> Table:
    """Build the table of what each clinic holds, or of the patients whose columns parties hold.

    One row a clinic and one for all; beyond 40 clinics quantiles of each column and the clinics with most and fewest
    records. Of many classes, the most frequent. ``regions`` says whether it is regions that patients are of.
    """
    classes = _frequent(held) if len(held.classes) > 1 else []
    of_class = held.counts.sum(axis=0)
    shares = of_class[:, classes] / of_class.sum(axis=1, keepdims=True)
    numbers = np.column_stack([held.counts.sum(axis=2).T, shares])
    caption = f"Shares are of all {'patients' if parties else 'records of a clinic'}." if classes else ""
    if classes and len(classes) < len(held.classes):
        caption += f" The {len(classes)} most frequent of {len(held.classes)} classes."
    if len(numbers) > _MOST_CLINICS:
        caption += f" Quantiles over {len(numbers):,} clinics, of each column by itself."
    table = Table(caption=Text(caption, style="dim"), box=box.SIMPLE_HEAD, show_edge=False)
    whose = "region" if regions else "label at" if parties else "clinic"
    for position, heading in enumerate([whose, *_PARTS, *(f"share of\n{held.classes[label]}" for label in classes)]):
        width = None if position else _MOST_SIGNS
        justify: Literal["left", "right"] = "right" if position else "left"
        table.add_column(Text(heading), justify=justify, no_wrap=position <= len(_PARTS), max_width=width)
    named = list(zip(held.names, numbers, strict=True))
    sections = [named]
    if len(numbers) > _MOST_CLINICS:
        by_size = [named[k] for k in np.argsort(-numbers[:, : len(_PARTS)].sum(axis=1), kind="stable")]
        quantiles = np.nanpercentile(numbers, [100 * share for share in _QUANTILES.values()], axis=0)
        sections = [list(zip(_QUANTILES, quantiles, strict=True)), by_size[:_NAMED], by_size[-_NAMED:]]
    totals = held.counts.sum(axis=1)
    whole = np.array([*totals.sum(axis=1), *(totals.sum(axis=0)[classes] / totals.sum())])
    sections.append([("all", whole)])
    for section in sections:
        for position, (name, values) in enumerate(section):
            cells = [f"{value:,.0f}" for value in values[:3]] + [f"{value:.1%}" for value in values[3:]]
            table.add_row(Text(str(name)), *cells, end_section=position == len(section) - 1)
    return table


def holdings_picture(held: Holdings) -> Spec:
    """Draw what each clinic holds.

    Up to 40 clinics have a bar each, of the records of each class; more are drawn as histograms of their numbers of
    records and of their class shares.
    """
    chart = _histograms(held) if len(held.names) > _MOST_CLINICS else _bars(held)
    caption = _caption(held)
    return picture_spec({**chart, "description": caption}, caption)


def _frequent(held: Holdings) -> list[int]:
    """Return the classes to show, in their own order."""
    totals = held.counts.sum(axis=(0, 1))
    return sorted(np.argsort(-totals, kind="stable")[:_MOST_CLASSES].tolist())


def _bars(held: Holdings) -> Spec:
    """Draw a bar a clinic, largest first, of its records by class."""
    counts = held.counts.sum(axis=0)
    shown = _frequent(held)
    names = [held.classes[label] for label in shown]
    columns = [counts[:, label] for label in shown]
    colours = _COLOURS[: len(names)]
    if len(shown) < len(held.classes):
        names.append(f"{len(held.classes) - len(shown)} other classes")
        columns.append(counts.sum(axis=1) - sum(columns))
        colours.append(_OTHERS)
    data = pd.concat(
        pd.DataFrame({"clinic": held.names, "class": name, "records": column, "order": order})
        for order, (name, column) in enumerate(zip(names, columns, strict=True))
    )
    sizes = counts.sum(axis=1)
    by_size = [held.names[k] for k in np.argsort(-sizes, kind="stable")]
    return {
        "data": {"values": rows(data)},
        "width": 2 * _PANEL_WIDTH,
        "height": {"step": 20},
        "mark": "bar",
        "encoding": {
            "y": field("clinic:N", sort=by_size, title=None, axis={"labelLimit": 260, "grid": False}),
            "x": field(
                "records:Q",
                title="Records (training, validation and held-out)",
                axis={"format": ",d", "tickCount": 7, "tickMinStep": 1},
                scale={"domain": [0, int(sizes.max())], "nice": False},
            ),
            "color": field(
                "class:N",
                title="Class",
                scale={"domain": names, "range": colours},
                legend={"orient": "top", "titleOrient": "left", "columnPadding": 18},
            ),
            "order": field("order:Q"),
        },
    }


def _histograms(held: Holdings) -> Spec:
    """Draw how many clinics have how many records, and which class shares."""
    counts = held.counts.sum(axis=0)
    sizes = counts.sum(axis=1)
    shares = counts / sizes[:, None]
    low, high = int(sizes.min()), int(sizes.max())
    logarithmic = high > 20 * low
    width = -(-(high - low + 1) // 20)
    edges = np.geomspace(low, high + 1, 21).round() if logarithmic else np.arange(low, high + width + 1, width) - 0.5
    edges = np.unique(edges.astype(np.float64))
    few = high - low < 6  # Vega would put ticks between whole numbers
    ticks = {"format": ",d", **({"values": [*range(low, high + 1)]} if few else {"tickCount": 6})}
    scale = {"type": "log" if logarithmic else "linear", "domain": edges[[0, -1]].tolist(), "nice": False}
    x = field("low:Q", title="Records of a clinic", scale=scale, axis=ticks)
    left = _histogram(sizes, edges, x, field("clinics:Q", title="Clinics", axis={"tickMinStep": 1}), _PANEL_HEIGHT)
    binary = len(held.classes) == 2
    shown = [1] if binary else _frequent(held)
    height = (_PANEL_HEIGHT - 26 * (len(shown) - 1)) / len(shown)
    panels = []
    for label in shown:
        name, last = held.classes[label], label == shown[-1]
        x = field(
            "low:Q",
            title=(f'Share of "{name}" in a clinic' if binary else "Share of each class in a clinic") if last else None,
            scale={"domain": [0, 1]},
            axis={"format": ".0%", "labels": last, "ticks": last},
        )
        beside = {"tickCount": 2, "titleAngle": 0, "titleAlign": "right", "titleX": -44, "titleY": height / 2 + 4}
        axis = {"tickMinStep": 1, **({"tickCount": 8} if binary else beside)}
        y = field("clinics:Q", title="Clinics" if binary else name, axis=axis)
        panels.append(_histogram(shares[:, label], np.linspace(0, 1, 26), x, y, height))
    return {"hconcat": [left, {"vconcat": panels, "spacing": 12}], "spacing": 24}


def _histogram(
    values: NDArray[np.int64] | NDArray[np.float64], edges: NDArray[np.float64], x: Spec, y: Spec, height: float
) -> Spec:
    clinics, _ = np.histogram(values, edges)
    data = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "clinics": clinics})
    return {
        "data": {"values": rows(data[data["clinics"] > 0])},
        "width": _PANEL_WIDTH,
        "height": height,
        "mark": {"type": "bar", "color": _COLOURS[0], "stroke": "white", "strokeWidth": 0.5},
        "encoding": {"x": x, "x2": {"field": "high"}, "y": y, "y2": {"datum": 0}},
    }


def _caption(held: Holdings) -> str:
    """Say how many clinics and records are drawn."""
    totals = held.counts.sum(axis=(1, 2))
    parts = ", ".join(f"{total:,} {part}" for total, part in zip(totals, _PARTS, strict=True) if total)
    return f"{len(held.names):,} clinics with {totals.sum():,} records: {parts}."
