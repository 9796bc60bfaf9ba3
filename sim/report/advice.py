"""The best method under a condition, the runner-up and the reason, from a study's runs or from its plan."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import pandas as pd

from sim.foundation.problems import ScenarioError, suggest
from sim.foundation.text import bytes_text, count_text, epsilon_text, score_text, seconds_text
from sim.report.condition import Condition, parse_condition
from sim.report.prose import sentences
from sim.report.summary import (
    ADVERSARIES,
    adjacency_note,
    half_width,
    higher_is_better,
    series_label,
    successful_runs,
    swept_keys,
)

__all__ = ["Advice", "advise"]

_DERIVED: Final = {
    "minutes": ("sim_seconds", 60.0),
    "hours": ("sim_seconds", 3600.0),
    "gigabytes_up": ("bytes_up", 1e9),
    "gigabytes_down": ("bytes_down", 1e9),
}
_NOT_RANKED: Final = frozenset({"seed", "rounds", "best_round", "majority_accuracy", "delta"})
_LISTED: Final = 5
_NAMES: Final = {
    "auc": "AUC",
    "worst_clinic_auc": "worst clinic's AUC",
    "best_auc": "AUC after the best round",
    "sim_seconds": "simulated time",
    "hours": "simulated time",
    "minutes": "simulated time",
    "bytes_up": "traffic up",
    "bytes_down": "traffic down",
    "gigabytes_up": "traffic up",
    "gigabytes_down": "traffic down",
    "clinic_joules": "energy of all clinics",
    "peak_clinic_bytes": "peak memory of a clinic",
    "idle_share": "clinics' idle share",
    **{column: f"ε of the {name.lower()}" for column, name in ADVERSARIES.items()},
}


@dataclass(frozen=True)
class Advice:
    """What to take, and why."""

    # best, runner_up: methods with their swept settings; None where no (other) method meets the condition
    best: str | None
    runner_up: str | None
    paragraph: str  # Both, the reason, and what the figures do not settle


def advise(runs: pd.DataFrame, where: str, best: str, *, planned: bool) -> Advice:
    """Choose among methods, that is strategies with their cut and swept settings.

    A method's figures are means over its seeds; its epsilons are the largest. Equals are ranked by simulated time.

    Parameters
    ----------
    where : str
        A condition on the columns, and on `hours`, `minutes`, `gigabytes_up` and `gigabytes_down`; empty for none.
    best : str
        Column to rank by: scores by the highest mean, everything else by the lowest.
    planned : bool
        Whether the runs are only planned: clauses on scores are then set aside, and a ranking by score becomes one by
        simulated time.
    """
    ok = successful_runs(runs)
    for name, (column, size) in _DERIVED.items():
        ok[name] = ok[column] / size
    numbers = [str(name) for name in ok.columns if pd.api.types.is_numeric_dtype(ok[name])]
    condition = parse_condition(where, numbers, "--where") if where.strip() else None
    ranked = [name for name in numbers if name not in _NOT_RANKED and "." not in name]
    if best not in ranked:
        raise ScenarioError([f'--best: cannot rank by "{best}"; {suggest(best, ranked)}'])
    unknown = {name for name in numbers if planned and ok[name].isna().all()}
    notes = [note] if (note := adjacency_note(ok)) else []
    if planned:
        notes.append("No run is finished, so this uses the plan alone and scores are unknown.")
    if best in unknown:
        notes.append(f"The ranking is by simulated time instead of {_title(best)}.")
        best = "sim_seconds"
    clauses = condition.clauses if condition else ()
    if aside := [clause.text for clause in clauses if clause.names & {name.replace("-", "_") for name in unknown}]:
        notes.append(f"Ignored until runs are finished: {'; '.join(aside)}.")
    study = _Study(ok, best, [clause for clause in clauses if clause.text not in aside], numbers)
    return study.advice(notes)


class _Study:
    """The methods of a study in ranking order."""

    def __init__(self, ok: pd.DataFrame, best: str, clauses: list[Condition], numbers: Collection[str]) -> None:
        keys = swept_keys(ok)
        named = {key: "target ε" if key == "privacy.epsilon" else key for key in keys}
        ok["label"] = [
            series_label(str(row["method"]), {named[key]: row[key] for key in keys}) for row in ok.to_dict("records")
        ]
        self.runs, self.best, self.clauses = ok, best, clauses
        groups = ok.groupby("label", sort=False)
        table = groups[list(numbers)].mean()
        table[list(ADVERSARIES)] = groups[list(ADVERSARIES)].max()
        self.sign = -1.0 if higher_is_better(best) else 1.0
        table["_rank"] = (self.sign * table[best]).round(12)
        table = table.sort_values(["_rank", "sim_seconds"], kind="stable")
        self.rows: dict[str, dict[str, float]] = {str(label): dict(row) for label, row in table.iterrows()}
        met = pd.DataFrame({clause.text: clause.holds(table) for clause in clauses}, index=table.index)
        self.refused = (~met).sum().to_dict()
        self.kept = [str(label) for label in table.index[met.all(axis=1)]]
        self.scored = [label for label in self.kept if not math.isnan(self.rows[label][best])]

    def advice(self, notes: list[str]) -> Advice:
        """Put the answer into words."""
        total = len(self.rows)
        excluded = total - len(self.kept)
        reasons = ", ".join(f"{text} rules out {count}" for text, count in self.refused.items())
        if not self.scored:
            why = f" ({reasons})" if reasons else ""
            missing = f" with a known {_title(self.best)}" if self.kept else ""
            sentence = f"None of the {count_text(total, 'method')}{missing} meets the condition{why}."
            return Advice(None, None, " ".join([*notes, sentence]))
        first, *others = self.scored
        said = sentences(
            "advice",
            first=first,
            figures=self._figures(first),
            against=self._against(first, others[0]) if others else "There is no runner-up.",
            alike=[other for other in others[1:] if self._varies(first) and not self._resolved(first, other)],
            listed=_LISTED,
            excluded=excluded,
            reasons=reasons,
            total=total,
            limited=bool(self.clauses),
            scored=len(self.scored) if self.sign < 0 else 0,
        )
        return Advice(first, others[0] if others else None, " ".join([*notes, *said]))

    def _figures(self, label: str) -> str:
        row, values = self.rows[label], self._values(label)
        mean = _text(self.best, row[self.best], half_width(values))
        seeds = "one seed" if len(values) == 1 else f"mean of {len(values)} seeds"
        interval = " ± 95 % confidence interval" if self._varies(label) else ""
        told = f"{_title(self.best)} {mean} ({seeds}{interval}); "
        epsilons = ", ".join(f"{name.lower()} {epsilon_text(row[c])}" for c, name in ADVERSARIES.items())
        traffic = f"{bytes_text(row['bytes_up'])} up and {bytes_text(row['bytes_down'])} down"
        return f"{told}{seconds_text(row['sim_seconds'])}, {traffic} in all; ε: {epsilons}"

    def _against(self, first: str, second: str) -> str:
        mean = _text(self.best, self.rows[second][self.best], half_width(self._values(second)))
        difference = self._differences(first, second)
        text = f"Runner-up: {second} with {mean}, {self._figures(second).partition('; ')[2]}."
        if len(difference) and (difference == 0).all():
            sooner = self.rows[first]["sim_seconds"] < self.rows[second]["sim_seconds"]
            faster = "takes less time" if sooner else "takes as much time"
            return f"{text} The two are equal on every seed; the first {faster}."
        if not self._varies(first) and not self._varies(second) and len(difference) > 1:
            return text
        if len(difference) < 2:
            return f"{text} With {count_text(len(difference), 'common seed')} the difference cannot be assessed."
        gap = _text(self.best, abs(float(difference.mean())), half_width(difference))
        verdict = "which is resolved" if self._resolved(first, second) else "so the two cannot be distinguished"
        return f"{text} They differ by {gap} over {len(difference)} common seeds, {verdict}."

    def _resolved(self, first: str, second: str) -> bool:
        """Whether the 95 % interval of the difference, paired by seed, leaves out zero."""
        difference = self._differences(first, second)
        return len(difference) > 1 and abs(float(difference.mean())) > half_width(difference)

    def _differences(self, first: str, second: str) -> pd.Series[float]:
        one, other = self._values(first), self._values(second)
        difference = one - other
        difference[difference.isna() & one.eq(other)] = 0.0  # both infinite
        return difference.dropna()

    def _values(self, label: str) -> pd.Series[float]:
        own = self.runs[self.runs["label"] == label]
        return own.set_index("seed")[self.best].astype(float).dropna()

    def _varies(self, label: str) -> bool:
        return len(set(self._values(label))) > 1


def _title(column: str) -> str:
    return _NAMES.get(column, column.replace("_", " "))


def _text(column: str, mean: float, half_width: float) -> str:
    """Write a figure in the unit people would use, with its interval if it has one above zero."""
    if column.endswith(("auc", "accuracy", "loss", "calibration_error")):
        return score_text(mean, half_width)
    sizes = {name: size for name, (_, size) in _DERIVED.items()}
    if column.startswith(("bytes", "gigabytes", "peak_clinic_bytes")):
        texts = [bytes_text(value * sizes.get(column, 1.0)) for value in (mean, half_width)]
    elif column.endswith(("seconds", "hours", "minutes")):
        texts = [seconds_text(value * sizes.get(column, 1.0)) for value in (mean, half_width)]
    else:
        unit = " J" if column == "clinic_joules" else ""
        texts = [f"{epsilon_text(value)}{unit}" for value in (mean, half_width)]
    return " ± ".join(texts) if half_width > 0 else texts[0]
