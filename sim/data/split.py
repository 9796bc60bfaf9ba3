"""Which clinics can take part, and which of their records are held out."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.problems import suggest
from sim.rng import stream

__all__ = ["clinic_problems", "hold_out"]


def _class_counts(y: NDArray[np.int64]) -> dict[int, int]:
    return {int(label): int(count) for label, count in zip(*np.unique(y, return_counts=True), strict=True)}


def _held_out_counts(class_counts: dict[int, int], share: float) -> dict[int, int]:
    counts = {label: min(int(share * n + 0.5), n - 1) for label, n in class_counts.items()}
    divisible = [label for label, n in class_counts.items() if n > 1]
    if divisible and not any(counts.values()):
        counts[max(divisible, key=class_counts.__getitem__)] = 1
    return counts


def hold_out(y: NDArray[np.int64], offsets: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose the held-out records of every clinic, stratified by class.

    A class with ``n`` records of a clinic gives ``floor(share n + 1/2)`` of them, but keeps at least one for training;
    a clinic that would hold out nothing gives one of its largest class. The counts do not depend on the seed.

    Parameters
    ----------
    y : ndarray of int64, ``[record]``
        Class of each record.
    offsets : ndarray of int64, ``[clinic + 1]``
        Clinic ``k`` has the records ``offsets[k]:offsets[k + 1]``.
    share : float
        Share to hold out, between 0 and 1.
    seed : int
        Seed of the draw.

    Returns
    -------
    ndarray of bool, ``[record]``
        True where a record is held out.
    """
    held_out = np.zeros(len(y), dtype=np.bool_)
    for clinic, (start, stop) in enumerate(pairwise(offsets)):
        own = y[start:stop]
        for label, count in _held_out_counts(_class_counts(own), share).items():
            order = stream(seed, "split", clinic=clinic, step=label).permutation(np.flatnonzero(own == label))
            held_out[start + order[:count]] = True
    return held_out


def clinic_problems(
    names: Sequence[str],
    y: NDArray[np.int64],
    clinic: NDArray[np.int64],
    sites: Sequence[str] | None,
    one_class: str,
) -> list[str]:
    """Return why clinics cannot take part.

    Parameters
    ----------
    names : sequence of str
        All clinics of the source.
    y, clinic : ndarray of int64, ``[record]``
        Class and clinic of each record.
    sites : sequence of str, optional
        The clinics to use; all if None.
    one_class : str
        ``"keep"`` if a clinic may have a single class.

    Returns
    -------
    list of str
        One line for each unknown site, and for each used clinic with fewer than two records, with a single class, or
        without two records of the same class.
    """
    problems = [
        f'scenario: data.sites: unknown site "{site}"; {suggest(site, names)}'
        for site in sites or ()
        if site not in names
    ]
    for index, name in enumerate(names):
        if sites is not None and name not in sites:
            continue
        counts = _class_counts(y[clinic == index])
        records = sum(counts.values())
        if records < 2:
            fault = (
                f"has {records} record{'s' * (records != 1)}, too few to train and to test; leave it out of data.sites"
            )
            problems.append(f'scenario: data: clinic "{name}" {fault}')
        elif len(counts) == 1 and one_class == "refuse":
            fault = 'has records of one class only; leave it out of data.sites, or set data.one-class = "keep"'
            problems.append(f'scenario: data: clinic "{name}" {fault}')
        elif max(counts.values()) < 2:
            fault = "has no two records of the same class, so none can be held out; leave it out of data.sites"
            problems.append(f'scenario: data: clinic "{name}" {fault}')
    return problems
