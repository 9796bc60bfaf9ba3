"""What one record costs in each part of the network: bytes at the cuts, FLOPs, activations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from sim.methods.job import Job
from sim.models import Part, UnknownLayerError, passage

FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class PartCost:
    """Costs of one part, for one record unless said otherwise."""

    parameters: int  # Number of scalars that train, whatever the records
    output_shape: tuple[int, ...]
    # forward_flops, backward_flops: multiplications and additions counted apart, matrix products and convolutions only
    # (PyTorch's counter); the extra work of per-sample clipping is not in it. Backward includes the gradient in the
    # part's inputs for every part but the first.
    forward_flops: int
    backward_flops: int
    activations: int  # Scalars of four bytes kept between forward and backward

    def flops(self, *passes: str) -> int:
        """Return those of some passes."""
        return sum({"forward": self.forward_flops, "backward": self.backward_flops}[each] for each in passes)

    @property
    def output_bytes(self) -> int:
        """Bytes of one record's output: what crosses at the cut."""
        return FLOAT_BYTES * math.prod(self.output_shape)


def part_costs(
    parts: tuple[Part, ...], input_shape: tuple[int, ...], frozen: frozenset[str] = frozenset()
) -> dict[str, PartCost]:
    """Count every part's costs, by its name, without data.

    ``parts`` are in the network's order, ``input_shape`` is that of one record, and ``frozen`` names the parts that
    form no gradient in their parameters.
    """
    costs = {}
    for position, part in enumerate(parts):
        cost = _count(part, input_shape, first=position == 0, frozen=part.name in frozen)
        costs[part.name] = cost
        input_shape = cost.output_shape
    return costs


@lru_cache(maxsize=64)
def _count(part: Part, input_shape: tuple[int, ...], *, first: bool, frozen: bool) -> PartCost:
    try:
        passed = passage(part, input_shape, trained=not frozen, differentiable=not first)
    except UnknownLayerError:
        return counted_cost(part, input_shape, first=first, frozen=frozen)
    return PartCost(
        parameters=part.parameter_count(),
        output_shape=passed.output_shape,
        forward_flops=passed.forward_flops,
        backward_flops=passed.backward_flops,
        activations=sum(passed.kept.values()) // FLOAT_BYTES,
    )


def nopeek_flops(job: Job, head: PartCost) -> int:
    """Return what NoPeek computes for a record of a full batch: distances to the others, and their gradient."""
    train = job.spec.train
    inputs, outputs = math.prod(job.network.input_shape), math.prod(head.output_shape)
    return train.batch_size * (3 * inputs + 5 * outputs) if train.nopeek else 0


def counted_cost(part: Part, input_shape: tuple[int, ...], *, first: bool, frozen: bool) -> PartCost:
    """Count one part by running it on tensors without data, as for layers without a closed form."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode  # with PyTorch's compiler behind it

    from sim.tensor.lanes import forward, saved_bytes

    parameters = {n: torch.empty(1, *s, device="meta") for n, s in part.shapes().items()}
    for value in part.trained(parameters).values():
        value.requires_grad_(not frozen)
    x = torch.empty(1, 1, *input_shape, device="meta", requires_grad=not first)
    ahead, back = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with ahead, saved_bytes(parameters) as saved:
        outputs = forward(part, parameters, x)
    with back:
        if outputs.requires_grad:
            torch.autograd.backward(outputs, torch.empty_like(outputs))
    return PartCost(
        parameters=part.parameter_count(),
        output_shape=tuple(outputs.shape[2:]),
        forward_flops=ahead.get_total_flops(),
        backward_flops=back.get_total_flops(),
        activations=sum(saved.values()) // FLOAT_BYTES,
    )
