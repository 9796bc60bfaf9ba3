"""Which runs of a study are executed together, as one tensor program in one process.

Whatever the grouping, a run's numbers are the same; it decides about time and memory alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from sim.plan.plan import Plan
from sim.study.forecast import estimated_seconds

MEMORY_SHARE = 0.25
"""Of the machine's memory, what the runs that are executed at one time may take together, by rough count."""
MOST_SECONDS = 900.0
"""For about how long runs may be executed together: what a crash can cost."""
_COPIES = 6
"""About how many copies of a lane's parameters and of its records there are at a time."""
_SET_APART_BY_LANE: Final = {
    "seed": True,
    "swept": True,
    "data": {"test_sites"},
    "tuned": True,
    "train": {"learning_rate", "momentum", "weight_decay", "schedule", "nopeek"},
    "privacy": {"epsilon", "noise_multiplier", "clip"},
    "strategy": {"proximal_mu", "label"},
}
"""Settings in which the lanes of one program may differ."""


def grouped(plans: Sequence[Plan], jobs: int) -> list[list[Plan]]:
    """Group runs that share shapes, and split what is too large for memory or leaves a process idle.

    Parameters
    ----------
    plans : sequence of Plan
    jobs : int
        Groups at a time.

    Returns
    -------
    list of list of Plan
        Those that seem quickest first, each in the order given.
    """
    alike: dict[str, list[Plan]] = {}
    for plan in plans:
        name = _shared_settings(plan) if plan.job.dense else plan.spec.run_id
        alike.setdefault(name, []).append(plan)
    shares = jobs if jobs == 1 or len(alike) == 1 else 2 * jobs
    most = min(MOST_SECONDS, sum(map(estimated_seconds, plans)) / shares)
    memory = MEMORY_SHARE * _memory_bytes() / jobs
    groups = [part for group in alike.values() for part in _split(group, most, memory)]
    return sorted(groups, key=lambda group: sum(map(estimated_seconds, group)))


def _shared_settings(plan: Plan) -> str:
    apart: Any = _SET_APART_BY_LANE
    return plan.spec.model_dump_json(exclude=apart)


def _split(group: list[Plan], seconds: float, memory: float) -> list[list[Plan]]:
    """Cut a group into as few parts as fit, all of about one size."""
    times = max(sum(map(estimated_seconds, group)) / seconds, sum(map(_bytes, group)) / memory)
    parts = min(len(group), max(1, math.ceil(times * (1 - 1e-9))))
    bounds = [part * len(group) // parts for part in range(parts + 1)]
    return [group[first:last] for first, last in pairwise(bounds)]


def _bytes(plan: Plan) -> int:
    job = plan.job
    parameters = sum(map(math.prod, job.network.whole.shapes().values()))
    records = sum(job.sizes) * math.prod(job.network.input_shape)
    return 4 * _COPIES * (parameters * len(job.sizes) + records)


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
