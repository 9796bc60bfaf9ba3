"""Scaling of features: by public ranges, or by statistics of the training records; and the public bounds they keep."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.data.federation import Ints, Mask, Table

LARGEST = 1e6
"""Beyond this, up or down, a scaled feature without a public range is clamped: a public bound, whatever the records."""


def scaled(table: Table, offsets: Ints, train: Mask) -> tuple[NDArray[np.float32], dict[str, str]]:
    """Scale records as their source asks, and clamp them: to their public ranges, or to ``LARGEST`` without.

    No record can then be so large that a network's outputs are no numbers.

    Parameters
    ----------
    offsets : ndarray of int64, ``[clinic + 1]``
        Clinic ``k`` has the records ``offsets[k]:offsets[k + 1]`` of the table, which is sorted by clinic.
    train : ndarray of bool, ``[record]``
        The training records, the only ones that per-clinic and pooled statistics come from; a clinic without any, which
        is held out as a whole, is scaled by its own records, as it would be on its first day.

    Returns
    -------
    x : ndarray of float32, ``[record, *feature]``
    statistics : dict of str to str
        What was used, as ``"public"`` or ``"non-private"``.
    """
    x = table.x
    if table.scaling == "none":
        return np.clip(x.astype(np.float32, copy=False), -LARGEST, LARGEST), {}
    result = np.empty(x.shape, dtype=np.float32)
    if table.scaling == "public":
        bounds = np.array([table.ranges.get(feature, (-1.0, 1.0)) for feature in table.features])
        low, high = (side.reshape(-1, *(1,) * (x.ndim - 2)) for side in bounds.T)
        for start, stop in pairwise(offsets.tolist()):
            own = np.clip(x[start:stop].astype(np.float64, copy=False), low, high)
            result[start:stop] = (2 * own - low - high) / (high - low)
        return result, {f"range of {feature}": "public" for feature in table.features if feature in table.ranges}
    groups = [0, len(x)] if table.scaling == "pooled" else offsets.tolist()
    for start, stop in pairwise(groups):
        own = x[start:stop][train[start:stop]]
        own = own if len(own) else x[start:stop]
        varies = own.max(axis=0) > own.min(axis=0)
        deviation = np.where(varies, own.std(axis=0, ddof=min(1, len(own) - 1)), 1.0)
        result[start:stop] = np.clip((x[start:stop] - own.mean(axis=0)) / deviation, -LARGEST, LARGEST)
    return result, {f"mean and deviation of {feature}": "non-private" for feature in table.features}
