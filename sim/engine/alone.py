"""One copy of a part, run as PyTorch itself would: no lane axis, so that autograd has as few operations as it can.

A sequential strategy trains one copy at a time. On small networks each view that adds or removes an axis costs as much
as an activation.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from sim.engine.lane_rules import DropoutMasks, max_pool_2d
from sim.models import Part
from sim.models.architectures import Residual


def run_alone(part: Part, parameters: Mapping[str, Tensor], x: Tensor, masks: DropoutMasks | None = None) -> Tensor:
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


def _run(
    module: nn.Module, name: str, parameters: Mapping[str, Tensor], x: Tensor, masks: DropoutMasks | None
) -> Tensor:
    kind = type(module)
    if kind is nn.Sequential:
        for child_name, child in module._modules.items():
            if child is not None:
                x = _run(child, f"{name}{child_name}.", parameters, x, masks)
        return x
    if isinstance(module, Residual):
        main = _run(module.main, f"{name}main.", parameters, x, masks)
        return functional.relu(main + _run(module.shortcut, f"{name}shortcut.", parameters, x, masks))
    if isinstance(module, nn.Dropout):
        return x if masks is None else (x * masks.draw(name.removesuffix("."), module.p, x.unsqueeze(0))).view_as(x)
    weight, bias = parameters.get(f"{name}weight"), parameters.get(f"{name}bias")
    if kind is nn.Linear and weight is not None:
        return functional.linear(x, weight, bias)
    if isinstance(module, nn.Conv1d | nn.Conv2d) and module.padding_mode == "zeros" and weight is not None:
        convolve = functional.conv1d if isinstance(module, nn.Conv1d) else functional.conv2d
        return convolve(x, weight, bias, module.stride, module.padding, module.dilation, module.groups)
    if isinstance(module, nn.GroupNorm):
        return functional.group_norm(x, module.num_groups, weight, bias, module.eps)
    if isinstance(module, nn.MaxPool2d):
        return max_pool_2d(module, x)
    if getattr(module, "inplace", False):
        x = x.clone()  # the sender of x still holds it
    own = {key: buffer.to(x.device) for key, buffer in module.named_buffers()}
    own |= {key.removeprefix(name): value for key, value in parameters.items() if key.startswith(name)}
    result: Tensor = functional_call(module, own, (x,)) if own else module(x)
    return result
