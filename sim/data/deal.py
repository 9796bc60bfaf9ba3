"""Dealing records out to made-up clinics: the ways in which clinics differ, one at a time.

How many records of each class a clinic gets, and which, are drawn from streams of the run's seed, so replicates of a
study see other clinics. Patients with several records move as one; "records" below then means patients, and a
patient's class is the rarest of its records' (`split.patients_of`).

* ``iid``: equal shares of the shuffled records.
* ``quantity``: shuffled records in shares drawn from a symmetric Dirichlet distribution with concentration ``alpha``
  (Li et al., "Federated learning on non-IID data silos", ICDE 2022), two for each clinic beforehand.
* ``dirichlet``: equal sizes. In random order, each clinic draws its class shares from a Dirichlet distribution with
  concentration ``alpha`` and takes records by them; what a class lacks, the others make up for. For large ``alpha`` all
  clinics are alike; towards 0 each holds a single class, as far as the classes' sizes allow. After Hsu, Qi and Brown,
  "Measuring the effects of non-identical data distribution", 2019, who take the class shares of all records as the
  distribution's mean; here it is those of what the earlier clinics left, so that the last ones are not special.
* ``pathological``: records sorted by class and cut into ``clinics`` times ``classes-per-clinic`` shards of nearly equal
  size, and each clinic given ``classes-per-clinic`` of them (McMahan et al., AISTATS 2017). Here no shard spans two
  classes and a clinic's shards are of different classes.
* ``feature-shift``: as ``iid``, and then ``shifted``.

Held-out records that the source itself names follow the same law: each class (all records together, for ``iid``,
``quantity`` and ``feature-shift``) is divided in proportion to the training records.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.data.federation import Ints, Mask, Table
from sim.data.split import patients_of
from sim.foundation.problems import ScenarioError
from sim.foundation.rng import Streams, stream
from sim.scenario.data import DataSpec

BY_CLASS: Final = ("dirichlet", "pathological")
"""The splits that look at labels."""


def place(spec: DataSpec, table: Table, seed: int) -> tuple[tuple[str, ...], Ints]:
    """Say at which clinic each record stands: names, and ``[record]`` an index into them.

    The clinics are the source's own if the split is natural, otherwise ``clinic-1`` and so on. Raises ``ScenarioError``
    if the records cannot be dealt out so.
    """
    if spec.split == "natural":
        return table.names, table.clinic
    names = tuple(f"clinic-{number + 1}" for number in range(spec.clinics or 0))
    if table.patient is None:
        return names, deal(spec, table.stratum, seed, table.held_out)
    index, _, class_of = patients_of(table.patient, table.stratum)
    return names, deal(spec, class_of, seed)[index]


def deal(spec: DataSpec, y: Ints, seed: int, held_out: Mask | None = None) -> Ints:
    """Deal records out to clinics by a split other than natural.

    Parameters
    ----------
    y : ndarray of int64, ``[record]``
        Class of each record.
    held_out : ndarray of bool, ``[record]``, optional
        The source's own held-out records.

    Returns
    -------
    ndarray of int64, ``[record]``
        Clinic of each record; each clinic has at least two of those that are not held out by the source.

    Raises
    ------
    ScenarioError
        If there are too few records or classes for the clinics.
    """
    stratum = y if spec.split in BY_CLASS else np.zeros_like(y)
    train = np.ones(len(y), dtype=np.bool_) if held_out is None else ~held_out
    strata = int(stratum.max(initial=0)) + 1
    counts = np.bincount(stratum[train], minlength=strata)
    if problems := _problems(spec, counts):
        raise ScenarioError(problems)
    shares = _LAWS[spec.split](spec, counts, stream(seed, "deal"))
    clinic = np.empty(len(y), dtype=np.int64)
    streams = Streams(seed, "deal.members")
    for label in range(strata):
        own = streams.at(step=label).permutation(np.flatnonzero(train & (stratum == label)))
        clinic[own] = np.repeat(np.arange(len(shares)), shares[:, label])
        given = streams.at(step=label, server_round=1).permutation(np.flatnonzero(~train & (stratum == label)))
        weights = shares[:, label] if counts[label] else shares.sum(axis=1)
        clinic[given] = np.repeat(np.arange(len(shares)), apportion(weights, len(given)))
    return clinic


def shifted(x: NDArray[np.float32], offsets: Ints, shift: float, seed: int) -> NDArray[np.float32]:
    """Give each clinic's features an affine shift of its own, as another device or population would.

    A feature, or channel, of a clinic becomes ``exp(shift a) x + shift b`` with standard normal ``a`` and ``b``; ``x``
    is ``[record, *feature]``, scaled and sorted by clinic, and clinic ``k`` has the records ``offsets[k]:offsets[k +
    1]``.
    """
    result = np.empty_like(x)
    streams = Streams(seed, "feature-shift")
    for clinic, (start, stop) in enumerate(pairwise(offsets.tolist())):
        result[start:stop] = shifted_by(x[start:stop], shift, streams.at(clinic=clinic))
    return result


def shifted_by(x: NDArray[np.float32], shift: float, draws: np.random.Generator) -> NDArray[np.float32]:
    """Give each feature of one clinic's records, ``[record, *feature]``, its affine shift."""
    draw = shift * draws.standard_normal((2, x.shape[1], *(1,) * (x.ndim - 2)))
    scale, move = np.exp(draw[0]).astype(np.float32), draw[1].astype(np.float32)
    changed: NDArray[np.float32] = scale * x + move
    return changed


