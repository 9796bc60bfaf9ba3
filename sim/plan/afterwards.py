"""What clinics do after the last round, for models of their own: work and time, from counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.methods.cutting import epochs_of, own_blocks
from sim.methods.job import Job
from sim.methods.sampling import Ints
from sim.plan.costs import part_costs
from sim.scenario.clinics import ClinicResources


@dataclass(frozen=True)
class Afterwards:
    """``[clinic]`` each; zeros of methods that end with the last round."""

    flops: Ints
    seconds: NDArray[np.float64]

    @property
    def longest(self) -> float:
        """When all are done: they work at the same time, and nothing crosses."""
        return float(self.seconds.max(initial=0.0))


def with_afterwards(round_seconds: Sequence[float], after: Afterwards) -> tuple[float, ...]:
    """Return the rounds' times, the last with what comes after it."""
    return (*round_seconds[:-1], *(last + after.longest for last in round_seconds[-1:]))


def afterwards(job: Job, resources: Sequence[ClinicResources]) -> Afterwards:
    """Count what the clinics train further: each record so many times, and the blocks in common once."""
    flops = np.zeros(len(job.sizes), dtype=np.int64)
    if job.method.personal is not None:
        common, own = own_blocks(job)
        shape = job.network.input_shape
        if common.blocks:  # whose outputs take no gradient
            cost = part_costs((common,), shape)["model"]
            flops, shape = flops + job.records * cost.forward_flops, cost.output_shape
        trained = part_costs((own,), shape)["model"]
        flops += epochs_of(job) * job.records * (trained.forward_flops + trained.backward_flops)
    rates = np.array([own.compute_flop_per_s for own in resources])
    return Afterwards(flops, flops / rates)
