"""Methods against one another: means with intervals, and paired differences on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from sim.foundation.problems import ScenarioError, suggest
from sim.foundation.text import listed, score_text, value_text
from sim.methods.labels import method_label
from sim.privacy.statement_text import escaped
from sim.report.prose import sentences
from sim.report.summary import (
    adjacency_note,
    half_width,
    higher_is_better,
    series_label,
    successful_runs,
    summarise,
    swept_keys,
)

CAVEAT: Final = (
    "No method was tuned: each ran at the hyperparameters given. Where all share one learning rate, another rate can "
    "change their order, above all with DP. A pooled AUC also rewards knowing each clinic's prevalence, which can "
    "favour methods that give each clinic a model of its own. Seeds vary the data split, the initial values, the "
    "batches and the noise, not the hospitals: the intervals show how repeatable the results are on these data, and "
    "nothing about other patients."
)
"""What every comparison ends with."""

_NAMED: Final = 3
"""At most so many groups of a kind are named."""
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_LATEX: Final = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Groups of runs against the one with the best mean."""

    metric: str
    means: pd.DataFrame  # ``group, n, mean, half_width``: one row a group; 95 % interval over seeds (Student's t)
    # ``group, n, mean, half_width``: each other group minus the best one, on the seeds that both have. Each interval is
    # widened for the number of comparisons (Bonferroni), but not for the choice of the best by the same figures.
    differences: pd.DataFrame
    best: str  # The group with the best mean
    note: str = ""  # What has to be known of the runs; may be empty

    def conclusion(self) -> str:
        """Say in plain words what can and what cannot be concluded."""
        return f"{self.finding()} {CAVEAT}"

    def finding(self) -> str:
        """Say which group is best, and which others are told from it."""
        [(seeds, mean, half_width)] = self.means.loc[
            self.means["group"] == self.best, ["n", "mean", "half_width"]
        ].itertuples(index=False)
        known = self.differences["half_width"].notna()
        apart = self.differences["mean"].abs() > self.differences["half_width"]
        kinds = {"clear": known & apart, "open": known & ~apart, "unknown": ~known}
        said = sentences(
            "finding",
            comparison=self,
            highest=higher_is_better(self.metric),
            value=_number(mean, half_width),
            seeds=seeds,
            named=self._named,
            **{kind: self.differences.loc[held, "group"].tolist() for kind, held in kinds.items()},
        )
        return " ".join(said)

    def _named(self, groups: Sequence[str]) -> str:
        """Name groups; of many, say how many of the others they are, and name the ones nearest in mean."""
        if len(groups) <= _NAMED:
            return listed(groups)
        others = len(self.differences)
        count = f"any of the other {others}" if len(groups) == others else f"{len(groups)} of the other {others}"
        by_mean = self.means[self.means["group"].isin(groups)].sort_values(
            "mean", ascending=not higher_is_better(self.metric), kind="stable"
        )
        return f"{count} (the nearest: {'; '.join(by_mean['group'].head(_NAMED))})"

    def frame(self) -> pd.DataFrame:
        """Lay out means and differences as one table of numbers, best first."""
        other = self.differences.rename(
            columns={"n": "pairs", "mean": "difference", "half_width": "difference_half_width"}
        )
        table = self.means.merge(other, on="group", how="left")
        order = table["mean"] * (-1 if higher_is_better(self.metric) else 1)
        return table.iloc[np.argsort(order, kind="stable")].reset_index(drop=True)


