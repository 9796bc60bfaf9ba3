"""Optimisers over lanes, as pure as in-place updates allow: parameters and state go in, nothing is kept.

The update rules and their order of operations are PyTorch's (``torch.optim.SGD`` and ``torch.optim.Adam``; Kingma & Ba
2015), so that one lane takes the very steps of the plain loop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from sim.foundation.lazy import Lazy
from sim.models import Parameters

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Lazy("torch")


class Rate(NamedTuple):
    """How far lanes go in one step.

    Attributes
    ----------
    learning_rate : float
    momentum : float
        Used by ``"momentum"`` only.
    pull : float
        mu of FedProx; the trainer adds its term to the gradients.
    decay : float
        Times the parameters, it is added to the gradients (``weight_decay`` of ``torch.optim``).
    schedule : {"constant", "cosine", "warm-up"}
        How the learning rate goes over the rounds.
    rounds : int
        Of the whole training, from 1; of no use to a constant rate.
    """

    learning_rate: float
    momentum: float
    pull: float
    decay: float = 0.0
    schedule: str = "constant"
    rounds: int = 0

    def at(self, server_round: int) -> Rate:
        """Return the rate in a round.

        In round ``r`` of ``R`` the factor is ``(1 + cos(pi (r - 1) / R)) / 2`` (``CosineAnnealingLR`` of T_max ``R``),
        or ``min(1, r / (W + 1))`` with ``W`` a tenth of the rounds, at least one (``LinearLR`` from ``1 / (W + 1)``).
        """
        if self.schedule == "constant":
            return self
        if self.schedule == "cosine":
            factor = (1 + math.cos(math.pi * (server_round - 1) / self.rounds)) / 2
        else:
            factor = min(1.0, server_round / (max(1, self.rounds // 10) + 1))
        return self._replace(learning_rate=self.learning_rate * factor)


@cache
def rates_step_as_one() -> bool:
    """Whether lanes with rates of their own can take one step together, with the bits that each rate's lanes get apart.

    That needs ``addcmul`` and ``add`` with a factor to round alike: to multiply and add in one instruction, or in two.
    """
    value, grad = torch.randn(2, 64, 37, generator=torch.Generator().manual_seed(0))
    rates = torch.logspace(-3, 1, 64)
    apart = [v.add(g, alpha=-rate) for v, g, rate in zip(value, grad, rates.tolist(), strict=True)]
    return torch.equal(torch.addcmul(value, grad, -rates[:, None]), torch.stack(apart))


def lanes_of_rates(rates: Sequence[Rate]) -> dict[Rate, slice | Tensor]:
    """Return the lanes of each rate: a slice, of which tensors have a view, where they stand together."""
    lanes: dict[Rate, list[int]] = {}
    before, together = None, list[int]()
    for lane, rate in enumerate(rates):
        if rate is not before:
            before, together = rate, lanes.setdefault(rate, [])
        together.append(lane)
    return {
        rate: slice(own[0], own[-1] + 1) if len(own) == own[-1] + 1 - own[0] else torch.tensor(own)
        for rate, own in lanes.items()
    }


def factors_of(rates: Sequence[Rate], values: Sequence[Tensor]) -> list[Tensor]:
    """Return for each of the values ``[lane, *shape]`` what plain SGD multiplies each lane's gradient by."""
    factors = values[0].new_tensor([-rate.learning_rate for rate in rates])
    return [factors.view(-1, *[1] * (value.dim() - 1)) for value in values]


@dataclass(frozen=True)
class Optimizer:
    """SGD, SGD with momentum, or Adam.

    Attributes
    ----------
    name : {"sgd", "momentum", "adam"}
    """

    name: str
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the tensors that the optimiser keeps for each parameter."""
        return {"sgd": (), "momentum": ("momentum",), "adam": ("mean", "square")}[self.name]

    def initial_state(self, parameters: Mapping[str, Tensor]) -> Parameters:
        """Return the state before the first step by ``slot/parameter``; Adam counts its ``steps`` ``[lane]``."""
        state = {f"{slot}/{name}": torch.zeros_like(value) for slot in self.slots for name, value in parameters.items()}
        if self.name == "adam":
            first = next(iter(parameters.values()))
            state["steps"] = torch.zeros(first.shape[0], dtype=torch.float64, device=first.device)
        return state

    def step(
        self, parameters: Mapping[str, Tensor], grads: list[Tensor], state: Mapping[str, Tensor], rate: Rate
    ) -> None:
        """Move lanes that share their rate by one step, in place.

        Parameters
        ----------
        parameters : mapping of str to Tensor
            ``[lane, *shape]`` each.
        grads : list of Tensor
            ``[lane, *shape]`` each, or ``[*shape]`` of a single lane, in the order of ``parameters``.
        state : mapping of str to Tensor
            As made by ``initial_state``; changed in place.
        rate : Rate
        """
        values = list(parameters.values())
        slots = [[state[f"{slot}/{name}"] for name in parameters] for slot in self.slots]
        if rate.decay:
            grads = list(torch._foreach_add(grads, values, alpha=rate.decay))
        if self.name == "sgd":
            torch._foreach_add_(values, grads, alpha=-rate.learning_rate)
        elif self.name == "momentum":
            torch._foreach_mul_(slots[0], rate.momentum)
            torch._foreach_add_(slots[0], grads)
            torch._foreach_add_(values, slots[0], alpha=-rate.learning_rate)
        else:
            self._adam(values, grads, slots, state["steps"], rate.learning_rate)

    def _adam(
        self, values: list[Tensor], grads: list[Tensor], slots: list[list[Tensor]], steps: Tensor, learning_rate: float
    ) -> None:
        means, squares = slots
        beta1, beta2 = self.betas
        steps += 1
        # One by one: powers of many lanes at once round otherwise than those of a few.
        done = steps.tolist()
        step_size = values[0].new_tensor([learning_rate / (1 - beta1**step) for step in done])
        root_correction = values[0].new_tensor([math.sqrt(1 - beta2**step) for step in done])
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - beta2)
        for value, mean, square in zip(values, means, squares, strict=True):
            lane = (-1, *[1] * (value.dim() - 1))
            denominator = (square.sqrt() / root_correction.view(lane)).add_(self.epsilon)
            value.sub_(step_size.view(lane) * mean / denominator)
