"""Figures of a study, drawn with Vega-Altair and rendered without a browser or a network."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from sim.report.look import looks
from sim.report.summary import adjacencies, adjacency_of, is_centralised, successful_runs, summarise
from sim.results.columns import NOISE_KEYS

METRICS = {"auc": "AUC on held-out records", "accuracy": "Accuracy on held-out records"}
"""Column drawn in a panel, and the title of its axis."""

NO_DP = "∞ (no DP)"

_DASHES: dict[str, Sequence[float]] = {"no DP": [6, 4], "majority class": [1.5, 3]}
_PANEL_WIDTH, _WIDE_PANEL, _PANEL_HEIGHT = 262, 640, 310
_FEW = 7  # methods whose intervals still stand apart in a narrow panel
_SCALE = 2  # device pixels to a unit: the picture is about 1600 pixels wide
_GREY = "#595959"


def epsilon_column(runs: pd.DataFrame) -> str:
    """Name the column the privacy axis shows: the target epsilon where it was swept, else the model user's.

    Targets are for the adjacency of each run's mechanism: where these differ, one axis cannot show them.
    """
    apart = len(adjacencies(runs[runs["status"] == "ok"])) > 1
    return "privacy.epsilon" if "privacy.epsilon" in runs and not apart else "epsilon_model_user"


def curve_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Compute the points of the privacy-accuracy curves.

    Parameters
    ----------
    runs : pandas.DataFrame
        One row a run, with the columns of `runs.parquet`.

    Returns
    -------
    pandas.DataFrame
        One row for each metric, series and epsilon: `metric`, `series`, `strategy`, `target` (epsilon as the axis
        shows it), `n`, `mean`, `half_width`, `lower` and `upper` (NaN for one seed). Points without a value are left
        out. Series come in reading order.
    """
    ok = successful_runs(runs)
    column, noise = epsilon_column(ok), [key for key in NOISE_KEYS if key in ok]
    spent = ok.groupby(["series", *noise], dropna=False)[column].transform("max") if noise else ok[column]
    ok["target"] = [NO_DP if math.isinf(value) else f"{value:.3g}" for value in spent]
    parts = [summarise(ok, ["series", "strategy", "target"], metric).assign(metric=metric) for metric in METRICS]
    table = pd.concat(parts, ignore_index=True).dropna(subset="mean")
    return table.assign(lower=table["mean"] - table["half_width"], upper=table["mean"] + table["half_width"])


def target_order(curves: pd.DataFrame) -> list[str]:
    """List the epsilons of a `curve_table` from the most private to infinity."""
    return sorted(curves["target"].unique(), key=lambda target: math.inf if target == NO_DP else float(target))


