"""The clinics' records: read, checked, split into training and held-out records, and scaled."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.scenario import Csv, HeartDisease

__all__ = ["Federation", "Records", "Table", "load_federation"]


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Records of all clinics, one clinic after another.

    Attributes
    ----------
    x : ndarray of float32, ``[record, feature]``
        Scaled features.
    y : ndarray of int64, ``[record]``
        Class of each record, an index into ``Federation.classes``.
    offsets : ndarray of int64, ``[clinic + 1]``
        Clinic ``k`` has the records ``offsets[k]:offsets[k + 1]``.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    offsets: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Federation:
    """Clinics with their training and held-out records.

    Attributes
    ----------
    names : tuple of str
        The clinics, in the order of the records' clinic axis.
    features, classes : tuple of str
        What the columns of ``x`` and the values of ``y`` are.
    train, test : Records
        Training and held-out records, each in file order within a clinic. The arrays cannot be written to.
    statistics : dict of str to str
        Every statistic that the preprocessing used, as ``"public"`` or ``"non-private"``.
    """

    names: tuple[str, ...]
    features: tuple[str, ...]
    classes: tuple[str, ...]
    train: Records
    test: Records
    statistics: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Records as a source gives them: complete, unsplit and unscaled.

    Attributes
    ----------
    names, features, classes : tuple of str
        As in `Federation`.
    x : ndarray of float64, ``[record, feature]``
        Features in their own units.
    y, offsets : ndarray of int64
        As in `Records`.
    ranges : mapping of str to (float, float)
        Public range of each feature that public scaling maps to -1 to 1.
    statistics : dict of str to str
        What was used to make it complete.
    """

    names: tuple[str, ...]
    features: tuple[str, ...]
    classes: tuple[str, ...]
    x: NDArray[np.float64]
    y: NDArray[np.int64]
    offsets: NDArray[np.int64]
    ranges: Mapping[str, tuple[float, float]]
    statistics: dict[str, str]


def load_federation(data_spec: HeartDisease | Csv, seed: int) -> Federation:
    """Read the data that a scenario names.

    Parameters
    ----------
    data_spec : HeartDisease or Csv
        The scenario's ``[data]``.
    seed : int
        Seed of the split into training and held-out records.

    Returns
    -------
    Federation
        The clinics with their records.

    Raises
    ------
    ScenarioError
        With one line for each problem.
    """
    from sim.data import heart, split, table

    source = heart.read(data_spec) if isinstance(data_spec, HeartDisease) else table.read(data_spec)
    if isinstance(data_spec, HeartDisease) and data_spec.held_out == "flamby":
        held_out = heart.flamby_held_out(source)
    else:
        held_out = split.hold_out(source.y, source.offsets, data_spec.test_share, seed)
    x, statistics = _scaled(source, data_spec.scaling, ~held_out)
    return Federation(
        source.names,
        source.features,
        source.classes,
        _records(x, source, ~held_out),
        _records(x, source, held_out),
        source.statistics | statistics,
    )


def _scaled(source: Table, scaling: str, train: NDArray[np.bool_]) -> tuple[NDArray[np.float64], dict[str, str]]:
    if scaling == "public":
        bounds = np.array([source.ranges.get(feature, (-1.0, 1.0)) for feature in source.features])
        low, high = bounds.T
        scaled = (2 * source.x - low - high) / (high - low)
        return scaled, {f"range of {feature}": "public" for feature in source.features if feature in source.ranges}
    if scaling == "none":
        return source.x, {}
    groups = [0, len(source.x)] if scaling == "pooled" else source.offsets.tolist()
    scaled = np.empty_like(source.x)
    for start, stop in pairwise(groups):
        own = source.x[start:stop][train[start:stop]]
        varies = own.max(axis=0) > own.min(axis=0)
        deviation = np.where(varies, own.std(axis=0, ddof=min(1, len(own) - 1)), 1.0)
        scaled[start:stop] = (source.x[start:stop] - own.mean(axis=0)) / deviation
    return scaled, {f"mean and deviation of {feature}": "non-private" for feature in source.features}


def _records(x: NDArray[np.float64], source: Table, mask: NDArray[np.bool_]) -> Records:
    counts = np.concatenate([[0], np.cumsum(mask)])
    records = Records(x[mask].astype(np.float32), source.y[mask], counts[source.offsets].astype(np.int64))
    for array in (records.x, records.y, records.offsets):
        array.setflags(write=False)
    return records
