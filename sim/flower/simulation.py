"""A run in this process: a method's rounds and its clinics' app, wired together on one grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from torch import Tensor

from clients.handlers import handle
from clients.own import kept_at, kept_by_clinics
from clients.session import Session
from sim.data.federation import Records
from sim.flower.actors import Hosts
from sim.flower.client_app import client_app, failure_of
from sim.flower.exchange import GridExchange
from sim.flower.grid import App, InProcessGrid
from sim.flower.internals import quiet
from sim.flower.meter import Meter
from sim.flower.strategy import Rounds, build_strategy
from sim.flower.wire import answer, array_record, instruction_in, reply_in, tensors_in
from sim.flower.workplace import Workplaces
from sim.foundation.problems import place_of
from sim.methods.compression import Opening
from sim.methods.cutting import epochs_of
from sim.methods.edge_server import EdgeServer
from sim.methods.edges import as_clinics_see, as_cloud_sees
from sim.methods.job import Job
from sim.methods.messages import Close, Hello, Instruction, Open, Reply, Step
from sim.methods.node_group import node_groups_of
from sim.methods.personal import of_all, personalised
from sim.methods.protocol import Direction, Kinds
from sim.methods.replies import ExchangeError, raise_fault
from sim.methods.trainer import Trainer, expand
from sim.methods.turn_training import TurnTraining
from sim.methods.workplace import Kept, Workplace
from sim.models import Parameters
from sim.tensor.program import Program

Through = Callable[[App], App]
Overhears = Callable[[Instruction, Reply], None]


class SameProcess:
    """All clinics at one node of this process; see :class:`sim.methods.turn.Shortcut`.

    Parameters
    ----------
    workplaces : Workplaces
    context : flwr.app.Context
        The node's.
    meter : Meter
    program : Program
        Does what server and clinics train.
    """

    def __init__(self, workplaces: Workplaces, context: Context, meter: Meter, program: Program) -> None:
        self._workplaces, self._context, self._meter, self._program = workplaces, context, meter, program

    def ask(self, asked: Open | Close) -> Reply:
        """Open or close a turn, and count what its message and the reply would carry.

        Raises
        ------
        ExchangeError
            If the clinics refuse it, or something fails there.
        """
        told = ""
        try:
            reply = handle(asked, self._workplaces(self._context))
        except Exception as error:
            told = failure_of(error, asked.action)
        if told:  # outside, so that the error has no other in its chain
            raise_fault(asked.clinics, told)
        brought = {kind: getattr(asked, name) for name, kind in asked.kinds().items()}
        self._meter.count_parts("down", {kind: own for kind, own in brought.items() if own is not None}, asked.clinics)
        self._meter.count_parts("up", reply.parts, reply.clinics)
        for what, steps in reply.noised.items():
            self._meter.count_noise(what, reply.clinics, steps)
        return reply

    def serve(self, turn: str, body: Trainer, steps: int) -> None:
        """Do the next batches of an open turn, and count what their messages would have carried.

        Raises
        ------
        ExchangeError
            If something fails; it tells no value of a record.
        """
        session = self._workplaces(self._context).live[turn]
        if not isinstance(session, Session):
            raise TypeError(f"the turn {turn!r} is damaged")
        job, clinics, drawn = session.job, session.clinics, session.batches
        some = slice(session.step, session.step + steps)
        work = TurnTraining(
            job=job,
            group=session.group,
            clinics=clinics,
            trainers={**session.trainers, "body": body},
            server_round=session.server_round,
            first=some.start,
            last=some.stop,
        )
        told = ""
        try:
            self._program.do(work)
        except Exception as error:
            told = f"{place_of(error)} while handling {Step.action!r}"
        if told:  # outside, so that the error has no other in its chain
            raise ExchangeError(told)
        session.trained(steps)
        messages = (drawn.active[some, None] > np.arange(len(clinics))).sum(0)
        rows = drawn.rows[some].sum(0)
        ways: tuple[tuple[Direction, tuple[Kinds, ...]], ...] = (
            ("up", job.protocol.batch_up),
            ("down", job.protocol.batch_down),
        )
        for way, carried in ways:
            for kinds in carried:
                self._meter.count(way, {kind: work.bytes_of(kind) * rows for kind in kinds}, clinics, messages)


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


class Simulation:
    """A run on the in-process grid.

    Parameters
    ----------
    job : Job
    train : Records
        Of all clinics.
    node_groups : int
        Number of nodes the clinics are shared out to. A strategy of Flower's always has one clinic a node.
    through : callable, optional
        Wraps the client app: whatever crosses goes through what it returns.
    overheard : callable, optional
        Told of every instruction to clinics and its reply, as they cross.
    program : Program, optional
        Does what server and clinics train.
    hosts : Hosts, optional
        Where the clinics are, in as many nodes, if not in this process; without `through`.
    shortcut : bool
        Whether a turn's batches may do without messages where all clinics are at one node, and nobody listens.

    Attributes
    ----------
    meter : Meter
        What really crosses between clinics and their server.
    edge_meter : Meter or None
        What crosses between edge servers and cloud, where there are any.
    """

    def __init__(
        self,
        job: Job,
        train: Records,
        node_groups: int = 1,
        through: Through | None = None,
        overheard: Overhears | None = None,
        program: Program | None = None,
        *,
        shortcut: bool = True,
        hosts: Hosts | None = None,
    ) -> None:
        quiet()
        clinics, edges = len(job.sizes), job.edges
        self._job = job
        direct = not (through or overheard or hosts or edges) and shortcut and node_groups == 1
        below, above = (job, job) if edges is None else (as_clinics_see(job), as_cloud_sees(job))
        apart = min(node_groups if hosts is None else hosts.nodes, clinics)
        groups = node_groups_of(clinics, clinics if job.method.imported else apart)
        groups = groups if edges is None else [list(own) for own in edges.clinics]
        heard = None if overheard is None else _overheard(job, overheard)
        self._strategy = build_strategy(above, program=program)
        self._initial = job.network.initial_parameters(job.seed)
        self.meter = Meter(clinics)
        grid: InProcessGrid
        self._at_clinics: Callable[[Callable[[Workplace], Kept]], list[Kept]]
        if hosts is not None:
            grid = actors = hosts.begin(below, train, groups, self.meter, heard)
            self._at_clinics = actors.at_clinics
        else:
            workplaces = Workplaces(below, train, program, with_server=direct, groups=groups)
            app: App = client_app(workplaces)
            grid = InProcessGrid(app if through is None else through(app), groups, {}, self.meter, heard)
            self._at_clinics = partial(workplaces.at_clinics, grid.contexts)
            if direct and isinstance(self._strategy, Rounds):
                exchange, [here] = self._strategy.exchange, grid.contexts
                exchange.shortcut = SameProcess(workplaces, here, self.meter, exchange.program)
        self._cloud, self.edge_meter, self._edge_servers = grid, None, list[EdgeServer]()
        if edges is not None:
            self.edge_meter = Meter(clinics, edges.home)
            for own in groups:
                link = ExchangeBelow(below, own, program)
                self._edge_servers.append(EdgeServer(job, link, tuple(own), partial(link.open, grid)))
            self._cloud = InProcessGrid(edge_app(self._edge_servers), groups, {}, self.edge_meter)

    def run(self, look: Callable[[int, Parameters], None]) -> None:
        """Train for all rounds.

        Parameters
        ----------
        look : callable
            Told of the model before the first round and after each: ``[1, *shape]``, or ``[clinic, *shape]`` where any
            of it is each clinic's own.

        Raises
        ------
        ExchangeError
            If a clinic fails, or answers with something that it was not asked.
        """

        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            look(server_round, self._whole(tensors_in(arrays)) if server_round else self._initial)
            return None

        rounds = self._job.spec.train.rounds
        self._strategy.start(self._cloud, array_record(self._initial), rounds, evaluate_fn=evaluate)

    def personal(self, model: Parameters) -> Parameters:
        """Return what the clinics make of the final model for themselves, where the method says so."""
        if self._job.method.personal is None or not epochs_of(self._job):
            return model
        models = of_all(self._job, model)
        for clinics, own in self._at_clinics(partial(personalised, model=model)):
            for name, value in own.items():
                models[name] = models[name].index_put((torch.tensor(clinics),), value)
        return models

    @property
    def server_noised(self) -> dict[str, Tensor]:
        """By server part, ``[clinic]``: how many of its gradients, or its rounds, were noised so far."""
        found = dict(self._strategy.exchange.noised) if isinstance(self._strategy, Rounds) else {}
        for server in self._edge_servers:
            for part, steps in server.noised.items():
                found[part] = found[part] + steps if part in found else steps
        if self.edge_meter is not None:
            found |= {
                part: torch.from_numpy(steps)
                for part, steps in self.edge_meter.noised_steps.items()
                if part not in self.meter.noised_steps  # a tail's steps are told on both links
            }
        return found

    @property
    def clip(self) -> float:
        """Of clinics' updates in the next round, under clinic-level privacy."""
        state = self._strategy.state if isinstance(self._strategy, Rounds) else None
        return self._job.spec.privacy.clip if state is None else state.clip

    def _whole(self, at_server: Mapping[str, Tensor]) -> Parameters:
        """Put what the simulator reads at the clinics to what the server has of the model."""
        kept = kept_by_clinics(self._job, self._at_clinics(kept_at)) if self._job.apart else {}
        found = self._initial | dict(at_server) | kept
        for server in self._edge_servers:
            for name, values in server.kept.items():
                found[name] = expand({name: found[name]}, len(self._job.sizes))[name]
                for k, value in values.items():
                    found[name][k] = value
        lanes = max(value.shape[0] for value in found.values())
        return self._job.network.whole.select(found if lanes == 1 else expand(found, lanes))


def _overheard(job: Job, told: Overhears) -> Callable[[Message, Message, Sequence[int]], None]:
    """Tell of updates as what the clinics have trained, as who knows the model that they received can."""
    opening, foreign = Opening(job), job.method.imported

    def hear(message: Message, reply: Message, clinics: Sequence[int]) -> None:
        if message.metadata.message_type != Hello.action:
            asked = instruction_in(message, list(clinics), foreign=foreign)
            told(asked, opening(asked, reply_in(reply)))

    return hear


def edge_app(servers: Sequence[EdgeServer]) -> Callable[[Message, Context], Message]:
    """Return the app of the nodes that edge servers are to the cloud, in their order."""

    def respond(message: Message, context: Context) -> Message:
        server = servers[int(context.node_config["partition-id"])]
        return answer(server.answer(instruction_in(message, list(server.clinics))), message)

    return respond
