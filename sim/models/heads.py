"""What parties' heads do side by side: each runs on its own columns, and their rows are joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sim.models.layers import CONCATENATION, MEAN, SUM


def join(rows: Mapping[int, Tensor], parties: int, how: str) -> Tensor:
    """Join the rows ``[..., feature]`` of the parties that are there, by number; absent ones count as 0.

    A mean is over those that are there.
    """
    present = [rows[party] for party in sorted(rows)]
    if how == CONCATENATION:
        nothing = torch.zeros_like(present[0])
        return torch.cat([rows.get(party, nothing) for party in range(parties)], -1)
    added = torch.stack(present).sum(0)
    return added / len(present) if how == MEAN else added


def shares(gradient: Tensor, present: Sequence[int], parties: int, how: str) -> dict[int, Tensor]:
    """Return each present party's share of the gradient in what was joined."""
    if how == CONCATENATION:
        pieces = torch.tensor_split(gradient, parties, -1)
        return {party: pieces[party] for party in present}
    return dict.fromkeys(present, gradient / len(present) if how == MEAN else gradient)


class Heads(nn.Module):
    """All parties' heads, each on its own columns of a record, and their join.

    Parameters
    ----------
    heads : sequence of Module
    columns : sequence of tuple of int
        By party.
    how : str
        One of :data:`sim.models.layers.JOINS`.
    everywhere : bool
        Whether every record has all parties' columns; otherwise a party is absent where its own are no numbers.
    absent : int
        A party that is absent from all records; -1 if none is.
    """

    def __init__(
        self,
        heads: Sequence[nn.Module],
        columns: Sequence[tuple[int, ...]],
        how: str,
        *,
        everywhere: bool = True,
        absent: int = -1,
    ) -> None:
        super().__init__()
        self._everywhere = everywhere
        self._columns, self._how = [list(own) for own in columns], how
        self._absent = absent
        for party, head in enumerate(heads):
            self.add_module(str(party), head)

    def forward(self, x: Tensor) -> Tensor:
        """Run every head on its columns of ``[..., feature]``, and join."""
        heads = enumerate(zip(self._modules.values(), self._columns, strict=True))
        there = {k: (head, own) for k, (head, own) in heads if head is not None and k != self._absent}
        seen = {party: x[..., own] for party, (_, own) in there.items()}
        if self._everywhere:
            return join({k: head(seen[k]) for k, (head, _) in there.items()}, len(self._columns), self._how)
        known = {k: ~own.isnan().any(-1, keepdim=True) for k, own in seen.items()}
        rows = {k: torch.where(known[k], head(seen[k].nan_to_num()), 0.0) for k, (head, _) in there.items()}
        joined = join(rows, len(self._columns), SUM if self._how == MEAN else self._how)
        return joined / torch.stack(list(known.values())).sum(0).clamp(min=1) if self._how == MEAN else joined


class Columns(nn.Module):
    """Some columns of a record."""

    def __init__(self, columns: Sequence[int]) -> None:
        super().__init__()
        self.columns = list(columns)

    def forward(self, x: Tensor) -> Tensor:
        """Take them out of ``[..., feature]``."""
        return x[..., self.columns]


class Known(nn.Module):
    """A record with zeros for what is no number: the columns of a party that is not there."""

    def forward(self, x: Tensor) -> Tensor:
        """Put them in ``[..., feature]``."""
        return x.nan_to_num()
