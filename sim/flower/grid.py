"""A Flower grid in one process: messages are delivered by a call, arrays by reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from sim.flower.internals import empty_run, identify_server, stamp
from sim.flower.meter import Meter
from sim.foundation.problems import SutureError, place_of

CLIENT_APP_FAILED = 2
App = Callable[[Message, Context], Message]
Overhears = Callable[[Message, Message, Sequence[int]], None]
_run_ids = itertools.count(1)


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
    overheard : callable, optional
        Told of every instruction, its reply and the node's clinics.
    """

    def __init__(
        self,
        client_app: App,
        groups: Sequence[Sequence[int]],
        run_config: UserConfig,
        meter: Meter,
        overheard: Overhears | None = None,
    ) -> None:
        self._run = empty_run(next(_run_ids))
        self._app = client_app
        self._meter, self._overheard = meter, overheard
        self._message_ids = itertools.count(1)
        self._asked: dict[str, tuple[Message, Any]] = {}
        self._failed: dict[str, Message] = {}
        self._contexts = node_contexts(self._run.run_id, groups, run_config)
        self._clinics = dict(zip(self._contexts, map(tuple, groups), strict=True))
        identify_server(self._run.run_id)

    @property
    def contexts(self) -> list[Context]:
        """The nodes' contexts: what lies at the clinics, for the simulator to read."""
        return list(self._contexts.values())

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
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages at once and keep the replies for ``pull_messages``."""
        ids = []
        for message in messages:
            ids.append(f"{next(self._message_ids)}")
            stamp(message, ids[-1])
            clinics = self._clinics.get(message.metadata.dst_node_id)
            if clinics is None:
                self._failed[ids[-1]] = Message(Error(CLIENT_APP_FAILED, "no such node"), reply_to=message)
                continue
            self._meter.observe(message, "down", clinics)
            self._asked[ids[-1]] = message, self.hand_over(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages, sorted by node."""
        wanted = list(message_ids)
        asked = [self._asked.pop(i) for i in wanted if i in self._asked]
        replies = self.collect([answer for _, answer in asked])
        found = [self._received(reply, message) for reply, (message, _) in zip(replies, asked, strict=True)]
        found += [self._failed.pop(i) for i in wanted if i in self._failed]
        return sorted(found, key=lambda reply: reply.metadata.src_node_id)

    def hand_over(self, message: Message) -> Any:
        """Hand a message to its node, and return the reply, or what :meth:`collect` makes one of."""
        return answered(self._app, message, self._contexts[message.metadata.dst_node_id])

    def collect(self, answers: Sequence[Any]) -> Sequence[Message]:
        """Return the replies, in the order given."""
        return answers

    def _received(self, reply: Message, message: Message) -> Message:
        """Stamp and count what came back for a message; an error in its place if it cannot be counted."""
        if reply.has_error():
            return reply
        clinics = self._clinics[message.metadata.dst_node_id]
        stamp(reply, f"{next(self._message_ids)}")
        try:
            self._meter.observe(reply, "up", clinics)
            if self._overheard is not None:
                self._overheard(message, reply, clinics)
        except Exception as error:
            return Message(
                Error(CLIENT_APP_FAILED, f"the reply cannot be counted: {place_of(error)}"), reply_to=message
            )
        return reply

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver messages and return their replies; nothing is ever waited for, so ``timeout`` has no effect."""
        return self.pull_messages(self.push_messages(messages))


def node_contexts(run_id: int, groups: Sequence[Sequence[int]], run_config: UserConfig) -> dict[int, Context]:
    """Return fresh contexts of a run's nodes, by their identifiers."""
    contexts = {}
    for partition in range(len(groups)):
        node_config: UserConfig = {"partition-id": partition, "num-partitions": len(groups)}
        contexts[partition + 2] = Context(run_id, partition + 2, node_config, RecordDict(), run_config)
    return contexts


def answered(app: App, message: Message, context: Context) -> Message:
    """Return a node's answer to a message, an error if it fails."""
    try:
        return app(message, context)
    except Exception as error:
        reason = str(error) if isinstance(error, SutureError) else place_of(error)
        return Message(Error(CLIENT_APP_FAILED, reason), reply_to=message)
