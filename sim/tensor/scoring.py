"""How a model's outputs become predictions of held-out records, and these become scores: by what is predicted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sim.data.federation import Records
from sim.inference.amounts import AMOUNT_CALIBRATION, AMOUNT_METRICS, amount_scores
from sim.inference.grades import GRADE_METRICS, grade_scores
from sim.inference.survival import TIME_METRICS, Times, log_losses, time_scores
from sim.scenario.outcomes import Outcome
from sim.scenario.study import Scoring
from sim.tensor.metrics import EVERY_ROUND, LAST_ROUND, clinic_and_pooled, costly_metrics, of_several_models

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Scores = tuple[dict[str, Floats], dict[str, float]]
"""By clinic, ``[clinic]`` each, and over all records."""


@dataclass(frozen=True, kw_only=True)
class Scorer(ABC):
    """Turns outputs into predictions, and predictions into scores."""

    outcome: Outcome
    kept_as: ClassVar[type[np.floating[Any]]] = np.float32  # To which precision predictions are kept and scored
    every_round: ClassVar[tuple[str, ...]]
    last_round: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def predicted(self, outputs: Tensor) -> Floats:
        """Return predictions ``[record, column]`` from outputs ``[record, output]``; means of several are some too."""

    @abstractmethod
    def columns(self, predicted: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Name what was seen of a record in ``predictions.parquet``, and the columns of its prediction."""

    @abstractmethod
    def seen(self, records: Records) -> Floats:
        """Return what was seen of records, ``[record, column]``."""

    @abstractmethod
    def losses(self, predicted: Floats, seen: Floats) -> Floats:
        """Return ``[record]`` how badly each record is predicted."""

    @abstractmethod
    def scores(self, predicted: Floats, seen: Floats, offsets: Ints, *, last: bool) -> Scores:
        """Return scores by clinic, with the number of its pairs, and over all records; with those of the last round."""

    def scores_of_several(self, predicted: Sequence[Floats], seen: Sequence[Floats], offsets: Ints) -> list[Scores]:
        """Return those of a round of several models, each tried on records of its own and on as many at each clinic."""
        return [self.scores(own, of_own, offsets, last=False) for own, of_own in zip(predicted, seen, strict=True)]


