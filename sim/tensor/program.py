"""Work of the tensor program that several runs may do together: each asks for its own, and equals share one pass."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Protocol, Self


class Work(ABC):
    """A piece of work that changes tensors in place, whoever does it."""

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """Pieces of work with the same key can be done together."""

    @property
    @abstractmethod
    def order(self) -> tuple[int, int]:
        """When it is due: what comes first in this order is done first, so that runs keep in step."""

    @classmethod
    @abstractmethod
    def together(cls, works: Sequence[Self]) -> None:
        """Do several pieces of one key; none of them changes by a bit for being done beside the others."""


class Program(Protocol):
    """Who does the work."""

    def do(self, work: Work) -> None:
        """Have a piece of work done."""

    def clock(self) -> float:
        """Return the seconds spent on the run that asks, of work done together its share; from any moment."""


class Alone:
    """Does every piece of work at once and by itself."""

    def do(self, work: Work) -> None:
        """See :class:`Program`."""
        work.together([work])

    def clock(self) -> float:
        """See :class:`Program`."""
        return time.perf_counter()
