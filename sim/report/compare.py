"""Methods against one another: means with intervals, the differences of all pairs, and what they support."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd

from sim.foundation.problems import ScenarioError, suggest
from sim.foundation.text import listed, margin_text, score_text, value_text
from sim.inference.differences import Verdict, against, all_differences, estimates, verdict
from sim.inference.evidence import Evidence
from sim.methods.labels import method_label
from sim.privacy.statement_text import escaped
from sim.report.cautions import cautions
from sim.report.elsewhere import elsewhere
from sim.report.held_out import MARGIN, HeldOut, evidence_of
from sim.report.prose import sentences
from sim.report.scope import scope
from sim.report.spoken import spoken
from sim.report.study import NO_TRIALS
from sim.report.summary import (
    BOUNDED,
    PREVALENCE,
    adjacency_note,
    held_out_clinics,
    higher_is_better,
    is_baseline,
    of_one_kind,
    series_label,
    successful_runs,
    swept_keys,
    title,
)
from sim.results.columns import is_tuned

NO_ROUNDS: Final = pd.DataFrame()
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
    """Groups of runs against the best of them."""

    metric: str
    # ``group, n, mean, half_width, patients, repetition`` with 95 % intervals, as in `sim.inference.differences`
    means: pd.DataFrame
    # ``group, n, mean, half_width, verdict``: each other group minus the best one, on the seeds that both have. The
    # intervals are those of all pairs together, so that it does not matter how the best was chosen.
    differences: pd.DataFrame
    best: str  # The group with the best mean, of those that train together where there are some
    baselines: frozenset[str]  # Groups that are there to be compared with
    margin: float  # The difference within which groups count as equal; 0 where the metric has no such thing
    note: str = ""  # What has to be known of the runs; may be empty
    cautions: str = ""  # What has to be said beside it; may be empty
    scope: str = ""  # How far it goes; may be empty
    place: str = "clinic"  # Whose patients a score compares

    def finding(self) -> str:
        """Say which group is best, and what the intervals support of the others."""
        [(seeds, mean, half_width)] = self.means.loc[
            self.means["group"] == self.best, ["n", "mean", "half_width"]
        ].itertuples(index=False)
        gain = self.differences["mean"] * (1 if higher_is_better(self.metric) else -1)
        said = self.differences["verdict"]
        known = self.differences["half_width"].notna()
        same = (said == Verdict.EQUAL) & (self.differences[["mean", "half_width"]] == 0).all(axis=1)
        kinds = {
            "worse": (said == Verdict.APART) & (gain < 0),
            "better": (said == Verdict.APART) & (gain > 0),
            "same": same,
            "equal": (said == Verdict.EQUAL) & ~same,
            "open": (said == Verdict.OPEN) & known,
            "unknown": ~known,
        }
        told = sentences(
            "finding",
            best=self.best,
            title=title(self.metric, self.place),
            apart=bool(self.baselines) and self.best not in self.baselines,
            highest=higher_is_better(self.metric),
            value=_number(mean, half_width),
            seeds=seeds,
            margin=margin_text(self.margin) if self.margin else "",
            named=self._named,
            note=self.note,
            **{kind: self.differences.loc[held, "group"].tolist() for kind, held in kinds.items()},
        )
        return " ".join(told)

    def conclusion(self) -> str:
        """Say in plain words what can and what cannot be concluded, and how far it goes."""
        return " ".join(filter(None, [self.finding(), self.cautions, self.scope]))

    def _named(self, groups: Sequence[str]) -> str:
        """Name groups; of many, say how many of the others they are, and name the ones nearest in mean."""
        if len(groups) <= _NAMED:
            return listed(groups)
        others = len(self.differences)
        count = f"the other {others}" if len(groups) == others else f"{len(groups)} of the other {others}"
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


def compared(
    evidence: Evidence, metric: str, margin: float, baselines: frozenset[str] = frozenset(), note: str = ""
) -> Comparison:
    """Compare the groups of some evidence.

    Parameters
    ----------
    margin : float
        The difference within which groups count as equal, of metrics between 0 and 1.
    baselines : frozenset of str
        Groups that are there to be compared with: none is called the best while there is another.
    """
    margin = margin if metric.endswith(BOUNDED) else 0.0
    means = estimates(evidence).rename(columns={"method": "group"})
    sign = 1 if higher_is_better(metric) else -1
    scored = means[means["mean"].notna()]
    joined = scored[~scored["group"].isin(baselines)]
    chosen = joined if len(joined) else scored
    best = str(chosen["group"].iloc[int(np.argmax(sign * chosen["mean"].to_numpy()))])
    table = against(all_differences(evidence), best)
    said = [verdict(mean, width, margin) for mean, width in zip(table["mean"], table["half_width"], strict=True)]
    return Comparison(
        metric=metric,
        means=means,
        differences=table.assign(verdict=pd.Series(said, dtype=object)),
        best=best,
        baselines=baselines,
        margin=margin,
        note=note,
    )


def compare(
    runs: pd.DataFrame,
    by: Sequence[str],
    metric: str,
    at: Mapping[str, str],
    held_out: HeldOut | None = None,
    trials: pd.DataFrame = NO_TRIALS,
    rounds: pd.DataFrame = NO_ROUNDS,
) -> Comparison:
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
    held_out : HeldOut, optional
        The runs' predictions; without them the intervals are over seeds alone.
    trials, rounds : DataFrame
        ``trials.parquet``, and ``rounds.parquet`` of all runs, for what is said beside a comparison of the headline.
    """
    ok = successful_runs(runs)
    references = of_one_kind(ok)[0].query("method == @PREVALENCE")
    numbers = [c for c in ok.columns if pd.api.types.is_numeric_dtype(ok[c]) and c not in ("seed", "rounds")]
    problems = []
    if metric not in numbers:
        filled = [c for c in numbers if ok[c].notna().any()]
        problems.append(f'--metric: no such metric "{metric}"; {suggest(metric, filled)}')
    problems += [f'--by: no such column "{c}"; {suggest(c, list(ok.columns))}' for c in by if c not in ok.columns]
    swept = [column for column in ok.columns if "." in column and not is_tuned(column)]
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
    ok, note = of_one_kind(ok)
    references = here if len(here := ok[ok["method"] == PREVALENCE]) else references
    notes, away = [adjacency_note(ok), note], held_out_clinics(ok)
    settings = [key for key in swept_keys(ok) if key not in by]
    ok = ok.assign(group=[_name(row, by, settings) for row in ok.to_dict("records")])
    twice = ok.duplicated(["group", "seed", *(["held_out"] if away.all() else [])])
    if twice.any():
        raise ScenarioError([f'--by: "{ok.loc[twice, "group"].iloc[0]}" has several runs per seed; add strategy,cut'])
    reference = ok["method"] == PREVALENCE
    ok = ok if reference.all() else ok[~reference]
    if ok[metric].isna().all():
        raise ScenarioError([f"--metric: {metric} is missing in every run; choose another"])
    baseline = ok["method"].map(is_baseline).astype(bool).groupby(ok["group"]).all()
    baselines = frozenset(baseline.index[baseline])
    if away.all() and held_out is not None:
        models = ok[["run_id", "group", "seed"]].rename(columns={"group": "method"})
        notes.append(elsewhere(models, held_out, spoken(ok), baselines))
    comparison = compared(
        evidence_of(ok, "group", metric, held_out),
        metric,
        held_out.margin if held_out else MARGIN,
        baselines,
        " ".join(filter(None, notes)),
    )
    said: Iterator[str] = iter(())
    words = spoken(ok)
    if metric == words.within and ok[words.pooled].notna().any():
        pooled = compared(evidence_of(ok, "group", words.pooled, held_out), words.pooled, comparison.margin, baselines)
        one = references.assign(group=PREVALENCE) if len(set(references["series"])) == 1 else references[:0]
        said = cautions(
            comparison,
            pooled,
            evidence_of(pd.concat([ok, one]), "group", words.proper, held_out),
            ok.assign(series=ok["group"]),
            trials,
            held_out.predictions if held_out else pd.DataFrame(),
            rounds,
        )
    limits = scope(ok, comparison.means, held_out, trials, others=bool(away.all()))
    return replace(comparison, cautions=" ".join(said), scope=limits, place=words.place)


