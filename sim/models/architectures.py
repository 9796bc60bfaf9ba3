"""The built-in architectures. All normalise record by record (GroupNorm), so that no record depends on its batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import gcd, prod

from torch import Tensor, nn
from torch.nn import functional

from sim.scenario.model import Model as ModelSettings

Named = list[tuple[str, nn.Module]]


class Residual(nn.Module):
    """A residual block, ``relu(main(x) + shortcut(x))``: He et al. 2016, arXiv:1512.03385."""

    def __init__(self, main: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.main = main
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        return functional.relu(self.main(x) + self.shortcut(x))


@dataclass(frozen=True)
class Architecture:
    """How a built-in model is made."""

    axes: tuple[str, ...]  # What the axes of one record are; empty where any shape will do
    channels: tuple[int, ...]  # Widths of its convolutions unless the scenario states others; empty where it has none
    # From settings, channels, the shape of a record and the number of outputs to named blocks
    make: Callable[[ModelSettings, tuple[int, ...], tuple[int, ...], int], Named]


def _norm(channels: int) -> nn.GroupNorm:
    """Wu & He 2018, arXiv:1803.08494: at most 32 groups, here of at least two channels where they can be halved."""
    return nn.GroupNorm(max(1, gcd(channels, 64) // 2), channels)


def _logistic(settings: ModelSettings, channels: tuple[int, ...], shape: tuple[int, ...], outputs: int) -> Named:
    return [("output", _flat(shape, nn.Linear(prod(shape), outputs)))]


def _mlp(settings: ModelSettings, channels: tuple[int, ...], shape: tuple[int, ...], outputs: int) -> Named:
    widths = (prod(shape), *settings.hidden)
    layers: list[nn.Module] = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
    layers[0] = _flat(shape, layers[0])
    return [*((f"hidden{i}", layer) for i, layer in enumerate(layers, 1)), ("output", nn.Linear(widths[-1], outputs))]


def _flat(shape: tuple[int, ...], layer: nn.Module) -> nn.Module:
    return layer if len(shape) == 1 else nn.Sequential(nn.Flatten(), layer)


def _cnn1d(settings: ModelSettings, channels: tuple[int, ...], shape: tuple[int, ...], outputs: int) -> Named:
    widths = (shape[0], *channels)
    blocks: Named = [
        (f"conv{i}", nn.Sequential(nn.Conv1d(a, b, 5, padding=2), _norm(b), nn.MaxPool1d(2), nn.ReLU()))
        for i, (a, b) in enumerate(pairwise(widths), 1)
    ]
    return [*blocks, ("output", nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(widths[-1], outputs)))]


def _cnn(settings: ModelSettings, channels: tuple[int, ...], shape: tuple[int, ...], outputs: int) -> Named:
    widths = (shape[0], *channels)
    # Pooling before the rectifier gives the same numbers as after it, for a quarter of the work.
    blocks: Named = [
        (f"conv{i}", nn.Sequential(nn.Conv2d(a, b, 3, padding=1), _norm(b), nn.MaxPool2d(2), nn.ReLU()))
        for i, (a, b) in enumerate(pairwise(widths), 1)
    ]
    pooled = tuple(max(1, size >> len(channels)) for size in shape[1:])
    seen = tuple(min(size, 7) for size in pooled)
    shrink = [] if seen == pooled else [nn.AdaptiveAvgPool2d(seen)]
    width = settings.hidden[0]
    hidden = nn.Sequential(*shrink, nn.Flatten(), nn.Linear(widths[-1] * prod(seen), width), nn.ReLU())
    return [*blocks, ("hidden", hidden), ("output", nn.Linear(width, outputs))]


def _resnet18(settings: ModelSettings, channels: tuple[int, ...], shape: tuple[int, ...], outputs: int) -> Named:
    widths = (channels[0], *channels)
    stem = nn.Sequential(nn.Conv2d(shape[0], channels[0], 3, padding=1, bias=False), _norm(channels[0]), nn.ReLU())
    layers: Named = [
        (f"layer{i}", nn.Sequential(_residual(a, b, 1 if i == 1 else 2), _residual(b, b, 1)))
        for i, (a, b) in enumerate(pairwise(widths), 1)
    ]
    output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], outputs))
    return [("stem", stem), *layers, ("output", output)]


def _residual(inputs: int, outputs: int, stride: int) -> Residual:
    main = nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        _norm(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        _norm(outputs),
    )
    if stride == 1 and inputs == outputs:
        return Residual(main, nn.Identity())
    return Residual(main, nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), _norm(outputs)))


_IMAGE = ("channel", "height", "width")
ARCHITECTURES: dict[str, Architecture] = {
    "logistic": Architecture((), (), _logistic),
    "mlp": Architecture((), (), _mlp),
    "cnn1d": Architecture(("channel", "length"), (16, 32, 64), _cnn1d),
    "cnn": Architecture(_IMAGE, (8, 16), _cnn),
    "resnet18": Architecture(_IMAGE, (64, 128, 256, 512), _resnet18),
}
