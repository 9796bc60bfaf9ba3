"""Figures made of predictions: what joining brings, the decision map, ROC and calibration, clinics held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd

from sim.foundation.text import listed, score_text
from sim.report.course_charts import joining_panel, size_panel
from sim.report.decision import map_frame, map_stripes
from sim.report.evidence_charts import (
    calibration_panel,
    forest_panel,
    groups_panel,
    map_note,
    map_panel,
    roc_panel,
    tuning_panel,
)
from sim.report.figure import Figure
from sim.report.joining import ALONE, MANY, OTHERS, joining, joining_points, not_joined
from sim.report.points import ANOTHER, MEAN, Names, calibration, elsewhere_points, group_points, roc, together_by_level
from sim.report.spoken import Spoken, spoken
from sim.report.study import StudyResults
from sim.report.tuning import at_the_edge, tuning_points

_MOST = 40
"""Of more clinics that are held out, those with the lowest score are drawn."""


def evidence_figures(
    study: StudyResults, names: Mapping[str, Names], score: str
) -> tuple[list[Figure], dict[str, pd.DataFrame]]:
    """Return the figures that a study's predictions allow, and their tables.

    By level, `names` are those of series, of which equal ones are drawn once; the best methods are chosen by `score`.
    """
    tables: dict[str, pd.DataFrame] = {}
    figures: list[Figure] = []
    ok, away, words = study.drawn, study.away, spoken(study.runs)
    known = study.held_out.predictions if study.held_out else pd.DataFrame()
    if study.held_out and len(study.clinics) and not study.all_away:
        gains = joining(ok, away, study.clinics, study.held_out)
        if len(gains):
            tables["joining"] = joining_points(gains, ok, names, score)
            figures += _joining(tables["joining"], words)
    if study.decided:
        tables["map"] = map_stripes(study.decided)
        figures.append(_map(study))
    for name, points, make in (("roc", roc, partial(_roc, words.place)), ("calibration", calibration, _calibration)):
        if len(table := points(ok, known)):
            tables[name] = together_by_level(table, names)
            figures.append(make())
    if len(study.groups) and len(table := group_points(ok, study.groups)):
        tables["groups"] = together_by_level(table, names)
        figures.append(_groups(table, words))
    if study.held_out and len(away) and len(known):
        runs = away if study.all_away else not_joined(away)
        tables["elsewhere"] = (table := elsewhere_points(runs, study.held_out))
        figures.append(_elsewhere(table, words))
    if len(study.trials) and len(table := tuning_points(study.trials, names)):
        tables["tuning"] = table
        figures.append(_tuning(table, list(at_the_edge(study.trials))))
    return figures, tables


def _joining(table: pd.DataFrame, words: Spoken) -> list[Figure]:
    clinics = table.loc[~table["group"], "clinic"].nunique()
    many = clinics > MANY
    rows = "Clinics in groups of like size, with intervals over clinics; search for one" if many else "Largest first"
    found = []
    for against in (ALONE, OTHERS):
        own = table[table["against"] == against]
        if own.empty:
            continue
        means = own[~own["group"]].groupby("clinic", sort=False, observed=True)["mean"].mean().iloc[:MANY]
        told = "; ".join(f"{name} {score_text(mean)}" for name, mean in means.items())
        found.append(
            Figure(
                name="joining" if against == ALONE else "joining_others",
                title="What joining brings" + ("" if against == ALONE else " over the others' model"),
                note=f"{rows}. Right of 0: better than {against}, on the same held-out records. The best three "
                f"methods, or those highlighted; bars: 95 % intervals over the clinic's patients and seeds. "
                f"{words.unscored}",
                description=f"A dot chart of each clinic's {words.word} less that of {against}. "
                f"Mean of all methods and levels: {told}.",
                of="joining",
                panels=[
                    partial(
                        joining_panel,
                        rows=own.loc[own["group"] == many, "clinic"].nunique(),
                        grouped=many,
                        against=against,
                        word=words.word,
                    )
                ],
                by_level=True,
                first=against == ALONE,
            )
        )
    if found[0].name == "joining":
        found.append(
            Figure(
                name="joining_size",
                title="What joining brings, by the number of a clinic's own records",
                note=f"A mark a clinic and method. Above 0: better than {ALONE}.",
                description=f"A chart of the gain of {clinics} clinics against their numbers of training records.",
                of="joining",
                panels=[partial(size_panel, word=words.word)],
                by_level=True,
            )
        )
    return found


def _map(study: StudyResults) -> Figure:
    shown = study.decided
    assert shown is not None  # noqa: S101 (asked for by the caller)
    stretches = [f"{row[0]}, {row[1]}: {row[2]}" for row in map_frame(shown).itertuples(index=False)]
    return Figure(
        name="map",
        title=f"Which method to take{f', where {listed(shown.within)}' if shown.within else ''}",
        note=map_note(shown),
        description=f"A map of {shown.y or 'the study'} by {shown.x}. {'; '.join(stretches)}.",
        panels=[partial(map_panel, shown=shown)],
        first=True,
    )


def _roc(place: str) -> Figure:
    return Figure(
        name="roc",
        title=f"ROC curves within {place}s",
        note=f"Held-out records of all seeds. Each case is compared with the controls of its own {place}, so that the "
        f"area is the within-{place} AUC (the covariate-adjusted ROC curve of Janes & Pepe 2009).",
        description=f"A line chart of sensitivity against the false-positive rate within the {place}.",
        panels=[partial(roc_panel, place=place)],
        by_level=True,
    )


def _calibration() -> Figure:
    return Figure(
        name="calibration",
        title="Calibration",
        note="Held-out records of all seeds, in tenths by their predicted probability. Below the diagonal, risk is "
        "overstated.",
        description="A line chart of the observed share of cases against the predicted probability.",
        panels=[calibration_panel],
        by_level=True,
    )


def _groups(table: pd.DataFrame, words: Spoken) -> Figure:
    groups = list(table["patients"].unique())
    means = table.groupby("patients", sort=False)["mean"].mean()
    told = "; ".join(f"{name} {score_text(mean)}" for name, mean in means.items())
    return Figure(
        name="groups",
        title="Scores by group of patients",
        note="On the held-out records of each group; bars: 95 % intervals over seeds.",
        description=f"A dot chart of the within-{words.place} {words.word} by group. "
        f"Mean of all methods and levels: {told}.",
        panels=[partial(groups_panel, groups=groups, word=words.word, place=words.place)],
        by_level=True,
    )


def _tuning(table: pd.DataFrame, edges: Sequence[str]) -> Figure:
    keys = list(table["key"].unique())
    values = {key: sorted(own["value"].dropna().unique()) for key, own in table.groupby("key")}
    best = [
        f"{row['series']}, {row['level']}: {row['key']} {row['text']}"
        for row in table[table["best"]].astype({"level": str}).to_dict("records")
    ]
    return Figure(
        name="tuning",
        title="Tuning: validation score against each tuned key",
        note="Each mark: the best setting with that value, on validation records, as a mean over seeds; large: the "
        f"best value of the method. No held-out record decides. {' '.join(edges)}".rstrip(),
        description=f"Line charts of the validation score by {listed(keys)}. Best: {'; '.join(best)}.",
        panels=[partial(tuning_panel, key=key, values=values[key]) for key in keys],
        by_level=True,
    )


def _elsewhere(table: pd.DataFrame, words: Spoken) -> Figure:
    single = table[table["kind"] == "clinic"]
    worst = single.groupby("clinic", observed=True)["mean"].mean().sort_values().index
    summaries = [name for name in (MEAN, ANOTHER) if (table["clinic"] == name).any()]
    few = f" The {_MOST} with the lowest {words.word} of {len(worst)}." if len(worst) > _MOST else ""
    said = table[table["kind"] == "mean"].drop_duplicates("series")
    means = "; ".join(
        f"{series} {score_text(mean)}" for series, mean in said[["series", "mean"]].itertuples(index=False)
    )
    return Figure(
        name="elsewhere",
        title="At clinics that took no part in training",
        note="No model trained with the clinic that it is scored on. Bars: 95 % intervals over its patients; diamonds: "
        "mean over clinics (random effects) with its interval; last: where 95 % of other such clinics are expected. "
        f"From five clinics on.{few}",
        description=f"A forest plot of the {words.word} at {len(worst)} clinics. Means: {means or 'too few clinics'}.",
        panels=[partial(forest_panel, clinics=[*worst[:_MOST], *summaries], word=words.word)],
        by_level=True,
    )