def _name(row: Mapping[Hashable, object], by: Sequence[str], settings: Sequence[str]) -> str:
    rest = [column for column in by if column not in ("strategy", "cut")]
    if "strategy" in by:
        name = str(row["method_label"]) if "cut" in by else method_label(str(row["strategy"]))
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
        caption = "".join(_LATEX.get(sign, sign) for sign in comparison.conclusion())
        return texts.to_latex(index=False, escape=True, caption=caption)
    head, *rows = [[escaped(cell) for cell in row] for row in [list(texts.columns), *texts.to_numpy().tolist()]]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([*lines, "", escaped(comparison.conclusion())]) + "\n"


def without_formula(text: str) -> str:
    """Return text that a spreadsheet shows as it is: what could begin a formula gets an apostrophe (OWASP)."""
    return f"'{text}" if text.startswith(_FORMULAS) else text


def readable(comparison: Comparison) -> pd.DataFrame:
    """Lay out a comparison as text, with headings."""
    table = comparison.frame()
    name, sign = title(comparison.metric, comparison.place), 1 if higher_is_better(comparison.metric) else -1
    return pd.DataFrame(
        {
            "Method": table["group"],
            "Seeds": table["n"].astype(str),
            f"{name[0].upper()}{name[1:]}": list(map(_number, table["mean"], table["half_width"])),
            f"Difference from {comparison.best}": [
                "–" if math.isnan(difference) else _number(difference, width)
                for difference, width in zip(table["difference"], table["difference_half_width"], strict=True)
            ],
            "Verdict": list(map(_told, table["verdict"], table["difference"] * sign, table["difference_half_width"])),
        }
    )


def _told(said: object, gain: float, half_width: float) -> str:
    if said is Verdict.APART:
        return "better" if gain > 0 else "worse"
    if gain == half_width == 0:
        return "the same"
    return str(said) if isinstance(said, Verdict) else "–"