def reference_table(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Compute the levels every method is compared with.

    Parameters
    ----------
    runs : pandas.DataFrame
        One row a run, with the columns of `runs.parquet`.
    curves : pandas.DataFrame
        The same study's `curve_table`.

    Returns
    -------
    pandas.DataFrame
        `metric`, `kind` ("no DP" or "majority class"), `label` and `mean`. Centralised training has a level only where
        the study ran it without DP in a single setting.
    """
    central = curves[curves["strategy"].map(is_centralised) & (curves["target"] == NO_DP)]
    levels = central[["metric", "mean"]].assign(kind="no DP", label="centralised,\nno DP")
    if levels["metric"].duplicated().any():
        levels = levels.iloc[:0]
    share = runs.loc[runs["status"] == "ok", "majority_accuracy"].mean()
    majority = pd.DataFrame({"metric": ["auc", "accuracy"], "mean": [0.5, share]})
    majority = majority.assign(kind="majority class", label="majority\nclass").dropna()
    return pd.concat([levels, majority], ignore_index=True)


def describe_curves(curves: pd.DataFrame) -> str:
    """Describe the figure in words, for those who do not see it."""
    auc = curves[curves["metric"] == "auc"]
    ranges = auc.groupby("series", sort=False)["mean"].agg(["min", "max"])
    spans = [f"{series} from {row['min']:.3f} to {row['max']:.3f}" for series, row in ranges.iterrows()]
    return (
        f"Two line charts: AUC and accuracy against epsilon {', '.join(target_order(curves))}. "
        f"Lowest and highest mean AUC of each method: {'; '.join(spans)}."
    )


def privacy_accuracy_chart(runs: pd.DataFrame) -> alt.HConcatChart | alt.VConcatChart:
    """Draw AUC and accuracy against epsilon, a line a method, with intervals and reference levels.

    Parameters
    ----------
    runs : pandas.DataFrame
        One row a run, with the columns of `runs.parquet`; at least one that succeeded and has a score.

    Returns
    -------
    altair.HConcatChart or altair.VConcatChart
        Two panels that share one legend: side by side, or wide ones above each other where there are many methods.
    """
    curves = curve_table(runs)
    levels = reference_table(runs, curves)
    many = curves["series"].nunique() > _FEW
    width = _WIDE_PANEL if many else _PANEL_WIDTH
    panels = [_panel(runs, curves, levels, metric, width) for metric in METRICS]
    chart: alt.HConcatChart | alt.VConcatChart = (
        (alt.vconcat if many else alt.hconcat)(*panels, spacing=18)
        .resolve_scale(color="shared", shape="shared")
        .properties(title=_caption(runs, curves), description=describe_curves(curves), background="white", padding=12)
        .configure(font="Liberation Sans, Arial, Helvetica, sans-serif")
        .configure_title(orient="bottom", anchor="start", fontSize=12, fontWeight="normal", color=_GREY, offset=14)
        .configure_axis(
            labelFontSize=12, titleFontSize=13, titleFontWeight="normal", titlePadding=8, gridColor="#e6e6e6"
        )
        .configure_legend(labelFontSize=13, symbolSize=90, labelLimit=400, columnPadding=18)
        .configure_view(stroke=None)
    )
    return chart


def picture(spec: dict[str, Any], path: Path) -> list[Path]:
    """Write a Vega-Lite specification as a PNG and an SVG file.

    Parameters
    ----------
    spec : dict
        With its data.
    path : pathlib.Path
        Without the ending.

    Returns
    -------
    list of pathlib.Path
        The PNG and the SVG file.
    """
    svg = vl_convert.vegalite_to_svg(spec)
    paths = [path.with_suffix(".png"), path.with_suffix(".svg")]
    paths[0].write_bytes(vl_convert.svg_to_png(svg, scale=_SCALE))
    paths[1].write_text(svg, encoding="utf-8")
    return paths


def _panel(
    runs: pd.DataFrame, curves: pd.DataFrame, levels: pd.DataFrame, metric: str, width: int
) -> alt.LayerChart | alt.FacetChart:
    """Draw one metric against epsilon."""
    shown, rules = curves[curves["metric"] == metric], levels[levels["metric"] == metric]
    y = alt.Y(
        "mean:Q",
        title=METRICS[metric],
        scale=alt.Scale(domain=_domain(shown, rules), nice=False),
        axis=alt.Axis(format=".2f", tickCount=8),
    )
    x = alt.X(
        "target:N",
        sort=target_order(curves),
        title=_epsilon_title(runs),
        scale=alt.Scale(paddingInner=0.3, paddingOuter=0.2),
        axis=alt.Axis(labelAngle=0, grid=False),
    )
    given = looks(successful_runs(runs))
    methods = [look.series for look in given]
    # One legend for colour and shape: Vega-Lite merges them only where both scales state the same domain.
    legend = alt.Legend(orient="top", columns=_legend_columns(methods), title=None, offset=12, symbolOpacity=1)
    colour = alt.Color(
        "series:N", scale=alt.Scale(domain=methods, range=[look.colour for look in given]), legend=legend
    )
    shape = alt.Shape("series:N", scale=alt.Scale(domain=methods, range=[look.shape for look in given]), legend=legend)
    dodge = alt.XOffset("series:N", sort=methods)

    base = alt.Chart(shown).encode(x=x, xOffset=dodge, color=colour)
    lines = base.mark_line(strokeWidth=1.5, opacity=0.75).encode(y=y)
    bars = base.transform_filter("isValid(datum.lower)").mark_rule(strokeWidth=1.5).encode(y="lower:Q", y2="upper:Q")
    points = base.mark_point(filled=True, size=60, opacity=1).encode(y=y, shape=shape)
    level = alt.Chart(rules).encode(y=y)
    reference = level.mark_rule(color=_GREY, strokeWidth=1.3).encode(
        strokeDash=alt.StrokeDash(
            "kind:N", legend=None, scale=alt.Scale(domain=list(_DASHES), range=list(_DASHES.values()))
        )
    )
    label = level.mark_text(
        align="left", baseline="line-bottom", lineHeight=14, fontSize=12, color=_GREY, lineBreak="\n"
    ).encode(x=alt.value(width + 5), text="label:N")
    return alt.layer(reference, lines, bars, points, label).properties(width=width, height=_PANEL_HEIGHT)


def _legend_columns(names: list[str]) -> int:
    """Choose how many names stand in a row above the panels: all of them if they fit, or else columns of one width."""
    if sum(len(name) + 5 for name in names) <= 100:
        return max(len(names), 1)
    return max(110 // (max(map(len, names)) + 4), 1)


def _domain(curves: pd.DataFrame, levels: pd.DataFrame) -> list[float]:
    """Zoom the axis to what is drawn and a margin, inside the scores that are possible."""
    values = np.append(curves[["mean", "lower", "upper"]].to_numpy(float), levels["mean"].to_numpy(float))
    if np.isnan(values).all():  # a metric that no run has
        return [0.0, 1.0]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = max(0.05 * (high - low), 0.01)
    return [max(0.0, low - margin), min(1.0, high + margin)]


def _epsilon_title(runs: pd.DataFrame) -> str:
    """Title the privacy axis with what epsilon stands for in this study."""
    ok = runs[runs["status"] == "ok"]
    private = ok[ok["mechanism"] != "none"]
    name = "Target ε" if epsilon_column(runs) == "privacy.epsilon" else "ε of the model user"
    units, deltas = private["unit"].unique(), private["delta"].unique()
    per = f" per {units[0]}" if len(units) == 1 else ""
    delta = f", δ = {deltas[0]:g}" if len(deltas) == 1 else ""
    adjacency = adjacency_of(ok)
    return f"{name}{per}{delta}{f', {adjacency}' if adjacency else ''} (smaller: more private)"


def _caption(runs: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say what is drawn: study, number of seeds and what the bars are."""
    fewest, most = curves["n"].min(), curves["n"].max()
    seeds = f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"
    drawn = f"mean of {seeds}; bars: 95 % confidence interval over seeds (Student t)"
    return f"Study {', '.join(runs['study'].unique())}. Points: {drawn if most > 1 else 'one seed, so no interval'}."
