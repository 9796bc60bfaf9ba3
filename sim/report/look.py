"""How a method looks in every chart, and the two sheets charts are drawn on: the page and paper.

Charts are Vega-Lite specifications in plain dictionaries.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from zlib import crc32

from sim.methods.labels import method_label

if TYPE_CHECKING:
    import pandas as pd

Spec: TypeAlias = dict[str, Any]

INK: Final = "#000000"
# Okabe and Ito's palette without its yellow, which is too pale on white, and with their grey.
_COLOURS: Final = {
    "centralised": INK, "local": "#999999", "fedavg": "#0072B2", "fedprox": "#56B4E9", "split": "#E69F00",
    "splitfed-v1": "#D55E00", "splitfed-v2": "#CC79A7", "splitfed-v3": "#009E73", "release-once": "#8C6D31",
    "prevalence": "#BDBDBD", "fedavg-finetuned": "#4B5D67", "fedavg-own-head": "#17A2B8",
}  # fmt: skip
_OTHERS: Final = ("#6A3D9A", "#A6761D", "#B2334C", "#7A8B00", "#F781BF", "#2E8B57")
# For methods that cut nowhere or are vanilla, and for those that are U-shaped; then for more of their settings.
_SHAPES: Final = (
    ("circle", "triangle-up", "triangle-down", "triangle-right"), ("square", "diamond", "cross", "triangle-left"),
)  # fmt: skip
_DASHES: Final = (((1, 0), (8, 3, 2, 3)), ((5, 3), (2, 2)))
GREY: Final = "#595959"
_SCHEMA: Final = "https://vega.github.io/schema/vega-lite/v6.json"
_KINDS: Final = {"Q": "quantitative", "N": "nominal"}
_INK: Final = "currentColor"


def prefixed(value: str, unit: str, digits: str = "") -> str:
    """Return the Vega expression that writes an amount with a prefix to its unit: 20 ms."""
    return f"replace(format({value}, '{digits}~s'), regexp('([^0-9]?)$'), ' $1') + '{unit}'"


UNITS: Final = {
    "seconds": f"datum.value < 1 ? {prefixed('datum.value', 's')} : datum.value < 120 ? datum.value + ' s' : "
    "datum.value < 7200 ? format(datum.value / 60, '.3~r') + ' min' : "
    "datum.value < 172800 ? format(datum.value / 3600, '.3~r') + ' h' : format(datum.value / 86400, '.3~r') + ' d'",
    "bytes": prefixed("datum.value", "B"),
}
"""Vega expressions that write a tick in the unit people would use."""


def field(shorthand: str, **settings: Any) -> Spec:
    """Encode a field by its name and the letter of its type: ``"auc:Q"`` or ``"series:N"``."""
    name, _, kind = shorthand.partition(":")
    return {"field": name, "type": _KINDS[kind], **settings}


def numbers(*names: str, form: str = ".3f") -> list[Spec]:
    """Encode numbers that a tooltip tells, in d3's notation of their form."""
    return [field(f"{name}:Q", format=form) for name in names]


def told(*names: str) -> list[Spec]:
    """Return a tooltip of what is nominal, then of a mean and its interval."""
    return [*(field(f"{name}:N") for name in names), *numbers("mean", "lower", "upper"), field("n:Q")]


def interval(channel: str, **settings: Any) -> Spec:
    """Encode an interval along an axis."""
    return {channel: field("lower:Q", **settings), f"{channel}2": {"field": "upper"}}


def layer(mark: str, encoding: Spec, *tests: str, **settings: Any) -> Spec:
    """Return a layer of a chart: a kind of mark, what it encodes, and the tests that its rows pass."""
    kept = {"transform": [{"filter": test} for test in tests]} if tests else {}
    return {**kept, "mark": {"type": mark, **settings}, "encoding": encoding}


def dots(size: int, encoding: Spec, *tests: str, **settings: Any) -> Spec:
    """Return a layer of filled marks that can be picked."""
    return layer("point", encoding, *tests, filled=True, size=size, **settings, cursor="pointer")


HAS_INTERVAL: Final = "isValid(datum.lower)"
"""The test of a row that has an interval."""


@dataclass(frozen=True)
class Look:
    """Colour, shape and dash of one series."""

    series: str
    colour: str
    shape: str
    dash: tuple[int, ...]