@dataclass(frozen=True, kw_only=True)
class ClassScorer(Scorer):
    """Of classes, by probabilities."""

    outcome: Outcome = field(default_factory=Outcome)
    scoring: Scoring = field(default_factory=Scoring)
    every_round: ClassVar[tuple[str, ...]] = EVERY_ROUND
    last_round = LAST_ROUND

    def predicted(self, outputs: Tensor) -> Floats:
        """See :class:`Scorer`."""
        if outputs.shape[1] == 1:
            positive = torch.sigmoid(outputs.double()[:, 0])
            return torch.stack([1 - positive, positive], 1).numpy()
        return torch.softmax(outputs.double(), 1).numpy()

    def columns(self, predicted: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See :class:`Scorer`."""
        return ("label",), tuple(f"probability_{c}" for c in range(predicted))

    def seen(self, records: Records) -> Floats:
        """See :class:`Scorer`."""
        return records.y.astype(np.float64)[:, None]

    def losses(self, predicted: Floats, seen: Floats) -> Floats:
        """See :class:`Scorer`: the cross-entropy of each record's class."""
        own: Floats = predicted[np.arange(len(seen)), seen[:, 0].astype(np.int64)]
        return -np.log(np.maximum(own, np.finfo(np.float64).tiny))

    def scores(self, predicted: Floats, seen: Floats, offsets: Ints, *, last: bool) -> Scores:
        """See :class:`Scorer`."""
        y, at = seen[:, 0].astype(np.int64), (self.scoring.specificity, self.scoring.threshold)
        by_clinic, pooled = clinic_and_pooled(predicted, y, offsets)
        if last:
            by_clinic |= costly_metrics(predicted, y, offsets, *at)
            further = costly_metrics(predicted, y, np.array([0, len(y)]), *at)
            pooled |= {name: float(value[0]) for name, value in further.items()}
        return by_clinic, pooled

    def scores_of_several(self, predicted: Sequence[Floats], seen: Sequence[Floats], offsets: Ints) -> list[Scores]:
        """See :class:`Scorer`."""
        return of_several_models(np.stack(predicted), np.stack(seen)[:, :, 0].astype(np.int64), offsets)


@dataclass(frozen=True, kw_only=True)
class GradeScorer(ClassScorer):
    """Of grades, by the probability of each: as ordered classes, and as classes."""

    every_round = (*GRADE_METRICS, *EVERY_ROUND)

    def predicted(self, outputs: Tensor) -> Floats:
        """See :class:`Scorer`: from log-odds of stopping at each grade but the highest."""
        beyond = nn.functional.pad(_survival(outputs), (1, 1))
        beyond[:, 0] = 1.0
        return (-beyond.diff(dim=1)).numpy()

    def scores(self, predicted: Floats, seen: Floats, offsets: Ints, *, last: bool) -> Scores:
        """See :class:`Scorer`."""
        as_classes, as_grades = (
            super().scores(predicted, seen, offsets, last=last),
            grade_scores(predicted, seen[:, 0].astype(np.int64), offsets),
        )
        return as_classes[0] | as_grades[0], as_classes[1] | as_grades[1]

    def scores_of_several(self, predicted: Sequence[Floats], seen: Sequence[Floats], offsets: Ints) -> list[Scores]:
        """See :class:`Scorer`."""
        return Scorer.scores_of_several(self, predicted, seen, offsets)


@dataclass(frozen=True, kw_only=True)
class TimeScorer(Scorer):
    """Of times with censoring, by the share that is without the event at the end of each interval."""

    kept_as = np.float64  # of shares near 1 the risks that rank records are the small rest
    every_round = TIME_METRICS

    def predicted(self, outputs: Tensor) -> Floats:
        """See :class:`Scorer`."""
        return _survival(outputs).numpy()

    def columns(self, predicted: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See :class:`Scorer`."""
        return ("time", "event"), tuple(f"survival_{edge:.10g}" for edge in self.outcome.edges)

    def seen(self, records: Records) -> Floats:
        """See :class:`Scorer`."""
        return records.measured

    def _times(self, seen: Floats) -> Times:
        return Times(seen[:, 0], seen[:, 1] == 1, np.array(self.outcome.edges))

    def losses(self, predicted: Floats, seen: Floats) -> Floats:
        """See :class:`Scorer`: the negative log-likelihood of the intervals that a record has reached."""
        return log_losses(predicted, self._times(seen))

    def scores(self, predicted: Floats, seen: Floats, offsets: Ints, *, last: bool) -> Scores:
        """See :class:`Scorer`."""
        return time_scores(predicted, self._times(seen), offsets)


@dataclass(frozen=True, kw_only=True)
class AmountScorer(Scorer):
    """Of amounts, by the amount itself in its own unit."""

    every_round = AMOUNT_METRICS
    last_round = AMOUNT_CALIBRATION

    def predicted(self, outputs: Tensor) -> Floats:
        """See :class:`Scorer`."""
        low, high = self.outcome.span
        return (low + (outputs.double() + 1) * ((high - low) / 2)).numpy()

    def columns(self, predicted: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See :class:`Scorer`."""
        return ("amount",), ("predicted",)

    def seen(self, records: Records) -> Floats:
        """See :class:`Scorer`."""
        return records.measured

    def losses(self, predicted: Floats, seen: Floats) -> Floats:
        """See :class:`Scorer`: the square of the difference, in half ranges."""
        low, high = self.outcome.span
        return ((predicted - seen)[:, 0] * (2 / (high - low))) ** 2

    def scores(self, predicted: Floats, seen: Floats, offsets: Ints, *, last: bool) -> Scores:
        """See :class:`Scorer`."""
        losses = self.losses(predicted, seen)
        return amount_scores(predicted[:, 0], seen[:, 0], losses, offsets, last=last)


def _survival(outputs: Tensor) -> Tensor:
    """Return ``[record, interval]`` the share without the event at each interval's end, from log-odds of hazards."""
    return torch.exp(torch.cumsum(nn.functional.logsigmoid(-outputs.double()), 1))


def scorer_of(outcome: Outcome, scoring: Scoring) -> Scorer:
    """Return what scores an outcome."""
    if outcome.of_classes:
        return (GradeScorer if outcome.kind == "ordinal" else ClassScorer)(outcome=outcome, scoring=scoring)
    return TimeScorer(outcome=outcome) if outcome.kind == "time" else AmountScorer(outcome=outcome)
