"""Per-sample clipping without more per-sample gradients than must be, and the noise of DP-SGD.

For a linear layer the gradient of one record is the outer product of delta (the loss's gradient in the layer's outputs)
and the layer's inputs, so its squared norm is |delta|^2 (|inputs|^2 + 1), bias included. Clipping scales delta, and the
clipped sum is then one matrix product ("ghost clipping": Goodfellow 2015, arXiv:1510.01799; Li et al. 2022,
arXiv:2110.05679). A convolution is the same with many positions a record: where the weights are few, its per-sample
gradients are formed, by one convolution that takes every record for a group of channels (Rochette et al. 2019,
arXiv:1912.06015), and otherwise their norms come from products over positions (Bu et al. 2022, arXiv:2205.10683). Any
other parameter is handed to the forward pass as one copy a record, so that its gradient is per sample by itself. Exact,
and over all lanes at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_weight

Sums = Callable[[Tensor], dict[str, Tensor]]
"""From the clip factors ``[lane, batch]`` to the clipped sums ``[lane, *shape]`` by parameter."""


class Record(Protocol):
    """What per-sample clipping needs of one layer, as the forward pass wrote it down."""

    @property
    def lanes(self) -> slice:
        """The lanes it belongs to."""

    @property
    def wanted(self) -> Tensor:
        """The tensor in which it asks for the gradient of the loss."""

    def per_sample(self, gradient: Tensor) -> tuple[Tensor, Sums]:
        """Return the squared norms of the per-sample gradients ``[lane, batch]``, and how to form their clipped sums.

        Parameters
        ----------
        gradient : Tensor
            The gradient in ``wanted``.
        """


Tape = list[Record]


@dataclass(frozen=True, kw_only=True)
class LinearRecord:
    """One linear layer.

    Attributes
    ----------
    lanes : slice
    weight, bias : str
        The parameters' names; ``bias`` is empty where the layer has none.
    inputs : Tensor
        ``[lane, batch, *position, in]``.
    wanted : Tensor
        The outputs ``[lane, batch, *position, out]``, before the activation.
    """

    lanes: slice
    weight: str
    bias: str
    inputs: Tensor
    wanted: Tensor

    def per_sample(self, gradient: Tensor) -> tuple[Tensor, Sums]:
        """See ``Record``."""
        inputs = self.inputs.detach()
        if inputs.dim() == 3:
            squared = gradient.square().sum(-1) * (inputs.square().sum(-1) + bool(self.bias))
        else:
            delta, a = (t.flatten(0, 1).flatten(1, -2) for t in (gradient, inputs))
            squared = _product_norms(delta, a)
            if self.bias:
                squared += delta.sum(1).square().sum(-1)
            squared = squared.view(gradient.shape[:2])

        def sums(factors: Tensor) -> dict[str, Tensor]:
            dropped = factors == 0
            own = without(dropped, gradient) * factors.view(*factors.shape, *[1] * (gradient.dim() - 2))
            scaled = own.flatten(1, -2)
            found = {self.weight: torch.bmm(scaled.transpose(1, 2), without(dropped, inputs).flatten(1, -2))}
            return found | {self.bias: scaled.sum(1)} if self.bias else found

        return squared, sums


@dataclass(frozen=True, kw_only=True)
class ConvolutionRecord:
    """One convolution, a one-dimensional one as two-dimensional with height 1.

    Attributes
    ----------
    lanes : slice
    weight, bias : str
        The parameters' names; ``bias`` is empty where the layer has none.
    shape : torch.Size
        Of one lane's weight.
    kernel : torch.Size
        The same in two dimensions: ``[out, in / groups, height, width]``.
    inputs : Tensor
        ``[batch, lane * in, height, width]``.
    wanted : Tensor
        The outputs ``[batch, lane * out, height, width]``.
    options : dict
        Stride, padding and dilation, two numbers each.
    groups : int
        Groups within one lane.
    """

    lanes: slice
    weight: str
    bias: str
    shape: torch.Size
    kernel: torch.Size
    inputs: Tensor
    wanted: Tensor
    options: dict[str, Any]
    groups: int

    def per_sample(self, gradient: Tensor) -> tuple[Tensor, Sums]:
        """See ``Record``."""
        batch, out = gradient.shape[0], self.kernel[0]
        lanes = gradient.shape[1] // out
        ghost = self.groups == 1 and _products_are_cheaper(gradient[0, 0].numel(), self.kernel.numel())
        squared, weight_sums = self._by_products(gradient) if ghost else self._by_gradients(gradient)
        bias_each = gradient.sum((2, 3)).view(batch, lanes, out)
        if self.bias:
            squared = squared + bias_each.square().sum(-1)

        def sums(factors: Tensor) -> dict[str, Tensor]:
            found = {self.weight: weight_sums(factors).reshape(lanes, *self.shape)}
            if self.bias:
                found[self.bias] = torch.einsum("kb,bko->ko", factors, without(factors.t() == 0, bias_each))
            return found

        return squared.t(), sums

    def _by_gradients(self, gradient: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        batch, lanes = gradient.shape[0], gradient.shape[1] // self.kernel[0]
        records = batch * lanes
        inputs, delta = _records_as_channels(self.inputs.detach()), _records_as_channels(gradient)
        shape = (records * self.kernel[0], *self.kernel[1:])
        each = _weight_gradient(inputs, shape, delta, records * self.groups, self.options).reshape(batch, lanes, -1)
        return each.square().sum(-1), lambda factors: torch.einsum(
            "kb,bkn->kn", factors, without(factors.t() == 0, each)
        )

    def _by_products(self, gradient: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        inputs, (out, in_, *window) = self.inputs.detach(), self.kernel
        batch, lanes = gradient.shape[0], gradient.shape[1] // out
        records = inputs.reshape(batch * lanes, in_, *inputs.shape[2:])
        patches = functional.unfold(records, tuple(window), **self.options)
        delta = gradient.reshape(batch * lanes, out, -1)
        squared = _product_norms(delta.transpose(1, 2), patches.transpose(1, 2)).view(batch, lanes)

        def sums(factors: Tensor) -> Tensor:
            dropped = factors.t() == 0
            scaled = without(dropped.repeat_interleave(out, 1), gradient)
            scaled = scaled * factors.t().repeat_interleave(out, 1)[:, :, None, None]
            kept = without(dropped.repeat_interleave(in_, 1), inputs)
            return _weight_gradient(kept, (lanes * out, in_, *window), scaled, lanes, self.options)

        return squared, sums


@dataclass(frozen=True)
class ExpandedRecord:
    """One parameter that the forward pass took as one copy a record.

    Attributes
    ----------
    lanes : slice
    name : str
    wanted : Tensor
        The copies ``[lane, batch, *shape]``.
    """

    lanes: slice
    name: str
    wanted: Tensor

    def per_sample(self, gradient: Tensor) -> tuple[Tensor, Sums]:
        """See ``Record``."""
        squared = gradient.flatten(2).square().sum(-1)
        return squared, lambda factors: {
            self.name: torch.einsum("kb,kb...->k...", factors, without(factors == 0, gradient))
        }


def _weight_gradient(
    inputs: Tensor, shape: tuple[int, ...], delta: Tensor, groups: int, options: dict[str, Any]
) -> Tensor:
    gradient: Tensor = conv2d_weight(inputs, shape, delta, groups=groups, **options)  # type: ignore[no-untyped-call]
    return gradient


def _records_as_channels(x: Tensor) -> Tensor:
    """Turn ``[batch, channel, height, width]`` into ``[1, batch * channel, height, width]``, channels last."""
    return x.permute(2, 3, 0, 1).flatten(2).permute(2, 0, 1).unsqueeze(0)


def _products_are_cheaper(positions: int, weights: int) -> bool:
    """Whether products over positions take less memory than a record's gradient in the weights (Bu et al. 2022)."""
    return 2 * positions**2 < weights


