"""A Flower grid in one process: messages are delivered by a call, arrays by reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from sim.flower.internals import empty_run, identify_server, stamp
from sim.flower.meter import Meter
from sim.foundation.problems import SutureError, place_of

CLIENT_APP_FAILED = 2
_run_ids = itertools.count(1)


@dataclass(frozen=True)
class Node:
    """A Flower node that hosts a group of clinics.

    Attributes
    ----------
    node_id : int
    clinics : tuple of int
    context : flwr.app.Context
        Lives as long as the grid: what the group keeps between messages stays in its ``state``.
    """

    node_id: int
    clinics: tuple[int, ...]
    context: Context


class InProcessGrid(Grid):
    """Runs a ClientApp for every node in this process.

    Replies come sorted by node, whatever the order of the messages, so that a strategy's sums do not depend on it.

    Parameters
    ----------
    client_app : callable
        A ``ClientApp`` or anything called like one.
    groups : sequence of sequence of int
        The clinics of each node.
    run_config : dict
        Handed to the client app through its context.
    meter : Meter
        Sees every message that crosses.
    """

    def __init__(
        self,
        client_app: Callable[[Message, Context], Message],
        groups: Sequence[Sequence[int]],
        run_config: UserConfig,
        meter: Meter,
    ) -> None:
        self._run = empty_run(next(_run_ids))
        self._app = client_app
        self._meter = meter
        self._message_ids = itertools.count(1)
        self._replies: dict[str, Message] = {}
        self._nodes = {}
        for partition, clinics in enumerate(groups):
            node_id = partition + 2
            node_config: UserConfig = {"partition-id": partition, "num-partitions": len(groups)}
            context = Context(self._run.run_id, node_id, node_config, RecordDict(), run_config)
            self._nodes[node_id] = Node(node_id, tuple(clinics), context)
        identify_server(self._run.run_id)

    @property
    def contexts(self) -> list[Context]:
        """The nodes' contexts: what lies at the clinics, for the simulator to read."""
        return [node.context for node in self._nodes.values()]

    def set_run(self, run: Run) -> None:
        """Set the run; its identifier marks every message from then on."""
        self._run = run
        identify_server(run.run_id)

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message (Flower keeps this abstract; ``Message`` itself is the usual way)."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes' identifiers in ascending order."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages at once and keep the replies for ``pull_messages``."""
        ids = []
        for message in messages:
            message_id = f"{next(self._message_ids)}"
            stamp(message, message_id)
            self._replies[message_id] = self._deliver(message)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages, sorted by node."""
        replies = [self._replies.pop(i) for i in message_ids if i in self._replies]
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver messages and return their replies; nothing is ever waited for, so ``timeout`` has no effect."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> Message:
        node = self._nodes.get(message.metadata.dst_node_id)
        if node is None:
            return Message(Error(CLIENT_APP_FAILED, "no such node"), reply_to=message)
        self._meter.observe(message, "down", node.clinics)
        try:
            reply = self._app(message, node.context)
        except Exception as error:
            reason = str(error) if isinstance(error, SutureError) else place_of(error)
            return Message(Error(CLIENT_APP_FAILED, reason), reply_to=message)
        stamp(reply, f"{next(self._message_ids)}")
        try:
            self._meter.observe(reply, "up", node.clinics)
        except Exception as error:
            return Message(
                Error(CLIENT_APP_FAILED, f"the reply cannot be counted: {place_of(error)}"), reply_to=message
            )
        return reply
