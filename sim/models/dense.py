"""Whether a part is a chain of linear layers, and of which."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from sim.models.layers import Linear, ReLU
from sim.models.network import Part


@dataclass(frozen=True)
class DenseLayer:
    """A linear layer, with or without a ReLU behind it, by the names of its parameters."""

    weight: str
    bias: str
    relu: bool


@lru_cache(maxsize=256)
def dense_layers(part: Part) -> tuple[DenseLayer, ...] | None:
    """Return the part as a chain of linear layers, None if it is anything else."""
    found: list[DenseLayer] = []
    for name, layer in part.chain():
        if isinstance(layer, Linear) and layer.bias:
            found.append(DenseLayer(f"{name}weight", f"{name}bias", relu=False))
        elif isinstance(layer, ReLU) and found and not found[-1].relu:
            found[-1] = replace(found[-1], relu=True)
        else:
            return None
    return tuple(found)
