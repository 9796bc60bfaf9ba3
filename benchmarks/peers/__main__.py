"""One job in Suture, in other simulators and in code written by hand, each in its own environment.

    python -m benchmarks.peers setup              # an environment a peer, with pinned versions; names take only those
    python -m benchmarks.peers run --repeats 5    # all in turn, then the tables as Markdown

The job: 100 clinics of 45 to 75 records, batch 16, one local epoch, SGD, the same records and the same initial values,
evaluated after each round on the same held-out records. A process is timed from its start to its end with all it
started. PyTorch has one thread in each process, as in ``suture run``; JAX and Ray take the cores they want. Run it from
the root of the repository, in Suture's own environment; ``benchmarks/README.md`` keeps the figures.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.peers.job import BATCH, CLIP, NOISE, RATE
from benchmarks.rounds import MODELS, NONE, write_clinics

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(__file__).parent / ".venv"
REQUIREMENTS = {
    "torch": ["torch==2.13.0", "numpy==2.4.6"],
    "opacus": ["opacus==1.6.0", "torch==2.13.0"],
    "pfl": ["pfl==0.6.0", "torch==2.13.0"],
    "fedjax": ["fedjax==0.0.17", "jax==0.10.2"],
    "flower": ["flwr[simulation]==1.41.0", "torch==2.13.0"],
}
COLUMNS = (
    *("process, CPU s", "ratio", "process, wall s", "ratio"),
    *("a round, CPU ms", "ratio", "a round, wall ms", "AUC", "accuracy"),
)
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Peer:
    """What is started: a module of this package in an environment, or the command ``suture run``."""

    name: str
    module: str
    environment: str = "suture"


RUN, PYTHON = Peer("`suture run`, with its report", "run"), Peer("Suture from Python, no report", "suture")
FUNC = Peer("a page of `torch.func`", "torch_func", "torch")
TUNED, LOOP = Peer("tuned loop", "tuned", "torch"), Peer("ordinary loop", "loop", "torch")
OTHERS = (
    Peer("FedJAX", "fedjax", "fedjax"),
    Peer("pfl-research", "pfl", "pfl"),
    Peer("Flower on Ray", "flower", "flower"),
)
OPACUS = Peer("Opacus, clinic by clinic", "loop", "opacus")
TABLES = {
    "fedavg": ("fedavg", "mlp", 50, (RUN, PYTHON, FUNC, TUNED, LOOP, *OTHERS)),
    "dp-sgd": ("dp-sgd", "mlp", 50, (RUN, PYTHON, OPACUS)),
    "relay": ("split", "mlp", 50, (PYTHON, TUNED, LOOP)),
    "v2": ("splitfed-v2", "mlp", 50, (PYTHON, TUNED, LOOP)),
    "relay-cnn": ("split", "cnn", 6, (PYTHON, TUNED, LOOP)),
    "v2-cnn": ("splitfed-v2", "cnn", 6, (PYTHON, TUNED, LOOP)),
}


def python_of(environment: str) -> Path:
    return Path(sys.executable) if environment == "suture" else HOME / environment / "bin" / "python"


def set_up(names: list[str]) -> None:
    """Make an environment for each peer; pip's own settings say where from."""
    for name in names or REQUIREMENTS:
        subprocess.run([sys.executable, "-m", "venv", "--clear", HOME / name], check=True)
        done = subprocess.run([python_of(name), "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]])
        print(f"{name}: {'ready' if done.returncode == 0 else 'could not be installed'}", flush=True)


def write_job(folder: Path, model: str, algorithm: str, rounds: int) -> tuple[Path, Path]:
    """Write Suture's scenario and data, and for the others the records and initial values that Suture takes."""
    from sim.data.federation import load_federation
    from sim.methods.job import Job
    from sim.scenario import load_scenario
    from sim.scenario.spec import expand

    data = write_clinics(folder, 100, model)
    private = algorithm == "dp-sgd"
    dp_sgd = {"mechanism": "dp-sgd", "noise-multiplier": NOISE, "clip": CLIP, "delta": 1e-3}
    strategy = {"name": "fedavg"} if algorithm in ("fedavg", "dp-sgd") else {"name": algorithm, "cut": "vanilla"}
    tables = {
        "data": data,
        "model": MODELS[model],
        "train": {"rounds": rounds, "batch-size": BATCH, "optimizer": "sgd", "learning-rate": RATE},
        "evaluation": {"reference": False},
        "privacy": dp_sgd if private else NONE,
    }
    lines = ['name = "peers"', "seeds = [0]"]
    for table, settings in tables.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    lines += ["[[strategies]]", *(f"{key} = {json.dumps(value)}" for key, value in strategy.items())]
    scenario, arrays = folder / "peers.toml", folder / "job.npz"
    scenario.write_text("\n".join(lines) + "\n", encoding="utf-8")
    spec = expand(load_scenario(scenario))[0]
    federation = load_federation(spec.data, spec.seed)
    job = Job.build(spec, federation.facts)
    initial = {f"initial_{i}": v[0].numpy() for i, v in enumerate(job.network.initial_parameters(job.seed).values())}
    train, test = federation.train, federation.test
    np.savez(arrays, train_x=train.x, train_y=train.y, offsets=train.offsets, test_x=test.x, test_y=test.y, **initial)
    return scenario, arrays


def measure(peer: Peer, scenario: Path, arrays: Path, algorithm: str, rounds: int) -> dict[str, Any]:
    """Run a peer once, and return what it tells and the seconds of its process and all that it started."""
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryFile("w+") as told:
        if peer.module == "run":
            command = [Path(sys.executable).with_name("suture"), "run", scenario, "--out", out]
        else:
            words = f"benchmarks.peers.{peer.module}", arrays, algorithm, str(rounds), scenario
            command = [python_of(peer.environment), "-m", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # each starts from compiled modules, as it does for its users
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=told, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        whole = {"whole": time.perf_counter() - started, "whole_cpu": used.ru_utime + used.ru_stime}
        whole["whole_cpu"] += sum(each.ru_utime + each.ru_stime for each in orphans())
        if process.returncode:
            raise SystemExit(f"{peer.name} ended with exit code {process.returncode}: {' '.join(map(str, command))}")
        if peer.module == "run":
            row = pd.read_parquet(Path(out) / "peers" / "runs.parquet").iloc[0]
            return {**whole, "auc": row["auc"], "accuracy": row["accuracy"], "versions": {}, "wall": [], "cpu": []}
        told.seek(0)
        return {**json.loads(told.read().splitlines()[-1]), **whole}


def orphans() -> Iterator[Any]:
    """Wait for the processes whose parent has ended, and yield what each of them used."""
    while True:
        try:
            yield os.wait4(-1, 0)[2]
        except ChildProcessError:
            return


def compare(name: str, repeats: int) -> None:
    """Run the peers of a table in turn, and print it."""
    algorithm, model, rounds, peers = TABLES[name]
    present = [peer for peer in peers if python_of(peer.environment).exists()]
    found: dict[Peer, list[dict[str, Any]]] = {peer: [] for peer in present}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        scenario, arrays = write_job(Path(folder), model, algorithm, rounds)
        for _ in range(repeats):
            for peer in present:
                found[peer].append(measure(peer, scenario, arrays, algorithm, rounds))
                loads.append(os.getloadavg()[0])
    spread = f"load {min(loads):.1f} to {max(loads):.1f}"
    print(f"\n{name}: {algorithm}, {model}, {rounds} rounds; {repeats} passes; {spread}\n")
    print(f"| | {' | '.join(COLUMNS)} |")
    print("|---" * (1 + len(COLUMNS)) + "|", flush=True)
    ours = found[PYTHON]
    for peer, passes in found.items():
        print(line(peer, passes, ours))
    for peer in peers:
        if peer not in found:
            print(f"\n{peer.name}: no environment; make it with `python -m benchmarks.peers setup {peer.environment}`")


def line(peer: Peer, passes: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    """Return a peer's row; ratios are over Suture from Python."""
    versions = ", ".join(f"{package} {version}" for package, version in passes[0]["versions"].items())
    cells = [peer.name + (f" ({versions})" if versions else "")]
    for clock in ("whole_cpu", "whole"):
        seconds, own = [each[clock] for each in passes], [each[clock] for each in ours]
        median = statistics.median(seconds)
        least = "at least " if clock == "whole_cpu" and peer.module == "flower" else ""  # Ray's workers tell nobody
        cells += [
            f"{least}{median:.1f} ({min(seconds):.1f}-{max(seconds):.1f})",
            f"{median / statistics.median(own):.2f}",
        ]
    for clock in ("cpu", "wall"):
        rounds = [1e3 * statistics.median(each[clock]) for each in passes if each[clock]]
        if not rounds or (clock == "cpu" and peer.module == "flower"):  # its rounds are spent in other processes
            cells += ["", ""] if clock == "cpu" else [""]
            continue
        median, own = statistics.median(rounds), statistics.median(statistics.median(each["cpu"]) for each in ours)
        cells += [f"{median:.1f} ({min(rounds):.1f}-{max(rounds):.1f})"]
        cells += [f"{median / (1e3 * own):.2f}"] if clock == "cpu" else []
    scores = [statistics.median(each[score] for each in passes) for score in ("auc", "accuracy")]
    return f"| {' | '.join([*cells, *(f'{score:.3f}' for score in scores)])} |"


def main() -> None:
    """Make environments, or run the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("setup", help="make the peers' environments")
    making.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join(REQUIREMENTS)}")
    running = commands.add_parser("run", help="measure and print the tables")
    running.add_argument("tables", nargs="*", metavar="TABLE", help=f"only these: {', '.join(TABLES)}")
    running.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.command == "setup":
        set_up(options.names)
        return
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # what a peer leaves behind comes to this process
    for name in options.tables or TABLES:
        compare(name, options.repeats)


if __name__ == "__main__":
    main()
