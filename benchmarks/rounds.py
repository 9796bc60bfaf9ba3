"""Processor seconds a round: every strategy behind the whole Flower path, against a plain PyTorch loop of the same.

    python -m benchmarks.rounds                                  # FedAvg, MLP, 100 and 1,000 clinics
    python -m benchmarks.rounds --strategies fedavg splitfed-v1 splitfed-v3 split splitfed-v2 --clinics 100
    python -m benchmarks.rounds --model cnn --clinics 100 --strategies fedavg splitfed-v1 splitfed-v3 split splitfed-v2
    python -m benchmarks.rounds --model resnet18 --clinics 10 --strategies fedavg splitfed-v1 --rounds 2
    python -m benchmarks.rounds --ray --clinics 100              # Flower's own Ray simulation beside it (extra ``ray``)

The jobs: an MLP 30-64-32-2 with 45 to 75 training records a clinic; the small CNN on 1x28x28, or ResNet-18 on 1x16x16,
with 38 to 62; batch 16, one local epoch, SGD, vanilla cut after the first block. Both sides start from the same
architecture, draw a new order of the records every round and average weighted by records. They run in turn in one
process, one thread each, and the ratio is taken of the medians. ``benchmarks/README.md`` keeps the figures.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.clientapp import ClientApp
from torch import nn

from benchmarks.loops import LOOPS, Run
from sim.data.federation import Federation, load_federation
from sim.flower.client_app import client_app
from sim.flower.internals import quiet
from sim.flower.simulation import Simulation
from sim.flower.strategy import build_strategy
from sim.flower.wire import array_record
from sim.flower.workplace import Workplaces
from sim.methods.job import Job
from sim.models import build_network
from sim.scenario import parse_scenario
from sim.scenario.spec import RunSpec, expand
from sim.tensor.process import ready_to_train

FEATURES, BATCH, RATE = 30, 16, 0.1
WAIT = 600.0
"""Seconds for Ray's workers to start."""
NONE = {"mechanism": "none"}
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "hidden": [64, 32], "head": "softmax"},
    "cnn": {"name": "cnn", "head": "softmax"},
    "resnet18": {"name": "resnet18", "head": "softmax"},
}


def write_clinics(folder: Path, clinics: int, model: str) -> dict[str, Any]:
    """Write a file of clinics and return the table ``[data]`` that reads it."""
    path = folder / ("clinics.csv" if model == "mlp" else "clinics.npz")
    rng = np.random.default_rng(0)
    low, high = (45, 75) if model == "mlp" else (38, 62)
    sizes = np.ceil(rng.integers(low, high + 1, clinics) / 0.75).astype(int)
    clinic = np.repeat(np.arange(clinics), sizes)
    common = {"path": str(path), "test-share": 0.25}
    if model != "mlp":
        side = 28 if model == "cnn" else 16
        x = rng.integers(0, 256, (len(clinic), side, side), dtype=np.uint8)
        np.savez(path, x=x, y=rng.integers(0, 2, len(clinic)), clinic=clinic)
        return {**common, "source": "npz", "x": "x", "label": "y", "clinic": "clinic"}
    x = rng.normal(size=(len(clinic), FEATURES))
    y = (x @ rng.normal(size=FEATURES) + rng.normal(size=len(clinic)) > 0).astype(int)
    header = ",".join(["clinic", "label", *(f"x{i}" for i in range(FEATURES))])
    fmt = ["%d", "%d"] + ["%.5f"] * FEATURES
    with path.open("wb") as file:
        np.savetxt(file, np.column_stack([clinic, y, x]), delimiter=",", header=header, comments="", fmt=fmt)
    return {**common, "source": "csv", "label": "label", "clinic": "clinic", "scaling": "none"}


def spec_for(data: dict[str, Any], model: str, strategy: str, privacy: Mapping[str, Any] = NONE) -> RunSpec:
    """Return the job's spec."""
    cut = {} if strategy == "fedavg" else {"cut": "vanilla"}
    scenario = parse_scenario(
        {
            "name": "benchmark",
            "seeds": [0],
            "data": data,
            "model": MODELS[model],
            "train": {"rounds": 1, "batch-size": BATCH, "optimizer": "sgd", "learning-rate": RATE},
            "privacy": privacy,
            "evaluation": {"reference": False},
            "strategies": [{"name": strategy, **cut}],
        },
        Path(),
    )
    return expand(scenario)[0]


