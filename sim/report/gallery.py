"""All figures of a study: what the page draws, and the same as picture files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from sim.foundation.text import bytes_text, score_text, seconds_text
from sim.report.cost_charts import round_panel, time_panel, traffic_panel
from sim.report.course_charts import clinics_panel, learning_panel
from sim.report.figures import picture, privacy_accuracy_chart, spans
from sim.report.look import PAGE, Chart, Look, Sheet, looks, page_spec, paper, paper_spec
from sim.report.points import SCORES, by_clinic, largest_epsilons, learning, per_group, trade_offs, with_levels
from sim.report.study import StudyResults
from sim.report.summary import ADVERSARIES, adjacency_of, successful_runs
from sim.report.trade_off_charts import cost_panel, epsilon_axis, front_panel, privacy_panel
from sim.results.rounds import DrawnRound

Panel = Callable[[Sheet], Chart]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure.

    Attributes
    ----------
    name : str
        Of its picture files, and of its place on the page.
    title, note, description : str
        Heading; how to read it; what it shows, in words, for those who do not see it.
    table : str
        The data that it draws.
    panels : sequence of callable
        Draw on a sheet; the page puts them side by side where there is room.
    by_level : bool
        Whether paper needs one for each level of privacy.
    """

    name: str
    title: str
    note: str
    description: str
    table: str
    panels: Sequence[Panel]
    by_level: bool


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The figures of a study.

    Attributes
    ----------
    figures : list of Figure
    tables : dict of str to DataFrame
        The data of all figures, each once.
    given : list of Look
    scores, levels, adversaries, rounds : list of str
        What can be chosen; of `rounds`, the method whose round is drawn.
    """

    figures: list[Figure]
    tables: dict[str, pd.DataFrame]
    given: list[Look]
    scores: list[str]
    levels: list[str]
    adversaries: list[str]
    rounds: list[str]

    def start(self) -> dict[str, Any]:
        """Return what the page shows at first: the middle one of the levels that have noise."""
        private = [level for level in self.levels if level != "no DP"] or self.levels
        return {
            "score": self.scores[0],
            "level": private[len(private) // 2],
            "adversary": self.adversaries[0],
            "method": self.rounds[0] if self.rounds else "",
            "picked": [],
        }

    def page_specs(self, figure: Figure) -> list[dict[str, Any]]:
        """Return the Vega-Lite specifications of a figure's panels on the page, without data."""
        return [page_spec(panel(PAGE), self.start()) for panel in figure.panels]

    def paper_spec(self, figure: Figure, study: str) -> dict[str, Any]:
        """Return the Vega-Lite specification of a figure as a picture, with its data."""
        start = self.start()
        levels = self.levels if figure.by_level else [start["level"]]
        width = 300 if len(figure.panels) > 1 else 440
        sheets = [paper(start["score"], level, start["adversary"], width) for level in levels]
        panels = [panel(sheet) for sheet in sheets for panel in figure.panels]
        columns = len(figure.panels) if len(figure.panels) > 1 else min(2, len(panels))
        table = self.tables[figure.table]
        shown = table[table["score"] == start["score"]] if "score" in table else table
        return paper_spec(panels, columns, f"Study {study}. {figure.title}. {figure.note}", {figure.table: shown})


