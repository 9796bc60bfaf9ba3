"""One evaluation rule for every strategy: the held-out records of every clinic, pooled and clinic by clinic.

The simulator looks; no clinic sends anything for it. Every number here is outside the privacy guarantee.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from sim.data.federation import Records
from sim.models import Network
from sim.tensor.lanes import forward, records_at_once

METRICS = ("auc", "balanced_accuracy", "accuracy", "loss", "calibration_error")
BINS = 10
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model, or of one model a clinic.

    Attributes
    ----------
    pooled : dict of str to float
        Over all held-out records, by metric.
    clinics : list of dict of str to float
        The same for each clinic alone; AUC is NaN where a clinic holds one class only.
    """

    pooled: dict[str, float]
    clinics: list[dict[str, float]]

    @property
    def worst_clinic(self) -> int:
        """The clinic with the lowest AUC, of those that have one; -1 if none has."""
        values = [metrics["auc"] for metrics in self.clinics]
        return -1 if np.all(np.isnan(values)) else int(np.nanargmin(values))


class Evaluator:
    """Evaluates models on the held-out records, which it keeps as tensors.

    Parameters
    ----------
    network : Network
    test : Records
    """

    def __init__(self, network: Network, test: Records) -> None:
        self._network = network
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
        """
        probabilities = self.class_probabilities(parameters)
        y, bounds = self._test.y, self._test.offsets.tolist()
        clinics = [metrics_of(probabilities[a:b], y[a:b]) for a, b in pairwise(bounds)]
        return Evaluation(metrics_of(probabilities, y), clinics)

    @torch.no_grad()
    def class_probabilities(self, parameters: Mapping[str, Tensor]) -> Floats:
        """Return ``[record, class]`` probabilities under the global model or each record's clinic's own."""
        lanes = next(iter(parameters.values())).shape[0]
        bounds = pairwise([0, self._x.shape[1]] if lanes == 1 else self._test.offsets.tolist())
        pieces = [
            self._logits({n: v[lane : lane + 1] for n, v in parameters.items()}, self._x[:, a:b])
            for lane, (a, b) in enumerate(bounds)
        ]
        logits = torch.cat(pieces)
        if self._network.outputs == 1:
            positive = torch.sigmoid(logits.double()[:, 0])
            return torch.stack([1 - positive, positive], 1).numpy()
        return torch.softmax(logits.double(), 1).numpy()

    def _logits(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return ``[record, output]`` of one lane, from as many records at once as the part runs well on."""
        rows = max(1, min(records_at_once(self._network.whole, self._network.input_shape), x.shape[1]))
        return torch.cat([forward(self._network.whole, parameters, piece)[0] for piece in torch.split(x, rows, 1)])


def metrics_of(probabilities: Floats, y: NDArray[np.int64]) -> dict[str, float]:
    """Return AUC, balanced accuracy, accuracy, mean log loss and calibration error.

    Parameters
    ----------
    probabilities : ndarray
        ``[record, class]``
    y : ndarray
        ``[record]``

    Returns
    -------
    dict of str to float
        AUC is the mean over classes of one against the rest (for two classes: the AUC), NaN unless two classes are
        present; balanced accuracy is the mean recall of the classes that are present; calibration error is the expected
        calibration error over ten equal bins of the predicted class's probability (Naeini et al., AAAI 2015). All are
        NaN without records.
    """
    if not len(y):
        return dict.fromkeys(METRICS, np.nan)
    predicted = probabilities.argmax(1)
    present = np.unique(y)
    recalls = [float(np.mean(predicted[y == c] == c)) for c in present]
    classes = [1] if probabilities.shape[1] == 2 else [int(c) for c in present]
    aucs = [area_under_curve(probabilities[:, c], y == c) for c in classes] if len(present) > 1 else [np.nan]
    likelihood = np.maximum(probabilities[np.arange(len(y)), y], np.finfo(np.float64).tiny)
    return {
        "auc": float(np.mean(aucs)),
        "balanced_accuracy": float(np.mean(recalls)),
        "accuracy": float(np.mean(predicted == y)),
        "loss": float(-np.log(likelihood).mean()),
        "calibration_error": _calibration_error(probabilities.max(1), predicted == y),
    }


def _calibration_error(confidence: Floats, correct: NDArray[np.bool_]) -> float:
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def area_under_curve(score: Floats, positive: NDArray[np.bool_]) -> float:
    """Return the AUC of scores ``[record]``: Mann and Whitney's statistic over the number of pairs, ties half."""
    n1 = int(positive.sum())
    n0 = len(positive) - n1
    return float((rankdata(score)[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))
