"""All figures of a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd

from sim.foundation.text import bytes_text, epsilon_text, listed, score_text, seconds_text
from sim.report.adversaries import ADVERSARIES
from sim.report.attacks import attack_figures
from sim.report.cost_charts import round_panel, time_panel, traffic_panel
from sim.report.course_charts import clinics_panel, learning_panel
from sim.report.doses import dose_figure, dose_points
from sim.report.evidence_figures import evidence_figures
from sim.report.figure import Figure, Gallery
from sim.report.figures import metrics_of, privacy_accuracy_chart, spans
from sim.report.joining import MANY, not_joined
from sim.report.look import Spec, looks
from sim.report.points import (
    by_clinic,
    by_privacy,
    equals,
    largest_epsilons,
    learning,
    members_of,
    per_group,
    together_by_level,
    told_adversaries,
    trade_offs,
)
from sim.report.spoken import Spoken, spoken
from sim.report.study import StudyResults
from sim.report.summary import adjacency_of, adversaries_in
from sim.report.trade_off_charts import cost_panel, epsilon_axis, front_panel, privacy_panel, score_ends, scores_panel
from sim.results.rounds import DrawnRound


def gallery(study: StudyResults) -> Gallery:
    """Choose the figures that a study's results allow, of which none is without information."""
    ok = study.drawn
    told = told_adversaries(ok) if len(ok) else {}
    adversaries = told or dict([next(iter(ADVERSARIES.items()))])
    points = trade_offs(ok, adversaries, study.held_out) if len(ok) else pd.DataFrame(columns=["score"])
    if points.empty:
        return Gallery()
    words, names = spoken(ok), list(adversaries_in(ok).values())
    scores = [score for score in words.scores if (points["score"] == score).any()]
    tables = {"trade_offs": points.assign(epsilon=points["epsilon"].map(epsilon_text))}
    axis, adjacency = epsilon_axis(largest_epsilons(ok)), adjacency_of(ok)
    columns = [column for column in words.scores.values() if column in ok]
    by_level = {level: equals(ok[ok["level"] == level], columns) for level in ok["level"].cat.categories}
    by_adversary = {name: equals(ok[ok[column].notna()], [*columns, column]) for column, name in told.items()}
    if told:
        tables["privacy"] = by_privacy(ok, points, by_adversary).assign(
            epsilon=lambda own: own["epsilon"].map(epsilon_text)
        )
        figures = [_privacy(tables["privacy"], told, names, axis, scores[0], adjacency)]
    else:
        tables["scores"] = together_by_level(points.drop(columns=["epsilon", "front"]), by_level)
        figures = [_scores(points, scores[0])]
    doses, alike = dose_points(ok, study.held_out)
    if len(doses):
        tables["doses"] = doses
        figures.append(dose_figure(doses, ok))
    figures += _pareto(points, told, axis, scores[0], adjacency)
    if len(study.rounds):
        every = learning(ok, study.rounds)
        tables["learning"] = together_by_level(every, by_level)
        if len(tables["learning"]["round"].unique()) > 1:
            figures.append(_learning(every, scores[0]))
    if len(study.clinics):
        tables["clinics"] = together_by_level(by_clinic(ok, study.clinics, study.held_out), by_level)
        scored = study.clinics[study.clinics["test_records"] > 0]
        if len(tables["clinics"]):
            figures.append(_clinics(tables["clinics"], scored["name"].nunique(), words))
    found, drawn = evidence_figures(study, by_level, words.scores[scores[0]])
    attacked, measured = attack_figures(study, words.scores[scores[0]])
    figures, tables = [*figures, *found, *attacked], tables | drawn | measured
    if len(study.phases) and len(phases := per_group(ok, study.phases, ["phase"], "seconds")):
        tables["phases"] = phases
        figures.append(_time(tables["phases"], words))
    if len(study.traffic) and len(traffic := per_group(ok, study.traffic, ["way", "kind"], "bytes")):
        tables["traffic"] = traffic.assign(signed=traffic["bytes"].where(traffic["way"] == "up", -traffic["bytes"]))
        figures.append(_traffic(tables["traffic"], words))
    if study.clock:
        tables["rounds"] = pd.concat([one.bars.assign(method=one.method) for one in study.clock], ignore_index=True)
        figures.append(_round(tables["rounds"], study.clock))
    given = looks(pd.concat([ok, not_joined(study.away)]) if len(study.away) and not study.all_away else ok)
    return Gallery(
        figures=figures,
        tables={
            name: table.astype(dict.fromkeys(table.select_dtypes("category"), str)) for name, table in tables.items()
        },
        given=given,
        methods=[
            look
            for look in looks(ok.assign(series=ok["method_label"]))
            if look.series not in {own.series for own in given}
        ],
        together=members_of([*by_level.values(), *by_adversary.values(), *alike]),
        scores=scores,
        levels=[str(level) for level in ok["level"].cat.categories],
        adversaries=list(adversaries.values()),
        rounds=[one.method for one in study.clock],
        searched=len(study.clinics) > 0 and study.clinics["name"].nunique() > MANY,
    )


