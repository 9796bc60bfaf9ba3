"""One copy of a part, run as PyTorch itself would: no lane axis, so that autograd has as few operations as it can.

A sequential strategy trains one copy at a time. On small networks each view that adds or removes an axis costs as much
as an activation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from sim.models import Part
from sim.models.architectures import Residual
from sim.tensor.lane_rules import DropoutMasks, max_pool_2d

Masks = DropoutMasks | None


def run_alone(part: Part, parameters: Mapping[str, Tensor], x: Tensor, masks: Masks = None) -> Tensor:
    """Run a part on one batch.

    Parameters
    ----------
    part : Part
    parameters : mapping of str to Tensor
        ``[*shape]`` each.
    x : Tensor
        ``[batch, *feature]``.
    masks : DropoutMasks, optional
        Of one clinic.

    Returns
    -------
    Tensor
        ``[batch, *output]``
    """
    for block in part.blocks:
        x = _run(block.module, f"{block.name}.", parameters, x, masks)
    return x


def _run(module: nn.Module, name: str, parameters: Mapping[str, Tensor], x: Tensor, masks: Masks) -> Tensor:
    return RULES.get(type(module), _any)(module, name, parameters, x, masks)


def _sequential(module: nn.Sequential, name: str, parameters: Mapping[str, Tensor], x: Tensor, masks: Masks) -> Tensor:
    for child_name, child in module._modules.items():
        if child is not None:
            x = _run(child, f"{name}{child_name}.", parameters, x, masks)
    return x


def _residual(module: Residual, name: str, parameters: Mapping[str, Tensor], x: Tensor, masks: Masks) -> Tensor:
    main = _run(module.main, f"{name}main.", parameters, x, masks)
    return torch.relu(main + _run(module.shortcut, f"{name}shortcut.", parameters, x, masks))


def _dropout(module: nn.Dropout, name: str, parameters: Mapping[str, Tensor], x: Tensor, masks: Masks) -> Tensor:
    return x if masks is None else (x * masks.draw(name.removesuffix("."), module.p, x.unsqueeze(0))).view_as(x)


def _linear(module: nn.Linear, name: str, parameters: Mapping[str, Tensor], x: Tensor, masks: Masks) -> Tensor:
    return functional.linear(x, parameters[f"{name}weight"], parameters.get(f"{name}bias"))


def _convolution(
    module: nn.Conv1d | nn.Conv2d, name: str, parameters: Mapping[str, Tensor], x: Tensor, masks: Masks
) -> Tensor:
    if module.padding_mode != "zeros":
        return _any(module, name, parameters, x, masks)
    convolve = functional.conv1d if type(module) is nn.Conv1d else functional.conv2d
    weight, bias = parameters[f"{name}weight"], parameters.get(f"{name}bias")
    return convolve(x, weight, bias, module.stride, module.padding, module.dilation, module.groups)


def _group_norm(module: nn.GroupNorm, name: str, parameters: Mapping[str, Tensor], x: Tensor, masks: Masks) -> Tensor:
    weight, bias = parameters.get(f"{name}weight"), parameters.get(f"{name}bias")
    return torch.group_norm(x, module.num_groups, weight, bias, module.eps)


def _max_pool_2d(module: nn.MaxPool2d, name: str, parameters: Mapping[str, Tensor], x: Tensor, masks: Masks) -> Tensor:
    return max_pool_2d(module, x)


def _relu(module: nn.ReLU, name: str, parameters: Mapping[str, Tensor], x: Tensor, masks: Masks) -> Tensor:
    return torch.relu(x)  # never in place: the sender of x still holds it


def _flatten(module: nn.Flatten, name: str, parameters: Mapping[str, Tensor], x: Tensor, masks: Masks) -> Tensor:
    return x.flatten(module.start_dim, module.end_dim)


def _any(module: nn.Module, name: str, parameters: Mapping[str, Tensor], x: Tensor, masks: Masks) -> Tensor:
    own = {key: buffer.to(x.device) for key, buffer in module.named_buffers()}
    own |= {key.removeprefix(name): value for key, value in parameters.items() if key.startswith(name)}
    result: Tensor = functional_call(module, own, (x.clone() if getattr(module, "inplace", False) else x,))
    return result


Rule = Callable[[Any, str, Mapping[str, Tensor], Tensor, Masks], Tensor]
RULES: dict[type[nn.Module], Rule] = {
    nn.Sequential: _sequential,
    Residual: _residual,
    nn.Dropout: _dropout,
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.GroupNorm: _group_norm,
    nn.MaxPool2d: _max_pool_2d,
    nn.ReLU: _relu,
    nn.Flatten: _flatten,
}
