"""How a study's scores are called, by what its runs predict: classes, amounts or times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import pandas as pd

from sim.methods.labels import known_method
from sim.scenario.outcomes import HEADLINES, Headline

HEADLINE: Final = HEADLINES["classes"].within


@dataclass(frozen=True, kw_only=True)
class Spoken(Headline):
    """The scores of one kind of outcome in words."""

    proper: str  # Column of a score that right predictions alone make best, the smaller the better
    proper_word: str
    known: str  # What the line of reference predicts of each clinic
    chance: float  # What the headline is of a model that tells no two patients of a clinic apart
    by_chance: str  # What a model does not do that is no better than that
    unscored: str  # When a clinic has no score of its own
    nowhere: str  # That no clinic has one
    across: str  # What scores over all records reward besides
    place: str = "clinic"  # Whose patients are compared with each other; under a vertical layout, a region's
    value: str = "class"  # What is predicted of a patient, where it is one of few
    least: float = 0.0  # The least that a score can be
    others: Mapping[str, str] = field(default_factory=dict)  # Further scores by their name on the page

    @property
    def sites(self) -> str:
        """Who computes and sends."""
        return "parties" if self.place == "region" else "clinics"

    @property
    def scores(self) -> dict[str, str]:
        """Name of a score on the page, and its column; the headline first."""
        return {
            f"Within-{self.place} {self.word}": self.within,
            f"Pooled {self.word}": self.pooled,
            f"Worst {self.place}'s {self.word}": self.worst,
            **self.others,
        }

    def of_regions(self) -> Spoken:
        """Return the words for patients of regions."""
        told = {
            key: getattr(self, key).replace("clinic", "region")
            for key in ("by_chance", "unscored", "nowhere", "across")
        }
        return replace(self, place="region", **told)

    @property
    def clinic_scores(self) -> dict[str, str]:
        """The same of a clinic's own records."""
        return {self.word: self.pooled, **self.others}


_SPOKEN: Final = {
    "classes": Spoken(
        **vars(HEADLINES["classes"]),
        proper="brier",
        proper_word="Brier score",
        known="share of cases",
        chance=0.5,
        by_chance="rank better than chance (within-clinic AUC of .5)",
        unscored="Where all of a clinic's held-out records are of one class, it has no AUC.",
        nowhere="No clinic's held-out records are of two classes, so that no method is ranked.",
        across="knowing each clinic's share of cases",
        others={"Balanced accuracy": "balanced_accuracy", "Accuracy": "accuracy"},
    ),
    "ordinal": Spoken(
        **vars(HEADLINES["ordinal"]),
        proper="ranked_probability",
        proper_word="ranked probability score",
        known="share of each grade",
        chance=0.5,
        by_chance="rank better than chance (within-clinic ordinal AUC of .5)",
        unscored="Where all of a clinic's held-out records are of one grade, it has no ordinal AUC.",
        value="grade",
        nowhere="No clinic's held-out records are of two grades, so that no method is ranked.",
        across="knowing each clinic's share of each grade",
        others={"Kappa, squared weights": "quadratic_kappa", "Balanced accuracy": "balanced_accuracy"},
    ),
    "amount": Spoken(
        **vars(HEADLINES["amount"]),
        proper="mae",
        proper_word="mean absolute error",
        known="mean",
        chance=0.0,
        by_chance="predict better than each clinic's own mean (within-clinic R² of 0)",
        unscored="Where all of a clinic's held-out amounts are the same, it has no R².",
        nowhere="No clinic's held-out amounts differ, so that no method is ranked.",
        across="knowing each clinic's mean",
        least=-math.inf,
    ),
    "time": Spoken(
        **vars(HEADLINES["time"]),
        proper="integrated_brier",
        proper_word="integrated Brier score",
        known="Kaplan-Meier curve",
        chance=0.5,
        by_chance="rank better than chance (within-clinic concordance of .5)",
        unscored="Where no two of a clinic's held-out records are comparable, it has no concordance.",
        nowhere="No clinic has two held-out records that are comparable, so that no method is ranked.",
        across="knowing how early events are at each clinic",
        others={"Uno's concordance": "uno_concordance"},
    ),
}


def spoken(runs: pd.DataFrame) -> Spoken:
    """Return the words for a table of runs, of rounds or of groups, by the columns that it has values in."""
    words = _of_outcome(runs)
    return words.of_regions() if between_parties(runs) else words


def between_parties(runs: pd.DataFrame) -> bool:
    """Whether what stands as clinics are parties with columns of the same patients: a method is for these alone."""
    known = map(known_method, runs["method"].unique()) if "method" in runs else ()
    return any(method is not None and method.layouts == ("vertical",) for method in known)


def _of_outcome(runs: pd.DataFrame) -> Spoken:
    for kind in ("time", "amount", "ordinal"):
        words = _SPOKEN[kind]
        if any(runs[name].notna().any() for name in (words.within, words.pooled, words.proper) if name in runs):
            return words
    return _SPOKEN["classes"]