def study_pictures(study: StudyResults, shown: Gallery) -> dict[str, Spec]:
    """Return the specification of every picture of a study, by file stem, but that of its rounds.

    :func:`sim.report.clock_figures.clock_pictures` draws these for each method.
    """
    specs = {figure.name: shown.paper_spec(figure, study.name) for figure in shown.figures if figure.name != "round"}
    scored = study.drawn[list(metrics_of(study.drawn))].notna().any(axis=None) if specs else False
    runs = study.runs[study.runs["run_id"].isin(study.drawn["run_id"])]
    return specs | ({"privacy_accuracy": privacy_accuracy_chart(runs, study.held_out)} if scored else {})


def _privacy(
    points: pd.DataFrame, adversaries: Mapping[str, str], known: Sequence[str], axis: Spec, score: str, adjacency: str
) -> Figure:
    own = points[points["score"] == score]
    told = {name for together in adversaries.values() for name in together.lower().split(" and ")}
    missing = [name.lower() for name in known if name.lower() not in told]
    open_to = f" No run has a guarantee against the {' or the '.join(missing)}." if missing else ""
    return Figure(
        name="privacy",
        title="Score against privacy, by adversary",
        note="Points: means over seeds; bars: 95 % confidence intervals. At ∞ there is no guarantee against that "
        f"adversary. Methods with the same ε are drawn side by side.{open_to}",
        description=f"{len(adversaries)} charts of {score} against the epsilon of the "
        f"{' and the '.join(name.lower() for name in adversaries.values())}. {spans(own)}",
        panels=[
            partial(
                privacy_panel,
                adversary=adversary,
                axis=axis,
                adjacency=adjacency,
                ends=score_ends(points),
                first=not place,
            )
            for place, adversary in enumerate(adversaries.values())
        ],
        first=True,
    )


def _scores(points: pd.DataFrame, score: str) -> Figure:
    return Figure(
        name="scores",
        title="Score by method",
        note="Means over seeds; bars: 95 % confidence intervals. No run has a finite ε, so no privacy is drawn.",
        description=f"A dot chart of {score} by method. {spans(points[points['score'] == score])}",
        panels=[scores_panel],
        by_level=True,
        first=True,
    )


def _pareto(points: pd.DataFrame, told: Mapping[str, str], axis: Spec, score: str, adjacency: str) -> list[Figure]:
    costs = [cost for cost in ("seconds", "bytes") if len(points[cost].unique()) > 1]
    if not costs:
        return []
    adversary = points["adversary"].iloc[0]
    own = points[(points["score"] == score) & (points["adversary"] == adversary) & points["front"]]
    names = [f"{series} ({level})" for series, level in own[["series", "level"]].itertuples(index=False)]
    privacy = [partial(front_panel, axis=axis, adjacency=adjacency)] if told else []
    goods = ["time", "traffic", *(["the chosen adversary's ε"] if told else [])]
    return [
        Figure(
            name="pareto",
            title="Pareto front of score and costs",
            note="Filled: on the Pareto front, where no other method and level is at least as good in score, "
            f"{', '.join(goods)} and better in one of them. Judged by means alone: neighbours may be alike.",
            description=f"Charts of {score} against {listed(goods)}. On the front: {'; '.join(names)}.",
            of="trade_offs",
            panels=[*(partial(cost_panel, cost=cost, amounts=points[cost]) for cost in costs), *privacy],
        )
    ]


