"""How near audits come to the claims: ``python -m benchmarks.audits [TRAININGS]`` prints a table of both.

Made-up records of four clinics with 32 features; worst-case canaries, as many trainings as the command takes by default
(or as are given), 60 draws of a release for each.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sim.attacks.attack import Target
from sim.attacks.audit import audit
from sim.data.federation import load_federation
from sim.foundation.text import epsilon_text
from sim.plan.plan import make_plan
from sim.privacy.ledger import ADVERSARIES
from sim.scenario import parse_scenario
from sim.scenario.spec import expand
from sim.study.attacking import train_further
from sim.study.auditing import Options

DELTA = 1e-4
ONE_STEP = {"rounds": 1, "batch-size": 10_000, "learning-rate": 0.01}
ROWS = {"mechanism": "smashed-noise", "labels": "public"}
Case = tuple[str, str | None, dict[str, Any], dict[str, Any], dict[str, Any]]
CASES: dict[str, Case] = {
    "DP-SGD, one step, FedAvg": ("fedavg", None, {"mechanism": "dp-sgd"}, {}, ONE_STEP),
    "DP-SGD, one step, each clinic alone": ("local", None, {"mechanism": "dp-sgd"}, {}, ONE_STEP),
    "DP-SGD, one step, shared noise summed securely": (
        "fedavg",
        None,
        {"mechanism": "dp-sgd", "secure-aggregation": True},
        {},
        ONE_STEP,
    ),
    "DP-SGD, 60 sampled steps, FedAvg": ("fedavg", None, {"mechanism": "dp-sgd"}, {}, {}),
    "DP-SGD, 60 sampled steps a clinic, relay": ("split", "vanilla", {"mechanism": "dp-sgd"}, {}, {}),
    "DP-SGD, 60 sampled steps, SplitFed V1, U-shaped": ("splitfed-v1", "u-shaped", {"mechanism": "dp-sgd"}, {}, {}),
    "rows, head frozen, 10 rounds": ("splitfed-v1", "vanilla", ROWS, {"freeze": ["head"]}, {}),
    "rows and tail gradients, U-shaped, 10 rounds": (
        "splitfed-v1",
        "u-shaped",
        {"mechanism": "smashed-noise"},
        {"freeze": ["head", "tail"]},
        {},
    ),
    "rows released once": ("release-once", "vanilla", ROWS, {}, {}),
    "Laplace rows released once": ("release-once", "vanilla", ROWS | {"mechanism": "laplace"}, {}, {}),
    "clinic level, 10 rounds": ("fedavg", None, {"mechanism": "clinic-level"}, {}, {}),
    "randomised labels": ("split", "vanilla", {"mechanism": "label-rr"}, {}, {}),
}


def row(name: str, epsilon: float, options: Options) -> str:
    """Audit a case at one epsilon; return its row of the table."""
    strategy, cut, privacy, model, train = CASES[name]
    mapping = {
        "name": "audits",
        "seeds": [0],
        "data": {"source": "synthetic", "clinics": 4, "records": 400, "size-spread": 0, "features": 32},
        "model": {"name": "mlp", "hidden": [16, 8], "cut": [1, -1] if cut == "u-shaped" else 1, **model},
        "train": {"rounds": 10, "batch-size": 16, "learning-rate": 0.05, **train},
        "privacy": {"epsilon": epsilon, "delta": DELTA, **privacy},
        "evaluation": {"reference": False},
        "strategies": [{"name": strategy, **({"cut": cut} if cut else {})}],
    }
    [spec] = expand(parse_scenario(mapping, Path()))
    federation = load_federation(spec.data, spec.seed)
    plan = make_plan(spec, federation.facts)
    target = Target(
        plan=plan, federation=federation, model={}, options={}, train=partial(train_further, plan, "server")
    )
    started = time.process_time()
    found = {
        (f.measure, f.adversary): f"{epsilon_text(f.value)} of {epsilon_text(f.bound)}"
        for f in audit(target, options.trainings(plan), options.kind)
        if f.bound > 0
    }
    spent = time.process_time() - started
    cells = [found.get(("epsilon", who), found.get(("label_epsilon", who), "")) for who in ADVERSARIES]
    return " | ".join(["", name, *cells, f"{spent:.0f}", ""]).strip()


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    options = Options(canaries=int(sys.argv[1]) if len(sys.argv) > 1 else None, kind="crafted", one_run=False)
    print("| mechanism | model user | peer clinic | server | CPU s |\n|---|---|---|---|---|")
    for name in CASES:
        for epsilon in (1.0, 4.0):
            print(row(name, epsilon, options), flush=True)


if __name__ == "__main__":
    main()
