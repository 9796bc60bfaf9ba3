"""Optimisers over lanes, as pure as in-place updates allow: parameters and state go in, nothing is kept.

The update rules and their order of operations are PyTorch's (``torch.optim.SGD`` and ``torch.optim.Adam``; Kingma & Ba
2015), so that one lane takes the very steps of the plain loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sim.models import Parameters
from sim.scenario import Train


@dataclass(frozen=True)
class Optimizer:
    """SGD, SGD with momentum, or Adam.

    Attributes
    ----------
    name : {"sgd", "momentum", "adam"}
    learning_rate : float
    momentum : float
        Used by ``"momentum"`` only.
    """

    name: str
    learning_rate: float
    momentum: float
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    @classmethod
    def from_settings(cls, train: Train) -> Optimizer:
        """Take the optimiser that a scenario states."""
        return cls(train.optimizer, train.learning_rate, train.momentum)

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
        self, parameters: Mapping[str, Tensor], grads: list[Tensor], state: Mapping[str, Tensor], lanes: int
    ) -> None:
        """Move the first ``lanes`` lanes by one step, in place.

        Parameters
        ----------
        parameters : mapping of str to Tensor
            ``[lane, *shape]`` each.
        grads : list of Tensor
            ``[lanes, *shape]`` each, or ``[*shape]`` of a single lane, in the order of ``parameters``.
        state : mapping of str to Tensor
            As made by ``initial_state``; changed in place.
        lanes : int
            How many lanes, from the first, take the step.
        """
        values = _first(list(parameters.values()), lanes)
        slot = {s: _first([state[f"{s}/{name}"] for name in parameters], lanes) for s in self.slots}
        if self.name == "sgd":
            torch._foreach_add_(values, grads, alpha=-self.learning_rate)
        elif self.name == "momentum":
            torch._foreach_mul_(slot["momentum"], self.momentum)
            torch._foreach_add_(slot["momentum"], grads)
            torch._foreach_add_(values, slot["momentum"], alpha=-self.learning_rate)
        else:
            self._adam(values, grads, slot["mean"], slot["square"], state["steps"][:lanes])

    def _adam(
        self, values: list[Tensor], grads: list[Tensor], means: list[Tensor], squares: list[Tensor], steps: Tensor
    ) -> None:
        beta1, beta2 = self.betas
        steps += 1
        step_size = (self.learning_rate / (1 - beta1**steps)).to(values[0].dtype)
        root_correction = (1 - beta2**steps).sqrt().to(values[0].dtype)
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - beta2)
        for value, mean, square in zip(values, means, squares, strict=True):
            lane = (-1, *[1] * (value.dim() - 1))
            denominator = (square.sqrt() / root_correction.view(lane)).add_(self.epsilon)
            value.sub_(step_size.view(lane) * mean / denominator)


def _first(values: list[Tensor], lanes: int) -> list[Tensor]:
    """Return the first lanes of tensors that all have the same number of them."""
    return values if values[0].shape[0] == lanes else [value[:lanes] for value in values]
