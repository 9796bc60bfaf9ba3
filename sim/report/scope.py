"""How far a comparison goes: what was tuned, what its intervals are of, and what they say nothing about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pandas as pd

from sim.foundation.text import listed
from sim.report.cautions import trials_of
from sim.report.elsewhere import few
from sim.report.held_out import NOT_KNOWN, HeldOut
from sim.report.spoken import between_parties
from sim.report.study import NO_TRIALS
from sim.report.summary import PREVALENCE
from sim.report.tuning import contest_of
from sim.results.columns import is_tuned
from sim.scenario.spec import TUNED

_NONE: Final = ("", 0)


def intervals_of(means: pd.DataFrame, held_out: HeldOut | None, *, parties: bool = False) -> str:
    """Say what the intervals of a table of means are of; see :func:`sim.inference.differences.estimates`.

    ``parties`` says whether the clinics are parties with columns of the same patients.
    """
    patients, several = means["patients"].notna().any(), (means["n"] > 1).any()
    if patients:
        whose = "parties" if parties else "clinics"
        return f"over other patients of these {whose}" + (" and over seeds" if several else ", for one seed alone")
    if several:
        widened = ", widened because these deal the same patients anew (Nadeau & Bengio 2003)"
        return "over seeds" + (widened if (held_out or NOT_KNOWN).dealt_anew else "")
    return ""


def scope(
    runs: pd.DataFrame,
    means: pd.DataFrame,
    held_out: HeldOut | None,
    trials: pd.DataFrame = NO_TRIALS,
    *,
    levels: int = 1,
    others: bool = False,
    parties: bool = False,
) -> str:
    """Say in a few sentences how far a comparison goes.

    Parameters
    ----------
    runs : DataFrame
        The successful runs.
    means : DataFrame
        The methods' means, see :func:`sim.inference.differences.estimates`; empty where only clinics are compared.
    trials : DataFrame
        Rows of ``trials.parquet``.
    levels : int
        At how many levels of privacy methods were compared.
    others : bool
        Whether whole clinics were held out, so that there is something to say about other hospitals.
    parties : bool
        Whether the clinics are known to be parties with columns of the same patients.
    """
    said = [tuning_of(runs, trials)]
    several = len(means) > 0 and (means["n"] > 1).any()
    parties = parties or between_parties(runs)
    if len(means) and (kind := intervals_of(means, held_out, parties=parties)):
        pairs = "all pairs" if levels == 1 else "all pairs at one level"
        together = f"; those of differences hold together for {pairs}" if several and len(means) > 2 * levels else ""
        said.append(f"The 95 % intervals are {kind}{together}.")
    if several and means.loc[means["n"] == 2, "half_width"].isna().any():
        said.append("Two seeds alone give a mean no interval.")
    if several and (held_out is None or held_out.same_patients):
        said.append("More seeds bring no more patients.")
    if not others:
        said.append(f"Nothing is said about {'patients elsewhere' if parties else 'hospitals that took no part'}.")
    return " ".join(filter(None, said))


def tuning_of(runs: pd.DataFrame, trials: pd.DataFrame) -> str:
    """Say whether methods were tuned, where there is more than one, and whether they chose among the same settings."""
    own = runs[runs["method"] != PREVALENCE]
    methods = own["strategy"] + own["cut"].astype(object).fillna("").astype(str)
    if methods.nunique() < 2:
        return ""
    tuned = [name for name in map(str, own) if is_tuned(name) and own[name].notna().any()]
    if not tuned:
        return "No method was tuned: all ran at the settings given, and others can change their order."
    alike: dict[tuple[str, int], list[str]] = {}
    for method, choice in _choices(own, tuned, trials).items():
        alike.setdefault(choice, []).append(method)
    not_tuned = alike.pop(_NONE, [])
    if len(alike) == 1:
        [(keys, _)] = alike
        return (
            "Every method was tuned on the same candidates and ran at the settings that did best on validation records "
            f"({keys})" + (f", but for {listed(not_tuned)}." if not_tuned else ".")
        )
    told = [f"{few(who)} among {count or 'its'} settings ({keys})" for (keys, count), who in alike.items()]
    rest = [f"{few(not_tuned)} had nothing to choose"] if not_tuned else []
    return (
        "Methods ran at the settings that did best on validation records, but did not choose among the same: "
        f"{'; '.join([*told, *rest])}. A method may stand higher for having more to choose among."
    )


def _choices(runs: pd.DataFrame, tuned: Sequence[str], trials: pd.DataFrame) -> dict[str, tuple[str, int]]:
    """Return by method the keys that it tuned, and among how many settings; 0 where no trial tells."""
    found: dict[str, tuple[str, int]] = {}
    contest = contest_of(trials)
    for method, own in runs.groupby("method_label", sort=False):
        keys, count = [key for key in tuned if own[key].notna().any()], 0
        if len(tried := trials_of(trials, own)):
            keys = [key for key in keys if _matters(tried, key, contest)]
            count = len(tried[keys].drop_duplicates()) if keys else 0
        found[str(method)] = (listed([key.removeprefix(TUNED) for key in keys]), count) if keys else _NONE
    return found


def _matters(trials: pd.DataFrame, key: str, contest: Sequence[str]) -> bool:
    """Whether trials that differ in a key alone ever come to something else; taken to, where none differ so."""
    rest = [name for name in map(str, trials) if is_tuned(name) and name != key]
    known = trials.fillna({"score": -1.0, "loss": -1.0})
    groups = known.groupby([*contest, *rest], sort=False, dropna=False)[["score", "loss"]]
    return bool((groups.max() > groups.min()).any(axis=None)) or bool((groups.size() == 1).all())
