"""How far a comparison goes: what was tuned, what its intervals are of, and what they say nothing about."""

from __future__ import annotations

from typing import Final

import pandas as pd

from sim.foundation.text import listed
from sim.report.held_out import HeldOut

__all__ = ["intervals_of", "scope"]

_TUNED: Final = "tuned."


def intervals_of(means: pd.DataFrame) -> str:
    """Say what the intervals of a table of means are of; see :func:`sim.inference.differences.estimates`."""
    patients, several = means["patients"].notna().any(), (means["n"] > 1).any()
    if patients:
        return "over other patients of these clinics" + (" and over seeds" if several else ", for one seed alone")
    if several:
        return "over seeds, widened because these deal the same patients anew (Nadeau & Bengio 2003)"
    return ""


def scope(runs: pd.DataFrame, means: pd.DataFrame, held_out: HeldOut | None, *, others: bool = False) -> str:
    """Say in a few sentences how far a comparison of successful runs goes; `others` if hospitals were held out too."""
    said = []
    tuned = [
        name.removeprefix(_TUNED) for name in map(str, runs) if name.startswith(_TUNED) and runs[name].notna().any()
    ]
    if tuned:
        said.append(
            "Every method was tuned on the same candidates and ran at the settings that did best on validation records "
            f"({listed(tuned)})."
        )
    elif len(means) > 1:
        said.append("No method was tuned: all ran at the settings given, and others can change their order.")
    if kind := intervals_of(means):
        together = "; those of differences hold together for all pairs" if len(means) > 2 else ""
        said.append(f"The 95 % intervals are {kind}{together}.")
    if (means["n"] > 1).any() and (held_out is None or held_out.same_patients):
        said.append("More seeds bring no more patients.")
    if not others:
        said.append("Nothing is said about hospitals that took no part.")
    return " ".join(said)
