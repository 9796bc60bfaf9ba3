"""The first screen in five sentences: which method, for whom, at which price, and what that does not settle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from sim.foundation.text import bytes_text, count_text, epsilon_text, score_text, seconds_text
from sim.report.figure import Gallery
from sim.report.joining import ALONE
from sim.report.study import StudyResults
from sim.report.summary import ADVERSARIES, is_baseline
from sim.report.words import conclusions

__all__ = ["answers", "compared"]


def compared(study: StudyResults) -> str:
    """Say what was compared."""
    ok = study.drawn
    if ok.empty:
        return ""
    parts = [count_text(ok["series"].nunique(), "method")]
    levels = ok["level"].cat.categories
    if len(levels) > 1:
        parts.append(f"at {len(levels)} privacy levels ({', '.join(levels)})")
    parts.append(f"on {count_text(ok['seed'].nunique(), 'seed')}")
    if len(study.clinics):
        first = study.clinics[study.clinics["run_id"] == ok["run_id"].iloc[0]]
        records = f"{first['records'].sum():,} training and {first['test_records'].sum():,} held-out records"
        parts.append(f"over {count_text(len(first), 'clinic')} with {records}")
    done = (study.runs["status"] == "ok").sum()
    failed = f" {done} of {len(study.runs)} runs succeeded." if done < len(study.runs) else ""
    return f"Compared: {', '.join(parts)}.{failed}"


def answers(study: StudyResults, shown: Gallery, said_of: Sequence[tuple[str, str]] | None = None) -> list[str]:
    """Answer in up to five sentences, at the level of privacy that the page shows first.

    Parameters
    ----------
    said_of : sequence of (str, str), optional
        The study's :func:`sim.report.words.conclusions`, where they are known.
    """
    if not shown.figures:
        return []
    level, score = shown.start()["level"], shown.scores[0]
    ok = study.drawn
    points = shown.tables["trade_offs"]
    points = points[(points["score"] == score) & (points["adversary"] == points["adversary"].iloc[0])]
    strategies = ok.drop_duplicates("series").set_index("series")["strategy"]
    joined = points[points["series"].map(~strategies.map(is_baseline))]
    here = joined[joined["level"] == level]
    found = dict(conclusions(study) if said_of is None else said_of)
    said = [f"{_at(level)}{found[level]}"] if level in found else []
    if here.empty:
        return said
    best = here.sort_values("mean", ascending=False, kind="stable").iloc[0]
    said += _for_whom(shown, level, str(best["series"]))
    said += _privacy_price(ok, joined, best, f"{score[0].lower()}{score[1:]}")
    said.append(_cost(here, best))
    return [*said, found[""]] if "" in found else said


def _at(level: str) -> str:
    return {"as set": "", "no DP": "Without DP: "}.get(level, f"At {level}: ")


def _for_whom(shown: Gallery, level: str, best: str) -> list[str]:
    """Say which clinics gain most and least by joining."""
    if "joining" not in shown.tables:
        return []
    own = shown.tables["joining"]
    names = [best, *(name for name, members in shown.together.items() if best in members)]
    own = own[(own["level"] == level) & own["series"].isin(names) & (own["against"] == ALONE)].sort_values("mean")
    if own.empty:
        return []
    groups, own = own[own["group"]], own[~own["group"]]
    sure = own["lower"] > 0
    named = groups if len(groups) else own
    least, most = named.iloc[0], named.iloc[-1]
    clinics = "clinics with " if len(groups) else ""
    text = (
        f"Joining with {most['series']} instead of training alone brings most to {clinics}{_clinic(most)} "
        f"({_signed(most['mean'])} of AUC)"
    )
    if len(named) > 1:
        text += f" and least to {clinics}{_clinic(least)} ({_signed(least['mean'])})"
    worse = (own["upper"] < 0).sum()
    return [
        f"{text}; the interval is above 0 for {sure.sum()} of {count_text(len(own), 'clinic')} with an AUC and below 0 "
        f"for {worse or 'none'}."
    ]


def _clinic(row: pd.Series[Any]) -> str:
    return str(row["clinic"]).partition(" (")[0] if row["group"] else str(row["clinic"])


def _signed(value: float) -> str:
    text = score_text(value)
    return text if text.startswith("-") else f"+{text}"


def _privacy_price(ok: pd.DataFrame, points: pd.DataFrame, best: pd.Series[float], score: str) -> list[str]:
    """Say what DP costs the best method, and who is not held off by it."""
    own = points[points["series"] == best["series"]].set_index("level")["mean"]
    if "no DP" not in own.index or len(own) == 1:
        return []
    losses = [f"{score_text(own['no DP'] - mean)} at {level}" for level, mean in own.items() if level != "no DP"]
    first = losses[0].replace(" at", f" of {score} at")
    runs = ok[(ok["series"] == best["series"]) & (ok["level"] == best["level"])]
    epsilons = [f"{name.lower()} {epsilon_text(runs[column].max())}" for column, name in ADVERSARIES.items()]
    return [
        f"DP costs {best['series']} {', '.join([first, *losses[1:]])}; its ε at {best['level']}: {', '.join(epsilons)}."
    ]


def _cost(here: pd.DataFrame, best: pd.Series[float]) -> str:
    """Say what a run of the best method costs, and how little or much others take."""
    text = f"A run of {best['series']} takes {seconds_text(best['seconds'])} and {bytes_text(best['bytes'])} of traffic"
    if len(here) == 1:
        return f"{text}."
    by_time = here.sort_values("seconds", kind="stable")
    quick, slow = by_time.iloc[0], by_time.iloc[-1]
    if math.isclose(quick["seconds"], slow["seconds"]):
        return f"{text}, as do the others."
    slowest = f"the slowest is {slow['series']} with {seconds_text(slow['seconds'])} and {bytes_text(slow['bytes'])}"
    if quick["series"] == best["series"]:
        return f"{text}: none is quicker; {slowest}."
    least = f"the quickest is {quick['series']} with {seconds_text(quick['seconds'])} and {bytes_text(quick['bytes'])}"
    return f"{text}; {least}" + (f", {slowest}." if slow["series"] != best["series"] else ", and none is slower.")
