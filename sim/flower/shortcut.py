"""The way from the server to clinics in its own process, for what needs no message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.app import Context

from clients.session import Session
from sim.flower.meter import Meter
from sim.flower.workplace import Workplaces
from sim.methods.messages import Kind
from sim.methods.protocol import Direction
from sim.methods.sampling import Ints


class SameProcess:
    """All clinics at one node of this process; see :class:`sim.methods.turn.Shortcut`.

    Parameters
    ----------
    workplaces : Workplaces
    context : flwr.app.Context
        The node's.
    meter : Meter
    """

    def __init__(self, workplaces: Workplaces, context: Context, meter: Meter) -> None:
        self._workplaces, self._context, self._meter = workplaces, context, meter

    def open_turn(self, name: str) -> Session:
        """Return the clinics' end of an open turn."""
        session = self._workplaces(self._context).live[name]
        if not isinstance(session, Session):
            raise TypeError(f"the turn {name!r} is damaged")
        return session

    def count_rows(self, direction: Direction, kinds: Mapping[Kind, int], clinics: Sequence[int], rows: Ints) -> None:
        """Count messages that would have carried these rows."""
        messages, records = (rows >= 0).sum(0), rows.clip(min=0).sum(0)
        self._meter.count(direction, {kind: size * records for kind, size in kinds.items()}, clinics, messages)
