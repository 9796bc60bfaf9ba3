"""Clinics that took no part in training: each one's score, their mean, and what another clinic can expect."""

from __future__ import annotations

import pandas as pd

from sim.inference.clinics import by_clinic
from sim.inference.hospitals import over_clinics
from sim.report.held_out import HeldOut
from sim.report.points import with_bounds
from sim.report.spoken import spoken

MEAN, ANOTHER = "mean of all clinics", "another clinic (prediction)"


def elsewhere_points(away: pd.DataFrame, held_out: HeldOut) -> pd.DataFrame:
    """Compute the forest plot: ``series, level, clinic, kind, n, mean, lower, upper``.

    `kind` is "clinic", with 95 % intervals over its patients and seeds, and below, from five clinics on, "mean" with
    its interval over clinics (random effects) and "another" with its prediction interval; `n` seeds, or clinics.

    Parameters
    ----------
    away : DataFrame
        Runs that hold whole clinics out.
    """
    parts, words = [], spoken(away)
    for level, own in away.groupby("level", observed=True, sort=False):
        models = own[["run_id", "series", "seed"]].rename(columns={"series": "method"})
        scored = by_clinic(held_out.predictions, models, words.within, same_patients=held_out.same_patients)
        over = over_clinics(scored)[0].dropna(subset="half_width")
        mean = over.assign(clinic=MEAN, kind="mean")
        another = over.assign(clinic=ANOTHER, kind="another", half_width=over["predicted"])
        every = pd.concat([scored.estimates().assign(kind="clinic"), mean, another], ignore_index=True)
        every = every.drop(columns="predicted", errors="ignore").rename(columns={"method": "series"})
        parts.append(with_bounds(every, words.least).assign(level=level))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
