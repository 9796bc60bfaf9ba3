"""What a node keeps between messages, in the state of Flower's context, which travels with the node."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from sim.flower.internals import filled, held
from sim.flower.wire import array_record, tensors_in
from sim.methods.workplace import Numbers
from sim.models import Parameters


class ContextMemory:
    """The memory of a node; see :class:`sim.methods.workplace.Memory`.

    Parameters
    ----------
    state : flwr.app.RecordDict
        The context's.
    """

    def __init__(self, state: RecordDict) -> None:
        self._state = held(state)

    def is_of(self, state: RecordDict) -> bool:
        """Whether this is the memory in that state."""
        return self._state is held(state)

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def tensors(self, name: str) -> Parameters:
        """Return the tensors kept under a name."""
        record = self._state[name]
        if not isinstance(record, ArrayRecord):
            raise TypeError(f"the state {name!r} is damaged")
        return tensors_in(record)

    def keep_tensors(self, name: str, values: Mapping[str, Tensor]) -> None:
        """Keep tensors by reference."""
        self._state[name] = array_record(values)

    def numbers(self, name: str) -> Numbers:
        """Return the very numbers kept under a name."""
        record = self._state[name]
        if not isinstance(record, ConfigRecord):
            raise TypeError(f"the state {name!r} is damaged")
        return held(record)

    def keep_numbers(self, name: str, values: Numbers) -> Numbers:
        """Keep numbers, and return those that are kept."""
        self._state[name] = filled(ConfigRecord(), values)
        return self.numbers(name)

    def forget(self, name: str) -> None:
        """Forget what is kept under a name, if anything is."""
        self._state.pop(name, None)
