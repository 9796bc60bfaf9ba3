"""A study's ledger as people read it: each setting's epsilon, that of all runs together, and the price of picking."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from sim.foundation.text import epsilon_text
from sim.privacy.ledger import COLUMN_OF
from sim.privacy.study_ledger import Composition, StudyPrivacy, StudyRun, own_epsilon
from sim.report.summary import ADVERSARIES, in_reading_order, named_settings, under_one_adjacency

__all__ = ["composed_frame", "composed_words"]


def composed_frame(found: StudyPrivacy, runs: Sequence[StudyRun], delta: float | None = None) -> pd.DataFrame:
    """Lay out epsilon by adversary as text: a row a setting, then what composes.

    Parameters
    ----------
    runs : sequence of StudyRun
        Those that it was counted from.
    delta : float, optional
        At which to count each run's own anew; as the run states them if not given.
    """
    table = in_reading_order(under_one_adjacency(pd.DataFrame([{**run.row, "run": run} for run in runs])))
    units = {run.row["unit"] for run in runs if run.row["mechanism"] != "none"}
    if delta is not None or len(units) > 1:
        for adversary, column in COLUMN_OF.items():
            table[column] = [own_epsilon(run, adversary, found, delta) for run in table["run"]]
    groups = table.assign(setting=named_settings(table)).groupby("setting", sort=False)
    largest = groups[list(ADVERSARIES)].max()
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
    names = [f"ε {name.lower()}" for name in ADVERSARIES.values()]
    return pd.DataFrame(laid, columns=["Setting", "Runs", *names])


def _counts(compositions: Sequence[Composition]) -> str:
    counts = sorted({c.finite_runs for c in compositions})
    return "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))


def composed_words(found: StudyPrivacy) -> list[str]:
    """Say what the figures mean, one sentence a point."""
    adjacency = f", {found.adjacency}" if found.adjacency else ""
    said = [
        "Each ε holds for one run alone. Noise is independent between runs, so runs on the same records compose: "
        f"whoever sees several learns more. Unit: one {found.unit}, at δ = {found.delta:g}{adjacency}."
    ]
    if any(c.finite_runs < c.runs for c in found.compositions):
        said.append(
            "Runs with infinite ε give no guarantee: publishing any number or model of one voids the finite ε of all "
            "others, since they concern the same records."
        )
    said.append(_price(found))
    if not found.by_clinic:
        said.append(
            "A seed deals records to clinics anew, so a record may be at another clinic in another run: such a run "
            "counts as one clinic with the highest sampling rate, the least noise and the most steps of all its "
            "clinics. That is an upper bound."
        )
    if found.populations > 1:
        said.append("Each seed makes up records of its own: runs compose within a seed, and the largest is shown.")
    if found.rounding:
        said.append(
            f"Similar mechanisms were counted as the weakest of them (noise and sampling rates within "
            f"{found.rounding:.1%}), which overstates the composed ε."
        )
    if found.failed:
        said.append(
            f"{found.failed} of {found.runs} runs did not finish; they count with all that they were planned to "
            "release, some of which may never have left."
        )
    return said


def _price(found: StudyPrivacy) -> str:
    several = [c for c in found.compositions if c.finite_runs > 1 and 0 < c.finite < math.inf]
    if not several:
        return "No two runs with a finite ε release anything to the same adversary, so selecting one costs nothing."
    text = (
        "The number of runs was fixed, not random, so publishing only the best run costs as much as publishing all the "
        "runs it was selected from: their composition."
    )
    if any(c.drawn is not None for c in several):
        return (
            f"{text} Had their number been drawn from a Poisson distribution with that mean, the best one would have "
            "cost what the last row says (Papernot & Steinke 2022, Renyi DP): for information, since it was not drawn."
        )
    return (
        f"{text} The price of a drawn number of runs (Papernot & Steinke 2022) is not applicable: that takes runs with "
        "identical mechanisms of Gaussian noise, under replace-one without sampling."
    )