def _product_norms(delta: Tensor, inputs: Tensor) -> Tensor:
    """Return the squared norm of ``delta^T inputs`` for each record; where positions nearly cancel, no less.

    What cancels to less than a thousandth of its terms is lost in rounding: the norm then counts as that much, so that
    such a record is clipped too far and never too little.

    Parameters
    ----------
    delta, inputs : Tensor
        ``[record, position, out]`` and ``[record, position, in]``.

    Returns
    -------
    Tensor
        ``[record]``
    """
    d, a = delta.double(), inputs.double()
    if _products_are_cheaper(delta.shape[1], delta.shape[2] * inputs.shape[2]):
        squared = (torch.bmm(d, d.transpose(1, 2)) * torch.bmm(a, a.transpose(1, 2))).sum((1, 2))
    else:
        squared = torch.bmm(d.transpose(1, 2), a).square().sum((1, 2))
    least = 1e-6 * d.square().sum((1, 2)) * a.square().sum((1, 2))
    return torch.maximum(squared, least).to(delta.dtype)


def per_sample_gradients(
    outputs: Tensor, tape: Tape, inputs: Tensor | None = None, cotangent: Tensor | None = None
) -> tuple[Tensor, Sums, Tensor | None]:
    """Return the squared norms of the per-sample gradients, and how to form their sums once the factors are known.

    Parameters
    ----------
    outputs : Tensor
        The loss (each record's weighted by 1 / normaliser), or a part's outputs ``[lane, batch, *output]``.
    tape : list of Record
        As filled by the forward pass that made ``outputs``.
    inputs, cotangent : Tensor, optional
        As for ``sim.tensor.lanes.gradients``. The cut gradient that is returned is not clipped.

    Returns
    -------
    Tensor
        ``[lane, batch]``, over all the part's parameters.
    Sums
    Tensor or None
        Gradient in ``inputs``.
    """
    wanted = [record.wanted for record in tape]
    found = torch.autograd.grad(outputs, wanted if inputs is None else [*wanted, inputs], grad_outputs=cotangent)
    layers = [record.per_sample(gradient) for record, gradient in zip(tape, found, strict=False)]
    lanes = max(record.lanes.stop for record in tape)
    squared = torch.zeros(lanes, layers[0][0].shape[1]).to(layers[0][0])
    for record, (own, _) in zip(tape, layers, strict=True):
        squared[record.lanes] += own

    def sums_of(factors: Tensor) -> dict[str, Tensor]:
        pieces: dict[str, list[Tensor]] = defaultdict(list)
        for record, (_, sums) in zip(tape, layers, strict=True):
            for name, value in sums(factors[record.lanes]).items():
                pieces[name].append(value)
        return {name: own[0] if len(own) == 1 else torch.cat(own) for name, own in pieces.items()}

    return squared, sums_of, None if inputs is None else found[-1]