def looks(ok: pd.DataFrame) -> list[Look]:
    """Give each series a look: the colour says the strategy, the same in every report; shape and dash tell the rest.

    In reading order. No two are alike with up to four settings a cut, and up to eight methods that are not installed.
    """
    names = ok["strategy"].map(method_label)
    colours = colours_of(names)
    used: dict[tuple[str, bool], int] = {}  # by colour
    given = []
    drawn = ok.assign(name=names).drop_duplicates("series")
    for series, name, cut in drawn[["series", "name", "cut"]].itertuples(index=False):
        u_shaped = cut == "u-shaped"
        variant = used.get((colours[name], u_shaped), 0)
        used[colours[name], u_shaped] = variant + 1
        shapes, dashes = _SHAPES[u_shaped], _DASHES[u_shaped]
        given.append(Look(series, colours[name], shapes[variant % len(shapes)], dashes[variant % len(dashes)]))
    return given


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """Return the colour of each method by its label without a cut: an installed one's own, or one that its name gives.

    Of two whose names lead to one colour, the later in alphabetical order gets the next that is free.
    """
    own = {method_label(name): colour for name, colour in _COLOURS.items()}
    given: dict[str, str] = {}
    for name in sorted(set(names)):
        start = crc32(name.encode()) % len(_OTHERS)
        candidates = (*_OTHERS[start:], *_OTHERS[:start])
        free = [colour for colour in candidates if colour not in given.values()]
        given[name] = own.get(name) or (free or candidates)[0]
    return given


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What a chart is drawn on, and what it shows."""

    given: Sequence[Look]
    # score, level, adversary, picked, search: Vega expressions: parameters on the page, constants on paper
    score: str = "score"
    level: str = "level"
    adversary: str = "adversary"
    picked: str = "picked"
    search: str = "search"
    width: int | Literal["container"] = "container"
    ink: str = _INK  # Colour of text and lines, and of the method that is black on paper
    legend: bool = False  # Whether the chart says itself which colour is which method

    @property
    def names(self) -> list[str]:
        """The series in reading order."""
        return [look.series for look in self.given]

    def series(self, channel: Literal["color", "fill", "shape", "strokeDash"]) -> Spec:
        """Encode the series as colour, fill, shape or dash."""
        values: list[Any]
        if channel == "shape":
            values = [look.shape for look in self.given]
        elif channel == "strokeDash":
            values = [list(look.dash) for look in self.given]
        else:
            values = [self.ink if look.colour == INK else look.colour for look in self.given]
        legend = {
            "title": None, "orient": "top", "columns": 4, "labelLimit": 300, "symbolOpacity": 1, "symbolDash": [1, 0],
        }  # fmt: skip
        shown = self.legend and channel != "strokeDash"
        scale = {"domain": self.names, "range": values}
        return field("series:N", scale=scale, legend=legend if shown else None)

    def shown(self, strong: float = 1.0, faint: float = 0.1) -> Spec:
        """Fade the series that are not picked, once any are; of lines their stroke, which is drawn far quicker."""
        picked = f"!length({self.picked}) || indexof({self.picked}, datum.series) >= 0"
        return {"value": faint, "condition": {"test": picked, "value": strong}}

    def line(self, strong: float, faint: float) -> Spec:
        """Encode the series as the colour and dash of its line, as of :meth:`shown`."""
        return {
            "color": self.series("color"),
            "strokeDash": self.series("strokeDash"),
            "strokeOpacity": self.shown(strong, faint),
        }

    def mark(self, strong: float = 1.0, faint: float = 0.1) -> Spec:
        """Encode the series as the colour and shape of its marks, as of :meth:`shown`."""
        return {"color": self.series("color"), "shape": self.series("shape"), "opacity": self.shown(strong, faint)}

    @property
    def at_level(self) -> str:
        """The test of a row at the level."""
        return f"datum.level === {self.level}"

    @property
    def at_score(self) -> str:
        """The test of a row of the score at the level."""
        return f"datum.score === {self.score} && {self.at_level}"

    def chart(self, data: str, title: str, height: float, **parts: Any) -> Spec:
        """Return a chart of named data as wide as the sheet, its title a Vega expression."""
        return {
            "data": {"name": data}, "width": self.width, "height": height, "title": {"text": {"expr": title}}, **parts,
        }  # fmt: skip


def paper(given: Sequence[Look], score: str, level: str, adversary: str, width: int) -> Sheet:
    """Return a sheet of paper that shows one score, level and adversary."""
    score, level, adversary = map(json.dumps, (score, level, adversary))
    return Sheet(
        given=given,
        score=score,
        level=level,
        adversary=adversary,
        picked="[]",
        search="''",
        width=width,
        ink=INK,
        legend=True,
    )


def page_spec(chart: Spec, state: Mapping[str, Any]) -> Spec:
    """Return a whole specification of a chart for the page, with its parameters as they are at first, without data."""
    return {
        "$schema": _SCHEMA,
        "params": [{"name": name, "value": value} for name, value in state.items()],
        "background": "transparent",
        "padding": 2,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": _PAGE,
        **chart,
    }


_PAGE: Final[Spec] = {
    "font": "system-ui, sans-serif",
    "axis": {
        "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelColor": _INK, "titleColor": _INK,
        "domainColor": _INK, "tickColor": _INK, "domainOpacity": 0.4, "tickOpacity": 0.4, "gridColor": _INK,
        "gridOpacity": 0.12,
    },
    "title": {
        "anchor": "start", "frame": "group", "fontSize": 13, "color": _INK, "fontWeight": "bold", "offset": 8,
    },
    "legend": {"labelFontSize": 12, "titleColor": _INK, "labelColor": _INK, "symbolStrokeWidth": 0},
    "view": {"stroke": None},
}  # fmt: skip

_PAPER: Final[Spec] = {
    "font": "Liberation Sans, Arial, Helvetica, sans-serif",
    "axis": {
        "labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal", "titlePadding": 8,
        "gridColor": "#e6e6e6",
    },
    "title": {"anchor": "start", "frame": "group", "fontSize": 13, "subtitleFontSize": 12, "subtitleColor": GREY},
    "legend": {
        "labelFontSize": 13, "titleFontSize": 13, "titleFontWeight": "normal", "symbolSize": 90, "labelLimit": 400,
        "columnPadding": 18,
    },
    "view": {"stroke": None},
}  # fmt: skip


def picture_spec(chart: Spec, caption: str = "") -> Spec:
    """Return a whole specification in the style of all picture files, with a caption below it if one is given."""
    title = {
        "text": textwrap.wrap(caption, 110), "orient": "bottom", "anchor": "start", "fontSize": 12,
        "fontWeight": "normal", "color": GREY, "offset": 14,
    }  # fmt: skip
    return {
        "$schema": _SCHEMA,
        "background": "white",
        "padding": 12,
        "config": _PAPER,
        **({"title": title} if caption else {}),
        **chart,
    }


def rows(table: pd.DataFrame) -> list[Spec]:
    """Return a table as rows for JSON; what is missing is null."""
    found: list[Spec] = json.loads(table.to_json(orient="records", force_ascii=False, double_precision=15))
    return found
