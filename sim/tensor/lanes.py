"""The tensor program: forward, loss and gradients over a leading lane axis.

A lane is one independent copy of a part of the network with its own parameters and its own batch. Lanes are stacked in
every tensor's first axis, ragged batches are padded, and a padded row has weight 0 in the loss. Since lanes share
nothing, one backward pass of the summed loss gives every lane its own gradient. A lane need not be a clinic.

Dense layers gain from as many lanes as there are. Convolutions gain from a few, and lose the gain as soon as their
activations leave the processor's cache; so a part that holds a convolution runs in groups of lanes, down to one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from sim.models import Parameters, Part, UnknownLayerError, passage
from sim.tensor.clipping import Tape
from sim.tensor.lane_rules import BatchStatistics, DropoutMasks, LaneRun

CACHE_BYTES = 3 * 2**20
"""About how large one activation of a convolutional part becomes before its lanes run in groups. Measured on one thread
(1 MiB of second-level cache, 32 MiB of third) with batches of 16: from none to 8 MiB, 3 MiB was best or near it, 1.5 to
2.2 times as fast as lane by lane for CNNs of 8 to 64 channels; ResNet-18 of 16 to 128 channels gained nothing at any
size, and all 100 lanes of the smallest CNN at once were slower than lane by lane."""
SUMMED_AT_ONCE = 2**15
"""Numbers of each lane that are averaged at a time: ten of ResNet-18 take a seventh of the time of all at once."""
MOST_WEIGHTS = 2**16
"""Of the largest convolution of a part whose lanes run side by side. Four lanes as groups of one convolution took, over
one lane after another (3x3 kernels forward and backward, batches of 16, images of 4x4 to 28x28, one thread), .26 to .6
of the time with 8 and 16 channels, .47 to .93 with 32 and 64, and 1.2 to 2.6 times as long with 96 to 512."""


def forward(
    part: Part,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    tape: Tape | None = None,
    masks: DropoutMasks | None = None,
    norms: BatchStatistics | None = None,
) -> Tensor:
    """Run a part of the network over all lanes.

    Parameters
    ----------
    part : Part
    parameters : mapping of str to Tensor
        ``[lane, *shape]`` each.
    x : Tensor
        ``[lane, batch, *feature]``.
    tape : list of Record, optional
        Filled with what per-sample clipping needs.
    masks : DropoutMasks, optional
        Of the training step; without them nothing is dropped.
    norms : BatchStatistics, optional
        Of the training step; without them BatchNorm takes its running statistics.

    Returns
    -------
    Tensor
        ``[lane, batch, *output]``.
    """
    lanes = x.shape[0]
    groups = lanes
    if lanes > 1 and not one_by_one(part):
        groups = round(lanes * x.shape[1] / records_at_once(part, tuple(x.shape[2:])))
    if groups <= 1:
        return _run(part, LaneRun(parameters=parameters, lanes=slice(0, lanes), tape=tape, masks=masks, norms=norms), x)
    together = -(-lanes // groups)
    shared = {name: torch.split(value, together) for name, value in parameters.items()}
    outputs = []
    for group, own in enumerate(torch.split(x, together)):
        first, last = group * together, group * together + len(own)
        run = LaneRun(
            parameters={name: values[group] for name, values in shared.items()},
            lanes=slice(first, last),
            tape=tape,
            masks=None if masks is None else masks.lanes(first, last),
            norms=None if norms is None else norms.lanes(first, last),
        )
        outputs.append(_run(part, run, own))
    return torch.cat(outputs)


def _run(part: Part, run: LaneRun, x: Tensor) -> Tensor:
    if x.shape[0] > 1 or run.tape is not None or part.statistics:
        return run.part(part, x)
    own = {name: value.squeeze(0) for name, value in run.parameters.items()}
    alone = LaneRun(parameters=own, lanes=run.lanes, masks=run.masks, alone=True)
    return alone.part(part, x.squeeze(0)).unsqueeze(0)


@lru_cache(maxsize=64)
def one_by_one(part: Part) -> bool:
    """Whether a part's lanes run faster one after another: its convolutions are large."""
    modules = (module for block in part.blocks for module in block.module.modules())
    return any(m.weight.numel() > MOST_WEIGHTS for m in modules if isinstance(m, nn.Conv1d | nn.Conv2d))


@lru_cache(maxsize=64)
def records_at_once(part: Part, shape: tuple[int, ...]) -> int:
    """Return how many records, over all lanes together, a part runs well on at once.

    Parameters
    ----------
    part : Part
    shape : tuple of int
        Shape of one record at the part's entry.
    """
    if not any(isinstance(m, nn.Conv1d | nn.Conv2d) for block in part.blocks for m in block.module.modules()):
        return sys.maxsize
    try:
        largest = max(passage(part, shape).kept.values())
    except UnknownLayerError:
        parameters = {name: torch.empty(1, *s, device="meta") for name, s in part.shapes().items()}
        for value in part.trained(parameters).values():
            value.requires_grad_()
        with torch.enable_grad(), saved_bytes(parameters) as saved:
            _run(part, LaneRun(parameters=parameters, lanes=slice(0, 1)), torch.empty(1, 1, *shape, device="meta"))
        largest = max(saved.values())
    return max(1, CACHE_BYTES // largest)


def output_shape(part: Part, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of one record at a part's exit from that at its entry."""
    try:
        return passage(part, shape).output_shape
    except UnknownLayerError:
        parameters = {name: torch.empty(1, *s, device="meta") for name, s in part.shapes().items()}
        return tuple(forward(part, parameters, torch.empty(1, 1, *shape, device="meta")).shape[2:])


@contextmanager
def saved_bytes(parameters: Mapping[str, Tensor]) -> Iterator[dict[int, int]]:
    """Count the bytes of each tensor that autograd keeps within the context for the backward pass, parameters aside."""
    known = {id(value) for value in parameters.values()}
    saved: dict[int, int] = {}
    counted: list[Tensor] = []  # none goes before the end, when another could have its number

    def pack(value: Tensor) -> Tensor:
        base = value if value._base is None else value._base
        if id(base) not in known:
            counted.append(base)
            saved[id(base)] = value.nbytes
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        yield saved


def leaves(parameters: Mapping[str, Tensor]) -> Parameters:
    """Return the parameters as differentiable leaves that share their memory."""
    return {name: value.detach().requires_grad_() for name, value in parameters.items()}


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
    w = torch.tensor(weights, dtype=torch.float64)[:, None]
    return {name: _weighted_sum(value, w.to(value)) for name, value in stacked.items()}


def _weighted_sum(stacked: Tensor, w: Tensor) -> Tensor:
    """Return ``[1, *shape]``, from a few numbers of each lane at a time: their products stay in the cache."""
    flat = stacked.reshape(len(stacked), -1)
    if flat.shape[1] <= SUMMED_AT_ONCE:
        return torch.sum(w * flat, 0).view(1, *stacked.shape[1:])
    summed, size = flat.new_empty(flat.shape[1]), flat.shape[1]
    for first, last in pairwise([*range(0, max(1, size - SUMMED_AT_ONCE), SUMMED_AT_ONCE), size]):
        torch.sum(w * flat[:, first:last], 0, out=summed[first:last])
    return summed.view(1, *stacked.shape[1:])