def clip_factors(squared: Tensor, clip: float | Tensor, normaliser: Tensor) -> Tensor:
    """Return min(1, clip / norm) for each record, ``[lane, batch]``; 0 where the norm is no finite number.

    Parameters
    ----------
    squared : Tensor
        ``[lane, batch]`` squared norm of each record's gradient, divided by ``normaliser`` as the loss was.
    clip : float or Tensor
        One for all lanes, or ``[lane, 1]``.
    normaliser : Tensor
        ``[lane]``
    """
    return _at_most_one((squared.sqrt() * normaliser[:, None]).reciprocal() * clip)


def joint_factors(squared: Tensor, clip: float | Tensor) -> Tensor:
    """Return min(1, clip / norm) for each record, from its squared norm over all parts together, ``[lane, batch]``.

    The clip is one for all lanes, or ``[lane, 1]``.
    """
    # A number over a tensor is this in PyTorch: one clip and a clip a lane give the same bits.
    return _at_most_one(squared.sqrt().reciprocal() * clip)


def _at_most_one(factors: Tensor) -> Tensor:
    """Cut factors at 1; of a record whose norm is infinite the factor is 0, and where it is no number it becomes 0."""
    return torch.where(factors >= 0, factors.clamp(max=1.0), 0.0)


def without(dropped: Tensor, values: Tensor) -> Tensor:
    """Return values ``[lane, batch, ...]`` with zeros for the records that are dropped, ``[lane, batch]``, if any are.

    A factor of 0 does not do it: 0 times infinity is no number.
    """
    if not dropped.any():
        return values
    return values.masked_fill(dropped.view(*dropped.shape, *[1] * (values.dim() - 2)), 0.0)
