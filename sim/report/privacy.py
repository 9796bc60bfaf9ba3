"""Privacy by method: who sees what, how strongly it is protected and why not; and what all runs of a study come to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sim.foundation.text import epsilon_text
from sim.privacy import ledger
from sim.privacy.ledger import COLUMN_OF
from sim.privacy.statement_text import between
from sim.privacy.study_ledger import Composition, StudyPrivacy, StudyRun, own_epsilon
from sim.report.prose import sentences
from sim.report.spoken import between_parties
from sim.report.study import StudyResults
from sim.report.summary import WHO, adversaries_in, in_reading_order, named_settings, under_one_adjacency

_RATE = "0.01"


@dataclass(frozen=True)
class MethodPrivacy:
    """What one method gives away, as text."""

    series: str
    # For each adversary its name, what it sees at the first level, and its epsilon at every level
    rows: list[tuple[str, str, list[str]]]
    # bounds, mechanisms: for each level and adversary, the bounds on membership inference and why there are none; for
    # each level and kind of noised release, how it is noised. Of the first seed.
    bounds: pd.DataFrame
    mechanisms: pd.DataFrame


def method_privacy(study: StudyResults) -> list[MethodPrivacy]:
    """Lay out the statements of every method."""
    ok = study.ok
    levels = [str(level) for level in ok["level"].cat.categories]
    found = []
    for series, own in ok.groupby("series", sort=False):
        adversaries = adversaries_in(own)
        largest = own.groupby("level", observed=True)[list(adversaries)].max()
        stated = {level: study.statements[own.loc[own["level"] == level, "run_id"].iloc[0]] for level in largest.index}
        first = {COLUMN_OF[row["adversary"]]: row for row in next(iter(stated.values()))["adversaries"]}
        rows = [
            (
                adversary,
                _sees(first[column]),
                [epsilon_text(largest[column].get(level, math.nan)) for level in levels],
            )
            for column, adversary in adversaries.items()
        ]
        bounds = [
            _bound(level, row, statement["delta"], parties=statement.get("parties", False))
            for level, statement in stated.items()
            for row in statement["adversaries"]
        ]
        mechanisms = [
            _mechanism(level, row, parties=statement.get("parties", False))
            for level, statement in stated.items()
            for row in statement["mechanisms"]
        ]
        found.append(MethodPrivacy(str(series), rows, pd.DataFrame(bounds), pd.DataFrame(mechanisms)))
    return found


def unprotected(study: StudyResults) -> list[str]:
    """Say which adversaries have an infinite epsilon in spite of a mechanism, and why."""
    ok = study.ok
    noised = ok[ok["mechanism"] != "none"]
    names: dict[tuple[str, str], list[str]] = {}
    known = adversaries_in(ok)
    for run_id, method in noised[["run_id", "method_label"]].itertuples(index=False):
        for row in study.statements[run_id]["adversaries"]:
            adversary = known.get(COLUMN_OF[row["adversary"]])
            if adversary is not None and math.isinf(row["epsilon"]):
                exposed = names.setdefault((adversary.lower(), "; ".join(row["reasons"])), [])
                if method not in exposed:
                    exposed.append(method)
    said = [
        f"Even with DP, ε is infinite for the {who} in {'; '.join(own)}: {why}." for (who, why), own in names.items()
    ]
    if len(noised) < len(ok):
        said.append("Without DP nothing is noised, so ε is infinite for whoever sees anything of the training.")
    return said


def outside(study: StudyResults) -> list[tuple[str, str, str]]:
    """List once what stands outside the guarantee: what, marking, note; with the methods where it is not true of all.

    Of each method the runs with most noise count.
    """
    ok = study.ok.sort_values("level", kind="stable").drop_duplicates("series")
    methods: dict[tuple[str, str, str], list[str]] = {}
    for run_id, series in ok[["run_id", "series"]].itertuples(index=False):
        for row in study.statements[run_id]["outside"]:
            methods.setdefault((row["what"], row["marking"], row["note"]), []).append(series)
    return [
        (what, marking.replace("dp", "DP"), note if len(own) == len(ok) else f"{note} ({'; '.join(own)})")
        for (what, marking, note), own in methods.items()
    ]


def not_covered(study: StudyResults) -> pd.DataFrame:
    """List once what runs publish of their records that no epsilon covers: what, where, and of which records."""
    rows = [row for statement in study.statements.values() for row in statement["not-covered"]]
    named = {"what": "What", "where": "Where", "of": "Statistic of"}
    return pd.DataFrame(rows, columns=[*named]).drop_duplicates().rename(columns=named)


def _sees(row: Mapping[str, Any]) -> str:
    seen = [f"{part['meaning']} ({'noised' if part['noised'] else 'not noised'})" for part in row["sees"]]
    return "; ".join(seen) or "nothing"


def _who(adversary: str, *, parties: bool) -> str:
    who = WHO[adversary].lower()
    return who.replace("clinic", "party") if parties else who


def _bound(level: str, row: Mapping[str, Any], delta: float | None, *, parties: bool) -> dict[str, str]:
    finite = 0 < row["epsilon"] < math.inf
    return {
        "Privacy": level,
        "Adversary": _who(row["adversary"], parties=parties),
        "ε": epsilon_text(row["epsilon"]),
        "δ": f"{delta:g}" if finite and delta is not None else "–",
        "Neighbours": row["adjacency"] or "–",
        "ε, replace-one": "–" if row["replace-epsilon"] is None else epsilon_text(row["replace-epsilon"]),
        f"Least protected {'party' if parties else 'clinic'}": row["clinic"] if finite else "–",
        "Maximum membership advantage": _upper(row["advantage"]),
        "Maximum TPR at 1 % FPR": _upper(row["true-positive-rates"][_RATE]),
        "Reason for no guarantee": "; ".join(row["reasons"]) or "–",
    }


def _mechanism(level: str, row: Mapping[str, Any], *, parties: bool) -> dict[str, str]:
    return {
        "Privacy": level,
        "Release": row["what"],
        "Seen by": ", ".join(_who(each, parties=parties) for each in row["seen-by"]),
        "Mechanism": row["mechanism"],
        "Noise": f"{between(row['noise'])} ({row['noise-is']})",
        "Sampling rate": between(row["sample-rate"]) if row["sample-rate"] else "–",
        "Times": f"{between(row['times'])} {row['counted-in']}",
        "Neighbours": row["adjacency"],
    }


def _upper(value: float) -> str:
    """Write a bound to three decimals, rounded up."""
    return f"{math.ceil(value * 1000 - 1e-9) / 1000:.3f}"


def composed_frame(found: StudyPrivacy, runs: Sequence[StudyRun], delta: float | None = None) -> pd.DataFrame:
    """Lay out epsilon by adversary as text: a row a setting, then what composes.

    Parameters
    ----------
    runs : sequence of StudyRun
        Those that it was counted from.
    delta : float, optional
        At which to count each run's own anew; as the run states them if not given.
    """
    adversaries = [each.adversary for each in found.compositions]
    table = in_reading_order(under_one_adjacency(pd.DataFrame([{**run.row, "run": run} for run in runs])))
    units = {run.row["unit"] for run in runs if run.row["mechanism"] != "none"}
    if delta is not None or len(units) > 1:
        for adversary in adversaries:
            table[ledger.COLUMN_OF[adversary]] = [own_epsilon(run, adversary, found, delta) for run in table["run"]]
    groups = table.assign(setting=named_settings(table)).groupby("setting", sort=False)
    largest = groups[[ledger.COLUMN_OF[adversary] for adversary in adversaries]].max()
    laid = [
        [str(name), str(count), *map(epsilon_text, epsilons)]
        for name, count, epsilons in zip(largest.index, groups.size(), largest.to_numpy(float), strict=True)
    ]
    compositions = found.compositions
    laid += [
        ["All runs, composed", str(found.runs), *(epsilon_text(c.epsilon) for c in compositions)],
        ["Runs with a finite ε, composed", _counts(compositions), *(epsilon_text(c.finite) for c in compositions)],
    ]
    if any(c.drawn is not None for c in compositions):
        drawn = ["–" if c.drawn is None else epsilon_text(c.drawn) for c in compositions]
        laid.append(["The best of them, if their number had been random", _counts(compositions), *drawn])
    peer = {"peer-clinic": "Peer party"} if between_parties(table) else {}
    names = [f"ε {(WHO | peer)[adversary].lower()}" for adversary in adversaries]
    return pd.DataFrame(laid, columns=["Setting", "Runs", *names])


def _counts(compositions: Sequence[Composition]) -> str:
    counts = sorted({c.finite_runs for c in compositions})
    return "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))


def composed_words(found: StudyPrivacy) -> list[str]:
    """Say what the figures mean, one sentence a point."""
    priced = [c for c in found.compositions if c.finite_runs > 1 and 0 < c.finite < math.inf]
    return sentences(
        "composed",
        found=found,
        unbounded=any(c.finite_runs < c.runs for c in found.compositions),
        priced=priced,
        drawn=any(c.drawn is not None for c in priced),
    )
