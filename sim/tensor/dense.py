"""Forward and backward of a chain of linear layers, by hand.

On small networks the cost of a step is the number of operations, not their size. Without automatic differentiation a
step takes less than half of them, and the per-sample norms of DP-SGD cost two sums a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sim.models.dense import DenseLayer
from sim.tensor.clipping import Sums, clip_factors, without
from sim.tensor.losses import Loss

_behind_relu = torch.ops.aten.threshold_backward.default
_MANY = 16
"""From so many lanes on NumPy's products of matrices of both passes back are quicker than PyTorch's: 1.1 to 2.6 times
with 100 lanes (batches of 16 to 64, layers of 13 to 128), about alike with 10, slower with one."""
_NARROW = 8
"""Of narrower matrices the two give different bits, or NumPy is the slower one."""


class DensePass:
    """One forward and backward pass of a chain of linear layers over lanes.

    Parameters
    ----------
    layers : tuple of DenseLayer
    """

    def __init__(self, layers: tuple[DenseLayer, ...]) -> None:
        self._layers = layers
        self._parameters: Mapping[str, Tensor] = {}
        self._views: list[tuple[Tensor, Tensor]] = []
        self._values: list[Tensor] = []
        self._delta = torch.empty(0)
        self._want_input_gradient = False

    def forward(
        self,
        parameters: Mapping[str, Tensor],
        x: Tensor,
        *,
        want_input_gradient: bool,
        masks: object = None,
        norms: object = None,
    ) -> Tensor:
        """Run the chain on ``[lane, batch, feature]``; parameters are ``[lane, *shape]`` each, the rest of no use."""
        if parameters is not self._parameters:
            self._parameters = parameters
            self._views = [
                (parameters[e.bias].unsqueeze(1), parameters[e.weight].transpose(1, 2)) for e in self._layers
            ]
        self._want_input_gradient = want_input_gradient
        self._values = [x]
        for layer, (bias, weight) in zip(self._layers, self._views, strict=True):
            x = _linear(bias, x, weight)
            if layer.relu:
                x = x.relu_()
            self._values.append(x)
        return x

    def loss(self, loss: Loss, y: Tensor, weights: Tensor) -> None:
        """Form the gradient of the weighted loss in the outputs."""
        self._delta = loss.gradient(self._values[-1], y, weights)

    def backward(
        self, cotangent: Tensor | None, clip: float | Tensor | None, normaliser: Tensor
    ) -> tuple[list[Tensor], Tensor | None]:
        """Return the gradients, in the order of the parameters, and the gradient in the inputs if it is wanted.

        Parameters
        ----------
        cotangent : Tensor or None
            Gradient in the outputs; None after ``loss``.
        clip : float, Tensor or None
            Bound of one record's gradient over the whole part, for DP-SGD; one for all lanes, or ``[lane, 1]``.
        normaliser : Tensor
            ``[lane]``, what the loss's weights were divided by; used with ``clip`` only.
        """
        if clip is None:
            deltas, input_gradient = self._deltas(cotangent)
            return _sums(deltas, self._values), input_gradient
        squared, sums, input_gradient = self.per_sample(cotangent)
        return list(sums(clip_factors(squared, clip, normaliser)).values()), input_gradient

    def per_sample(self, cotangent: Tensor | None) -> tuple[Tensor, Sums, Tensor | None]:
        """See ``sim.tensor.clipping.per_sample_gradients``; the sums come in the order of the parameters."""
        deltas, input_gradient = self._deltas(cotangent)
        values, names = self._values, [name for layer in self._layers for name in (layer.weight, layer.bias)]
        squared = sum(d.square().sum(-1) * (a.square().sum(-1) + 1) for d, a in zip(deltas, values, strict=False))

        def sums(factors: Tensor) -> dict[str, Tensor]:
            dropped, scale = factors == 0, factors.unsqueeze(-1)
            scaled = [without(dropped, d) * scale for d in deltas]
            return dict(zip(names, _sums(scaled, [without(dropped, a) for a in values]), strict=True))

        return torch.as_tensor(squared), sums, input_gradient

    def _deltas(self, cotangent: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        """Return the gradient in each layer's outputs, before the activation, and in the inputs if it is wanted."""
        delta = self._delta if cotangent is None else cotangent
        deltas: list[Tensor] = []
        input_gradient = None
        for position in reversed(range(len(self._layers))):
            layer = self._layers[position]
            if layer.relu:
                delta = _behind_relu(delta, self._values[position + 1], 0)
            deltas.insert(0, delta)
            if position or self._want_input_gradient:
                delta = product(delta, self._parameters[layer.weight])
                input_gradient = delta
        return deltas, input_gradient if self._want_input_gradient else None


def _linear(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return bias + x weight over lanes."""
    if x.shape[0] == weight.shape[-1] == 1:
        return torch.baddbmm(*_doubled(bias, x, weight))[:1]
    return torch.baddbmm(bias, x, weight)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x weight over lanes, of the same bits whichever library multiplies."""
    lanes, rows, inner = x.shape
    columns = weight.shape[2]
    if lanes == columns == 1:
        return torch.bmm(*_doubled(x, weight))[:1]
    worth = lanes >= _MANY and min(rows, inner, columns) >= _NARROW and x.device.type == "cpu" and _by_rows(weight)
    turned = not _by_rows(x)
    if worth and (not turned or _by_rows(x.mT)) and _alike(rows, inner, columns, x.dtype, turned=turned):
        with np.errstate(all="ignore"):
            return torch.from_numpy(np.matmul(x.numpy(), weight.numpy()))
    return torch.bmm(x, weight)


def _by_rows(matrices: Tensor) -> bool:
    """Whether each matrix lies in memory row after row, as those that were compared do."""
    return matrices.stride(2) == 1 and matrices.stride(1) >= matrices.shape[2]


@lru_cache(maxsize=256)
def _alike(rows: int, inner: int, columns: int, dtype: torch.dtype, *, turned: bool) -> bool:
    """Whether NumPy's products of such matrices have the bits of PyTorch's: both multiply and add in the same order."""
    numbers, shape = torch.Generator().manual_seed(0), (inner, rows) if turned else (rows, inner)
    x, weight = (torch.randn(2, *each, generator=numbers, dtype=dtype) for each in (shape, (inner, columns)))
    x = x.transpose(1, 2) if turned else x
    return bool(np.array_equal(np.matmul(x.numpy(), weight.numpy()), torch.bmm(x, weight).numpy()))


def _doubled(*operands: Tensor) -> Iterator[Tensor]:
    """Double a single lane, whose product with a single column would get other bits than beside other lanes."""
    return (operand.expand(2, -1, -1) for operand in operands)


def _sums(deltas: Sequence[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
    grads: list[Tensor] = []
    for d, a in zip(deltas, values, strict=False):
        grads += [product(d.transpose(1, 2), a), d.sum(1)]
    return grads
