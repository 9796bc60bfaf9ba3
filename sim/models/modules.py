"""From layers as plain data to modules of PyTorch's, and back from those that a user has made."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from sim.models import clip, heads, largest, layers


class Residual(nn.Module):
    """A residual block, ``relu(main(x) + shortcut(x))``: He et al. 2016, arXiv:1512.03385."""

    def __init__(self, main: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.main = main
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        return functional.relu(self.main(x) + self.shortcut(x))


def made(layer: layers.Layer) -> nn.Module:
    """Make the module that a layer describes, with initial values from PyTorch's generator."""
    match layer:
        case layers.Module():
            return layer.module
        case layers.Linear():
            return nn.Linear(layer.inputs, layer.outputs, bias=layer.bias)
        case layers.Convolution():
            kind: Any = nn.Conv1d if len(layer.window.kernel) == 1 else nn.Conv2d
            sizes = _sizes(layer.window)
            convolution: nn.Module = kind(layer.inputs, layer.outputs, *sizes, bias=layer.bias)
            return convolution
        case layers.GroupNorm():
            return nn.GroupNorm(layer.groups, layer.channels, affine=layer.affine)
        case layers.Sequential():
            return nn.Sequential(OrderedDict((name, made(inner)) for name, inner in layer.inner))
        case layers.Residual():
            return Residual(made(layer.main), made(layer.shortcut))
        case layers.Heads():
            own = [made(head) for head in layer.heads]
            return heads.Heads(own, layer.columns, layer.how, everywhere=layer.everywhere, absent=layer.absent)
        case _:
            return _without_parameters(layer)


def _without_parameters(layer: layers.Layer) -> nn.Module:
    match layer:
        case layers.MaxPool():
            pool: Any = nn.MaxPool1d if len(layer.window.kernel) == 1 else nn.MaxPool2d
            pooled: nn.Module = pool(*_sizes(layer.window))
            return pooled
        case layers.AdaptiveAvgPool():
            average: Any = nn.AdaptiveAvgPool1d if len(layer.places) == 1 else nn.AdaptiveAvgPool2d
            averaged: nn.Module = average(layer.places)
            return averaged
        case layers.ReLU():
            return nn.ReLU()
        case layers.Flatten():
            return nn.Flatten()
        case layers.Identity():
            return nn.Identity()
        case layers.Dropout():
            return nn.Dropout(layer.rate)
        case layers.ClipRows():
            return clip.ClipRows(layer.clip, layer.order)
        case layers.KeepLargest():
            return largest.KeepLargest(layer.share)
        case layers.Columns():
            return heads.Columns(layer.columns)
        case layers.Known():
            return heads.Known()
    raise TypeError(type(layer).__name__)


def _sizes(window: layers.Window) -> tuple[layers.Shape, ...]:
    return window.kernel, window.stride, window.padding, window.dilation


def described(module: nn.Module) -> layers.Layer:
    """Describe a module as far as there is a layer like it; the rest stay modules."""
    if (known := _KNOWN.get(type(module))) is not None:
        return known(module) or layers.Module(module)
    if type(module) is nn.Sequential:
        inner = [(name, child) for name, child in module._modules.items() if child is not None]
        return layers.Sequential(tuple(described(child) for _, child in inner), tuple(name for name, _ in inner))
    if type(module) is Residual:
        return layers.Residual(described(module.main), described(module.shortcut))
    return layers.Module(module)


def _window(module: Any, axes: int) -> layers.Window:
    given = (module.kernel_size, module.stride, module.padding, module.dilation)
    return layers.Window(*((size,) * axes if isinstance(size, int) else tuple(size) for size in given))


def _convolution(module: nn.Conv1d | nn.Conv2d) -> layers.Layer | None:
    if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    window = _window(module, len(module.kernel_size))
    return layers.Convolution(module.in_channels, module.out_channels, window, module.bias is not None)


def _max_pool(module: nn.MaxPool1d | nn.MaxPool2d) -> layers.Layer | None:
    if module.ceil_mode or module.return_indices:
        return None
    return layers.MaxPool(_window(module, 1 if isinstance(module, nn.MaxPool1d) else 2))


def _average(module: nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d) -> layers.Layer | None:
    places: Any = module.output_size
    if isinstance(places, int):
        places = (places,) * (1 if isinstance(module, nn.AdaptiveAvgPool1d) else 2)
    return None if None in places else layers.AdaptiveAvgPool(tuple(places))


def _flatten(module: nn.Flatten) -> layers.Layer | None:
    return layers.Flatten() if (module.start_dim, module.end_dim) == (1, -1) else None


_KNOWN: Mapping[type[nn.Module], Callable[[Any], layers.Layer | None]] = {
    nn.Linear: lambda m: layers.Linear(m.in_features, m.out_features, m.bias is not None),
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.GroupNorm: lambda m: layers.GroupNorm(m.num_groups, m.num_channels, m.affine),
    nn.MaxPool1d: _max_pool,
    nn.MaxPool2d: _max_pool,
    nn.AdaptiveAvgPool1d: _average,
    nn.AdaptiveAvgPool2d: _average,
    nn.ReLU: lambda m: layers.ReLU(),
    nn.Flatten: _flatten,
    nn.Identity: lambda m: layers.Identity(),
    nn.Dropout: lambda m: layers.Dropout(m.p),
    clip.ClipRows: lambda m: layers.ClipRows(m.clip, m.order),
    largest.KeepLargest: lambda m: layers.KeepLargest(m.share),
}


_KEEP_SIGN = (nn.Flatten, nn.Dropout, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.Identity)


def keeps_sign(module: nn.Module) -> bool:
    """Say whether what comes out of a module has the sign of what goes in."""
    return type(module) in _KEEP_SIGN


def is_never_negative(module: nn.Module) -> bool:
    """Say whether what comes out of a module is a rectifier's or a sigmoid's."""
    return type(module) in (nn.ReLU, nn.Sigmoid, Residual)
