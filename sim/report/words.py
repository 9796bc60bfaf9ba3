"""What a study found, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import pandas as pd

from sim.foundation.text import listed
from sim.inference.evidence import Evidence
from sim.report.cautions import cautions, trials_of
from sim.report.compare import Comparison, compared
from sim.report.elsewhere import elsewhere
from sim.report.held_out import MARGIN, evidence_of
from sim.report.scope import scope
from sim.report.spoken import spoken
from sim.report.study import StudyResults
from sim.report.summary import PREVALENCE, adjacency_note, adjacency_of, held_out_clinics, is_baseline
from sim.report.tuning import at_the_edge


@lru_cache(maxsize=1)  # the page and the terminal say them
def conclusions(study: StudyResults) -> list[tuple[str, str]]:
    """Say for each level of privacy what can and what cannot be concluded about the headline.

    The level and the finding; last, what holds for all. Empty where nothing can be compared.
    """
    ok = study.ok
    strangers = held_out_clinics(ok)
    mine = ok[~strangers]
    found: list[tuple[str, str]] = []
    means = []
    for level, comparison, said in _by_level(study, mine):
        means.append(comparison.means)
        found.append((level, " ".join([comparison.finding(), *said])))
    other = dict(_elsewhere(study, ok[strangers]))
    told = [(level, " ".join(filter(None, [said, other.pop(level, "")]))) for level, said in found]
    findings = [*told, *other.items()]
    if not findings:
        return []
    known = pd.concat(means) if means else pd.DataFrame()
    return [
        *findings,
        (
            "",
            scope(
                ok,
                known,
                study.held_out,
                study.trials,
                levels=len(means),
                others=bool(strangers.any()),
                parties=study.parties,
            ),
        ),
    ]


def _by_level(study: StudyResults, ok: pd.DataFrame) -> Iterator[tuple[str, Comparison, list[str]]]:
    """Yield each level with its comparison and what has to be said beside it."""
    words = spoken(ok)
    if ok.empty or ok[words.within].isna().all():
        return
    place = ok["series"] + " @ " + ok["level"].astype(str)
    rows = ok.assign(place=place)
    known = {
        metric: evidence_of(rows, "place", metric, study.held_out)
        for metric in (words.within, words.pooled, words.proper)
    }
    prevalence = rows["method"] == PREVALENCE
    firsts = rows.drop_duplicates("place").set_index("place")
    for level in ok["level"].cat.categories:
        own = firsts[(firsts["level"] == level) & (firsts["method"] != PREVALENCE)]
        names = dict(own["series"])
        if len(names) < 2 or rows.loc[rows["place"].isin(names), words.within].isna().all():
            continue
        baselines = frozenset(own.loc[own["method"].map(is_baseline).astype(bool), "series"])
        of = {metric: _among(evidence, names) for metric, evidence in known.items()}
        note = adjacency_note(ok[ok["level"] == level])
        margin = study.held_out.margin if study.held_out else MARGIN
        comparison = compared(of[words.within], words.within, margin, baselines, note)
        pooled = compared(of[words.pooled], words.pooled, margin, baselines)
        reference = [*firsts.index[(firsts["level"] == level) & (firsts["method"] == PREVALENCE)]]
        reference = reference or list(dict.fromkeys(place[prevalence]))
        also = {reference[0]: PREVALENCE} if len(reference) == 1 else {}
        said = cautions(
            comparison,
            pooled,
            _among(known[words.proper], {**names, **also}),
            ok[ok["level"] == level],
            study.trials,
            study.held_out.predictions if study.held_out else pd.DataFrame(),
            study.rounds,
        )
        yield str(level), replace(comparison, place=words.place), [*said]


def _among(evidence: Evidence, names: dict[str, str]) -> Evidence:
    places = {name: place for place, name in enumerate(evidence.methods)}
    return evidence.among({places[place]: name for place, name in names.items()})


def _elsewhere(study: StudyResults, runs: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Say for each level what holds for clinics that took no part in training."""
    if runs.empty or study.held_out is None or study.held_out.predictions.empty:
        return
    for level in runs["level"].cat.categories:
        own = runs[(runs["level"] == level) & (runs["method"] != PREVALENCE)]
        if len(own):
            tried = at_the_edge(trials_of(study.trials, own)) if study.all_away else ()
            models = own[["run_id", "series", "seed"]].rename(columns={"series": "method"})
            baselines = set(own.loc[own["method"].map(is_baseline).astype(bool), "series"])
            yield str(level), " ".join([elsewhere(models, study.held_out, spoken(own), baselines), *tried])


def guarantee(runs: pd.DataFrame) -> str:
    """State the unit, delta and mechanism the epsilons refer to."""
    private = runs[(runs["status"] == "ok") & (runs["mechanism"] != "none")]
    if private.empty:
        return "No run of this study used differential privacy."
    mechanisms, units = listed(private["mechanism"].unique()), listed(private["unit"].unique())
    deltas = listed([f"{delta:g}" for delta in sorted(private["delta"].unique())])
    return f"Mechanism: {mechanisms}. Protected unit: one {units}. δ = {deltas}. ε is for {adjacency_of(private)}."
