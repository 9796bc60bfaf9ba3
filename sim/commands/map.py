"""``suture map``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil, floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sim.commands.common import Out, Overrides, ScenarioFile, Trust, wide_console
from sim.foundation.problems import ScenarioError

if TYPE_CHECKING:
    import pandas as pd

    from sim.report.study import StudyResults
    from sim.results.decision_map import DecisionMap

UPLINKS: Final = "uplink=0.1..1000 Mbit/s"
_OF_CLINICS: Final = ("uplink", "downlink", "latency", "compute", "profile")
_RANGE: Final = re.compile(r"\s*([\d.eE+-]+?)\s*([A-Za-zµ/]*)\s*\.\.\s*([\d.eE+-]+)\s*([A-Za-zµ/]+)\s*")
_STEPS: Final = (1, 2, 5)
_FEW: Final = 5
_MOST: Final = 100
"""More settings than this are mapped only where it is asked for."""


def map_(
    file: ScenarioFile,
    x: Annotated[
        str,
        typer.Option(
            "--x", metavar="KEY=A,B,...", help="What to re-time by: values, or a range such as 0.1..1000 Mbit/s."
        ),
    ] = UPLINKS,
    y: Annotated[
        str, typer.Option("--y", metavar="KEY", help="A swept key of the study, whole or by its last part.")
    ] = "",
    within: Annotated[
        list[str] | None,
        typer.Option("--within", metavar="CONDITION", help='For example "hours<=1 and epsilon_server<=8"; repeatable.'),
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write every point as CSV.")] = None,
    out: Out = Path("results"),
    overrides: Overrides = None,
    trust: Trust = False,
) -> None:
    """Draw which method to take at each point, from a finished study and re-timing, without training."""
    from sim.report.decision import map_frame, map_rows
    from sim.report.gallery import gallery, study_pictures
    from sim.report.html import write_report
    from sim.report.pictures import draw
    from sim.report.reading import read_results
    from sim.report.table import rendered
    from sim.results.decision_map import keep_map
    from sim.results.store import writing_to
    from sim.scenario import load_scenario

    folder = out / load_scenario(file, overrides or ()).name
    study = read_results(folder)
    shown = decided(study, folder, x, y, within or (), trust=trust)
    with writing_to(folder):
        keep_map(folder, shown, study.runs["run_id"].tolist())
        study = read_results(folder)
        figures = gallery(study)
        pictures = study_pictures(study, figures)
        paths = draw({"map": pictures["map"]}, folder / "figures")
        report = write_report(study, folder, figures)
        if csv:
            map_rows(shown).to_csv(csv, index=False)
    console = wide_console()
    conditions = f" within {'; '.join(shown.within)}" if shown.within else ""
    console.print(rendered(map_frame(shown), f"{study.name}: which method{conditions}", ""))
    console.print(f"Picture: {paths[-1]}\nReport: {report}", soft_wrap=True, highlight=False)


def mapped(study: StudyResults, folder: Path) -> StudyResults:
    """Return a study that was just run with its map by uplink, kept in its folder, unless it cannot be re-timed."""
    from sim.report.summary import is_baseline
    from sim.results.decision_map import keep_map

    methods = study.ok.loc[~study.ok["strategy"].map(is_baseline).astype(bool), ["series", "level"]].drop_duplicates()
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
    from sim.report.decision import candidates_of, decide, swept_key
    from sim.report.decision import within as checked
    from sim.report.summary import is_baseline
    from sim.study.replan import Retiming

    key, values = _axis(x)
    swept = swept_key(study.runs, y)
    runs = candidates_of(study.runs, swept)
    clauses = checked(within, runs)
    joined = runs[~runs["strategy"].map(is_baseline).astype(bool)]
    if joined.empty:
        raise ScenarioError([f"{folder}: has no finished run of a method that trains together; run the study first"])
    seconds = {}
    for (candidate, row), run_id in _firsts(joined):
        run = Retiming(folder / run_id, trust=trust)
        seconds[candidate, row] = {value: run.seconds([f"{key}={value}"]) for value in values}
    return decide(runs, seconds, (key, swept), clauses, study.held_out)


def _firsts(runs: pd.DataFrame) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield each candidate and row with the run of its first seed."""
    first = runs.sort_values("seed", kind="stable").drop_duplicates(["candidate", "row"]).sort_index()
    for candidate, row, run_id in first[["candidate", "row", "run_id"]].itertuples(index=False):
        yield (candidate, row), run_id


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
        raise ScenarioError([f'--x: "{x}" is not a key with values; write it like "{UPLINKS}"'])
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
