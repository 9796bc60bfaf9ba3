"""Whether what leaves a part is surely never negative."""

from __future__ import annotations

from sim.models import layers
from sim.models.network import Part

_KEEP_SIGN = (layers.Flatten, layers.Dropout, layers.MaxPool, layers.Identity)


def never_negative(part: Part) -> bool:
    """Say whether a part surely ends in a rectifier or a sigmoid, but for layers behind it that keep the sign."""
    for layer in reversed([layer for _, layer in part.chain()]):
        if isinstance(layer, layers.Module):
            from sim.models.modules import is_never_negative, keeps_sign

            if not keeps_sign(layer.module):
                return is_never_negative(layer.module)
        elif not isinstance(layer, _KEEP_SIGN):
            return isinstance(layer, layers.ReLU | layers.Residual)
    return False
