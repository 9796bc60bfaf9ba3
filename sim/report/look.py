"""How a method looks in every chart, and the two sheets charts are drawn on: the page and paper."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import altair as alt
import pandas as pd

# Okabe and Ito's palette without its yellow, which is too pale on white, and with their grey.
PALETTE: Final = ("#000000", "#999999", "#E69F00", "#CC79A7", "#D55E00", "#0072B2", "#009E73", "#56B4E9")
SHAPES: Final = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "triangle-down",
    "cross",
    "triangle-right",
    "triangle-left",
)
_DASHES: Final = ((1, 0), (5, 3), (2, 2), (8, 3, 2, 3))
_FONT: Final = "Liberation Sans, Arial, Helvetica, sans-serif"
Chart = alt.Chart | alt.LayerChart | alt.FacetChart
GREY: Final = "#595959"


INTERVAL: Final = [*(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("mean", "lower", "upper")), alt.Tooltip("n:Q")]
"""What a tooltip tells of a mean."""

UNITS: Final = {
    "seconds": "datum.value < 1 ? format(datum.value, '~s') + 's' : datum.value < 120 ? datum.value + ' s' : "
    "datum.value < 7200 ? format(datum.value / 60, '.3~r') + ' min' : "
    "datum.value < 172800 ? format(datum.value / 3600, '.3~r') + ' h' : format(datum.value / 86400, '.3~r') + ' d'",
    "bytes": "format(datum.value, '~s') + 'B'",
}
"""Vega expressions that write a tick in the unit people would use."""


@dataclass(frozen=True)
class Look:
    """Colour, shape and dash of one series."""

    series: str
    colour: str
    shape: str
    dash: tuple[int, ...]


def looks(ok: pd.DataFrame) -> list[Look]:
    """Give each series a look: the colour says the strategy; shape and dash tell its cuts and settings apart.

    Parameters
    ----------
    ok : DataFrame
        As of :func:`sim.report.summary.successful_runs`.

    Returns
    -------
    list of Look
        In reading order. No two alike up to 64 series.
    """
    colours: dict[str, int] = {}
    used: dict[int, int] = {}
    given = []
    for series, strategy in ok.drop_duplicates("series")[["series", "strategy"]].itertuples(index=False):
        colour = colours.setdefault(strategy, len(colours)) % len(PALETTE)
        variant = used.get(colour, 0)
        used[colour] = variant + 1
        shape, dash = SHAPES[variant % len(SHAPES)], _DASHES[variant % len(_DASHES)]
        given.append(Look(series, PALETTE[colour], shape, dash))
    return given


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What a chart is drawn on, and what it shows.

    Attributes
    ----------
    score, level, adversary, picked : str
        Vega expressions: parameters on the page, constants on paper.
    width : int or "container"
    ink : str
        Colour of text and lines, and of the method that is black on paper.
    legend : bool
        Whether the chart says itself which colour is which method.
    """

    score: str
    level: str
    adversary: str
    picked: str
    width: int | Literal["container"]
    ink: str
    legend: bool

    def series(self, given: Sequence[Look], channel: str) -> Any:
        """Encode the series as colour, fill, shape or dash."""
        legend = (
            alt.Legend(title=None, orient="top", columns=4, labelLimit=300, symbolOpacity=1, symbolDash=[1, 0])
            if self.legend
            else None
        )
        values: dict[str, list[Any]] = {
            "color": [self.ink if look.colour == PALETTE[0] else look.colour for look in given],
            "shape": [look.shape for look in given],
            "strokeDash": [list(look.dash) for look in given],
        }
        scale = alt.Scale(
            domain=[look.series for look in given], range=values["color" if channel == "fill" else channel]
        )
        kinds = {"color": alt.Color, "fill": alt.Fill, "shape": alt.Shape, "strokeDash": alt.StrokeDash}
        return kinds[channel]("series:N", scale=scale, legend=legend if channel in ("color", "shape") else None)

    def shown(self, strong: float = 1.0, faint: float = 0.1) -> Any:
        """Fade the series that are not picked, once any are."""
        picked = f"!length({self.picked}) || indexof({self.picked}, datum.series) >= 0"
        return alt.OpacityValue(faint, condition={"test": picked, "value": strong})


