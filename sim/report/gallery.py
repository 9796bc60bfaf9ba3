"""All figures of a study: what the page draws, and the same as picture files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd

from sim.foundation.text import bytes_text, score_text, seconds_text
from sim.report.cost_charts import round_panel, time_panel, traffic_panel
from sim.report.course_charts import clinics_panel, learning_panel
from sim.report.figures import privacy_accuracy_chart, spans
from sim.report.look import Look, Sheet, Spec, looks, page_spec, paper, picture_spec, rows
from sim.report.points import SCORES, by_clinic, largest_epsilons, learning, per_group, trade_offs
from sim.report.study import StudyResults
from sim.report.summary import ADVERSARIES, adjacency_of
from sim.report.trade_off_charts import cost_panel, epsilon_axis, front_panel, privacy_panel
from sim.results.rounds import DrawnRound


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure."""

    name: str  # Of its picture files, and of its place on the page
    # title, note, description: heading; how to read it; what it shows, in words, for those who do not see it
    title: str
    note: str
    description: str
    table: str  # The data that it draws
    panels: Sequence[Callable[[Sheet], Spec]]  # Draw on a sheet; the page puts them side by side where there is room
    by_level: bool = False  # Whether paper needs one for each level of privacy


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The figures of a study; without any where no run has a score."""

    figures: list[Figure] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)  # The data of all figures, each once
    given: list[Look] = field(default_factory=list)
    # scores, levels, adversaries, rounds: what can be chosen; of `rounds`, the method whose round is drawn
    scores: list[str] = field(default_factory=list)
    levels: list[str] = field(default_factory=list)
    adversaries: list[str] = field(default_factory=lambda: list(ADVERSARIES.values()))
    rounds: list[str] = field(default_factory=list)

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

    def page_specs(self, figure: Figure) -> list[Spec]:
        """Return the Vega-Lite specifications of a figure's panels on the page, without data."""
        return [page_spec(panel(Sheet(given=self.given)), self.start()) for panel in figure.panels]

    def paper_spec(self, figure: Figure, study: str) -> Spec:
        """Return the Vega-Lite specification of a figure as a picture, with its data."""
        start = self.start()
        levels = self.levels if figure.by_level else [start["level"]]
        several = len(figure.panels) > 1
        width = 300 if several else 440
        sheets = [paper(self.given, start["score"], level, start["adversary"], width) for level in levels]
        panels = [panel(sheet) for sheet in sheets for panel in figure.panels]
        columns = len(figure.panels) if several else min(2, len(panels))
        table = self.tables[figure.table]
        shown = table[table["score"] == start["score"]] if "score" in table else table
        drawn = {"concat": panels, "columns": columns, "spacing": 24, "datasets": {figure.table: rows(shown)}}
        return picture_spec(drawn, f"Study {study}. {figure.title}. {figure.note}")


def gallery(study: StudyResults) -> Gallery:
    """Choose the figures that a study's results allow."""
    ok = study.ok
    points = trade_offs(ok) if len(ok) else pd.DataFrame(columns=["score"])
    if points.empty:
        return Gallery()
    scores = [score for score in SCORES if (points["score"] == score).any()]
    tables = {"trade_offs": points}
    axis = epsilon_axis(largest_epsilons(ok))
    figures = [make(points, axis, scores[0], adjacency_of(ok)) for make in (_privacy, _pareto)]
    if len(study.rounds):
        tables["learning"] = learning(ok, study.rounds)
        figures.append(_learning(tables["learning"], scores[0]))
    if len(study.clinics):
        tables["clinics"] = by_clinic(ok, study.clinics)
        if len(tables["clinics"]):
            figures.append(_clinics(tables["clinics"], study.clinics["name"].nunique()))
    if len(study.phases):
        tables["phases"] = per_group(ok, study.phases, ["phase"], "seconds")
        figures.append(_time(tables["phases"]))
    if len(study.traffic):
        traffic = per_group(ok, study.traffic, ["way", "kind"], "bytes")
        tables["traffic"] = traffic.assign(signed=traffic["bytes"].where(traffic["way"] == "up", -traffic["bytes"]))
        figures.append(_traffic(tables["traffic"]))
    if study.clock:
        tables["rounds"] = pd.concat([one.bars.assign(method=one.method) for one in study.clock], ignore_index=True)
        figures.append(_round(tables["rounds"], study.clock))
    return Gallery(
        figures=figures,
        tables={
            name: table.astype(dict.fromkeys(table.select_dtypes("category"), str)) for name, table in tables.items()
        },
        given=looks(ok),
        scores=scores,
        levels=[str(level) for level in ok["level"].cat.categories],
        rounds=[one.method for one in study.clock],
    )


def study_pictures(study: StudyResults, shown: Gallery) -> dict[str, Spec]:
    """Return the specification of every picture of a study, by file stem, but that of its rounds.

    :func:`sim.report.clock_figures.clock_pictures` draws these for each method.
    """
    specs = {figure.name: shown.paper_spec(figure, study.name) for figure in shown.figures if figure.name != "round"}
    return specs | ({"privacy_accuracy": privacy_accuracy_chart(study.runs)} if specs else {})


