"""A node's workplace: the job, its clinics' records, and what it keeps between messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sim.methods.forms import Forms
from sim.methods.job import Job
from sim.methods.node_group import NodeGroup
from sim.models import Parameters
from sim.tensor.program import Alone, Program

Numbers = dict[str, int | list[int]]
Kept = tuple[list[int], Parameters]
"""Clinics, and what they have of their own, ``[clinic, *shape]``."""


class Memory(Protocol):
    """What a node keeps between messages, by name, and takes along where it goes on in another process."""

    def __contains__(self, name: str) -> bool: ...

    def tensors(self, name: str) -> Parameters:
        """Return the tensors kept under a name; they may be changed in place."""

    def keep_tensors(self, name: str, values: Mapping[str, Any]) -> None:
        """Keep tensors by reference."""

    def numbers(self, name: str) -> Numbers:
        """Return the very numbers kept under a name; changed in place, the memory changes."""

    def keep_numbers(self, name: str, values: Numbers) -> Numbers:
        """Keep numbers, and return those that are kept."""

    def forget(self, name: str) -> None:
        """Forget what is kept under a name, if anything is."""


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where a node's clinics work.

    Attributes
    ----------
    program : Program
        Does what the clinics train.
    with_server : bool
        Whether the server is in this process, and does a turn's batches without messages.
    live : dict
        Objects that stand for what the memory holds, as long as this process goes on with it.
    """

    job: Job
    forms: Forms
    group: NodeGroup
    program: Program = field(default_factory=Alone)
    with_server: bool = False
    memory: Memory
    live: dict[str, Any] = field(default_factory=dict)
