"""What holds for clinics that took no part in training, of which those that were held out are a sample."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from sim.foundation.text import count_text, listed, margin_text, score_text
from sim.inference.clinics import by_clinic
from sim.inference.differences import Verdict, against, verdict
from sim.inference.hospitals import FEWEST_CLINICS, over_clinics
from sim.report.held_out import HeldOut
from sim.report.spoken import Spoken

_NAMED = 3


def elsewhere(models: pd.DataFrame, held_out: HeldOut, words: Spoken, baselines: Collection[str] = ()) -> str:
    """Say which method does best at clinics that were held out, and what that says of other clinics.

    Parameters
    ----------
    models : DataFrame
        ``run_id, method, seed`` of runs whose held-out clinics took no part in training.
    words : Spoken
    baselines : collection of str
        Methods that are there to be compared with: none is called the best while there is another.
    """
    predictions = held_out.scored_runs
    if not held_out.same_patients:  # nor are the clinics the same on another seed
        predictions = held_out.predictions
        seed = predictions["run_id"].map(models.set_index("run_id")["seed"])
        predictions = predictions.assign(clinic=predictions["clinic"].astype(str) + " of seed " + seed.astype(str))
    found, pairs = over_clinics(by_clinic(predictions, models, words.within))
    known = found.dropna(subset="half_width")
    if known.empty:
        scored = count_text(int(found["n"].max()), "held-out clinic")
        return f"{scored} can be scored; at least {FEWEST_CLINICS} are needed to say anything about others."
    joined = known[~known["method"].isin(baselines)]
    choice = joined if len(joined) else known
    best, clinics, mean, half_width, predicted = max(
        choice[["method", "n", "mean", "half_width", "predicted"]].itertuples(index=False), key=lambda row: row[2]
    )
    low, high = max(mean - predicted, words.least), min(mean + predicted, 1.0)
    apart = " of the methods that train together" if best not in baselines and len(choice) < len(known) else ""
    said = [
        f"At {count_text(clinics, 'clinic')} that took no part in training {best} has the highest mean {words.word}"
        f"{apart}: {score_text(mean, half_width)} over clinics. The {words.word} of another such clinic is expected "
        f"between {score_text(low)} and {score_text(high)} (95 % prediction interval)."
    ]
    told: dict[str, list[str]] = {}
    for other, difference, width in against(pairs, best)[["group", "mean", "half_width"]].itertuples(index=False):
        kind = verdict(difference, width, held_out.margin)
        told.setdefault("better" if kind is Verdict.APART and difference > 0 else kind.name, []).append(other)
    margin = margin_text(held_out.margin)
    endings = {
        Verdict.APART.name: "Over clinics it is better than {}.",
        "better": "Better over clinics: {}.",
        Verdict.EQUAL.name: f"Over clinics, equal to it within {margin}: {{}}.",
        Verdict.OPEN.name: "Over clinics nothing can be concluded about {}.",
    }
    return " ".join([*said, *(ending.format(few(told[kind])) for kind, ending in endings.items() if kind in told)])


def few(names: list[str]) -> str:
    """Name some of many."""
    rest = len(names) - _NAMED
    return listed(names) if rest <= 0 else f"{'; '.join(names[:_NAMED])}; and {count_text(rest, 'other')}"
