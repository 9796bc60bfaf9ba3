"""A forward and backward pass of a part over lanes: by hand for a chain of linear layers, else by autograd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from sim.engine.clipping import Sums, Tape, clip_factors, per_sample_gradients
from sim.engine.dense import DensePass, dense_layers
from sim.engine.lane_rules import DropoutMasks
from sim.engine.lanes import forward, gradients, leaves, loss_sum
from sim.models import Part


class Pass(Protocol):
    """What a learner needs of a pass; ``DensePass`` states the arguments."""

    def forward(  # noqa: D102
        self,
        parameters: Mapping[str, Tensor],
        x: Tensor,
        *,
        want_input_gradient: bool,
        masks: DropoutMasks | None = None,
    ) -> Tensor: ...

    def loss(self, y: Tensor, weights: Tensor) -> None: ...  # noqa: D102

    def backward(  # noqa: D102
        self, cotangent: Tensor | None, clip: float | None, normaliser: Tensor
    ) -> tuple[list[Tensor], Tensor | None]: ...

    def per_sample(self, cotangent: Tensor | None) -> tuple[Tensor, Sums, Tensor | None]: ...  # noqa: D102


class AutogradPass:
    """A pass of any part; arguments as for ``DensePass``.

    Parameters
    ----------
    part : Part
    per_sample : bool
        Whether clipped gradients may be asked for; a pass that knows they are not is cheaper.
    """

    def __init__(self, part: Part, per_sample: bool = True) -> None:
        self._part = part
        self._per_sample = per_sample
        self._leaves: dict[str, Tensor] = {}
        self._tape: Tape = []
        self._inputs: Tensor | None = None
        self._outputs = torch.empty(0)

    def forward(
        self,
        parameters: Mapping[str, Tensor],
        x: Tensor,
        *,
        want_input_gradient: bool,
        masks: DropoutMasks | None = None,
    ) -> Tensor:
        """Run the part, with a tape where gradients may be per sample."""
        self._leaves = leaves(parameters, x.shape[0])
        self._inputs = x.detach().requires_grad_() if want_input_gradient else None
        self._tape = []
        tape = self._tape if self._per_sample else None
        self._outputs = forward(self._part, self._leaves, x if self._inputs is None else self._inputs, tape, masks)
        return self._outputs

    def loss(self, y: Tensor, weights: Tensor) -> None:
        """Turn the outputs into the weighted loss."""
        self._outputs = loss_sum(self._outputs, y, weights)

    def backward(
        self, cotangent: Tensor | None, clip: float | None, normaliser: Tensor
    ) -> tuple[list[Tensor], Tensor | None]:
        """Differentiate the loss, or the outputs along the cotangent."""
        if clip is None:
            return gradients(self._outputs, self._leaves, self._inputs, cotangent)
        squared, sums, input_gradient = self.per_sample(cotangent)
        return list(sums(clip_factors(squared, clip, normaliser)).values()), input_gradient

    def per_sample(self, cotangent: Tensor | None) -> tuple[Tensor, Sums, Tensor | None]:
        """See ``sim.engine.clipping.per_sample_gradients``; the sums come in the order of the parameters."""
        squared, sums, input_gradient = per_sample_gradients(self._outputs, self._tape, self._inputs, cotangent)
        names = list(self._leaves)

        def ordered(factors: Tensor) -> dict[str, Tensor]:
            found = sums(factors)
            return {name: found[name] for name in names}

        return squared, ordered, input_gradient


def pass_of(part: Part, axes: int = 1, *, per_sample: bool = True) -> Pass:
    """Return the cheaper pass that the part allows for records of so many axes; the rest as for ``AutogradPass``."""
    layers = dense_layers(part) if axes == 1 else None
    return AutogradPass(part, per_sample) if layers is None else DensePass(layers)
