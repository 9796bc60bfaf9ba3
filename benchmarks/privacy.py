"""Seconds a round of DP-SGD: beside no privacy, and beside Opacus clinic by clinic in a loop.

    python -m benchmarks.privacy                                 # FedAvg, 100 clinics, MLP and small CNN
    python -m benchmarks.privacy --models mlp --clinics 1000

The jobs are those of ``benchmarks.rounds``, with Poisson batches, clip 1 and noise multiplier 1 for DP-SGD. Opacus'
loop has one model wrapped once, a new ``DPOptimizer`` a clinic and round, Poisson batches drawn by hand (no data
loader), and the same average weighted by records. All three run in turn in one process, one thread each; the ratios are
of medians. ``benchmarks/README.md`` keeps the figures.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from benchmarks.loops import Run, opacus
from benchmarks.rounds import BATCH, MODELS, NONE, RATE, flower_path, seconds_per_round, spec_for, write_clinics
from sim.data.federation import Federation, load_federation
from sim.flower.internals import quiet
from sim.models import build_network
from sim.scenario.spec import RunSpec

CLIP, NOISE = 1.0, 1.0
DP_SGD = {"mechanism": "dp-sgd", "noise-multiplier": NOISE, "clip": CLIP, "delta": 1e-3}


def opacus_loop(spec: RunSpec, federation: Federation) -> Run:
    """Return federated averaging whose clinics train one after another with Opacus."""
    x, y = torch.tensor(federation.train.x), torch.tensor(federation.train.y)
    clinics = [(x[a:b], y[a:b]) for a, b in pairwise(federation.train.offsets.tolist())]
    network = build_network(spec.model, tuple(x.shape[1:]), len(federation.classes))
    model = nn.Sequential(*(block.module for block in (network.build or (lambda: network.blocks))()))
    return opacus(model, clinics, BATCH, RATE, CLIP, NOISE)


def compare(model: str, clinics: int, rounds: int, repeats: int) -> None:
    """Print the medians and their ratios, a line a model."""
    with tempfile.TemporaryDirectory() as folder:
        data = write_clinics(Path(folder), clinics, model)
        plain, private = (spec_for(data, model, "fedavg", privacy) for privacy in (NONE, DP_SGD))
        sides = (
            flower_path(plain),
            flower_path(private, [NOISE] * clinics),
            opacus_loop(private, load_federation(private.data, private.seed)),
        )
        for side in sides:
            side(1)
        counts = (rounds, rounds, max(1, rounds // 8))
        spent = [[seconds_per_round(s, n) for s, n in zip(sides, counts, strict=True)] for _ in range(repeats)]
        none, ours, theirs = (1e3 * statistics.median(side) for side in zip(*spent, strict=True))
        line = f"{model} {clinics:6d} {none:9.1f} ms {ours:9.1f} ms {theirs:9.1f} ms"
        print(f"{line} {ours / none:12.2f} {theirs / ours:16.2f}", flush=True)


def main() -> None:
    """Run the comparisons that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--clinics", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    warnings.filterwarnings("ignore", "Full backward hook is firing", FutureWarning)
    warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
    print("model clinics     no DP       DP-SGD       Opacus   DP-SGD / no DP   Opacus / DP-SGD")
    for model in options.models:
        compare(model, options.clinics, options.rounds, options.repeats)


if __name__ == "__main__":
    main()