def compare(runs: pd.DataFrame, by: Sequence[str], metric: str, at: Mapping[str, str]) -> Comparison:
    """Compare groups of runs.

    Raises ScenarioError if a name is no column, a value was not swept, or no run is left.

    Parameters
    ----------
    by : sequence of str
        Columns that make a group, besides the swept keys that `at` does not hold.
    metric : str
        Column to compare.
    at : mapping of str to str
        Swept keys, whole or by their last part, and the value to look at.
    """
    ok = successful_runs(runs)
    numbers = [c for c in ok.columns if pd.api.types.is_numeric_dtype(ok[c]) and c not in ("seed", "rounds")]
    problems = []
    if metric not in numbers:
        problems.append(f'--metric: no such metric "{metric}"; {suggest(metric, numbers)}')
    problems += [f'--by: no such column "{c}"; {suggest(c, list(ok.columns))}' for c in by if c not in ok.columns]
    swept = [column for column in ok.columns if "." in column]
    held = []
    for name, value in at.items():
        key = next((column for column in swept if name in (column, column.rpartition(".")[2])), None)
        if key is None:
            problems.append(f'--at: "{name}" was not swept; {suggest(name, swept) if swept else "leave it out"}')
            continue
        found = ok[key].map(value_text) == value_text(_value(value))
        if not found.any():
            there = ", ".join(dict.fromkeys(map(value_text, ok[key])))
            problems.append(f"--at: {key} never takes the value {value}; choose from {there}")
        held.append((key, found))
    if problems:
        raise ScenarioError(problems)
    for _, found in held:
        ok = ok[found.loc[ok.index]]
    if ok.empty:
        mend = "give other values to --at" if held else "suture report says why the others failed"
        raise ScenarioError([f"compare: no successful run is left; {mend}"])
    settings = [key for key in swept_keys(ok) if key not in by]
    ok = ok.assign(group=[_name(row, by, settings) for row in ok.to_dict("records")])
    twice = ok.duplicated(["group", "seed"])
    if twice.any():
        raise ScenarioError([f'--by: "{ok.loc[twice, "group"].iloc[0]}" has several runs per seed; add strategy,cut'])
    means = summarise(ok, ["group"], metric)
    score = means["mean"] * (1 if higher_is_better(metric) else -1)
    if score.isna().all():
        raise ScenarioError([f"--metric: {metric} is missing in every run; choose another"])
    best = str(means["group"].iloc[int(np.nanargmax(score.to_numpy()))])
    table = ok.pivot_table(index="seed", columns="group", values=metric, sort=False)
    others = [group for group in means["group"] if group != best]
    differences = pd.DataFrame(
        [_paired(group, table.get(group), table[best], len(others)) for group in others],
        columns=["group", "n", "mean", "half_width"],
    )
    return Comparison(metric=metric, means=means, differences=differences, best=best, note=adjacency_note(ok))


def _paired(group: str, values: pd.Series[float] | None, best: pd.Series[float], comparisons: int) -> dict[str, object]:
    with np.errstate(invalid="ignore"):
        pairs = (values - best).dropna() if values is not None else best.iloc[:0]
    mean = float(pairs.mean()) if len(pairs) else math.nan
    return {"group": group, "n": len(pairs), "mean": mean, "half_width": half_width(pairs, comparisons)}


def _name(row: Mapping[Hashable, object], by: Sequence[str], settings: Sequence[str]) -> str:
    rest = [column for column in by if column not in ("strategy", "cut")]
    if "strategy" in by:
        name = str(row["method"]) if "cut" in by else method_label(str(row["strategy"]))
    else:
        name = str(row["cut"]) or "uncut" if "cut" in by else ""
    return series_label(name, {key: row[key] for key in [*rest, *settings]}).removeprefix(", ")


def _value(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _number(mean: float, half_width: float) -> str:
    if abs(mean) < 1:
        return score_text(mean, half_width)
    return f"{mean:.4g}" if math.isnan(half_width) else f"{mean:.4g}±{half_width:.2g}"


def as_text(comparison: Comparison, form: str) -> str:
    """Write a comparison as ``csv`` (full precision), ``markdown`` or ``latex`` (as people read it).

    Names are escaped: none is a formula, a tag, a link or a command.
    """
    table = comparison.frame()
    if form == "csv":
        return table.assign(group=table["group"].map(without_formula)).to_csv(index=False)
    texts = readable(comparison)
    if form == "latex":
        return texts.to_latex(index=False, escape=True, caption=_latex(comparison.conclusion()))
    head, *rows = [[escaped(cell) for cell in row] for row in [list(texts.columns), *texts.to_numpy().tolist()]]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([*lines, "", escaped(comparison.conclusion())]) + "\n"


def without_formula(text: str) -> str:
    """Return text that a spreadsheet shows as it is: what could begin a formula gets an apostrophe (OWASP)."""
    return f"'{text}" if text.startswith(_FORMULAS) else text


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def readable(comparison: Comparison) -> pd.DataFrame:
    """Lay out a comparison as text, with headings."""
    table = comparison.frame()
    return pd.DataFrame(
        {
            "Method": table["group"],
            "Seeds": table["n"].astype(str),
            comparison.metric: list(map(_number, table["mean"], table["half_width"])),
            f"Difference from {comparison.best}": [
                "–" if math.isnan(difference) else _number(difference, width)
                for difference, width in zip(table["difference"], table["difference_half_width"], strict=True)
            ],
        }
    )
