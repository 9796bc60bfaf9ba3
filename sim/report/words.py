"""What a study found, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from sim.foundation.text import listed, score_text
from sim.inference.differences import Verdict, all_differences
from sim.inference.evidence import Evidence
from sim.report.compare import Comparison, compared
from sim.report.edges import at_the_edge
from sim.report.elsewhere import elsewhere, few
from sim.report.held_out import MARGIN, evidence_of
from sim.report.points import noise_key
from sim.report.referee import remarks
from sim.report.scope import scope
from sim.report.study import StudyResults
from sim.report.summary import PREVALENCE, adjacency_note, adjacency_of, held_out_clinics, is_baseline

__all__ = ["conclusions", "guarantee"]

_METRIC = "within_clinic_auc"


def conclusions(study: StudyResults) -> list[tuple[str, str]]:
    """Say for each level of privacy what can and what cannot be concluded about the within-clinic AUC.

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
    return [*findings, ("", scope(ok, known, study.held_out, levels=len(means), others=bool(strangers.any())))]


def _by_level(study: StudyResults, ok: pd.DataFrame) -> Iterator[tuple[str, Comparison, list[str]]]:
    """Yield each level with its comparison and what has to be said beside it."""
    if ok.empty or ok[_METRIC].isna().all():
        return
    place = ok["series"] + " @ " + ok["level"].astype(str)
    rows = ok.assign(place=place)
    known = {metric: evidence_of(rows, "place", metric, study.held_out) for metric in (_METRIC, "auc", "brier")}
    prevalence = rows["strategy"] == PREVALENCE
    firsts = rows.drop_duplicates("place").set_index("place")
    for level in ok["level"].cat.categories:
        own = firsts[(firsts["level"] == level) & (firsts["strategy"] != PREVALENCE)]
        names = dict(own["series"])
        if len(names) < 2 or rows.loc[rows["place"].isin(names), _METRIC].isna().all():
            continue
        baselines = frozenset(own.loc[own["strategy"].map(is_baseline).astype(bool), "series"])
        of = {metric: _among(evidence, names) for metric, evidence in known.items()}
        note = adjacency_note(ok[ok["level"] == level])
        margin = study.held_out.margin if study.held_out else MARGIN
        comparison = compared(of[_METRIC], _METRIC, margin, baselines, note)
        pooled = compared(of["auc"], "auc", margin, baselines)
        reference = [*firsts.index[(firsts["level"] == level) & (firsts["strategy"] == PREVALENCE)]]
        reference = reference or list(dict.fromkeys(place[prevalence]))
        said = [
            *_otherwise(comparison, pooled),
            *_by_chance(comparison, names, known["brier"], reference),
            *at_the_edge(_trials_at(study, own)),
            *remarks(
                ok[ok["level"] == level], study.held_out.predictions if study.held_out else pd.DataFrame(), study.rounds
            ),
        ]
        yield str(level), comparison, said


def _trials_at(study: StudyResults, own: pd.DataFrame) -> pd.DataFrame:
    """Return the trials at the level of some runs."""
    key, trials = noise_key(study.ok), study.trials
    return trials if key is None or key not in trials else trials[trials[key] == own[key].iloc[0]]


def _among(evidence: Evidence, names: dict[str, str]) -> Evidence:
    places = {name: place for place, name in enumerate(evidence.methods)}
    return evidence.among({places[place]: name for place, name in names.items()})


def _otherwise(within: Comparison, pooled: Comparison) -> Iterator[str]:
    """Say that the pooled AUC has another leader, unless the two are equal."""
    other = within.differences.set_index("group")
    if pooled.best == within.best or other.loc[pooled.best, "verdict"] == Verdict.EQUAL:
        return
    mean = pooled.means.set_index("group")["mean"]
    yield (
        f"The pooled AUC ranks otherwise: {pooled.best} leads with {score_text(mean[pooled.best])} before "
        f"{within.best} with {score_text(mean[within.best])}; it also rewards knowing each clinic's share of cases."
    )


def _by_chance(
    comparison: Comparison, names: dict[str, str], brier: Evidence, reference: Sequence[str]
) -> Iterator[str]:
    """Name the methods that are not shown to beat what each clinic's share of cases predicts."""
    means = comparison.means
    idle = means.loc[means["mean"] - means["half_width"].fillna(0.0) <= 0.5, "group"].tolist()
    if idle:
        verb = "are" if len(idle) > 1 else "is"
        yield f"{few(idle)} {verb} not shown to rank better than chance (within-clinic AUC of .5)."
    if len(reference) != 1:
        return
    pairs = all_differences(_among(brier, {**names, reference[0]: PREVALENCE}))
    worse = [
        group
        for group, other, mean, width in pairs[["first", "second", "mean", "half_width"]].itertuples(index=False)
        if other == PREVALENCE and not mean + width < 0
    ]
    if worse:
        yield f"No better Brier score than that of each clinic's share of cases is shown for {few(worse)}."


def _elsewhere(study: StudyResults, runs: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Say for each level what holds for clinics that took no part in training."""
    if runs.empty or study.held_out is None or study.held_out.predictions.empty:
        return
    for level in runs["level"].cat.categories:
        own = runs[(runs["level"] == level) & (runs["strategy"] != PREVALENCE)]
        if len(own):
            models = own[["run_id", "series", "seed"]].rename(columns={"series": "method"})
            baselines = set(own.loc[own["strategy"].map(is_baseline).astype(bool), "series"])
            yield str(level), elsewhere(models, study.held_out, baselines)


def guarantee(runs: pd.DataFrame) -> str:
    """State the unit, delta and mechanism the epsilons refer to."""
    private = runs[(runs["status"] == "ok") & (runs["mechanism"] != "none")]
    if private.empty:
        return "No run of this study used differential privacy."
    mechanisms, units = listed(private["mechanism"].unique()), listed(private["unit"].unique())
    deltas = listed([f"{delta:g}" for delta in sorted(private["delta"].unique())])
    return f"Mechanism: {mechanisms}. Protected unit: one {units}. δ = {deltas}. ε is for {adjacency_of(private)}."