def gallery(study: StudyResults) -> Gallery | None:
    """Choose the figures that a study's results allow; None where no run has a score."""
    ok = with_levels(successful_runs(study.runs))
    points = trade_offs(ok) if len(ok) else pd.DataFrame(columns=["score"])
    if points.empty:
        return None
    given = looks(ok)
    scores = [score for score in SCORES if (points["score"] == score).any()]
    tables = {"trade_offs": points}
    axis = epsilon_axis(largest_epsilons(ok))
    figures = [make(points, given, axis, scores[0], adjacency_of(ok)) for make in (_privacy, _pareto)]
    if len(study.rounds):
        tables["learning"] = learning(ok, study.rounds)
        figures.append(_learning(tables["learning"], given, scores[0]))
    if len(study.clinics):
        tables["clinics"] = by_clinic(ok, study.clinics)
        if len(tables["clinics"]):
            figures.append(_clinics(tables["clinics"], given, study.clinics["name"].nunique()))
    if len(study.phases):
        tables["phases"] = per_group(ok, study.phases, ["phase"], "seconds")
        figures.append(_time(tables["phases"], given))
    if len(study.traffic):
        traffic = per_group(ok, study.traffic, ["way", "kind"], "bytes")
        tables["traffic"] = traffic.assign(signed=traffic["bytes"].where(traffic["way"] == "up", -traffic["bytes"]))
        figures.append(_traffic(tables["traffic"], given))
    if study.clock:
        tables["rounds"] = _rounds(study.clock)
        figures.append(_round(tables["rounds"], study.clock))
    levels = [str(level) for level in ok["level"].cat.categories]
    texts = {name: table.astype(dict.fromkeys(table.select_dtypes("category"), str)) for name, table in tables.items()}
    rounds = [one.method for one in study.clock]
    return Gallery(
        figures=figures,
        tables=texts,
        given=given,
        scores=scores,
        levels=levels,
        adversaries=list(ADVERSARIES.values()),
        rounds=rounds,
    )


def write_figures(study: StudyResults, shown: Gallery | None, folder: Path) -> list[Path]:
    """Write every figure of a study as PNG and SVG.

    Parameters
    ----------
    study : StudyResults
    shown : Gallery or None
    folder : pathlib.Path
        Where to write; made if it does not exist.

    Returns
    -------
    list of pathlib.Path
        The files written; none when no run has a score to draw.
    """
    if shown is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    on_paper = [
        figure for figure in shown.figures if figure.name != "round"
    ]  # write_clock_figures draws it for each method
    specs = {figure.name: shown.paper_spec(figure, study.name) for figure in on_paper}
    specs["privacy_accuracy"] = privacy_accuracy_chart(study.runs).to_dict(validate=False)
    return [path for name, spec in specs.items() for path in picture(spec, folder / name)]


def _privacy(points: pd.DataFrame, given: list[Look], axis: alt.Axis, score: str, adjacency: str) -> Figure:
    return Figure(
        name="privacy",
        title="Score against privacy, by adversary",
        note="Points: means over seeds; bars: 95 % confidence intervals. At ∞ there is no guarantee against that "
        "adversary. "
        "Methods with the same ε are drawn side by side.",
        description=f"Three charts of {score} against the epsilon of the model user, a peer clinic and the server. "
        f"{spans(points[points['score'] == score])}",
        table="trade_offs",
        panels=[
            partial(privacy_panel, given=given, adversary=adversary, axis=axis, adjacency=adjacency)
            for adversary in ADVERSARIES.values()
        ],
        by_level=False,
    )


def _pareto(points: pd.DataFrame, given: list[Look], axis: alt.Axis, score: str, adjacency: str) -> Figure:
    adversary = next(iter(ADVERSARIES.values()))
    own = points[(points["score"] == score) & (points["adversary"] == adversary) & points["front"]]
    names = [f"{series} ({level})" for series, level in own[["series", "level"]].itertuples(index=False)]
    return Figure(
        name="pareto",
        title="Pareto front of score, time, traffic and privacy",
        note="Filled: on the Pareto front, where no other method and level is at least as good in score, time, "
        "traffic and "
        "the chosen adversary's ε and better in one of them. Judged by means alone: neighbours may be "
        "indistinguishable.",
        description=f"Three charts of {score} against simulated time, traffic and epsilon. "
        f"On the front, with the {adversary.lower()} as adversary: {'; '.join(names)}.",
        table="trade_offs",
        panels=[
            partial(cost_panel, given=given, cost="seconds", amounts=points["seconds"]),
            partial(cost_panel, given=given, cost="bytes", amounts=points["bytes"]),
            partial(front_panel, given=given, axis=axis, adjacency=adjacency),
        ],
        by_level=False,
    )


