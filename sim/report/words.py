"""What a study found, in plain words: its conclusions, and the first screen in five sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

import pandas as pd

from sim.foundation.text import bytes_text, clinic_text, count_text, epsilon_text, listed, score_text, seconds_text
from sim.inference.differences import LEVEL, all_differences
from sim.report.cautions import cautions, trials_of
from sim.report.compare import Comparison, compared
from sim.report.elsewhere import elsewhere
from sim.report.figure import Gallery
from sim.report.held_out import MARGIN, evidence_of
from sim.report.joining import ALONE
from sim.report.scope import scope
from sim.report.spoken import spoken
from sim.report.study import StudyResults
from sim.report.summary import PREVALENCE, adjacency_note, adjacency_of, adversaries_in, held_out_clinics, is_baseline
from sim.report.tuning import at_the_edge

_BY_CHANCE: Final = LEVEL / 2
"""Share of intervals of nothing that lie above 0, or below."""


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
    known, others = pd.concat(means) if means else pd.DataFrame(), bool(strangers.any())
    levels, parties = len(means), study.parties
    limits = scope(ok, known, study.held_out, study.trials, levels=levels, others=others, parties=parties)
    return [*findings, ("", limits)]


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
        of = {metric: evidence.among(names) for metric, evidence in known.items()}
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
            known[words.proper].among({**names, **also}),
            ok[ok["level"] == level],
            study.trials,
            study.held_out.predictions if study.held_out else pd.DataFrame(),
            study.rounds,
        )
        yield str(level), replace(comparison, place=words.place), [*said]


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


def what_was_compared(study: StudyResults) -> str:
    """Say what was compared."""
    ok = study.drawn
    if ok.empty:
        return ""
    methods, settings = ok["method_label"].nunique(), ok["series"].nunique()
    parts = [count_text(methods, "method") + (f" in {settings} settings" if settings > methods else "")]
    levels = ok["level"].cat.categories
    if len(levels) > 1:
        parts.append(f"at {len(levels)} privacy levels ({', '.join(levels)})")
    parts.append(f"on {count_text(ok['seed'].nunique(), 'seed')}")
    if len(study.clinics):
        alike = (ok[["series", "level", "seed"]] == ok[["series", "level", "seed"]].iloc[0]).all(axis=1)
        first = study.clinics[study.clinics["run_id"].isin(ok.loc[alike, "run_id"])]
        held = f"{first['test_records'].sum():,} held-out records"
        train = f"{first['records'].sum():,} training and {held}"
        over = f"over {count_text(first['name'].nunique(), 'clinic')} with "
        scored = first[first["test_records"] > 0]
        if study.parties and len(scored) > 1:
            patients = f"{scored['records'].sum():,} training and {scored['test_records'].sum():,} held-out patients"
            parts.append(f"over {count_text(len(scored), 'region')} with {patients}")
        elif study.parties:
            patients = f"{first['records'].max():,} training and {first['test_records'].sum():,} held-out patients"
            parts.append(f"over {count_text(first['name'].nunique(), 'party')} with columns of the same {patients}")
        elif study.all_away:
            parts.append(f"{over}{held}, of clinics that took no part in training")
        else:
            parts.append(f"{over}{train}")
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
    strategies = ok.drop_duplicates("series").set_index("series")["method"]
    joined = points[points["series"].map(~strategies.map(is_baseline))]
    here = joined[joined["level"] == level]
    found = dict(conclusions(study) if said_of is None else said_of)
    at = {"as set": "", "no DP": "Without DP: "}.get(level, f"At {level}: ")
    said = [f"{at}{found[level]}"] if level in found else []
    words = spoken(ok)
    if words.scores[score] != words.within:
        return [words.nowhere]
    if here.empty:
        return said
    best = here.sort_values("mean", ascending=False, kind="stable").iloc[0]
    said += _for_whom(shown, level, str(best["series"]), words.word)
    said += _privacy_price(study, best, score, chosen=len(here) > 1)
    said.append(_cost(here, best, " of the methods that train together" if len(joined) < len(points) else ""))
    return [*said, found[""]] if "" in found else said


def _for_whom(shown: Gallery, level: str, best: str, word: str) -> list[str]:
    """Say which clinics gain most and least by joining."""
    if "joining" not in shown.tables:
        return []
    own = shown.tables["joining"]
    names = [best, *(name for name, members in shown.together.items() if best in members)]
    own = own[(own["level"] == level) & own["series"].isin(names) & (own["against"] == ALONE)].sort_values("mean")
    if own.empty:
        return []
    groups, own = own[own["group"]], own[~own["group"]]
    named = groups if len(groups) else own
    least, most = named.iloc[0], named.iloc[-1]
    change = f"by {_gain(least)}" + (f" to {_gain(most)}" if len(named) > 1 else "")
    if _signed(least["mean"]) == _signed(most["mean"]) and len(named) > 1:
        change = f"by {_signed(least['mean'])} everywhere"
    better, worse, chance = (own["lower"] > 0).sum(), (own["upper"] < 0).sum(), _BY_CHANCE * len(own)
    scored = f"{'a' if word == 'concordance' else 'an'} {word}"
    expected = f"; by chance alone it would be for about {chance:.0f} each" if chance >= 1 else ""
    return [
        f"Joining with {most['series']} instead of training alone changes a clinic's {word} {change}; the interval of "
        f"each clinic by itself is above 0 for {better} of {count_text(len(own), 'clinic')} with {scored} and below 0 "
        f"for {worse or 'none'}{expected}."
    ]


def _gain(row: pd.Series[Any]) -> str:
    name = str(row["clinic"])
    clinic = f"clinics with {name.partition(' (')[0]}" if row["group"] else clinic_text(name)
    return f"{_signed(row['mean'])} ({clinic})"


def _signed(value: float) -> str:
    text = score_text(value)
    return text if text.startswith("-") else f"+{text}"


def _privacy_price(study: StudyResults, best: pd.Series[float], score: str, *, chosen: bool) -> list[str]:
    """Say what DP costs the best method, and who is not held off by it; the best of several was chosen by its score."""
    own = study.drawn[study.drawn["series"] == best["series"]]
    if "no DP" not in set(own["level"]):
        return []
    own = own.sort_values("level", kind="stable").astype({"level": str})
    pairs = all_differences(evidence_of(own, "level", spoken(own).scores[score], study.held_out))
    pairs = pairs[pairs["second"] == "no DP"].dropna(subset="mean")
    losses = [
        f"{score_text(-mean, width)} at {level}"
        for level, mean, width in pairs[["first", "mean", "half_width"]].itertuples(index=False)
    ]
    if not losses:
        return []
    first = losses[0].replace(" at", f" of {score[0].lower()}{score[1:]} at")
    runs = own[own["level"] == best["level"]]
    epsilons = [f"{name.lower()} {epsilon_text(runs[column].max())}" for column, name in adversaries_in(runs).items()]
    curse = f" It was taken for its score at {best['level']}: by chance alone its price there looks small."
    return [
        f"DP costs {best['series']} {', '.join([first, *losses[1:]])}; its ε at {best['level']}: "
        f"{', '.join(epsilons)}.{curse if chosen else ''}"
    ]


def _cost(here: pd.DataFrame, best: pd.Series[float], who: str) -> str:
    """Say what a run of the best method costs, and how little or much others take."""
    text = f"A run of {best['series']} takes {seconds_text(best['seconds'])} and {bytes_text(best['bytes'])} of traffic"
    if len(here) == 1:
        return f"{text}."
    by_time = here.sort_values("seconds", kind="stable")
    quick, slow = by_time.iloc[0], by_time.iloc[-1]
    if math.isclose(quick["seconds"], slow["seconds"]):
        low, high = here["bytes"].min(), here["bytes"].max()
        traffic = "" if math.isclose(low, high) else f", with {bytes_text(low)} to {bytes_text(high)} of traffic"
        return f"{text}; the others{who} take as long{traffic}."
    least, slowest = (
        f"is {row['series']} with {seconds_text(row['seconds'])} and {bytes_text(row['bytes'])}"
        for row in (quick, slow)
    )
    if math.isclose(quick["seconds"], best["seconds"]):
        return f"{text}; none{who} is quicker, and the slowest {slowest}."
    last = ", and none is slower" if math.isclose(slow["seconds"], best["seconds"]) else f", the slowest {slowest}"
    return f"{text}; the quickest{who} {least}{last}."
