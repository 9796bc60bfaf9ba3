"""What to take under a condition, from a study's runs or from its plan.

Of the methods that are not worse than the best one by more than the margin, as far as the data can say, the cheapest.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

import pandas as pd

from sim.foundation.problems import ScenarioError, suggest
from sim.foundation.text import bytes_text, count_text, epsilon_text, margin_text, score_text, seconds_text
from sim.inference.differences import Verdict
from sim.report.cautions import of_methods
from sim.report.compare import NO_ROUNDS, compared
from sim.report.condition import DERIVED, Condition, parse_condition
from sim.report.held_out import MARGIN, HeldOut, evidence_of
from sim.report.prose import sentences
from sim.report.scope import scope
from sim.report.spoken import spoken
from sim.report.study import NO_TRIALS
from sim.report.summary import (
    BOUNDED,
    PREVALENCE,
    adjacency_note,
    adversaries_in,
    held_out_clinics,
    higher_is_better,
    of_one_kind,
    series_label,
    successful_runs,
    swept_keys,
    title,
)

_NOT_RANKED: Final = frozenset({"seed", "rounds", "best_round", "majority_accuracy", "delta"})
_LISTED: Final = 5
_SCORES: Final = (*BOUNDED, "loss", "mae", "decile_error")
"""What says how good a model is ends so; everything else is a cost."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to take, and why."""

    best: str | None  # A method with its swept settings; None where none meets the condition
    as_good: tuple[str, ...] = ()  # Others that are not worse than the best by more than the margin, cheapest first
    unsettled: tuple[str, ...] = ()  # Others of which it cannot be told, cheapest first
    paragraph: str  # The reason, and what the figures do not settle


def advise(
    runs: pd.DataFrame,
    where: str,
    best: str,
    cost: str = "sim_seconds",
    *,
    planned: bool,
    held_out: HeldOut | None = None,
    trials: pd.DataFrame = NO_TRIALS,
    rounds: pd.DataFrame = NO_ROUNDS,
) -> Advice:
    """Choose among methods, that is strategies with their cut and swept settings.

    A method's figures are means over its seeds; its epsilons are the largest.

    Parameters
    ----------
    where : str
        A condition on the columns, and on `hours`, `minutes`, `gigabytes_up` and `gigabytes_down`; empty for none.
    best : str
        Column to rank by: scores by the highest mean, everything else by the lowest.
    cost : str
        Column by whose lowest mean is chosen among those that are as good as the best.
    planned : bool
        Whether the runs are only planned: clauses on scores are then set aside, and a ranking by score becomes one by
        cost.
    held_out : HeldOut, optional
        The runs' predictions; without them the intervals are over seeds alone.
    trials, rounds : DataFrame
        ``trials.parquet``, and ``rounds.parquet`` of all runs, for what is said beside a recommendation.
    """
    ok, note = of_one_kind(successful_runs(runs))
    for name, (column, size) in DERIVED.items():
        ok[name] = ok[column] / size
    numbers = [str(name) for name in ok.columns if pd.api.types.is_numeric_dtype(ok[name])]
    condition = parse_condition(where, numbers, "--where") if where.strip() else None
    ranked = [name for name in numbers if name not in _NOT_RANKED and "." not in name]
    if wrong := [(option, name) for option, name in (("--best", best), ("--cost", cost)) if name not in ranked]:
        raise ScenarioError(f'{option}: cannot rank by "{name}"; {suggest(name, ranked)}' for option, name in wrong)
    unknown = {name for name in numbers if planned and ok[name].isna().all()}
    notes = list(filter(None, [adjacency_note(ok), note]))
    if planned:
        notes.append("No run is finished, so this uses the plan alone and scores are unknown.")
    if best in unknown:
        notes.append(f"The ranking is by {title(cost)} instead of {title(best)}.")
        best = cost
    clauses = condition.clauses if condition else ()
    if aside := [clause.text for clause in clauses if clause.names & {name.replace("-", "_") for name in unknown}]:
        notes.append(f"Ignored until runs are finished: {'; '.join(aside)}.")
    kept = [clause for clause in clauses if clause.text not in aside]
    advice = _Study(ok, best, cost, kept, numbers, held_out, trials, rounds).advice()
    return replace(advice, paragraph=" ".join([*notes, advice.paragraph]))


