"""Seconds to plan a large study, of the processor: the whole plan, and the clock alone of it.

    python -m benchmarks.planning

SplitFed V1, vanilla, 50 rounds that all differ (99 % of the clinics take part), an MLP 20-64-32-1 on rural lines:
1,000 clinics that queue for 4 workers and with a server link that they share besides, and 10,000 clinics of which none
waits. A small plan comes first, so that loading the libraries that a first plan needs counts by itself. The clock is
timed on its own, after the plan. ``benchmarks/README.md`` keeps the figures.
"""

from __future__ import annotations

import time
from pathlib import Path

from sim.data.federation import load_federation
from sim.methods.job import Job
from sim.plan.counts import Counts
from sim.plan.plan import make_plan
from sim.plan.queues import PlanClock
from sim.scenario import parse_scenario
from sim.scenario.clinics import assign_resources
from sim.scenario.spec import expand

CASES = {
    "1,000 clinics, 4 workers": (1000, 320, {"workers": 4}),
    "1,000 clinics, 4 workers, shared link": (1000, 320, {"workers": 4, "uplink": "1 Gbit/s", "downlink": "1 Gbit/s"}),
    "10,000 clinics, nobody waits": (10_000, 64, {"workers": 10_000}),
}


def measure(clinics: int, records: int, server: dict[str, object]) -> tuple[float, float]:
    """Return the processor's seconds for a whole plan and for its clock."""
    data = {"source": "synthetic", "clinics": clinics, "records": records * clinics}
    mapping = {
        "name": "planning",
        "seeds": [0],
        "data": data,
        "model": {"name": "mlp", "hidden": [64, 32]},
        "train": {"rounds": 50, "batch-size": 32, "learning-rate": 0.1, "participation": 0.99},
        "server": server,
        "clinics": [{"profile": "rural-dsl"}],
        "evaluation": {"reference": False},
        "strategies": [{"name": "splitfed-v1"}],
    }
    [spec] = expand(parse_scenario(mapping, Path()))
    federation = load_federation(spec.data, spec.seed)
    start = time.process_time()
    make_plan(spec, federation.facts)
    planned = time.process_time()
    own = assign_resources(spec.clinics, federation.names, spec.seed), spec.server.resources()
    loads = Counts(Job.build(spec, federation.facts), PlanClock(*own)).loads
    clock = PlanClock(*own)
    counted = time.process_time()
    for load in loads:
        clock.time_round(load)
    return planned - start, time.process_time() - counted


def main() -> None:
    """Print one line a case."""
    whole, _ = measure(2, 64, {"workers": 2})
    print(f"a first plan of two clinics, libraries loaded: {whole:.2f} s")
    for name, case in CASES.items():
        whole, clock = measure(*case)
        print(f"{name}: plan {whole:.2f} s, its clock {clock:.2f} s")


if __name__ == "__main__":
    main()
