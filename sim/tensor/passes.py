"""A forward and backward pass of a part: a chain of linear layers by hand, anything else by autograd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from sim.models import Part
from sim.models.dense import dense_layers
from sim.tensor.clipping import Sums, Tape, clip_factors, per_sample_gradients
from sim.tensor.dense import DensePass
from sim.tensor.lane_rules import BatchStatistics, DropoutMasks, LaneRun
from sim.tensor.lanes import forward, gradients, leaves
from sim.tensor.losses import Loss


class Pass(Protocol):
    """What a trainer needs of a pass; ``DensePass`` states the arguments."""

    def forward(  # noqa: D102
        self,
        parameters: Mapping[str, Tensor],
        x: Tensor,
        *,
        want_input_gradient: bool,
        masks: DropoutMasks | None = None,
        norms: BatchStatistics | None = None,
    ) -> Tensor: ...

    def loss(self, loss: Loss, y: Tensor, weights: Tensor) -> None: ...  # noqa: D102

    def backward(  # noqa: D102
        self, cotangent: Tensor | None, clip: float | Tensor | None, normaliser: Tensor
    ) -> tuple[list[Tensor], Tensor | None]: ...

    def per_sample(self, cotangent: Tensor | None) -> tuple[Tensor, Sums, Tensor | None]: ...  # noqa: D102


class AutogradPass:
    """A pass of any part; arguments as for ``DensePass``.

    Parameters
    ----------
    part : Part
    per_sample : bool
        Whether clipped gradients may be asked for; a pass that knows they are not is cheaper.
    alone : bool
        Whether it runs one copy at a time; without per-sample gradients it then does so without a lane axis.
    autocast : bool
        Whether to compute in bfloat16 what PyTorch takes to be fit for it.
    """

    def __init__(self, part: Part, per_sample: bool = True, alone: bool = False, autocast: bool = False) -> None:
        self._part = part
        self._per_sample, self._autocast = per_sample, autocast
        self._alone = alone and not per_sample and not part.statistics
        self._given: Mapping[str, Tensor] = {}
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
        norms: BatchStatistics | None = None,
    ) -> Tensor:
        """Run the part, with a tape where gradients may be per sample."""
        if parameters is not self._given:
            own = {name: value[0] for name, value in parameters.items()} if self._alone else parameters
            self._given, self._leaves = parameters, leaves(self._part.trained(own))
        x = x[0] if self._alone else x
        self._inputs = x.detach().requires_grad_() if want_input_gradient else None
        inputs = x if self._inputs is None else self._inputs
        self._tape = []
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._autocast):
            if self._alone:
                run = LaneRun(parameters=self._leaves, lanes=slice(0, 1), masks=masks, alone=True)
                outputs = run.part(self._part, inputs)
            else:
                tape = self._tape if self._per_sample else None
                outputs = forward(self._part, {**parameters, **self._leaves}, inputs, tape, masks, norms)
        self._outputs = outputs.float() if self._autocast else outputs
        found = self._outputs.detach()
        return found.unsqueeze(0) if self._alone else found

    def loss(self, loss: Loss, y: Tensor, weights: Tensor) -> None:
        """Turn the outputs into the weighted loss."""
        self._outputs = loss.sum(self._outputs, *((y[0], weights[0]) if self._alone else (y, weights)))

    def backward(
        self, cotangent: Tensor | None, clip: float | Tensor | None, normaliser: Tensor
    ) -> tuple[list[Tensor], Tensor | None]:
        """Differentiate the loss, or the outputs along the cotangent; of one copy alone gradients have no lane axis."""
        if clip is None and not self._alone:
            return gradients(self._outputs, self._leaves, self._inputs, cotangent)
        if clip is None:
            along = None if cotangent is None else cotangent[0]
            found, in_inputs = gradients(self._outputs, self._leaves, self._inputs, along)
            return found, None if in_inputs is None else in_inputs.unsqueeze(0)
        squared, sums, input_gradient = self.per_sample(cotangent)
        return list(sums(clip_factors(squared, clip, normaliser)).values()), input_gradient

    def per_sample(self, cotangent: Tensor | None) -> tuple[Tensor, Sums, Tensor | None]:
        """See ``sim.tensor.clipping.per_sample_gradients``; the sums come in the order of the parameters."""
        squared, sums, input_gradient = per_sample_gradients(self._outputs, self._tape, self._inputs, cotangent)
        names = list(self._leaves)

        def ordered(factors: Tensor) -> dict[str, Tensor]:
            found = sums(factors)
            return {name: found[name] for name in names}

        return squared, ordered, input_gradient


def pass_of(part: Part, axes: int = 1, *, per_sample: bool = True, alone: bool = False, autocast: bool = False) -> Pass:
    """Return the cheapest pass that a part allows.

    Parameters
    ----------
    part : Part
    axes : int
        Of one record.
    per_sample : bool
        Whether clipped gradients may be asked for.
    alone : bool
        Whether it runs one copy of the part at a time.
    autocast : bool
        As for :class:`AutogradPass`.
    """
    layers = dense_layers(part) if axes == 1 else None
    return AutogradPass(part, per_sample, alone, autocast) if layers is None else DensePass(layers)
