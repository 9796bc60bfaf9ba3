"""Seconds a round: clinics stacked behind the whole Flower path, against a plain PyTorch loop over the clinics.

    python -m benchmarks.rounds                    # 100 and 1,000 clinics
    python -m benchmarks.rounds --clinics 100 --ray  # with Flower's own Ray simulation beside it (extra ``ray``)

The job: MLP 30-64-32-2, 45-75 training records a clinic, batch 16, one local epoch, SGD. Both sides start from the same
parameters, draw a new order of the records every round and average weighted by records; they run in turn, one thread
each, and the ratio is taken of the medians. ``benchmarks/README.md`` keeps the figures.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from clients.client_app import app
from sim.data import Federation, load_federation
from sim.engine.flower import quiet
from sim.engine.grid import InProcessGrid
from sim.engine.messages import array_record
from sim.engine.meter import Meter
from sim.engine.workplace import cohorts_of, job_of, run_config
from sim.scenario import parse_scenario
from sim.spec import RunSpec, expand
from strategies.server_app import build_strategy

FEATURES, BATCH, RATE = 30, 16, 0.1


def write_clinics(path: Path, clinics: int) -> None:
    """Write a table of clinics with about 45 to 75 training records each."""
    rng = np.random.default_rng(0)
    sizes = np.ceil(rng.integers(45, 76, clinics) / 0.75).astype(int)
    clinic = np.repeat(np.arange(clinics), sizes)
    x = rng.normal(size=(len(clinic), FEATURES))
    y = (x @ rng.normal(size=FEATURES) + rng.normal(size=len(clinic)) > 0).astype(int)
    header = ",".join(["clinic", "label", *(f"x{i}" for i in range(FEATURES))])
    rows = np.column_stack([clinic, y, x])
    np.savetxt(path, rows, delimiter=",", header=header, comments="", fmt=["%d", "%d"] + ["%.5f"] * FEATURES)


def spec_for(path: Path, strategy: str, cut: str | None = None) -> RunSpec:
    """Return the job's spec."""
    features = [f"x{i}" for i in range(FEATURES)]
    table = {"source": "csv", "path": str(path), "label": "label", "clinic": "clinic", "features": features}
    scenario = parse_scenario(
        {
            "name": "benchmark",
            "seeds": [0],
            "data": {**table, "scaling": "none", "test-share": 0.25, "one-class": "keep"},
            "model": {"name": "mlp", "hidden": [64, 32], "head": "softmax"},
            "train": {"rounds": 1, "batch-size": BATCH, "optimizer": "sgd", "learning-rate": RATE},
            "strategies": [{"name": strategy, **({"cut": cut} if cut else {})}],
        },
        path.parent,
    )
    return expand(scenario)[0]


def flower_path(spec: RunSpec) -> Callable[[int], None]:
    """Return a function that runs rounds through strategy, messages and grid."""
    config = run_config(spec, [])
    job = job_of(config)
    clinics = len(job.sizes)
    grid = InProcessGrid(app, cohorts_of(clinics, 1), config, Meter(clinics))
    initial = array_record(job.network.initial_parameters(0))
    return lambda rounds: build_strategy(job).start(grid, initial, rounds) and None


def plain_loop(federation: Federation) -> Callable[[int], None]:
    """Return a function that runs federated averaging the usual way: a model, an optimiser, clinic by clinic."""
    x, y = torch.tensor(federation.train.x), torch.tensor(federation.train.y)
    offsets = federation.train.offsets.tolist()
    clinics = [(x[a:b], y[a:b]) for a, b in pairwise(offsets)]
    model = nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
    loss_fn = nn.CrossEntropyLoss()

    def run(rounds: int) -> None:
        shared = {name: value.clone() for name, value in model.state_dict().items()}
        for _ in range(rounds):
            total = {name: torch.zeros_like(value) for name, value in shared.items()}
            for records, labels in clinics:
                model.load_state_dict(shared)
                optimizer = torch.optim.SGD(model.parameters(), RATE)
                for index in torch.randperm(len(labels)).split(BATCH):
                    optimizer.zero_grad()
                    loss_fn(model(records[index]), labels[index]).backward()
                    optimizer.step()
                for name, value in model.state_dict().items():
                    total[name] += value * (len(labels) / len(y))
            shared = total

    return run


def ray_simulation(spec: RunSpec) -> Callable[[int], None]:
    """Return a function that runs rounds in Flower's own simulation, one clinic a node, with the same client app."""
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    config = run_config(spec, [])
    job = job_of(config)

    def run(rounds: int) -> None:
        server = ServerApp()

        @server.main()
        def main(grid, context) -> None:  # type: ignore[no-untyped-def]
            build_strategy(job).start(grid, array_record(job.network.initial_parameters(0)), rounds)

        backend = {"client_resources": {"num_cpus": 1}}
        run_simulation(server, app, num_supernodes=len(job.sizes), backend_config=backend)

    return run


def seconds_per_round(run: Callable[[int], None], rounds: int) -> float:
    """Time some rounds."""
    start = time.perf_counter()
    run(rounds)
    return (time.perf_counter() - start) / rounds


def compare(clinics: int, rounds: int, repeats: int) -> None:
    """Print the two medians and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clinics.csv"
        write_clinics(path, clinics)
        spec = spec_for(path, "fedavg")
        stacked, loop = flower_path(spec), plain_loop(load_federation(spec.data, spec.seed))
        stacked(2)
        loop(1)
        pairs = [
            (seconds_per_round(stacked, rounds), seconds_per_round(loop, max(1, rounds // 5))) for _ in range(repeats)
        ]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"{clinics:6d} clinics  {1e3 * ours:9.1f} ms  {1e3 * theirs:9.1f} ms  {theirs / ours:6.1f}x", flush=True)


def main() -> None:
    """Run the comparison that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clinics", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    print("FedAvg, MLP 30-64-32-2   stacked, through Flower   plain loop   ratio")
    for clinics in options.clinics:
        compare(clinics, options.rounds, options.repeats)


if __name__ == "__main__":
    main()