def flower_path(spec: RunSpec, noise: Sequence[float] = ()) -> Run:
    """Return a function that runs rounds through strategy, messages and grid; ``noise`` is DP-SGD's, by clinic."""
    federation = load_federation(spec.data, spec.seed)
    job = Job.build(spec, federation.facts).with_noise(noise)

    def run(rounds: int) -> None:
        Simulation(job.executed(rounds, {}), federation.train).run(lambda server_round, model: None)

    return run


def job_and_app(spec: RunSpec, noise: Sequence[float] = ()) -> tuple[Job, ClientApp]:
    """Return a job of more rounds than are ever timed, as no clinic answers beyond its plan, and its clinics' app."""
    long = spec.model_copy(update={"train": spec.train.model_copy(update={"rounds": 100_000})})
    federation = load_federation(spec.data, spec.seed)
    job = Job.build(long, federation.facts).with_noise(noise)
    return job, client_app(Workplaces(job, federation.train))


@cache
def app_in_worker(spec: str) -> ClientApp:
    """Return the clinics' app of a spec in JSON, made once in each of Ray's workers."""
    return job_and_app(RunSpec.model_validate_json(spec))[1]


def plain_loop(spec: RunSpec, federation: Federation) -> Run:
    """Return the plain loop of the spec's strategy."""
    x, y = torch.tensor(federation.train.x), torch.tensor(federation.train.y)
    clinics = [(x[a:b], y[a:b]) for a, b in pairwise(federation.train.offsets.tolist())]
    network = build_network(spec.model, tuple(x.shape[1:]), len(federation.classes))
    first, *rest = (block.module for block in (network.build or (lambda: network.blocks))())
    return LOOPS[spec.strategy.name](first, nn.Sequential(*rest), clinics, BATCH, RATE)


def ray_simulation(spec: RunSpec) -> Run:
    """Return a function that runs rounds in Flower's own simulation, one clinic a node, with the same client app."""
    from flwr.app import Context, Message
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    job, text, told = job_and_app(spec)[0], spec.model_dump_json(), ClientApp()

    @told.train()
    @told.query("hello")
    def handle(message: Message, context: Context) -> Message:
        from benchmarks.rounds import app_in_worker  # by its module's name, so that what it has made is found again

        return app_in_worker(text)(message, context)

    def run(rounds: int) -> None:
        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            strategy, arrays = build_strategy(job, WAIT), array_record(job.network.initial_parameters(0))
            ends: list[float] = []
            strategy.start(grid, arrays, 1 + rounds, evaluate_fn=lambda *_: ends.append(time.perf_counter()))
            spent.append((ends[-1] - ends[1]) / rounds)

        run_simulation(server, told, len(job.sizes), backend_config={"client_resources": {"num_cpus": 1}})

    spent: list[float] = []
    run(3)
    return lambda rounds: time.sleep(spent[-1] * rounds)


def seconds_per_round(run: Run, rounds: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Time some rounds."""
    start = clock()
    run(rounds)
    return (clock() - start) / rounds


def compare(options: argparse.Namespace, clinics: int) -> None:
    """Print the medians and their ratio, a line a strategy."""
    with tempfile.TemporaryDirectory() as folder:
        data = write_clinics(Path(folder), clinics, options.model)
        for strategy in options.strategies:
            spec = spec_for(data, options.model, strategy)
            ours, loop = flower_path(spec), plain_loop(spec, load_federation(spec.data, spec.seed))
            ours(1)
            loop(1)
            few = max(1, options.rounds // 4)
            cpu = time.process_time
            pairs = [
                (seconds_per_round(ours, options.rounds, cpu), seconds_per_round(loop, few, cpu))
                for _ in range(options.repeats)
            ]
            fast, slow = (1e3 * statistics.median(side) for side in zip(*pairs, strict=True))
            line = f"{options.model} {clinics:6d} {strategy:12s} {fast:9.1f} ms {slow:9.1f} ms {slow / fast:7.2f}x"
            if options.ray:
                line += f"   Ray {1e3 * seconds_per_round(ray_simulation(spec), 1):9.1f} ms"
            print(line, flush=True)


def main() -> None:
    """Run the comparisons that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--strategies", choices=LOOPS, nargs="+", default=["fedavg"])
    parser.add_argument("--clinics", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ray", action="store_true", help="also Flower's Ray simulation, after a first round")
    options = parser.parse_args()
    ready_to_train()
    quiet()
    print("model clinics strategy  through Flower   plain loop   loop / ours")
    for clinics in options.clinics:
        compare(options, clinics)


if __name__ == "__main__":
    main()
