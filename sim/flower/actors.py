"""Nodes in Ray actors: one federation in several processes, on one machine or on many, with the numbers of one.

The actors stay for as long as a study runs. Each gets the records of its clinics with a run; after that it is told
messages only, those of Flower that the in-process grid delivers by a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from flwr.app import Message

from sim.data.federation import Records
from sim.flower.client_app import client_app
from sim.flower.grid import InProcessGrid, Overhears, answered, node_contexts
from sim.flower.internals import quiet
from sim.flower.meter import Meter
from sim.flower.workplace import Workplaces
from sim.foundation.problems import SutureError
from sim.methods.job import Job
from sim.methods.node_group import node_groups_of, records_of
from sim.methods.workplace import Kept, Workplace
from sim.tensor.process import ready_to_train


class ActorDiedError(SutureError, RuntimeError):
    """The process of an actor was ended from outside."""


class ActorFailedError(SutureError, RuntimeError):
    """Something failed in an actor; never carries a value of a clinic's data."""


class Hosts(Protocol):
    """Where the clinics of runs are, if not in the process of the server."""

    nodes: int

    def begin(
        self, job: Job, train: Records, groups: Sequence[Sequence[int]], meter: Meter, overheard: Overhears | None
    ) -> ActorGrid:
        """Bring the records of a run to where its clinics are, and return the grid that reaches them."""
        ...


class Host:
    """What an actor is: some nodes of the run that is on."""

    def __init__(self) -> None:
        ready_to_train()
        quiet()

    def begin(self, job: Job, train: Records, groups: Sequence[Sequence[int]], nodes: Sequence[int]) -> None:
        """Take over some nodes of a run, of all its groups of clinics, with the records of these."""
        self._workplaces, contexts = Workplaces(job, train, groups=groups), node_contexts(0, groups, {})
        self._app = client_app(self._workplaces)
        self._contexts = {node: contexts[node] for node in nodes}

    def answer(self, message: Message) -> Message:
        """Answer a message to one of the nodes."""
        return answered(self._app, message, self._contexts[message.metadata.dst_node_id])

    def at_clinics(self, read: Callable[[Workplace], Kept]) -> list[Kept]:
        """See :meth:`sim.flower.workplace.Workplaces.at_clinics`."""
        return self._workplaces.at_clinics(self._contexts.values(), read)


class ActorHosts:
    """Long-lived actors on the Ray cluster that this process has joined; a run finds a dead one replaced.

    Parameters
    ----------
    nodes : int
        How many.
    """

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.actors: list[Any] = []

    def begin(
        self, job: Job, train: Records, groups: Sequence[Sequence[int]], meter: Meter, overheard: Overhears | None
    ) -> ActorGrid:
        """See :meth:`Hosts.begin`."""
        import ray

        make = ray.remote(num_cpus=1)(Host)
        self.actors = [*filter(_lives, self.actors)]
        self.actors += [make.remote() for _ in range(self.nodes - len(self.actors))]
        home: dict[int, Any] = {}
        waiting = []
        for actor, own in zip(self.actors, node_groups_of(len(groups), self.nodes), strict=True):
            nodes = [node for place, node in enumerate(node_contexts(0, groups, {})) if place in own]
            clinics = [k for place in own for k in groups[place]]
            home |= dict.fromkeys(nodes, actor)
            waiting.append(actor.begin.remote(job, records_of(job, train, clinics), groups, nodes))
        _fetched(waiting)
        return ActorGrid(home, groups, meter, overheard)


class ActorGrid(InProcessGrid):
    """A grid whose nodes are in actors, which work at the same time.

    Parameters
    ----------
    home : dict of int to actor
        By node.
    groups, meter, overheard
        As for :class:`sim.flower.grid.InProcessGrid`.
    """

    def __init__(
        self, home: dict[int, Any], groups: Sequence[Sequence[int]], meter: Meter, overheard: Overhears | None
    ) -> None:
        super().__init__(_nobody, groups, {}, meter, overheard)
        self._home = home

    def hand_over(self, message: Message) -> Any:
        """Send a message; nobody waits for the reply yet."""
        return self._home[message.metadata.dst_node_id].answer.remote(message)

    def collect(self, answers: Sequence[Any]) -> Sequence[Message]:
        """Wait for the replies."""
        return _fetched(answers)

    def at_clinics(self, read: Callable[[Workplace], Kept]) -> list[Kept]:
        """Read what no message holds at the clinics of all nodes; for the simulator alone."""
        found = _fetched([actor.at_clinics.remote(read) for actor in dict.fromkeys(self._home.values())])
        return [kept for of_actor in found for kept in of_actor]


def _nobody(message: Message, context: object) -> Message:
    raise NotImplementedError


def _fetched(waiting: Sequence[Any]) -> list[Any]:
    import ray

    try:
        found: list[Any] = ray.get(list(waiting))
    except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError):
        raise ActorDiedError(
            "the process of some of the clinics was killed from outside (out of memory?); the same command resumes"
        ) from None
    except ray.exceptions.RayTaskError as error:  # its text is that of the error there, and of those behind it
        raise ActorFailedError(f"{type(error.cause).__name__} where some of the clinics are") from None
    return found


def _lives(actor: Any) -> bool:
    import ray

    try:
        ray.get(actor.__ray_ready__.remote())
    except ray.exceptions.RayActorError:
        return False
    return True
