"""The ways in which the engine can compute a layer, against each other: the tables in ``benchmarks/README.md``.

    python -m benchmarks.kernels

Forward pass, loss and gradients of one batch, all ways in turn in one process and one thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sim.models import Block, Part
from sim.models.dense import dense_layers
from sim.tensor.dense import DensePass
from sim.tensor.lane_rules import LaneRun
from sim.tensor.lanes import leaves
from sim.tensor.passes import AutogradPass, Pass

BATCH, REPEATS, SECONDS = 16, 15, 0.03
Step = Callable[[], object]


class OverLanes(AutogradPass):
    """Autograd with a lane axis, even where there is one lane only."""

    def forward(self, parameters: dict[str, Tensor], x: Tensor, **how: object) -> Tensor:  # type: ignore[override]
        """Run the part by the lanes' rules."""
        self._leaves, self._tape = leaves(parameters), []
        tape = self._tape if self._per_sample else None
        self._outputs = LaneRun(parameters=self._leaves, lanes=slice(0, len(x)), tape=tape).part(self._part, x)
        return self._outputs


class Unknown(nn.Linear):
    """A linear layer that the engine has no rule for: it goes through ``torch.func.vmap``."""


def mlp(linear: type[nn.Linear]) -> Part:
    """Return an MLP 13-32-16-1."""
    layers = linear(13, 32), nn.ReLU(), linear(32, 16), nn.ReLU(), linear(16, 1)
    return Part("model", (Block("block", nn.Sequential(*layers)),))


def cnn() -> Part:
    """Return two convolutions of 8 and 16 channels on 1x28x28."""
    layers: list[nn.Module] = []
    for before, channels in ((1, 8), (8, 16)):
        layers += [nn.Conv2d(before, channels, 3, padding=1), nn.GroupNorm(4, channels), nn.ReLU(), nn.MaxPool2d(2)]
    return Part("model", (Block("block", nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 49, 1))),))


def step(a_pass: Pass, parameters: dict[str, Tensor], x: Tensor, clip: float | None) -> Step:
    """Return one batch's work."""
    lanes = len(x)
    y, weights = torch.randint(2, (lanes, BATCH)), torch.full((lanes, BATCH), 1 / BATCH)
    normaliser = torch.full((lanes,), float(BATCH))

    def run() -> None:
        a_pass.forward(parameters, x, want_input_gradient=False)
        a_pass.loss(y, weights)
        a_pass.backward(None, clip, normaliser)

    return run


def ways(lanes: int, clip: float | None) -> dict[str, Step]:
    """Return the ways to compute an MLP; one copy alone knows no clipping."""
    known, unknown, private = mlp(nn.Linear), mlp(Unknown), clip is not None
    parameters = {name: 0.2 * torch.randn(lanes, *shape) for name, shape in known.shapes().items()}
    x = torch.randn(lanes, BATCH, 13)
    found = {
        "by hand": step(DensePass(dense_layers(known) or ()), parameters, x, clip),
        "autograd over lanes": step(OverLanes(known, private), parameters, x, clip),
        "vmap": step(OverLanes(unknown, private), parameters, x, clip),
    }
    if not private:
        copies = [{name: value[k : k + 1] for name, value in parameters.items()} for k in range(lanes)]
        alone = [step(AutogradPass(known, False, alone=True), own, x[k : k + 1], None) for k, own in enumerate(copies)]
        found["one copy after another"] = lambda: [run() for run in alone]
    return found


def milliseconds(steps: dict[str, Step]) -> dict[str, float]:
    """Time all ways in turn; return medians."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(REPEATS):
        for name, run in steps.items():
            count, start = 0, time.perf_counter()
            while (taken := time.perf_counter() - start) < SECONDS:
                run()
                count += 1
            times[name].append(1000 * taken / count)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Print each way's time, and its ratio to the first."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tables = {
        f"MLP, {lanes} lanes, {'DP-SGD' if clip else 'plain'}": ways(lanes, clip)
        for clip in (None, 1.0)
        for lanes in (1, 10, 100)
    }
    part = cnn()
    one, x = (
        {name: 0.2 * torch.randn(1, *shape) for name, shape in part.shapes().items()},
        torch.randn(1, BATCH, 1, 28, 28),
    )
    tables["CNN, 1 lane, plain"] = {
        "one copy alone": step(AutogradPass(part, False, alone=True), one, x, None),
        "autograd over lanes": step(OverLanes(part, False), one, x, None),
    }
    for title, steps in tables.items():
        found = milliseconds(steps)
        first = next(iter(found.values()))
        print(title, ", ".join(f"{name} {each:.3f} ms ({each / first:.2f})" for name, each in found.items()), sep=": ")


if __name__ == "__main__":
    main()