def _learning(table: pd.DataFrame, score: str) -> Figure:
    lowest = {str(name): round(float(low), 2) for name, low in table.groupby("score")["mean"].min().items()}
    several = bool(table["lower"].notna().any())
    of_seeds, bands = ("Means over seeds", "; bands: 95 % confidence intervals") if several else ("Scores", "")
    last = table[table["round"] == table.groupby(["series", "level"], observed=True)["round"].transform("max")]
    return Figure(
        name="learning",
        title="Learning curves",
        note=f"{of_seeds} after each round, on the held-out records{bands}.",
        description=f"A line chart of {score} by round, here after the last. {spans(last[last['score'] == score])}",
        panels=[partial(learning_panel, lowest=lowest, with_bands=several)],
        by_level=True,
    )


def _clinics(table: pd.DataFrame, clinics: int, words: Spoken) -> Figure:
    drawn = [str(name) for name in table["clinic"].cat.categories if (table["clinic"] == name).any()]
    score = str(table["score"].iloc[0])
    means = table[table["score"] == score].groupby("clinic", observed=True)["mean"].mean()
    few = f" The {len(drawn)} {words.place}s with the lowest mean of {clinics}." if clinics > len(drawn) else ""
    return Figure(
        name="clinics",
        title=f"Results by {words.place}",
        note=f"On each {words.place}'s own held-out records, the {words.place} with the lowest mean first; bars: 95 % "
        f"intervals over its patients and seeds. {words.unscored}{few}",
        description=f"A dot chart of {score} by {words.place}. "
        f"Mean of all methods and levels: {_told(means, score_text)}.",
        panels=[partial(clinics_panel, clinics=drawn, word=words.word)],
        by_level=True,
    )


def _time(table: pd.DataFrame, words: Spoken) -> Figure:
    sums = table.groupby(["series", "level"], observed=True)["seconds"].sum()
    return Figure(
        name="time",
        title="Where the time goes",
        note=f"Simulated time by phase, summed over {words.sites} and rounds. Where {words.sites} work in parallel, a "
        "run takes less than this sum.",
        description=f"A bar chart of seconds by method and phase. Sums: {_sums(table, 'seconds', seconds_text)}.",
        of="phases",
        panels=[partial(time_panel, most=float(sums.max()), phases=set(table["phase"]))],
    )


def _traffic(table: pd.DataFrame, words: Spoken) -> Figure:
    kinds = table.groupby("kind", sort=False)["bytes"].sum().sort_values(ascending=False).index.tolist()
    return Figure(
        name="traffic",
        title="Traffic by message type",
        note=f"Traffic of a whole run over all {words.sites}.",
        description=f"A bar chart of bytes by method and kind of message. Sums: {_sums(table, 'bytes', bytes_text)}.",
        panels=[partial(traffic_panel, kinds=kinds)],
    )


def _round(table: pd.DataFrame, clock: Sequence[DrawnRound]) -> Figure:
    words = [f"{one.method}: {one.words}" for one in clock]
    return Figure(
        name="round",
        title="Timeline of a round",
        note="First round of the method selected above, first seed: who receives, computes, sends and waits, and when.",
        description=f"A Gantt chart of one round. {' '.join(words)}",
        of="rounds",
        panels=[
            partial(
                round_panel,
                rows=int(table.groupby("method")["row"].nunique().max()),
                longest={str(method): float(end) for method, end in table.groupby("method")["end"].max().items()},
                phases=set(table["phase"]),
            )
        ],
    )


def _sums(table: pd.DataFrame, amount: str, text: Callable[[float], str]) -> str:
    """Write an amount of each series, summed, as a mean over levels."""
    sums = table.groupby(["series", "level"], sort=False, observed=True)[amount].sum()
    return _told(sums.groupby("series", sort=False).mean(), text)


def _told(values: pd.Series[float], text: Callable[[float], str]) -> str:
    return "; ".join(f"{name} {text(float(value))}" for name, value in values.items())
