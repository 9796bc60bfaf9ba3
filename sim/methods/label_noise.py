"""Randomised response on labels: one answer a record, the same whenever it is sent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.foundation.rng import stream
from sim.methods.mechanisms import RandomisedLabels


def randomised(labels: NDArray[np.int64], noise: RandomisedLabels, key: str, clinic: int) -> NDArray[np.int64]:
    """Answer for each of a clinic's records: its label with probability e^eps / (e^eps + k - 1), or another.

    Sending an answer again tells nothing more, so that the whole run is one release (Kairouz, Bonawitz & Ramage,
    "Discrete distribution estimation under local privacy", ICML 2016).

    Parameters
    ----------
    labels : ndarray
        ``[record]``
    noise : RandomisedLabels
    key : str
        The run's.
    clinic : int
        Names the stream.

    Returns
    -------
    ndarray
        ``[record]``
    """
    random = stream(key, "noise.labels", clinic)
    uniform = random.random(len(labels)) < noise.uniform
    return np.where(uniform, random.integers(noise.classes, size=len(labels)), labels)
