"""The exchange over a grid of Flower's: addressing nodes, sharing lanes out to them, and checking what comes back."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from operator import itemgetter

from flwr.app import Message
from flwr.serverapp import Grid

from sim.flower.internals import unavailable
from sim.flower.wire import WireError, instruct, reply_in
from sim.methods.compression import Opening
from sim.methods.exchange import Exchange
from sim.methods.forms import NOT_FINITE, Forms
from sim.methods.job import Job
from sim.methods.messages import Close, Hello, Instruction, Open, Reply
from sim.methods.replies import AbsentError, Due, ExchangeError, NotFiniteError, hosted_clinics, whose
from sim.tensor.program import Program

NO_ANSWER = "the node did not answer"
_PAUSE_S = 0.5


class GridExchange(Exchange):
    """The exchange with the clinics behind the nodes of a grid.

    Messages are few: one a node, whatever the number of its clinics.

    Parameters
    ----------
    job : Job
    wait : float, optional
        Seconds to wait for the nodes to come, and for their answers; without limit by default.
    program : Program, optional
        Does what the server trains.
    """

    def __init__(self, job: Job, wait: float | None = None, program: Program | None = None) -> None:
        super().__init__(job, program)
        self._wait = wait
        self._due = Due(job, Forms(job))
        self._opening = Opening(job)
        self._home: dict[int, int] = {}
        self._grid: Grid

    def open(self, grid: Grid, server_round: int) -> None:
        """Begin a round on a grid."""
        self._grid, self.server_round = grid, server_round
        if not self._home:
            self._home = hosts(grid, len(self.job.sizes), self._wait)

    def send(self, instruction: Instruction) -> list[Reply]:
        """See :meth:`sim.methods.exchange.Exchange.send`."""
        if self.shortcut is not None and isinstance(instruction, Open | Close):
            return [self._opening(instruction, self.shortcut.ask(instruction))]
        asked = self._shared_out(instruction)
        messages = [instruct(own, node) for node, own in asked.items()]
        found = in_order(self._grid.send_and_receive(messages, timeout=self._wait))
        replies = []
        for node, message in found:
            if node not in asked:
                raise ExchangeError(f"node {node} answers what it was not asked")
            own = asked.pop(node)
            reply = read(message, own.clinics)
            self._due.check(node, own, reply)
            opened = self._opening(own, reply)
            replies.append(opened.in_every_lane() if self.job.protocol.averaged_before else opened)
        if asked:
            raise AbsentError(sorted(k for own in asked.values() for k in own.clinics), NO_ANSWER)
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
    """Return node and reply of each that came from a node, sorted by node.

    Raises
    ------
    ExchangeError
        If one is an error.
    """
    found = sorted(
        ((reply.metadata.src_node_id, reply) for reply in replies if not unavailable(reply)), key=itemgetter(0)
    )
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


def hosts(grid: Grid, clinics: int, wait: float | None = None) -> dict[int, int]:
    """Ask the nodes which clinics they host, and return each clinic's node.

    Parameters
    ----------
    grid : Grid
    clinics : int
        How many there are.
    wait : float, optional
        Seconds to wait for nodes that are not there yet; by default those that are there must answer at once.

    Raises
    ------
    AbsentError
        If the nodes of some clinics do not come or do not answer.
    ExchangeError
        If the nodes do not host every clinic exactly once.
    """
    end = time.monotonic() + (wait or 0.0)
    asked: set[int] = set()
    pending: set[str] = set()
    found: dict[int, Reply] = {}
    while True:
        new = sorted(set(grid.get_node_ids()) - asked)
        asked.update(new)
        if new:
            pending.update(grid.push_messages([instruct(Hello(), node) for node in new]))
        replies = list(grid.pull_messages(pending)) if pending else []
        pending -= {reply.metadata.reply_to_message_id for reply in replies}
        found |= {node: _read_hello(node, reply) for node, reply in in_order(replies)}
        hosting = {node: reply for node, reply in found.items() if reply.clinics}
        missing = set(range(clinics)).difference(*(reply.clinics for reply in hosting.values()))
        if not missing or time.monotonic() >= end:
            return hosted_clinics(hosting, clinics)
        time.sleep(_PAUSE_S)


def _read_hello(node: int, message: Message) -> Reply:
    try:
        return reply_in(message)
    except Exception:
        raise ExchangeError(f"node {node} does not say which clinics it hosts, or says more") from None