def apportion(weights: NDArray[np.int64] | NDArray[np.float64], total: int, least: int = 0) -> Ints:
    """Divide a number into whole parts in proportion to weights, by largest remainders; equal ones go to the first.

    Parameters
    ----------
    weights : ndarray, ``[part]``
        Not negative, and not all zero.
    least : int
        What each part gets before the rest is divided.
    """
    rest = total - least * len(weights)
    exact = rest * (weights / weights.sum())
    parts: Ints = np.floor(exact).astype(np.int64)
    largest = np.argsort(parts - exact, kind="stable")[: rest - int(parts.sum())]
    parts += least
    parts[largest] += 1
    return parts


def _problems(spec: DataSpec, counts: Ints) -> list[str]:
    clinics, own, classes = spec.clinics or 0, spec.classes_per_clinic or 0, np.count_nonzero(counts)
    total = int(counts.sum())
    if total < 2 * clinics:
        fault = f"{clinics} are too many for {total} records (or patients) to deal out; two are needed for each clinic"
        return [f"scenario: data.clinics: {fault}"]
    if spec.split != "pathological":
        return []
    place = "scenario: data.classes-per-clinic"
    if own > classes:
        return [f"{place}: {own} is more than the {classes} classes that there are; take at most {classes}"]
    if clinics * own < classes:
        fault = f"{own} at each of {clinics} is fewer than the {classes} classes that must stand somewhere"
        return [f"{place}: {fault}; take more, or more data.clinics"]
    if _most_shards(clinics, counts).sum() < clinics * own or (own == 1 and (counts == 1).any()):
        fault = f"the records of some class are too few to give {clinics} clinics {own} classes each"
        return [f"{place}: {fault}; take fewer, or fewer data.clinics"]
    return []


def _equal(spec: DataSpec, counts: Ints, generator: np.random.Generator) -> Ints:
    """Return ``[clinic, 1]``: sizes that differ by one at most."""
    return apportion(np.ones(spec.clinics or 0), int(counts.sum()))[:, None]


def _quantity(spec: DataSpec, counts: Ints, generator: np.random.Generator) -> Ints:
    """Return ``[clinic, 1]``: sizes drawn from a symmetric Dirichlet distribution."""
    sizes = generator.dirichlet(np.full(spec.clinics or 0, spec.alpha))
    return apportion(sizes, int(counts.sum()), least=2)[:, None]


def _dirichlet(spec: DataSpec, counts: Ints, generator: np.random.Generator) -> Ints:
    """Return ``[clinic, class]``: in random order, each clinic takes its own mix of what is left."""
    sizes = apportion(np.ones(spec.clinics or 0), int(counts.sum()))
    left = counts.copy()
    shares = np.zeros((len(sizes), len(counts)), dtype=np.int64)
    for clinic in generator.permutation(len(sizes)):
        present = np.flatnonzero(left)
        mix = np.zeros(len(counts))
        mix[present] = generator.dirichlet((spec.alpha or 0.0) * left[present] / left.sum())
        shares[clinic] = _take(mix, sizes[clinic], left)
        left -= shares[clinic]
    return shares


def _take(mix: NDArray[np.float64], size: int, left: Ints) -> Ints:
    """Take `size` records in proportion to `mix`; classes that run out are made up for by the others."""
    taken = np.zeros_like(left)
    while short := size - int(taken.sum()):
        wanted = np.where(taken < left, mix, 0.0)
        if not wanted.any():
            wanted = (left - taken).astype(np.float64)
        taken += np.minimum(apportion(wanted, short), left - taken)
    return taken


def _most_shards(clinics: int, counts: Ints) -> Ints:
    """Return ``[class]``: into how many shards of two records at least, one a clinic, a class can be cut."""
    return np.clip(counts // 2, np.minimum(1, counts), clinics)


def _pathological(spec: DataSpec, counts: Ints, generator: np.random.Generator) -> Ints:
    """Return ``[clinic, class]``: every clinic gets shards of `classes_per_clinic` different classes."""
    clinics, own = spec.clinics or 0, spec.classes_per_clinic or 0
    most = _most_shards(clinics, counts)
    shards = np.minimum(1, counts)
    for _ in range(clinics * own - int(shards.sum())):
        shards[np.argmax(np.where(shards < most, counts / np.maximum(shards, 1), 0))] += 1  # cut the largest
    free = np.full(clinics, own)
    shares = np.zeros((clinics, len(counts)), dtype=np.int64)
    for label in generator.permutation(np.flatnonzero(counts)):
        # the clinics with most shards to come, in random order among equals: nobody then gets a class twice
        holders = np.lexsort((generator.random(clinics), -free))[: shards[label]]
        free[holders] -= 1
        shares[holders, label] = apportion(np.ones(len(holders)), counts[label])
    return shares


_LAWS: Final[dict[str, Callable[[DataSpec, Ints, np.random.Generator], Ints]]] = {
    "iid": _equal,
    "quantity": _quantity,
    "dirichlet": _dirichlet,
    "pathological": _pathological,
    "feature-shift": _equal,
}
