"""The privacy-accuracy curves of a study, and the picture of them."""

import math

import pandas as pd

from sim.foundation.text import count_text
from sim.report.held_out import HeldOut
from sim.report.look import GREY, HAS_INTERVAL, Spec, field, interval, layer, looks, paper, picture_spec, rows
from sim.report.spoken import spoken
from sim.report.summary import adjacencies, adjacency_of, is_centralised, successful_runs, summarise, title
from sim.results.columns import NOISE_KEYS


def metrics_of(runs: pd.DataFrame) -> dict[str, str]:
    """Return the columns that are drawn in a panel each, and the titles of their axes."""
    words = spoken(runs)
    return {
        words.within: f"Within-{words.place} {words.word} on held-out records",
        words.pooled: f"Pooled {words.word} on held-out records",
    }


NO_DP = "∞ (no DP)"

_PANEL_WIDTH, _WIDE_PANEL, _PANEL_HEIGHT = 262, 640, 310
_FEW = 7  # methods whose intervals still stand apart in a narrow panel


def epsilon_column(runs: pd.DataFrame) -> str:
    """Name the column the privacy axis shows: the target epsilon where it was swept, else the model user's.

    Targets are for the adjacency of each run's mechanism: where these differ, one axis cannot show them.
    """
    apart = len(adjacencies(runs[runs["status"] == "ok"])) > 1
    return "privacy.epsilon" if "privacy.epsilon" in runs and not apart else "epsilon_model_user"


def curve_table(runs: pd.DataFrame, held_out: HeldOut | None = None) -> pd.DataFrame:
    """Compute the points of the privacy-accuracy curves.

    One row for each metric, series and epsilon: `metric`, `series`, `method`, `target` (epsilon as the axis shows
    it), `n`, `mean`, `half_width`, and `lower` and `upper`, cut to what a score can be (NaN for one seed). Points
    without a value are left out. Series come in reading order.
    """
    ok = successful_runs(runs)
    column, noise = epsilon_column(ok), [key for key in NOISE_KEYS if key in ok]
    spent = ok.groupby(["series", *noise], dropna=False)[column].transform("max") if noise else ok[column]
    ok["target"] = [NO_DP if math.isinf(value) else f"{value:.3g}" for value in spent]
    parts = [
        summarise(ok, ["series", "method", "target"], metric, held_out).assign(metric=metric)
        for metric in metrics_of(ok)
    ]
    table = pd.concat(parts, ignore_index=True).dropna(subset="mean")
    lower, upper = table["mean"] - table["half_width"], table["mean"] + table["half_width"]
    return table.assign(lower=lower.clip(spoken(ok).least, 1.0), upper=upper.clip(0.0, 1.0))


def target_order(curves: pd.DataFrame) -> list[str]:
    """List the epsilons of a `curve_table` from the most private to infinity."""
    return sorted(curves["target"].unique(), key=lambda target: math.inf if target == NO_DP else float(target))


def reference_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the level every method is compared with, of a `curve_table`: ``metric, mean, label``.

    Centralised training without DP, where the study ran it in a single setting.
    """
    central = curves[curves["method"].map(is_centralised) & (curves["target"] == NO_DP)]
    levels = central[["metric", "mean"]].assign(label="centralised,\nno DP")
    return levels.iloc[:0] if levels["metric"].duplicated().any() else levels


def privacy_accuracy_chart(runs: pd.DataFrame, held_out: HeldOut | None = None) -> Spec:
    """Draw the scores within clinics and over all records by epsilon, a line a method, with intervals and baselines.

    A panel for each that is known, with one legend: side by side, or above each other where there are many methods.

    Parameters
    ----------
    runs : pandas.DataFrame
        One row a run, with the columns of `runs.parquet`; at least one that succeeded and has a score.
    """
    curves = curve_table(runs, held_out)
    levels = reference_table(curves)
    many = curves["series"].nunique() > _FEW
    width = _WIDE_PANEL if many else _PANEL_WIDTH
    known = [metric for metric in metrics_of(runs) if (curves["metric"] == metric).any()]
    panels = [
        _panel(runs, metric, curves[curves["metric"] == metric], levels[levels["metric"] == metric], width)
        for metric in known
    ]
    scores = " and ".join(title(metric, spoken(runs).place) for metric in known)
    words = (
        f"Line charts of {scores} against epsilon {', '.join(target_order(curves))}. "
        f"{title(known[0], spoken(runs).place).capitalize()}: {spans(curves[curves['metric'] == known[0]])}"
    )
    shared = {"scale": {"color": "shared", "shape": "shared"}}
    drawn = {"vconcat" if many else "hconcat": panels, "spacing": 18, "resolve": shared, "description": words}
    return picture_spec(drawn, _caption(runs, curves, held_out))


def spans(points: pd.DataFrame) -> str:
    """Name the lowest and highest mean of each series."""
    ranges = points.groupby("series", sort=False)["mean"].agg(["min", "max"])
    texts = [f"{series} from {row['min']:.3f} to {row['max']:.3f}" for series, row in ranges.iterrows()]
    return f"Lowest and highest mean of each method: {'; '.join(texts)}."


def _panel(runs: pd.DataFrame, metric: str, shown: pd.DataFrame, rules: pd.DataFrame, width: int) -> Spec:
    """Draw one metric against epsilon."""
    sheet = paper(looks(successful_runs(runs)), "", "", "", width)
    scale, axis = {"zero": False, "padding": 8}, {"tickCount": 8}
    y = field("mean:Q", title=metrics_of(runs)[metric], scale=scale, axis=axis)
    x = field(
        "target:N",
        sort=target_order(shown),
        title=_epsilon_title(runs),
        scale={"paddingInner": 0.3, "paddingOuter": 0.2},
        axis={"labelAngle": 0, "grid": False},
    )
    base = {"x": x, "xOffset": field("series:N", sort=sheet.names), "color": sheet.series("color")}
    level = {"data": {"values": rows(rules)}}
    named = {"y": y, "x": {"value": width + 5}, "text": field("label:N")}
    beside = {"align": "left", "baseline": "line-bottom", "lineHeight": 14, "fontSize": 12, "color": GREY}
    layers = [
        level | layer("rule", {"y": y}, color=GREY, strokeWidth=1.3, strokeDash=[6, 4]),
        layer("line", {**base, "y": y}, strokeWidth=1.5, strokeOpacity=0.75),
        layer("rule", {**base, **interval("y")}, HAS_INTERVAL, strokeWidth=1.5),
        layer("point", {**base, "y": y, "shape": sheet.series("shape")}, filled=True, size=60, opacity=1),
        level | layer("text", named, **beside, lineBreak="\n"),
    ]
    return {"data": {"values": rows(shown)}, "width": width, "height": _PANEL_HEIGHT, "layer": layers}


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


def _caption(runs: pd.DataFrame, curves: pd.DataFrame, held_out: HeldOut | None) -> str:
    """Say what is drawn: study, number of seeds and what the bars are."""
    fewest, most = curves["n"].min(), curves["n"].max()
    seeds = count_text(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    over = " and ".join([*(["patients"] if held_out else []), *(["seeds"] if most > 1 else [])])
    bars = f"bars: 95 % interval over {over}" if over else "so no interval"
    return f"Study {', '.join(runs['study'].unique())}. Points: mean of {seeds}; {bars}."
