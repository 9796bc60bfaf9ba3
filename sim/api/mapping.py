"""The map of a finished study: its runs timed anew on other links, and which method to take at each point."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import ceil, floor, log10
from pathlib import Path
from typing import Final

from sim.api import UPLINKS
from sim.foundation.problems import ScenarioError
from sim.report.decision import candidates_of, decide, swept_key
from sim.report.decision import within as checked
from sim.report.study import StudyResults
from sim.report.summary import is_baseline
from sim.results.decision_map import DecisionMap, keep_map
from sim.study.replan import Retiming

_OF_CLINICS: Final = ("uplink", "downlink", "latency", "compute", "profile")
_RANGE: Final = re.compile(r"\s*([\d.eE+-]+?)\s*([A-Za-zµ/]*)\s*\.\.\s*([\d.eE+-]+)\s*([A-Za-zµ/]+)\s*")
_STEPS: Final = (1, 2, 5)
_FEW: Final = 5
_MOST: Final = 100
"""More settings than this are mapped only where it is asked for."""


def mapped(study: StudyResults, folder: Path) -> StudyResults:
    """Return a study that was just run with its map by uplink, kept in its folder, unless it cannot be re-timed."""
    methods = study.ok.loc[~study.ok["method"].map(is_baseline).astype(bool), ["series", "level"]].drop_duplicates()
    if methods["series"].nunique() < 2 or len(methods) > _MOST:
        return study
    try:
        shown = decided(study, folder, UPLINKS, "", (), trust=True)
    except ScenarioError:
        return study
    keep_map(folder, shown, study.runs["run_id"].tolist())
    return replace(study, decided=shown)


def decided(study: StudyResults, folder: Path, x: str, y: str, within: Sequence[str], *, trust: bool) -> DecisionMap:
    """Time the first run of every method anew, and decide each point."""
    key, values = _axis(x)
    swept = swept_key(study.runs, y)
    runs = candidates_of(study.runs, swept)
    clauses = checked(within, runs)
    joined = runs[~runs["method"].map(is_baseline).astype(bool)]
    if joined.empty:
        raise ScenarioError(f"{folder}: has no finished run of a method that trains together; run the study first")
    seconds = {}
    firsts = joined.sort_values("seed", kind="stable").drop_duplicates(["candidate", "row"]).sort_index()
    for candidate, row, run_id in firsts[["candidate", "row", "run_id"]].itertuples(index=False):
        run = Retiming(folder / run_id, trust=trust)
        seconds[candidate, row] = {value: run.seconds([f"{key}={value}"]) for value in values}
    return decide(runs, seconds, (key, swept), clauses, study.held_out)


def _axis(x: str) -> tuple[str, list[str]]:
    """Take ``KEY=A,B,...`` or ``KEY=LOW..HIGH UNIT`` apart; a range has round numbers."""
    name, _, text = x.partition("=")
    name = name.strip()
    key = f"clinics.{name}" if name in _OF_CLINICS else f"server.{name}" if name == "workers" else name
    if match := _RANGE.fullmatch(text):
        low, _, high, unit = match.groups()
        values = [f"{value:g} {unit}" for value in _between(float(low), float(high))]
    else:
        values = [value.strip() for value in re.split(r",(?![^\[{]*[\]}])", text)]
    if not name or not values or not all(values):
        raise ScenarioError(f'--x: "{x}" is not a key with values; write it like "{UPLINKS}"')
    return key, list(dict.fromkeys(values))


def _between(low: float, high: float) -> list[float]:
    """Return round numbers from low to high: 1, 2, 5, 10, and more where these are few."""
    if not 0 < low < high:
        return []
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    for steps in (_STEPS, (1, 1.5, 2, 3, 5, 7), range(1, 10)):
        found = [float(f"{step * 10.0**decade:.6g}") for decade in decades for step in steps]
        kept = sorted({low, *(value for value in found if low < value < high), high})
        if len(kept) >= _FEW:
            break
    return kept
