"""Resident memory of one process that executes many runs, one after another: it must not grow with their number.

    python -m benchmarks.memory

Every run has a data set of its own seed, in turn without privacy, with DP-SGD, and with a cut. The first ones load
libraries and fill caches that all runs share. ``benchmarks/README.md`` keeps the figures.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from itertools import islice
from pathlib import Path

from sim.scenario import parse_scenario
from sim.scenario.spec import RunSpec, expand
from sim.study.engines import InProcess
from sim.study.planning import plan_runs
from sim.study.runner import Progress, run_study

MEASURED = (1, 10, 50)


def specs(runs: int, records: int) -> list[RunSpec]:
    """Return runs of three methods, each on data of its own seed."""
    base = {
        "name": "memory",
        "seeds": list(range(runs)),
        "data": {"source": "synthetic", "clinics": 20, "records": records, "features": 30},
        "model": {"name": "mlp", "hidden": [64, 32], "cut": 1},
        "train": {"rounds": 3, "batch-size": 64, "learning-rate": 0.1},
        "privacy": {"mechanism": "none"},
    }
    private = {"mechanism": "dp-sgd", "noise-multiplier": 1.0, "delta": 1e-5}
    variants = [
        {"strategies": [{"name": "fedavg"}]},
        {"strategies": [{"name": "fedavg"}], "privacy": private},
        {"strategies": [{"name": "splitfed-v1", "cut": "vanilla"}]},
    ]
    expanded = [expand(parse_scenario({**base, **variant}, Path())) for variant in variants]
    return [expanded[seed % len(variants)][seed] for seed in range(runs)]


def resident_megabytes() -> float:
    """Return this process's resident memory."""
    gc.collect()
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("this system does not say how much memory a process has")


def main() -> None:
    """Print resident memory after some runs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=50_000)
    todo = iter(specs(max(MEASURED), parser.parse_args().records))
    done = 0
    with tempfile.TemporaryDirectory() as folder:
        for until in MEASURED:
            for plan in plan_runs(list(islice(todo, until - done))):
                silent = Progress(lambda *_: None, lambda *_: None)
                run_study([plan], [plan.spec.run_id], Path(folder), InProcess(), silent, fail_fast=True)
            done = until
            print(f"after {done:3} runs: {resident_megabytes():6.0f} MB", flush=True)


if __name__ == "__main__":
    main()
