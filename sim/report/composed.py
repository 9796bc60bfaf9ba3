"""A study's ledger as people read it: each setting's epsilon, that of all runs together, and the price of picking."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from sim.foundation.text import epsilon_text
from sim.privacy import ledger
from sim.privacy.study_ledger import Composition, StudyPrivacy, StudyRun, own_epsilon
from sim.report.prose import sentences
from sim.report.spoken import between_parties
from sim.report.summary import WHO, in_reading_order, named_settings, under_one_adjacency


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
