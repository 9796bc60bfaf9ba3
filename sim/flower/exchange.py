"""The exchange over a grid of Flower's: addressing nodes, sharing lanes out to them, and checking what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter

from flwr.app import Message
from flwr.serverapp import Grid

from sim.flower.wire import WireError, instruct, reply_in
from sim.methods.exchange import Exchange
from sim.methods.forms import NOT_FINITE, Forms
from sim.methods.job import Job
from sim.methods.messages import Hello, Instruction, Reply
from sim.methods.replies import Due, ExchangeError, NotFiniteError, hosted_clinics, whose


class GridExchange(Exchange):
    """The exchange with the clinics behind the nodes of a grid.

    Messages are few: one a node, whatever the number of its clinics.

    Parameters
    ----------
    job : Job
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._due = Due(job, Forms(job))
        self._home: dict[int, int] = {}
        self._grid: Grid

    def open(self, grid: Grid, server_round: int) -> None:
        """Begin a round on a grid."""
        self._grid, self.server_round = grid, server_round
        if not self._home:
            self._home = hosts(grid, len(self.job.sizes))

    def send(self, instruction: Instruction) -> list[Reply]:
        """See :meth:`sim.methods.exchange.Exchange.send`."""
        asked = self._shared_out(instruction)
        messages = [instruct(own, node) for node, own in asked.items()]
        found = in_order(self._grid.send_and_receive(messages))
        replies = []
        for node, message in found:
            if node not in asked:
                raise ExchangeError(f"node {node} answers what it was not asked")
            own = asked.pop(node)
            reply = read(message, own.clinics)
            self._due.check(node, own, reply)
            replies.append(reply)
        if asked:
            raise ExchangeError(f"{len(asked)} of {len(asked) + len(found)} nodes did not answer")
        return replies

    def _shared_out(self, instruction: Instruction) -> dict[int, Instruction]:
        """Return what each node is asked, by node: its own lanes, as wide as the widest of them."""
        lanes_of: dict[int, list[int]] = {}
        for lane, clinic in enumerate(instruction.clinics):
            lanes_of.setdefault(self._home[clinic], []).append(lane)
        if len(lanes_of) == 1:
            return dict.fromkeys(lanes_of, instruction)
        return {node: instruction.of_lanes(lanes) for node, lanes in sorted(lanes_of.items())}


def in_order(replies: Iterable[Message]) -> list[tuple[int, Message]]:
    """Return node and reply of each, sorted by node.

    Raises
    ------
    ExchangeError
        If one is an error.
    """
    found = sorted(((reply.metadata.src_node_id, reply) for reply in replies), key=itemgetter(0))
    for node, reply in found:
        if reply.has_error():
            reason = reply.error.reason
            kind = NotFiniteError if reason is not None and NOT_FINITE in reason else ExchangeError
            raise kind(f"node {node}: {reason}")
    return found


def read(message: Message, clinics: Sequence[int]) -> Reply:
    """Read the reply of some clinics.

    Raises
    ------
    ExchangeError
        If it is none.
    """
    try:
        return reply_in(message)
    except WireError as error:
        raise ExchangeError(f"{whose(clinics)}: the reply is malformed: {error}") from None
    except Exception as error:
        raise ExchangeError(f"{whose(clinics)}: the reply cannot be read ({type(error).__name__})") from None


def hosts(grid: Grid, clinics: int) -> dict[int, int]:
    """Ask the nodes which clinics they host, and return each clinic's node.

    Raises
    ------
    ExchangeError
        If a node does not answer, or the nodes do not host every clinic exactly once.
    """
    nodes = list(grid.get_node_ids())
    found = in_order(grid.send_and_receive([instruct(Hello(), node) for node in nodes]))
    if sorted(nodes) != [node for node, _ in found]:
        raise ExchangeError(f"{len(found)} replies came from the {len(nodes)} nodes that were asked; one each is due")
    return hosted_clinics({node: _read_hello(node, message) for node, message in found}, clinics)


def _read_hello(node: int, message: Message) -> Reply:
    try:
        return reply_in(message)
    except Exception:
        raise ExchangeError(f"node {node} does not say which clinics it hosts, or says more") from None
