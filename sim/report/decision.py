"""Which method to take at each point of a map: a setting of the clinics that only takes time, by a swept one.

At a point, a method is there if it meets every condition. Of those whose mean score is within the margin of the best,
the quickest is taken; others that are nearly as quick share the point. It is not settled where another is quicker
still and has a lower mean, but is not told apart from the best.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from math import nan
from typing import Any, Final

import numpy as np
import pandas as pd

from sim.foundation.problems import ScenarioError, suggest
from sim.foundation.text import epsilon_text, score_text, seconds_text, value_text
from sim.inference.differences import all_differences
from sim.report.adversaries import ADVERSARIES
from sim.report.condition import DERIVED, Condition, parse_condition
from sim.report.held_out import MARGIN, HeldOut, evidence_of
from sim.report.spoken import spoken
from sim.report.summary import (
    held_out_clinics,
    series_label,
    successful_runs,
    swept_keys,
    trains_alone,
)
from sim.results.decision_map import DecisionMap, Point

_NEARLY: Final = 1.1
"""Methods that take less than this many times the quickest share its point."""
_GAP: Final = 0.03
_CHANGED: Final = frozenset({"clinic_joules", "idle_share", "server_busy_share", "wall_seconds", "rounds", "seed"})
"""Columns that a re-timed run would have others of, or that say nothing of a method."""


def swept_key(runs: pd.DataFrame, name: str) -> str:
    """Find a swept key by its name or its last part; the only one, or none, where the name is empty."""
    keys = swept_keys(successful_runs(runs))
    if not name:
        return next((key for key in ("privacy.epsilon", *keys) if key in keys), "")
    found = [key for key in keys if name in (key, key.rpartition(".")[2])]
    if len(found) != 1:
        raise ScenarioError([f'--y: "{name}" was not swept; {suggest(name, keys) if keys else "leave it out"}'])
    return found[0]


def candidates_of(runs: pd.DataFrame, y: str) -> pd.DataFrame:
    """Return the successful runs with `candidate`, the method and its settings but for `y`, and the text of `row`.

    Runs that hold out whole clinics are left out.
    """
    ok = successful_runs(runs)
    ok = ok[~held_out_clinics(ok)]
    rest = [key for key in swept_keys(ok) if key != y]
    names = [series_label(str(row["method_label"]), {key: row[key] for key in rest}) for row in ok.to_dict("records")]
    rows = [_row(y, value) for value in ok[y]] if y else ["as set"] * len(ok)
    return ok.assign(candidate=names, row=rows, **{name: ok[of] / size for name, (of, size) in DERIVED.items()})


def _row(key: str, value: Any) -> str:
    if key == "privacy.epsilon":
        return "no DP" if value == np.inf else f"ε = {epsilon_text(float(value))}"
    return f"{key.rpartition('.')[2]} {value_text(value)}"


def within(texts: Sequence[str], runs: pd.DataFrame) -> list[Condition]:
    """Check the conditions; raises ScenarioError for each that is none."""
    known = [
        str(name)
        for name in runs
        if pd.api.types.is_numeric_dtype(runs[name]) and name not in _CHANGED and "." not in str(name)
    ]
    return [clause for text in texts for clause in parse_condition(text, known, "--within").clauses]


def decide(
    runs: pd.DataFrame,
    seconds: Mapping[tuple[str, str], Mapping[str, float]],
    names: tuple[str, str],
    clauses: Sequence[Condition],
    held_out: HeldOut | None = None,
) -> DecisionMap:
    """Decide every point.

    Parameters
    ----------
    runs : DataFrame
        As of :func:`candidates_of`.
    seconds : mapping
        By candidate and row, by value of x as text: how long a run takes.
    names : tuple of str
        The keys of x and y.
    clauses : sequence of Condition
        All must hold; of epsilons the largest over seeds counts, of everything else the mean.
    """
    columns, score = list(next(iter(seconds.values()))), spoken(runs).within
    rows = list(dict.fromkeys(runs["row"]))
    margin = held_out.margin if held_out else MARGIN
    points = []
    for row in rows:
        own = runs[runs["row"] == row]
        alone = own["method"].map(trains_alone).astype(bool)
        timed = pd.Series([(name, row) in seconds for name in own["candidate"]], index=own.index)
        own, alone = own[timed | alone], own.loc[alone, "candidate"].unique()
        told, table = _told(own, held_out, score), _means(own)
        joined = table.loc[[name for name in table.index if (name, row) in seconds]].dropna(subset=score)
        for column in columns:
            here = joined.assign(sim_seconds=[seconds[str(name), row][column] for name in joined.index])
            here = here.assign(**{name: here[of] / size for name, (of, size) in DERIVED.items()})
            points.append(_point(column, row, here, score, clauses, told, margin, table.loc[alone, score].to_dict()))
    return DecisionMap(
        x=names[0],
        y=names[1],
        columns=columns,
        rows=rows,
        within=[clause.text for clause in clauses],
        points=points,
    )


def _means(own: pd.DataFrame) -> pd.DataFrame:
    groups = own.groupby("candidate", sort=False)
    table = groups[[str(name) for name in own if pd.api.types.is_numeric_dtype(own[name])]].mean()
    table[list(ADVERSARIES)] = groups[list(ADVERSARIES)].max()
    return table


def _told(own: pd.DataFrame, held_out: HeldOut | None, score: str) -> set[frozenset[str]]:
    """Return the pairs of candidates whose scores are told apart."""
    pairs = all_differences(evidence_of(own, "candidate", score, held_out))
    apart = pairs["mean"].abs() > pairs["half_width"]
    return set(map(frozenset, pairs.loc[apart, ["first", "second"]].to_numpy().tolist()))


def _point(
    x: str,
    y: str,
    table: pd.DataFrame,
    score: str,
    clauses: Sequence[Condition],
    told: Collection[frozenset[str]],
    margin: float,
    alone: Mapping[str, float],
) -> Point:
    """Decide one point by a score, of candidates with their figures there, and the scores of training alone."""
    met = pd.DataFrame({clause.text: clause.holds(table) for clause in clauses}, index=table.index)
    there = table[met.all(axis=1)] if clauses else table
    if there.empty:
        refused = [f"{text} rules out {count} of {len(table)}" for text, count in (~met).sum().items() if count]
        why = "; ".join(refused) or "no method has a score"
        return Point(x=x, y=y, method="", others=[], seconds=None, score=None, settled=True, alone=False, reason=why)
    ordered = there.sort_values(score, ascending=False, kind="stable")
    best, highest = str(ordered.index[0]), float(ordered[score].iloc[0])

    def may_be_best(name: str, own: float) -> bool:
        return highest - own <= margin or frozenset((best, name)) not in told

    by_time = ordered.sort_values("sim_seconds", kind="stable")
    good = by_time[highest - by_time[score] <= margin]
    names, seconds = [str(name) for name in good.index], good["sim_seconds"].to_numpy(float)
    quicker = by_time[by_time["sim_seconds"] < seconds[0]]
    open_ones = [str(name) for name, own in quicker[score].items() if may_be_best(str(name), own)]
    behind = score_text(highest - float(quicker.loc[open_ones[0], score])) if open_ones else ""
    return Point(
        x=x,
        y=y,
        method=names[0],
        others=[name for name, own in zip(names, seconds, strict=True) if own <= _NEARLY * seconds[0]][1:],
        seconds=float(seconds[0]),
        score=float(good[score].iloc[0]),
        settled=not open_ones,
        alone=any(may_be_best(name, own) for name, own in alone.items()),
        reason=f"{open_ones[0]} is quicker; its mean is {behind} lower, but not told apart" if open_ones else "",
    )


def map_frame(shown: DecisionMap) -> pd.DataFrame:
    """Lay a map out as text: one row for each value of y and each stretch of x with the same answer."""
    found: list[dict[str, str]] = []
    before = None
    for row in shown.rows:
        own = {point.x: point for point in shown.points if point.y == row}
        for column in shown.columns:
            point = own[column]
            answer = (row, point.method, tuple(point.others), point.settled, "" if point.method else point.reason)
            if answer == before:
                time = {"Time": seconds_text(point.seconds or nan)} if point.method else {}
                for name, last in {_short(shown.x): column, **time}.items():
                    found[-1][name] = f"{found[-1][name].partition(' to ')[0]} to {last}"
                continue
            before = answer
            found.append(
                {
                    _short(shown.y) or "": row,
                    _short(shown.x): column,
                    "Method": point.method or "none",
                    "Shared with": "; ".join(point.others) or "–",
                    "Score": score_text(nan if point.score is None else point.score),
                    "Time": seconds_text(nan if point.seconds is None else point.seconds),
                    "Training alone": "not told apart" if point.alone else "–",
                    "Note": point.reason or "–",
                }
            )
    return pd.DataFrame(found)


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def map_rows(shown: DecisionMap) -> pd.DataFrame:
    """Lay every point of a map out as a row, for a CSV file."""
    names = {"x": _short(shown.x), "y": _short(shown.y) or "row"}
    rows = [{**asdict(point), "others": "; ".join(point.others)} for point in shown.points]
    return pd.DataFrame(rows).rename(columns=names)


def map_stripes(shown: DecisionMap) -> pd.DataFrame:
    """Lay a map out as what is drawn: methods that share a point have a stripe each, of equal height.

    ``x, x2, y, y2, series, column, row, shared, seconds, auc, settled, alone, first, note``, from the bottom left.
    """
    drawn = []
    order = list(dict.fromkeys(name for point in shown.points for name in (point.method, *point.others)))
    height = 1 - 2 * _GAP
    for point in shown.points:
        column, row = shown.columns.index(point.x), shown.rows.index(point.y)
        names = sorted([point.method, *point.others], key=order.index)
        for place, name in enumerate(names):
            drawn.append(
                {
                    "x": column,
                    "x2": column + 1,
                    "y": row + 1 - _GAP - (place + 1) * height / len(names),
                    "y2": row + 1 - _GAP - place * height / len(names),
                    "series": name,
                    "column": point.x,
                    "row": point.y,
                    "shared": " and ".join(names) or "none",
                    "seconds": point.seconds,
                    "auc": point.score,
                    "settled": point.settled,
                    "alone": point.alone,
                    "first": place == 0,
                    "note": point.reason,
                }
            )
    return pd.DataFrame(drawn)
