"""One evaluation rule for every strategy: the held-out records of every clinic, pooled and clinic by clinic.

The simulator looks; no clinic sends anything for it. Every number here is outside the privacy guarantee.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.data.federation import Records
from sim.models import Network
from sim.tensor.dense import dense_layers
from sim.tensor.lanes import forward, records_at_once

METRICS = ("auc", "balanced_accuracy", "accuracy", "loss", "calibration_error")
BINS = 10
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_SIDE_BY_SIDE = 128
"""How many clinics' own models are evaluated at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Metrics of one model, or of one model a clinic.

    Attributes
    ----------
    pooled : dict of str to float
        Over all held-out records, by metric.
    by_clinic : dict of str to ndarray
        The same for each clinic alone, ``[clinic]``; AUC is NaN where a clinic holds one class only.
    """

    pooled: dict[str, float]
    by_clinic: dict[str, Floats]

    @classmethod
    def none(cls, clinics: int) -> Evaluation:
        """Return what stands for a round in which nothing was evaluated: no numbers."""
        return cls(
            pooled=dict.fromkeys(METRICS, np.nan), by_clinic={name: np.full(clinics, np.nan) for name in METRICS}
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Evaluation):
            return NotImplemented
        own, others = ([*each.by_clinic.values(), np.array([*each.pooled.values()])] for each in (self, other))
        return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(own, others, strict=True))

    @property
    def worst_clinic(self) -> int:
        """The clinic with the lowest AUC, of those that have one; -1 if none has."""
        values = self.by_clinic["auc"]
        return -1 if np.isnan(values).all() else int(np.nanargmin(values))


class Evaluator:
    """Evaluates models on the held-out records, which it keeps as tensors.

    Parameters
    ----------
    network : Network
    test : Records
    unseen : bool
        Whether they are of clinics that do not train, and so have no model of their own.
    """

    def __init__(self, network: Network, test: Records, *, unseen: bool = False) -> None:
        self._network = network
        self._unseen = unseen
        self._test = test
        self._x = torch.tensor(test.x)[None]

    def evaluate(self, parameters: Mapping[str, Tensor]) -> Evaluation:
        """Evaluate a model.

        Parameters
        ----------
        parameters : mapping of str to Tensor
            ``[1, *shape]`` for a global model, ``[clinic, *shape]`` where every clinic has its own.

        Returns
        -------
        Evaluation

        Raises
        ------
        FloatingPointError
            If an output is not finite.
        """
        probabilities, y = self.class_probabilities(parameters), self._test.y
        if not np.isfinite(probabilities).all():
            raise FloatingPointError("the model's outputs are not finite")
        pooled = metrics_of(probabilities, y, np.array([0, len(y)]))
        by_clinic = metrics_of(probabilities, y, self._test.offsets)
        return Evaluation(pooled={name: float(value[0]) for name, value in pooled.items()}, by_clinic=by_clinic)

    @torch.no_grad()
    def class_probabilities(self, parameters: Mapping[str, Tensor]) -> Floats:
        """Return ``[record, class]`` probabilities under the global model or each record's clinic's own.

        Of clinics that do not train, under each training clinic's own in turn, and of these probabilities the mean.
        """
        models = next(iter(parameters.values())).shape[0]
        if models > 1 and self._unseen:
            total = np.zeros((self._x.shape[1], max(2, self._network.outputs)))
            for k in range(models):
                one = {name: value[k : k + 1] for name, value in parameters.items()}
                total += self._probabilities(self._logits(one, self._x))
            return total / models
        if models == 1:
            logits = self._logits(parameters, self._x)
        elif len(self._network.input_shape) == 1 and dense_layers(self._network.whole) is not None:
            logits = self._logits_side_by_side(parameters)
        else:
            bounds = pairwise(self._test.offsets.tolist())
            own = ({n: v[k : k + 1] for n, v in parameters.items()} for k in count())
            logits = torch.cat(
                [self._logits(model, self._x[:, a:b]) for model, (a, b) in zip(own, bounds, strict=False)]
            )
        return self._probabilities(logits)

    def _probabilities(self, logits: Tensor) -> Floats:
        """Return ``[record, class]`` probabilities from the network's outputs."""
        if self._network.outputs == 1:
            positive = torch.sigmoid(logits.double()[:, 0])
            return torch.stack([1 - positive, positive], 1).numpy()
        return torch.softmax(logits.double(), 1).numpy()

    def _logits_side_by_side(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return ``[record, output]`` of each clinic's own model, of many clinics of about one size at a time."""
        offsets = self._test.offsets
        sizes = np.diff(offsets)
        logits = torch.empty(self._x.shape[1], self._network.outputs)
        by_size = np.argsort(sizes, kind="stable")
        for first in range(0, len(sizes), _SIDE_BY_SIDE):
            clinics = by_size[first : first + _SIDE_BY_SIDE]
            inside = np.arange(max(1, int(sizes[clinics].max()))) < sizes[clinics, None]
            records = torch.from_numpy(np.concatenate([np.arange(offsets[k], offsets[k + 1]) for k in clinics]))
            place = torch.from_numpy(inside)
            x = self._x.new_zeros(*inside.shape, *self._x.shape[2:])
            x[place] = self._x[0, records]
            own = {name: value[clinics] for name, value in parameters.items()}
            logits[records] = forward(self._network.whole, own, x)[place]
        return logits

    def _logits(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return ``[record, output]`` of one lane, from as many records at once as the part runs well on."""
        rows = max(1, min(records_at_once(self._network.whole, self._network.input_shape), x.shape[1]))
        return torch.cat([forward(self._network.whole, parameters, piece)[0] for piece in torch.split(x, rows, 1)])


def metrics_of(probabilities: Floats, y: Ints, offsets: Ints) -> dict[str, Floats]:
    """Return AUC, balanced accuracy, accuracy, mean log loss and calibration error of each segment of the records.

    Parameters
    ----------
    probabilities : ndarray
        ``[record, class]``
    y : ndarray
        ``[record]``
    offsets : ndarray
        ``[segment + 1]`` where each segment begins, and the end of the last.

    Returns
    -------
    dict of str to ndarray
        ``[segment]``. AUC is the mean over classes of one against the rest (for two classes: the AUC), NaN unless two
        classes are present; balanced accuracy is the mean recall of the classes that are present; calibration error is
        the expected calibration error over ten equal bins of the predicted class's probability (Naeini et al., AAAI
        2015). All are NaN without records.
    """
    sizes, classes = np.diff(offsets), probabilities.shape[1]
    segments = len(sizes)
    segment = np.repeat(np.arange(segments), sizes)
    predicted = probabilities.argmax(1)
    correct = (predicted == y).astype(np.float64)
    cell = segment * classes + y
    present = np.bincount(cell, minlength=segments * classes).reshape(segments, classes)
    hits = np.bincount(cell, weights=correct, minlength=segments * classes).reshape(segments, classes)
    likelihood = np.maximum(probabilities[np.arange(len(y)), y], np.finfo(np.float64).tiny)
    confidence = probabilities.max(1)
    bins = segment * BINS + np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=segments * BINS).reshape(segments, BINS)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "auc": _one_against_rest(probabilities, y, segment, present),
            "balanced_accuracy": np.where(present > 0, hits / present, 0.0).sum(1) / (present > 0).sum(1),
            "accuracy": hits.sum(1) / sizes,
            "loss": np.bincount(segment, weights=-np.log(likelihood), minlength=segments) / sizes,
            "calibration_error": np.abs(gaps).sum(1) / sizes,
        }


def _one_against_rest(probabilities: Floats, y: Ints, segment: Ints, present: Ints) -> Floats:
    """Return each segment's mean over its classes of the AUC of one against the rest; for two classes the AUC."""
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    total, found = np.zeros(len(present)), np.zeros(len(present), dtype=np.int64)
    for c in classes:
        auc = segment_aucs(probabilities[:, c], y == c, segment, len(present))
        here = ~np.isnan(auc)
        total[here] += auc[here]
        found += here
    return np.where(found > 0, total / found, np.nan)


def segment_aucs(score: Floats, positive: NDArray[np.bool_], segment: Ints, segments: int) -> Floats:
    """Return the AUC of each segment's scores: Mann and Whitney's statistic over the number of pairs, ties half.

    Parameters
    ----------
    score, positive : ndarray
        ``[record]``
    segment : ndarray
        ``[record]`` the segment of each, ascending.
    segments : int

    Returns
    -------
    ndarray
        ``[segment]``, NaN where a segment has no pair.
    """
    order = np.lexsort((score, segment))
    ordered, of = score[order], segment[order]
    sizes = np.bincount(segment, minlength=segments)
    begins = np.cumsum(sizes) - sizes
    new = np.ones(len(score), dtype=np.bool_)
    new[1:] = (np.diff(ordered) != 0) | (np.diff(of) != 0)
    first = np.flatnonzero(new)
    ties = np.diff(np.append(first, len(score)))
    rank = np.repeat(first + (ties + 1) / 2, ties) - begins[of]
    among = positive[order]
    n1 = np.bincount(of[among], minlength=segments)
    pairs = n1 * (sizes - n1)
    above = np.bincount(of[among], weights=rank[among], minlength=segments) - n1 * (n1 + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, above / pairs, np.nan)


def area_under_curve(score: Floats, positive: NDArray[np.bool_]) -> float:
    """Return the AUC of scores ``[record]``: Mann and Whitney's statistic over the number of pairs, ties half."""
    return float(segment_aucs(score, positive, np.zeros(len(score), dtype=np.int64), 1)[0])
