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

from sim.data import Records
from sim.engine.lanes import forward
from sim.models import Network

METRICS = ("auc", "balanced_accuracy", "accuracy", "loss")
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
        sizes = np.diff(test.offsets)
        own = np.minimum(np.arange(int(sizes.max())), np.maximum(sizes - 1, 0)[:, None]) + test.offsets[:-1, None]
        self._pooled = torch.tensor(test.x)[None]
        self._by_clinic = torch.tensor(test.x[np.minimum(own, len(test.y) - 1)])
        self._inside = torch.from_numpy(np.arange(int(sizes.max())) < sizes[:, None])

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
        if next(iter(parameters.values())).shape[0] > 1:
            logits = forward(self._network.whole, parameters, self._by_clinic)[self._inside]
        else:
            logits = forward(self._network.whole, parameters, self._pooled)[0]
        if self._network.outputs == 1:
            positive = torch.sigmoid(logits.double()[:, 0])
            return torch.stack([1 - positive, positive], 1).numpy()
        return torch.softmax(logits.double(), 1).numpy()


def metrics_of(probabilities: Floats, y: NDArray[np.int64]) -> dict[str, float]:
    """Return AUC, balanced accuracy, accuracy and mean log loss.

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
        present; balanced accuracy is the mean recall of the classes that are present.
    """
    predicted = probabilities.argmax(1)
    present = np.unique(y)
    recalls = [float(np.mean(predicted[y == c] == c)) for c in present]
    classes = [1] if probabilities.shape[1] == 2 else [int(c) for c in present]
    aucs = [_auc(probabilities[:, c], y == c) for c in classes] if len(present) > 1 else [np.nan]
    likelihood = np.maximum(probabilities[np.arange(len(y)), y], np.finfo(np.float64).tiny)
    return {
        "auc": float(np.mean(aucs)),
        "balanced_accuracy": float(np.mean(recalls)),
        "accuracy": float(np.mean(predicted == y)),
        "loss": float(-np.log(likelihood).mean()),
    }


def _auc(score: Floats, positive: NDArray[np.bool_]) -> float:
    """Mann and Whitney's statistic over the number of pairs, ties counted half."""
    n1 = int(positive.sum())
    n0 = len(positive) - n1
    return float((rankdata(score)[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))
