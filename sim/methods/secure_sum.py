"""What a node sends under secure aggregation, and how the server reads the sum: integers modulo 2^32 on a public grid.

A clinic's clipped update is rounded towards zero, so that its norm does not grow, and its part of the noise to the
nearest multiple of the step. A sum of such parts is Gaussian noise with further noise that does not depend on any
record, so that rounding costs no epsilon. Masks of all clinics add up to nothing modulo 2^32. A node sends the sum of
its clinics' masked updates; each clinic's mask is r_k - r_next, around the round's clinics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.foundation.rng import Streams
from sim.methods.forms import NOT_FINITE, parts_of
from sim.methods.job import Job
from sim.methods.protocol import HEADER_BYTES, Direction
from sim.models import Parameters
from sim.privacy.mechanisms.released import SUM_BITS

FRACTION_BITS = 24
"""Of parameters that are not clipped, whose weighted sum lies within 128."""
_WORDS = 2**32
Numbers: TypeAlias = NDArray[np.float64]
Codes: TypeAlias = NDArray[np.int64]


class DivergedUpdateError(ValueError):
    """A clinic's parameters are no numbers; the text quotes no value."""

    def __init__(self) -> None:
        super().__init__(NOT_FINITE)


def step_of(job: Job) -> float:
    """Return the step of the grid, a power of two that public numbers decide.

    Of clipped updates the clinic's own noise has 2^15 to 2^16 steps a standard deviation, fewer where 2^31 steps would
    not hold the sum.
    """
    secure, clip = job.secure, job.spec.privacy.clip
    if secure is None or job.spec.privacy.unit != "clinic" or math.isinf(clip):
        return 2.0**-FRACTION_BITS
    own = part_noise(job)
    finest = own / 2**SUM_BITS if own else clip / 2**FRACTION_BITS
    most = secure.clinics * clip + 16 * own * math.sqrt(secure.clinics)
    return 2.0 ** math.ceil(math.log2(max(finest, most / 2**31)))


def part_noise(job: Job) -> float:
    """Return the standard deviation of a clinic's part of the noise on the sum of clipped updates."""
    if job.secure is None or not job.update_noise:
        return 0.0
    return job.update_noise * job.spec.privacy.clip / math.sqrt(job.secure.parts)


def masked_sum(
    job: Job, server_round: int, clinics: Sequence[int], before: Mapping[str, Tensor], trained: Mapping[str, Tensor]
) -> Parameters:
    """Add up what some clinics of a round trained, as a node sends it.

    Parameters
    ----------
    job : Job
    server_round : int
    clinics : sequence of int
        The clinic of each lane.
    before : mapping of str to Tensor
        ``[1, *shape]`` each, what the round began with; needed where updates are clipped.
    trained : mapping of str to Tensor
        ``[lane, *shape]`` each.

    Returns
    -------
    dict of str to Tensor
        ``[1, *shape]`` of 32-bit integers each.

    Raises
    ------
    DivergedUpdateError
        If a value is no number, where nothing is clipped.
    """
    names = [name for name in job.shapes(parts_of(job)) if name in trained and name not in job.apart]
    if not names:
        return {}
    begun = _flat({name: before[name] for name in names}) if job.spec.privacy.unit == "clinic" else None
    total = _masks(job, server_round, clinics, sum(trained[name][0].numel() for name in names))
    for lane, clinic in enumerate(clinics):
        own = _flat({name: trained[name][lane] for name in names})
        total += _weighted(job, clinic, own) if begun is None else _clipped(job, server_round, clinic, own - begun)
    whole = torch.from_numpy((total % _WORDS).astype(np.uint32).view(np.int32))
    pieces = torch.split(whole, [trained[name][0].numel() for name in names])
    return {name: piece.view(1, *trained[name].shape[1:]) for name, piece in zip(names, pieces, strict=True)}