def _privacy(points: pd.DataFrame, axis: Spec, score: str, adjacency: str) -> Figure:
    return Figure(
        name="privacy",
        title="Score against privacy, by adversary",
        note="Points: means over seeds; bars: 95 % confidence intervals. At ∞ there is no guarantee against that "
        "adversary. Methods with the same ε are drawn side by side.",
        description=f"Three charts of {score} against the epsilon of the model user, a peer clinic and the server. "
        f"{spans(points[points['score'] == score])}",
        table="trade_offs",
        panels=[
            partial(privacy_panel, adversary=adversary, axis=axis, adjacency=adjacency)
            for adversary in ADVERSARIES.values()
        ],
    )


def _pareto(points: pd.DataFrame, axis: Spec, score: str, adjacency: str) -> Figure:
    adversary = next(iter(ADVERSARIES.values()))
    own = points[(points["score"] == score) & (points["adversary"] == adversary) & points["front"]]
    names = [f"{series} ({level})" for series, level in own[["series", "level"]].itertuples(index=False)]
    return Figure(
        name="pareto",
        title="Pareto front of score, time, traffic and privacy",
        note="Filled: on the Pareto front, where no other method and level is at least as good in score, time, "
        "traffic and the chosen adversary's ε and better in one of them. Judged by means alone: neighbours may be "
        "indistinguishable.",
        description=f"Three charts of {score} against simulated time, traffic and epsilon. "
        f"On the front, with the {adversary.lower()} as adversary: {'; '.join(names)}.",
        table="trade_offs",
        panels=[
            *(partial(cost_panel, cost=cost, amounts=points[cost]) for cost in ("seconds", "bytes")),
            partial(front_panel, axis=axis, adjacency=adjacency),
        ],
    )


def _learning(table: pd.DataFrame, score: str) -> Figure:
    lowest = {str(name): round(float(low), 2) for name, low in table.groupby("score")["mean"].min().items()}
    last = table[table["round"] == table.groupby(["series", "level"], observed=True)["round"].transform("max")]
    return Figure(
        name="learning",
        title="Learning curves",
        note="Means over seeds after each round, on the held-out records; bands: 95 % confidence intervals.",
        description=f"A line chart of {score} by round. After the last round: {spans(last[last['score'] == score])}",
        table="learning",
        panels=[partial(learning_panel, lowest=lowest)],
        by_level=True,
    )


def _clinics(table: pd.DataFrame, clinics: int) -> Figure:
    drawn = [str(name) for name in table["clinic"].cat.categories if (table["clinic"] == name).any()]
    score = str(table["score"].iloc[0])
    means = table[table["score"] == score].groupby("clinic", observed=True)["mean"].mean()
    few = f" The {len(drawn)} clinics with the lowest mean of {clinics}." if clinics > len(drawn) else ""
    return Figure(
        name="clinics",
        title="Results by clinic",
        note="On each clinic's own held-out records, the clinic with the lowest mean first; bars: 95 % confidence "
        f"intervals over seeds. Where all of a clinic's held-out records are of one class, it has no AUC.{few}",
        description=f"A dot chart of {score} by clinic. Mean of all methods and levels: {_told(means, score_text)}.",
        table="clinics",
        panels=[partial(clinics_panel, clinics=drawn)],
        by_level=True,
    )


def _time(table: pd.DataFrame) -> Figure:
    return Figure(
        name="time",
        title="Where the time goes",
        note="Simulated time by phase, summed over clinics and rounds. Where clinics work in parallel, a run takes "
        "less than this sum.",
        description=f"A bar chart of seconds by method and phase. Sums: {_sums(table, 'seconds', seconds_text)}.",
        table="phases",
        panels=[time_panel],
    )


def _traffic(table: pd.DataFrame) -> Figure:
    kinds = table.groupby("kind", sort=False)["bytes"].sum().sort_values(ascending=False).index.tolist()
    return Figure(
        name="traffic",
        title="Traffic by message type",
        note="Traffic of a whole run over all clinics.",
        description=f"A bar chart of bytes by method and kind of message. Sums: {_sums(table, 'bytes', bytes_text)}.",
        table="traffic",
        panels=[partial(traffic_panel, kinds=kinds)],
    )


def _round(table: pd.DataFrame, clock: Sequence[DrawnRound]) -> Figure:
    words = [f"{one.method}: {one.words}" for one in clock]
    return Figure(
        name="round",
        title="Timeline of a round",
        note="First round of the method selected above, first seed: who receives, computes, sends and waits, and when.",
        description=f"A Gantt chart of one round. {' '.join(words)}",
        table="rounds",
        panels=[partial(round_panel, rows=int(table.groupby("method")["row"].nunique().max()))],
    )


def _sums(table: pd.DataFrame, amount: str, text: Callable[[float], str]) -> str:
    """Write an amount of each series, summed, as a mean over levels."""
    sums = table.groupby(["series", "level"], sort=False, observed=True)[amount].sum()
    return _told(sums.groupby("series", sort=False).mean(), text)


def _told(values: pd.Series[float], text: Callable[[float], str]) -> str:
    return "; ".join(f"{name} {text(float(value))}" for name, value in values.items())