class _Study:
    """The methods of a study in ranking order."""

    def __init__(
        self,
        ok: pd.DataFrame,
        best: str,
        cost: str,
        clauses: list[Condition],
        numbers: Collection[str],
        held_out: HeldOut | None,
        trials: pd.DataFrame,
        rounds: pd.DataFrame,
    ) -> None:
        keys = swept_keys(ok)
        named = {key: "target ε" if key == "privacy.epsilon" else key for key in keys}
        ok["label"] = [
            series_label(str(row["method_label"]), {named[key]: row[key] for key in keys})
            for row in ok.to_dict("records")
        ]
        self.adversaries, self.words = adversaries_in(ok), spoken(ok)
        reference = ok["method"] == PREVALENCE
        self.references, ok = ok[reference], ok if reference.all() else ok[~reference]
        self.best, self.cost, self.clauses, self.held_out = best, cost, clauses, held_out
        self.trials, self.rounds = trials, rounds
        groups = ok.groupby("label", sort=False)
        table = groups[list(numbers)].mean()
        table[list(self.adversaries)] = groups[list(self.adversaries)].max()
        self.sign = -1.0 if higher_is_better(best) else 1.0
        table["_rank"] = (self.sign * table[best]).round(12)
        table = table.sort_values(["_rank", cost], kind="stable")
        self.rows: dict[str, dict[str, float]] = {str(label): dict(row) for label, row in table.iterrows()}
        met = pd.DataFrame({clause.text: clause.holds(table) for clause in clauses}, index=table.index)
        self.refused = (~met).sum().to_dict()
        self.kept = [str(label) for label in table.index[met.all(axis=1)]]
        self.scored = [label for label in self.kept if not math.isnan(self.rows[label][best])]
        self.runs = ok[ok["label"].isin(self.scored)]
        self.is_score = best.endswith(_SCORES)
        self.margin = held_out.margin if held_out else MARGIN
        self.widths: dict[str, float] = {}

    def advice(self) -> Advice:
        """Put the answer into words."""
        total = len(self.rows)
        reasons = ", ".join(f"{text} rules out {count}" for text, count in self.refused.items())
        if not self.scored:
            why = f" ({reasons})" if reasons else ""
            none = f"None of the {count_text(total, 'method')} meets the condition{why}."
            unknown = (
                f"Of the {count_text(len(self.kept), 'method')} none has a known {title(self.best, self.words.place)}."
            )
            return Advice(best=None, paragraph=unknown if self.kept else none)
        limits, as_good, unsettled = self._by_score() if self.is_score else ("", self._ties(), [])
        top = self.scored[0]
        first, *others = self._cheapest([top, *as_good])
        said = sentences(
            "advice",
            first=first,
            figures=self._figures(first),
            top=top,
            told=f"{title(self.best, self.words.place)} {self._mean(top)}",
            title=title(self.best, self.words.place),
            cost=title(self.cost, self.words.place),
            extreme="highest" if self.sign < 0 else "lowest",
            of_those=" of those that meet the condition" if total > len(self.kept) else "",
            is_score=self.is_score,
            margin=margin_text(self.margin) if self.best.endswith(BOUNDED) else "",
            as_good=others,
            next=self._next(first, others),
            unsettled=unsettled,
            cheaper=self._cheaper(first, unsettled),
            listed=_LISTED,
            excluded=total - len(self.kept),
            reasons=reasons,
            total=total,
            limited=bool(self.clauses),
            cautions=self._cautions(first),
            limits=limits,
        )
        return Advice(best=first, as_good=tuple(others), unsettled=tuple(unsettled), paragraph=" ".join(said))

    def _by_score(self) -> tuple[str, list[str], list[str]]:
        """Compare with the highest score: how far that goes, who is as good, and of whom it cannot be told."""
        comparison = compared(evidence_of(self.runs, "label", self.best, self.held_out), self.best, self.margin)
        for label, mean, width in comparison.means[["group", "mean", "half_width"]].itertuples(index=False):
            self.rows[label] |= {self.best: mean, "_rank": self.sign * mean}
            self.widths[label] = width
        self.scored.sort(key=lambda label: (label != comparison.best, self.rows[label]["_rank"]))
        said = dict(zip(comparison.differences["group"], comparison.differences["verdict"], strict=True))
        good = [group for group, verdict in said.items() if verdict is Verdict.EQUAL]
        unsettled = [group for group, verdict in said.items() if verdict is Verdict.OPEN]
        away = held_out_clinics(self.runs).all()
        self.means = comparison.means
        limits = scope(
            self.runs,
            comparison.means,
            self.held_out,
            self.trials,
            others=bool(away),
            parties=self.words.place == "region",
        )
        return limits, good, self._cheapest(unsettled)

    def _cautions(self, first: str) -> str:
        """Say what a referee would add of the method that is recommended by the headline."""
        words = self.words
        if self.best != words.within:
            return ""
        own = self.runs[self.runs["label"] == first]
        one = self.references.assign(label=PREVALENCE) if len(set(self.references["label"])) == 1 else own[:0]
        means = self.means[self.means["group"] == first]
        brier = evidence_of(pd.concat([own, one]), "label", words.proper, self.held_out)
        known = self.held_out.predictions if self.held_out else pd.DataFrame()
        said = of_methods(means, brier, own.assign(series=first), self.trials, known, self.rounds, words)
        return " ".join(said)

    def _ties(self) -> list[str]:
        best = self.rows[self.scored[0]]["_rank"]
        return [label for label in self.scored[1:] if self.rows[label]["_rank"] == best]

    def _cheapest(self, labels: Collection[str]) -> list[str]:
        return sorted(labels, key=lambda label: (self.rows[label][self.cost], self.rows[label]["_rank"]))

    def _cheaper(self, first: str, labels: list[str]) -> str:
        """Name the cheapest of those of which it cannot be told, if it costs less."""
        if not labels or not self.rows[labels[0]][self.cost] < self.rows[first][self.cost]:
            return ""
        return f"{labels[0]} ({_text(self.cost, self.rows[labels[0]][self.cost])})"

    def _next(self, first: str, as_good: list[str]) -> str:
        """Name the next in a ranking by cost."""
        others = [label for label in self.scored if label != first]
        if self.is_score or not others:
            return "" if others else "There is no other."
        label = as_good[0] if as_good else others[0]
        same = ", as much" if as_good else ""
        return f"Next is {label} with {self._mean(label)}{same}, {self._figures(label).partition('; ')[2]}."

    def _mean(self, label: str) -> str:
        return _text(self.best, self.rows[label][self.best], self.widths.get(label, math.nan))

    def _figures(self, label: str) -> str:
        row, seeds = self.rows[label], self.runs.loc[self.runs["label"] == label, "seed"].nunique()
        told = f"{title(self.best, self.words.place)} {self._mean(label)} ({count_text(seeds, 'seed')}); "
        epsilons = ", ".join(
            f"{name.lower()} {epsilon_text(row[c])}" for c, name in self.adversaries.items() if not math.isnan(row[c])
        )
        traffic = f"{bytes_text(row['bytes_up'])} up and {bytes_text(row['bytes_down'])} down"
        return f"{told}{seconds_text(row['sim_seconds'])}, {traffic} in all; ε: {epsilons}"


def _text(column: str, mean: float, half_width: float = math.nan) -> str:
    """Write a figure in the unit people would use, with its interval if it has one."""
    if column.endswith((*_SCORES, "calibration_error")):
        return score_text(mean, half_width)
    sizes = {name: size for name, (_, size) in DERIVED.items()}
    if column.startswith(("bytes", "gigabytes", "peak_clinic_bytes")):
        return bytes_text(mean * sizes.get(column, 1.0))
    if column.endswith(("seconds", "hours", "minutes")):
        return seconds_text(mean * sizes.get(column, 1.0))
    return f"{epsilon_text(mean)}{' J' if column == 'clinic_joules' else ''}"