def _learning(table: pd.DataFrame, given: list[Look], score: str) -> Figure:
    lowest = {str(name): round(float(low), 2) for name, low in table.groupby("score")["mean"].min().items()}
    last = table[table["round"] == table.groupby(["series", "level"], observed=True)["round"].transform("max")]
    return Figure(
        name="learning",
        title="Learning curves",
        note="Means over seeds after each round, on the held-out records; bands: 95 % confidence intervals.",
        description=f"A line chart of {score} by round. After the last round: {spans(last[last['score'] == score])}",
        table="learning",
        panels=[partial(learning_panel, given=given, lowest=lowest)],
        by_level=True,
    )


def _clinics(table: pd.DataFrame, given: list[Look], clinics: int) -> Figure:
    drawn = [str(name) for name in table["clinic"].cat.categories if (table["clinic"] == name).any()]
    score = str(table["score"].iloc[0])
    means = table[table["score"] == score].groupby("clinic", observed=True)["mean"].mean()
    few = f" The {len(drawn)} clinics with the lowest mean of {clinics}." if clinics > len(drawn) else ""
    return Figure(
        name="clinics",
        title="Results by clinic",
        note="On each clinic's own held-out records, the clinic with the lowest mean first; bars: 95 % confidence "
        "intervals "
        f"over seeds. Where all of a clinic's held-out records are of one class, it has no AUC.{few}",
        description=f"A dot chart of {score} by clinic. Mean of all methods and levels: {_told(means, score_text)}.",
        table="clinics",
        panels=[partial(clinics_panel, given=given, clinics=drawn)],
        by_level=True,
    )


def _time(table: pd.DataFrame, given: list[Look]) -> Figure:
    return Figure(
        name="time",
        title="Where the time goes",
        note="Simulated time by phase, summed over clinics and rounds. Where clinics work in parallel, a run takes "
        "less "
        "than this sum.",
        description=f"A bar chart of seconds by method and phase. Sums: "
        f"{_told(_totals(table, 'seconds'), seconds_text)}.",
        table="phases",
        panels=[partial(time_panel, given=given)],
        by_level=False,
    )


def _traffic(table: pd.DataFrame, given: list[Look]) -> Figure:
    kinds = table.groupby("kind", sort=False)["bytes"].sum().sort_values(ascending=False).index.tolist()
    return Figure(
        name="traffic",
        title="Traffic by message type",
        note="Traffic of a whole run over all clinics.",
        description=f"A bar chart of bytes by method and kind of message. Sums: "
        f"{_told(_totals(table, 'bytes'), bytes_text)}.",
        table="traffic",
        panels=[partial(traffic_panel, given=given, kinds=kinds)],
        by_level=False,
    )


def _rounds(clock: Sequence[DrawnRound]) -> pd.DataFrame:
    """Lay out the first round of each method: ``method, row, phase, start, end``."""
    return pd.concat([one.bars.assign(method=one.method) for one in clock], ignore_index=True)


def _round(table: pd.DataFrame, clock: Sequence[DrawnRound]) -> Figure:
    words = [f"{one.method}: {one.words}" for one in clock]
    rows = int(table.groupby("method")["row"].nunique().max())
    return Figure(
        name="round",
        title="Timeline of a round",
        note="First round of the method selected above, first seed: who receives, computes, sends and waits, and when.",
        description=f"A Gantt chart of one round. {' '.join(words)}",
        table="rounds",
        panels=[partial(round_panel, rows=rows)],
        by_level=False,
    )


def _totals(table: pd.DataFrame, amount: str) -> pd.Series[float]:
    """Sum an amount for each series, as a mean over levels."""
    sums = table.groupby(["series", "level"], sort=False, observed=True)[amount].sum()
    return sums.groupby("series", sort=False).mean()


def _told(values: pd.Series[float], text: Callable[[float], str]) -> str:
    return "; ".join(f"{name} {text(float(value))}" for name, value in values.items())
