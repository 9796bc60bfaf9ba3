"""The layer that keeps the largest values of rows at a cut, so that no others need to cross.

Zheng et al., "Reducing Communication for Split Learning by Randomized Top-k Sparsification", IJCAI 2023, here without
their randomisation: the gradient passes where a value was kept, and the network is evaluated with the layer too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sim.models.layers import kept


class KeepLargest(nn.Module):
    """Sets all of a record's values to 0 but a share of them, those that are largest in size; at least one is kept."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Keep values of ``[record, *feature]``."""
        return self.over(x, 1)

    def over(self, x: Tensor, leading: int) -> Tensor:
        """Keep values of rows behind ``leading`` axes."""
        flat = x.flatten(leading)
        with torch.no_grad():
            places = largest(flat, kept(self.share, flat.shape[-1]))
            keep = torch.zeros_like(flat, dtype=torch.bool).scatter(-1, places, value=True)
        return torch.where(keep, flat, 0.0).view_as(x)


def largest(flat: Tensor, count: int) -> Tensor:
    """Return ``[..., count]`` where the largest values of the last axis stand, in order; of equal ones the first."""
    order = flat.abs().argsort(dim=-1, descending=True, stable=True)
    return order[..., :count].sort(-1).values
