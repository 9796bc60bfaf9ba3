"""The tensor program: forward, loss and gradients over a leading lane axis.

A lane is one independent copy of a part of the network with its own parameters and its own batch. Lanes are stacked in
every tensor's first axis, ragged batches are padded, and a padded row has weight 0 in the loss. Since lanes share
nothing, one backward pass of the summed loss gives every lane its own gradient. A lane need not be a clinic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

from sim.models import Parameters, Part


@dataclass(frozen=True)
class LinearRecord:
    """What per-sample clipping needs of one linear layer.

    Attributes
    ----------
    weight, bias : str
        The parameters' names; ``bias`` is empty where the layer has none.
    inputs : Tensor
        ``[lane, batch, in]``.
    outputs : Tensor
        ``[lane, batch, out]``, before the activation.
    """

    weight: str
    bias: str
    inputs: Tensor
    outputs: Tensor


Tape = list[LinearRecord]


def _linear(module: nn.Module, name: str, parameters: Mapping[str, Tensor], x: Tensor, tape: Tape | None) -> Tensor:
    weight = parameters[f"{name}weight"]
    bias = parameters.get(f"{name}bias")
    if bias is None:
        z = torch.bmm(x, weight.transpose(1, 2))
    else:
        z = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
    if tape is not None:
        tape.append(LinearRecord(f"{name}weight", "" if bias is None else f"{name}bias", x, z))
    return z


def _sequential(module: nn.Module, name: str, parameters: Mapping[str, Tensor], x: Tensor, tape: Tape | None) -> Tensor:
    for child_name, child in module.named_children():
        x = _apply(child, f"{name}{child_name}.", parameters, x, tape)
    return x


def _elementwise(
    module: nn.Module, name: str, parameters: Mapping[str, Tensor], x: Tensor, tape: Tape | None
) -> Tensor:
    result: Tensor = module(x)
    return result


def _stacked_by_vmap(
    module: nn.Module, name: str, parameters: Mapping[str, Tensor], x: Tensor, tape: Tape | None
) -> Tensor:
    own = {key.removeprefix(name): value for key, value in parameters.items() if key.startswith(name)}
    if tape is not None and own:
        raise ValueError(f"dp-sgd has no per-sample gradient rule for {type(module).__name__} (block {name[:-1]!r})")
    result: Tensor = vmap(lambda p, v: functional_call(module, p, (v,)))(own, x)
    return result


LaneRule = Callable[[nn.Module, str, Mapping[str, Tensor], Tensor, Tape | None], Tensor]
LANE_RULES: dict[type[nn.Module], LaneRule] = {
    nn.Linear: _linear,
    nn.Sequential: _sequential,
    nn.ReLU: _elementwise,
    nn.Tanh: _elementwise,
    nn.GELU: _elementwise,
    nn.Identity: _elementwise,
}


def _apply(module: nn.Module, name: str, parameters: Mapping[str, Tensor], x: Tensor, tape: Tape | None) -> Tensor:
    return LANE_RULES.get(type(module), _stacked_by_vmap)(module, name, parameters, x, tape)


def forward(part: Part, parameters: Mapping[str, Tensor], x: Tensor, tape: Tape | None = None) -> Tensor:
    """Run a part of the network over all lanes.

    Parameters
    ----------
    part : Part
    parameters : mapping of str to Tensor
        ``[lane, *shape]`` each.
    x : Tensor
        ``[lane, batch, *feature]``.
    tape : list of LinearRecord, optional
        Filled with what per-sample clipping needs.

    Returns
    -------
    Tensor
        ``[lane, batch, *output]``.
    """
    for block in part.blocks:
        x = _apply(block.module, f"{block.name}.", parameters, x, tape)
    return x


def loss_sum(logits: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of the records' losses over all lanes.

    Parameters
    ----------
    logits : Tensor
        ``[lane, batch, output]``; one output is a binary logit, more are softmax logits.
    y : Tensor
        ``[lane, batch]`` integer labels.
    weights : Tensor
        ``[lane, batch]``; 1 / batch size for a record, 0 for padding.

    Returns
    -------
    Tensor
        A scalar; its gradient in one lane's parameters is that lane's mean gradient.
    """
    if logits.shape[-1] == 1:
        return functional.binary_cross_entropy_with_logits(
            logits.squeeze(-1), y.to(logits.dtype), weight=weights, reduction="sum"
        )
    losses = functional.cross_entropy(logits.flatten(0, 1), y.flatten().long(), reduction="none")
    return torch.dot(losses, weights.flatten())


def leaves(parameters: Mapping[str, Tensor], lanes: int) -> Parameters:
    """Return the first lanes' parameters as differentiable leaves that share the parameters' memory."""
    return {name: value[:lanes].detach().requires_grad_() for name, value in parameters.items()}


def gradients(
    outputs: Tensor, parameters: Mapping[str, Tensor], inputs: Tensor | None = None, cotangent: Tensor | None = None
) -> tuple[list[Tensor], Tensor | None]:
    """Return the gradients in the parameters and, where asked for, in the inputs.

    Parameters
    ----------
    outputs : Tensor
        The loss, or a part's outputs ``[lane, batch, *output]``.
    parameters : mapping of str to Tensor
        Leaves, ``[lane, *shape]`` each.
    inputs : Tensor, optional
        The part's inputs ``[lane, batch, *feature]``, if their gradient (the cut gradient) is wanted.
    cotangent : Tensor, optional
        Gradient of the loss in ``outputs`` where that is not the loss itself.

    Returns
    -------
    list of Tensor
        In the order of ``parameters``.
    Tensor or None
        Gradient in ``inputs``.
    """
    wanted = list(parameters.values()) if inputs is None else [*parameters.values(), inputs]
    found = list(torch.autograd.grad(outputs, wanted, grad_outputs=cotangent))
    return (found, None) if inputs is None else (found[:-1], found[-1])


def weighted_average(stacked: Mapping[str, Tensor], weights: Sequence[float]) -> Parameters:
    """Average parameters over lanes.

    Parameters
    ----------
    stacked : mapping of str to Tensor
        ``[lane, *shape]`` each.
    weights : sequence of float
        One a lane, summing to 1 (n_k / n).

    Returns
    -------
    dict of str to Tensor
        ``[1, *shape]`` each.
    """
    averaged = {}
    for name, value in stacked.items():
        w = torch.tensor(weights, dtype=value.dtype, device=value.device).view(-1, *[1] * (value.dim() - 1))
        averaged[name] = (w * value).sum(0, keepdim=True)
    return averaged