PAGE: Final = Sheet(
    score="score",
    level="level",
    adversary="adversary",
    picked="picked",
    width="container",
    ink="currentColor",
    legend=False,
)


def paper(score: str, level: str, adversary: str, width: int) -> Sheet:
    """Return a sheet of paper that shows one score, level and adversary."""
    return Sheet(
        score=json.dumps(score),
        level=json.dumps(level),
        adversary=json.dumps(adversary),
        picked="[]",
        width=width,
        ink="#000000",
        legend=True,
    )


def page_spec(chart: Chart, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chart's Vega-Lite specification for the page, without its data.

    Parameters
    ----------
    chart : altair chart
        Drawn on :data:`PAGE`.
    state : mapping of str to object
        The page's parameters and what they are at first.
    """
    shown = chart.add_params(*(alt.param(name=name, value=value) for name, value in state.items()))
    shown = shown.properties(
        background="transparent",
        padding=2,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        config=_page_config(),
    )
    spec: dict[str, Any] = shown.to_dict(validate=False)
    spec.pop("datasets", None)
    return spec


def _page_config() -> alt.Config:
    ink = "currentColor"
    return alt.Config(
        font="system-ui, sans-serif",
        axis=alt.AxisConfig(
            labelFontSize=12, titleFontSize=12, titleFontWeight="normal", labelColor=ink, titleColor=ink,
            domainColor=ink, tickColor=ink, domainOpacity=0.4, tickOpacity=0.4, gridColor=ink, gridOpacity=0.12,
        ),
        title=alt.TitleConfig(anchor="start", frame="group", fontSize=13, color=ink, fontWeight="bold", offset=8),
        legend=alt.LegendConfig(labelFontSize=12, titleColor=ink, labelColor=ink, symbolStrokeWidth=0),
        view=alt.ViewConfig(stroke=None),
    )  # fmt: skip


def paper_spec(
    panels: Sequence[Chart], columns: int, caption: str, tables: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    """Return the Vega-Lite specification of charts side by side for a picture file, with their data.

    Parameters
    ----------
    panels : sequence of altair chart
        Drawn on :func:`paper`.
    columns : int
        How many stand in a row.
    caption : str
        Stands below the charts.
    tables : mapping of str to DataFrame
        The data that the charts name.
    """
    whole = styled(alt.concat(columns=columns, spacing=24).properties(title=below(caption)))
    spec: dict[str, Any] = whole.to_dict(validate=False)
    # Altair's own concat copies every chart several times over.
    spec["concat"] = [_part(panel) for panel in panels]
    spec["datasets"] = {name: plain_rows(table) for name, table in tables.items()}
    return spec


def below(caption: str) -> alt.TitleParams:
    """Return a caption that stands below a picture."""
    lines = textwrap.wrap(caption, 110)
    return alt.TitleParams(
        lines, orient="bottom", anchor="start", fontSize=12, fontWeight="normal", color=GREY, offset=14
    )


def styled(chart: Any) -> Any:
    """Return a chart of any kind in the style of all picture files."""
    return (
        chart.properties(background="white", padding=12)
        .configure(font=_FONT)
        .configure_axis(
            labelFontSize=12, titleFontSize=13, titleFontWeight="normal", titlePadding=8, gridColor="#e6e6e6"
        )
        .configure_title(anchor="start", frame="group", fontSize=13, subtitleFontSize=12, subtitleColor=GREY)
        .configure_legend(
            labelFontSize=13,
            titleFontSize=13,
            titleFontWeight="normal",
            symbolSize=90,
            labelLimit=400,
            columnPadding=18,
        )
        .configure_view(stroke=None)
    )


def _part(panel: Chart) -> dict[str, Any]:
    """Return a chart's specification as a part of another."""
    spec: dict[str, Any] = panel.to_dict(validate=False)
    return {key: value for key, value in spec.items() if key not in ("$schema", "config")}


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table as rows for JSON; what is missing is null."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", force_ascii=False))
    return rows
