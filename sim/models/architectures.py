"""The built-in architectures. All normalise record by record (GroupNorm), so that no record depends on its batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import gcd, prod

from sim.models.layers import (
    AdaptiveAvgPool,
    Convolution,
    Flatten,
    GroupNorm,
    Identity,
    Layer,
    Linear,
    MaxPool,
    ReLU,
    Residual,
    Window,
    chain,
)
from sim.scenario.model import Model as ModelSettings

Named = list[tuple[str, Layer]]


@dataclass(frozen=True)
class Architecture:
    """How a built-in model is made."""

    axes: tuple[str, ...]  # What the axes of one record are; empty where any shape will do
    channels: tuple[int, ...]  # Widths of its convolutions unless the scenario states others; empty where it has none
    # From settings, channels, the shape of a record and the number of outputs to named blocks
    make: Callable[[ModelSettings, tuple[int, ...], tuple[int, ...], int], Named]


def _norm(channels: int) -> GroupNorm:
    """Wu & He 2018, arXiv:1803.08494: at most 32 groups, here of at least two channels where they can be halved."""
    return GroupNorm(max(1, gcd(channels, 64) // 2), channels)


def _logistic(settings: ModelSettings, channels: tuple[int, ...], shape: tuple[int, ...], outputs: int) -> Named:
    return [("output", _flat(shape, Linear(prod(shape), outputs)))]


def _mlp(settings: ModelSettings, channels: tuple[int, ...], shape: tuple[int, ...], outputs: int) -> Named:
    widths = (prod(shape), *settings.hidden)
    layers: list[Layer] = [chain(Linear(a, b), ReLU()) for a, b in pairwise(widths)]
    layers[0] = _flat(shape, layers[0])
    return [*((f"hidden{i}", layer) for i, layer in enumerate(layers, 1)), ("output", Linear(widths[-1], outputs))]


def _flat(shape: tuple[int, ...], layer: Layer) -> Layer:
    return layer if len(shape) == 1 else chain(Flatten(), layer)


def _convolved(axes: int, inputs: int, outputs: int, size: int) -> Layer:
    # Pooling before the rectifier gives the same numbers as after it, for a quarter of the work.
    convolution = Convolution(inputs, outputs, Window.alike(axes, size, padding=size // 2))
    return chain(convolution, _norm(outputs), MaxPool(Window.alike(axes, 2, 2)), ReLU())


def _cnn1d(settings: ModelSettings, channels: tuple[int, ...], shape: tuple[int, ...], outputs: int) -> Named:
    widths = (shape[0], *channels)
    blocks: Named = [(f"conv{i}", _convolved(1, a, b, 5)) for i, (a, b) in enumerate(pairwise(widths), 1)]
    return [*blocks, ("output", chain(AdaptiveAvgPool((1,)), Flatten(), Linear(widths[-1], outputs)))]


def _cnn(settings: ModelSettings, channels: tuple[int, ...], shape: tuple[int, ...], outputs: int) -> Named:
    widths = (shape[0], *channels)
    blocks: Named = [(f"conv{i}", _convolved(2, a, b, 3)) for i, (a, b) in enumerate(pairwise(widths), 1)]
    pooled = tuple(max(1, size >> len(channels)) for size in shape[1:])
    seen = tuple(min(size, 7) for size in pooled)
    shrink = [] if seen == pooled else [AdaptiveAvgPool(seen)]
    width = settings.hidden[0]
    hidden = chain(*shrink, Flatten(), Linear(widths[-1] * prod(seen), width), ReLU())
    return [*blocks, ("hidden", hidden), ("output", Linear(width, outputs))]


def _resnet18(settings: ModelSettings, channels: tuple[int, ...], shape: tuple[int, ...], outputs: int) -> Named:
    widths = (channels[0], *channels)
    stem = chain(
        Convolution(shape[0], channels[0], Window.alike(2, 3, padding=1), bias=False), _norm(channels[0]), ReLU()
    )
    layers: Named = [
        (f"layer{i}", chain(_residual(a, b, 1 if i == 1 else 2), _residual(b, b, 1)))
        for i, (a, b) in enumerate(pairwise(widths), 1)
    ]
    output = chain(AdaptiveAvgPool((1, 1)), Flatten(), Linear(widths[-1], outputs))
    return [("stem", stem), *layers, ("output", output)]


def _residual(inputs: int, outputs: int, stride: int) -> Residual:
    main = chain(
        Convolution(inputs, outputs, Window.alike(2, 3, stride, padding=1), bias=False),
        _norm(outputs),
        ReLU(),
        Convolution(outputs, outputs, Window.alike(2, 3, padding=1), bias=False),
        _norm(outputs),
    )
    if stride == 1 and inputs == outputs:
        return Residual(main, Identity())
    return Residual(main, chain(Convolution(inputs, outputs, Window.alike(2, 1, stride), bias=False), _norm(outputs)))


_IMAGE = ("channel", "height", "width")
ARCHITECTURES: dict[str, Architecture] = {
    "logistic": Architecture((), (), _logistic),
    "mlp": Architecture((), (), _mlp),
    "cnn1d": Architecture(("channel", "length"), (16, 32, 64), _cnn1d),
    "cnn": Architecture(_IMAGE, (8, 16), _cnn),
    "resnet18": Architecture(_IMAGE, (64, 128, 256, 512), _resnet18),
}
