"""Would bfloat16 or ``torch.compile`` pay here? Processor seconds of a training step, of each beside PyTorch as it is.

    python -m benchmarks.options

One copy of a network on one thread, batch 16: forward, loss, backward and SGD. Forward and loss are compiled, in the
first step, which stands apart. ``benchmarks/README.md`` keeps the figures.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from benchmarks.rounds import MODELS
from sim.models import build_network
from sim.scenario.model import Model

SHAPES = {"mlp": (30,), "cnn": (1, 28, 28), "resnet18": (1, 16, 16)}
BATCH, STEPS, PASSES = 16, {"mlp": 400, "cnn": 60, "resnet18": 4}, 5


def step_of(name: str, *, bfloat16: bool = False, compiled: bool = False) -> Callable[[], None]:
    """Return a training step."""
    torch.manual_seed(0)
    found = build_network(Model.model_validate(MODELS[name]), SHAPES[name], 2)
    network = nn.Sequential(*(block.module for block in (found.build or (lambda: found.blocks))()))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    x, y = torch.randn(BATCH, *SHAPES[name]), torch.randint(2, (BATCH,))

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return functional.cross_entropy(network(x), y)

    forward = torch.compile(loss) if compiled else loss

    def step() -> None:
        optimizer.zero_grad()
        forward().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def seconds(step: Callable[[], None], times: int) -> float:
    """Return the processor seconds of a step."""
    start = time.process_time()
    for _ in range(times):
        step()
    return (time.process_time() - start) / times


def main() -> None:
    """Print a line a network and option."""
    torch.set_num_threads(1)
    for name, times in STEPS.items():
        plain = step_of(name)
        plain()
        for option in ("bfloat16", "compiled"):
            other = step_of(name, **{option: True})
            first = seconds(other, 1)
            pairs = [(seconds(plain, times), seconds(other, times)) for _ in range(PASSES)]
            as_is, with_it = (1e3 * statistics.median(side) for side in zip(*pairs, strict=True))
            print(
                f"{name:9s} {option:9s} {as_is:8.3f} ms {with_it:8.3f} ms, {as_is / with_it:5.2f} times as fast; "
                f"first step {first:6.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