def _flat(values: Mapping[str, Tensor]) -> Numbers:
    return np.concatenate([value.double().numpy().ravel() for value in values.values()])


def _clipped(job: Job, server_round: int, clinic: int, update: Numbers) -> Codes:
    """Clip a clinic's update and add its part of the noise, in steps."""
    norm = float(np.linalg.norm(update))
    factor = min(1.0, job.spec.privacy.clip / norm) if norm else 1.0
    step = step_of(job)
    codes = np.trunc(update * factor / step) if math.isfinite(norm) else np.zeros_like(update)
    return codes.astype(np.int64) + own_noise(job, server_round, clinic, len(update))


def own_noise(job: Job, server_round: int, clinic: int, numbers: int) -> Codes:
    """Return a clinic's own part of the noise on a sum of clipped updates, in steps."""
    std = part_noise(job)
    if not std:
        return np.zeros(numbers, dtype=np.int64)
    drawn = Streams(job.key, "noise.update").at(clinic, server_round).standard_normal(numbers)
    return np.rint(drawn * std / step_of(job)).astype(np.int64)


def _weighted(job: Job, clinic: int, values: Numbers) -> Codes:
    """Weigh a clinic's parameters by its share of all records, in steps."""
    most = 2.0 ** (31 - FRACTION_BITS)
    if not np.isfinite(values).all():
        if not job.shielded:
            raise DivergedUpdateError
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    weighted = values * (job.sizes[clinic] / job.records.sum())
    # A clinic that cuts off its parameters cuts off its noise, on which others count; a sum's remainder keeps it.
    steps = np.rint((weighted if job.dp is not None else np.clip(weighted, -most, most)) / step_of(job)) % _WORDS
    return np.asarray(steps, dtype=np.int64)


def _masks(job: Job, server_round: int, clinics: Sequence[int], numbers: int) -> NDArray[np.int64]:
    """Add up some clinics' masks; those of all clinics of the round add up to nothing."""
    everyone = sorted(job.returning(server_round, job.participants(server_round)))
    total, streams = np.zeros(numbers, dtype=np.int64), Streams(job.key, "mask")
    if set(clinics) == set(everyone):
        return total
    following = dict(zip(everyone, [*everyone[1:], everyone[0]], strict=True))
    for clinic in clinics:
        for holder, sign in ((clinic, 1), (following[clinic], -1)):
            total += sign * streams.at(holder, server_round).integers(_WORDS, size=numbers)
    return total


def added(sums: Sequence[Tensor]) -> Tensor:
    """Add up what several nodes sent, modulo 2^32."""
    total = torch.stack([each.long() for each in sums]).sum(0)
    return (total + 2**31).remainder(_WORDS).sub(2**31).int()


def set_up_bytes(job: Job, server_round: int) -> Iterator[tuple[Direction, list[int], int]]:
    """Yield the messages of a round's secure aggregation beside the updates: direction, clinics, and bytes of each."""
    if job.secure is None:
        return
    everyone = job.participants(server_round)
    stages = ((job.secure.before(len(everyone), 0), everyone), (job.secure.after(len(everyone)), None))
    for of_stage, clinics in stages:
        for place, size in of_stage:
            if place != "clinic":
                yield place, job.returning(server_round, everyone) if clinics is None else clinics, size + HEADER_BYTES


def opened(job: Job, sums: Mapping[str, Tensor], clinics: Sequence[int], before: Mapping[str, Tensor]) -> Parameters:
    """Return the average that a sum of some clinics' updates makes, ``[1, *shape]`` each.

    Clipped updates count alike and are divided by the number of clinics that a round is meant to have.
    """
    step = step_of(job)
    if job.spec.privacy.unit == "clinic":
        return {
            name: before[name] + (value.double() * (step / job.wanted)).to(before[name]) for name, value in sums.items()
        }
    scale = step * float(job.records.sum() / job.records[list(clinics)].sum())
    return {name: (value.double() * scale).float() for name, value in sums.items()}
