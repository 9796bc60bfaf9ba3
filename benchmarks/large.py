"""Seconds a round and peak memory of ``scenarios/synthetic-1000.toml``: a thousand clinics, a million patients.

    python -m benchmarks.large

Each strategy in a process of its own, on one thread: data made, then rounds through strategy, messages and grid,
without evaluation. The peak is that of the whole process, libraries and making the data included.
``benchmarks/README.md`` keeps the figures.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.rounds import flower_path, seconds_per_round
from sim.data.federation import load_federation
from sim.flower.internals import quiet
from sim.scenario import load_scenario
from sim.scenario.spec import RunSpec, expand

SCENARIO = Path("scenarios/synthetic-1000.toml")
ROUNDS = 5


def measure(spec: RunSpec) -> tuple[float, float, float]:
    """Return the seconds to make the data, the median seconds a round, and the peak memory in GB."""
    torch.set_num_threads(1)
    quiet()
    start = time.perf_counter()
    load_federation(spec.data, spec.seed)
    made = time.perf_counter() - start
    run = flower_path(spec)
    run(1)
    median = statistics.median(seconds_per_round(run, 1) for _ in range(ROUNDS))
    return made, median, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Print a line a strategy."""
    context = multiprocessing.get_context("spawn")
    for spec in expand(load_scenario(SCENARIO)):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            made, seconds, peak = pool.submit(measure, spec).result()
        print(f"{spec.strategy.name:12s} data {made:.1f} s, a round {seconds:.2f} s, peak {peak:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
