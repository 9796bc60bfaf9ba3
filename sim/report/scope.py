"""How far a comparison goes: what was tuned, what its intervals are of, and what they say nothing about."""

from __future__ import annotations

import pandas as pd

from sim.foundation.text import listed
from sim.report.held_out import NOT_KNOWN, HeldOut
from sim.report.summary import PREVALENCE
from sim.results.columns import is_tuned
from sim.scenario.spec import TUNED

__all__ = ["intervals_of", "scope", "tuning_of"]


def intervals_of(means: pd.DataFrame, held_out: HeldOut | None) -> str:
    """Say what the intervals of a table of means are of; see :func:`sim.inference.differences.estimates`."""
    patients, several = means["patients"].notna().any(), (means["n"] > 1).any()
    if patients:
        return "over other patients of these clinics" + (" and over seeds" if several else ", for one seed alone")
    if several:
        widened = ", widened because these deal the same patients anew (Nadeau & Bengio 2003)"
        return "over seeds" + (widened if (held_out or NOT_KNOWN).dealt_anew else "")
    return ""


def scope(
    runs: pd.DataFrame, means: pd.DataFrame, held_out: HeldOut | None, *, levels: int = 1, others: bool = False
) -> str:
    """Say in a few sentences how far a comparison goes.

    Parameters
    ----------
    runs : DataFrame
        The successful runs.
    means : DataFrame
        The methods' means, see :func:`sim.inference.differences.estimates`; empty where only clinics are compared.
    levels : int
        At how many levels of privacy methods were compared.
    others : bool
        Whether whole clinics were held out, so that there is something to say about other hospitals.
    """
    said = [tuning_of(runs)]
    several = len(means) > 0 and (means["n"] > 1).any()
    if len(means) and (kind := intervals_of(means, held_out)):
        pairs = "all pairs" if levels == 1 else "all pairs at one level"
        together = f"; those of differences hold together for {pairs}" if several and len(means) > 2 * levels else ""
        said.append(f"The 95 % intervals are {kind}{together}.")
    if several and (held_out is None or held_out.same_patients):
        said.append("More seeds bring no more patients.")
    if not others:
        said.append("Nothing is said about hospitals that took no part.")
    return " ".join(filter(None, said))


def tuning_of(runs: pd.DataFrame) -> str:
    """Say whether methods were tuned, where there is more than one."""
    own = runs[runs["strategy"] != PREVALENCE]
    methods = own["strategy"] + own["cut"].astype(object).fillna("").astype(str)
    if methods.nunique() < 2:
        return ""
    tuned = [name for name in map(str, own) if is_tuned(name) and own[name].notna().any()]
    if not tuned:
        return "No method was tuned: all ran at the settings given, and others can change their order."
    not_tuned = list(dict.fromkeys(own.loc[own[tuned].isna().all(axis=1), "method"]))
    keys = listed([name.removeprefix(TUNED) for name in tuned])
    return (
        "Every method was tuned on the same candidates and ran at the settings that did best on validation records "
        f"({keys})" + (f", but for {listed(not_tuned)}." if not_tuned else ".")
    )
