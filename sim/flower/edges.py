"""Edge servers on grids of Flower's: to the cloud they are nodes, to their clinics they are servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from flwr.app import Context, Message
from flwr.serverapp import Grid

from sim.flower.exchange import GridExchange
from sim.flower.wire import answer, instruction_in
from sim.methods.edge_server import EdgeServer
from sim.methods.job import Job
from sim.tensor.program import Program


class ExchangeBelow(GridExchange):
    """The exchange of an edge server with its own clinics.

    Parameters
    ----------
    job : Job
        As the clinics see it.
    clinics : sequence of int
        Its own.
    program : Program, optional
        Does what the edge server trains.
    """

    def __init__(self, job: Job, clinics: Sequence[int], program: Program | None = None) -> None:
        super().__init__(job, program=program)
        self._clinics = frozenset(clinics)

    @property
    def participants(self) -> list[int]:
        """See :class:`sim.methods.exchange.Exchange`: of its own clinics."""
        return [k for k in super().participants if k in self._clinics]

    @property
    def lost(self) -> list[int]:
        """See :class:`sim.methods.exchange.Exchange`: of its own clinics."""
        return [k for k in super().lost if k in self._clinics]


def edge_servers(
    job: Job, as_clinics_see: Job, groups: Sequence[Sequence[int]], grid: Grid, program: Program | None = None
) -> list[EdgeServer]:
    """Return the edge servers of a run, each with an exchange of its own on the grid of the clinics."""
    servers = []
    for clinics in groups:
        below = ExchangeBelow(as_clinics_see, clinics, program)
        servers.append(EdgeServer(job, below, tuple(clinics), partial(below.open, grid)))
    return servers


def edge_app(servers: Sequence[EdgeServer]) -> Callable[[Message, Context], Message]:
    """Return the app of the nodes that edge servers are to the cloud, in their order."""

    def respond(message: Message, context: Context) -> Message:
        server = servers[int(context.node_config["partition-id"])]
        return answer(server.answer(instruction_in(message, list(server.clinics))), message)

    return respond
