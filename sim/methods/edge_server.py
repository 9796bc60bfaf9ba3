"""A server between its clinics and the cloud: it answers the cloud as a node does, and asks its clinics as a server.

Where the method has it train in rounds of its own, it does those and sends up their average when it is asked.
Multi-hop, it has a middle part for each of its clinics: their rows go through it on the way up, and the gradient in
what it has made of them on the way down. What is averaged it averages over its clinics, so that the cloud gets one set
of parameters; what is handed on passes through; what is the clinics' own stays, the head there and the middle here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from sim.methods.crossing import places_sent, unpacked
from sim.methods.edges import Ints, as_cloud_sees
from sim.methods.exchange import Exchange
from sim.methods.feed import padded
from sim.methods.forms import Forms
from sim.methods.job import Job
from sim.methods.messages import Begin, EdgeRound, Gather, Hello, Instruction, Kind, Reply, Step, Tail
from sim.methods.method import Round, State
from sim.methods.replies import ExchangeError
from sim.methods.row_noise import arrived_rows, leaving_rows
from sim.methods.trainer import Trainer, expand, trainer_for
from sim.methods.turn import leaving_server, of_batch
from sim.models import Parameters
from sim.tensor.lanes import weighted_average


@dataclass(kw_only=True)
class Passage:
    """A turn of some clinics as it passes through their edge server.

    Attributes
    ----------
    clinics : list of int
        In lane order.
    server_round, step : int
        The batch in flight.
    middle : Trainer
        One copy a clinic.
    below : Reply
        What the clinics sent of the batch in flight.
    above : Tensor
        Their rows as they were sent on.
    noised : dict of Kind to Tensor
        By kind of rows, ``[lane]``: how many batches went up with noise from here.
    """

    name: str
    clinics: list[int]
    server_round: int
    step: int
    middle: Trainer
    below: Reply = field(default_factory=lambda: Reply(clinics=[]))
    above: Tensor = field(default_factory=lambda: torch.empty(0))
    noised: dict[Kind, Tensor]


class EdgeServer:
    """The edge server of some clinics.

    Parameters
    ----------
    job : Job
        The run's, with all its places.
    below : Exchange
        With the clinics.
    clinics : tuple of int
        Its own.
    open_round : callable
        Makes the exchange below ready for a round.
    """

    def __init__(self, job: Job, below: Exchange, clinics: tuple[int, ...], open_round: Callable[[int], None]) -> None:
        self._job, self._below, self.clinics, self._open_round = job, below, clinics, open_round
        self._above = as_cloud_sees(job)
        self._forms = Forms(self._above)
        self._turns: dict[str, Passage] = {}
        self._own: dict[int, list[Parameters]] = {}
        self._state: State | None = None

    def answer(self, asked: Instruction) -> Reply:
        """Answer an instruction of the cloud's.

        Raises
        ------
        ExchangeError
            If it is none that an edge server knows, or brings what it should not.
        """
        edge_round = self._job.method.edge_round
        if isinstance(asked, Hello):
            return Reply(clinics=list(self.clinics))
        if isinstance(asked, Begin):
            return self._begin(asked)
        if isinstance(asked, Tail) and asked.turn in self._turns:
            return self._tail(asked, self._turns[asked.turn])
        if isinstance(asked, Step) and asked.turn in self._turns:
            return self._step(asked, self._turns[asked.turn])
        if isinstance(asked, EdgeRound) and edge_round is not None:
            return self._round(asked, edge_round)
        if isinstance(asked, Gather) and self._state is not None:
            model, self._state = dict(self._state.model), None
            return Reply(clinics=asked.clinics, parts={Kind.MODEL: model})
        raise ExchangeError(f"an edge server has no answer to {asked.action!r}")

    @property
    def kept(self) -> Mapping[str, Mapping[int, Tensor]]:
        """What is here and not at the cloud, by name and clinic; for the simulator alone."""
        found: dict[str, dict[int, Tensor]] = {}
        for k, (parameters, _) in self._own.items():
            for name, value in parameters.items():
                found.setdefault(name, {})[k] = value[0]
        for name, value in self._state.model.items() if self._state is not None else ():
            found[name] = dict.fromkeys(self.clinics, value[0])
        return found

    @property
    def noised(self) -> Mapping[str, Tensor]:
        """By part that trains here in rounds of its own, ``[clinic]``: how many of its gradients were noised so far."""
        return self._below.noised

    def _round(self, asked: EdgeRound, edge_round: Round) -> Reply:
        """Do a round of its own with its clinics, from the cloud's model or from where the last one ended."""
        self._open_round(asked.server_round)
        self._check(asked, asked.model)
        if asked.model is not None:
            self._state = State(model=asked.model, clip=self._job.spec.privacy.clip)
        if self._state is None:
            raise ExchangeError("the cloud has sent no model yet")
        self._state = edge_round(self._below, self._state)
        return Reply(clinics=asked.clinics)

    def _begin(self, asked: Begin) -> Reply:
        """Send the heads on to the clinics, and what comes of their first batch to the cloud."""
        self._open_round(asked.server_round)
        self._check(asked, asked.model, asked.optimizer)
        job, head, middle = self._job, self._job.part("head"), self._job.part("middle")
        of_clinics = job.shapes(job.protocol.clinic_parts)
        back = self._below.ask(
            replace(
                asked,
                model=None if asked.model is None else {name: asked.model[name] for name in of_clinics},
                optimizer=None if asked.optimizer is None else _of_head(asked.optimizer, head.shapes()),
            )
        )
        if not asked.steps:
            return Reply(clinics=asked.clinics)
        parameters, state = self._own_of(asked.clinics)
        noises = () if self._above.rows is None else self._above.rows.clip
        if asked.model is not None:
            parameters = expand(middle.select(asked.model), len(asked.clinics))
        if asked.optimizer is not None:
            state = expand(_of_middle(asked.optimizer, middle.shapes()), 1)
        passage = self._turns[asked.turn] = Passage(
            name=asked.turn,
            clinics=asked.clinics,
            server_round=asked.server_round,
            step=asked.first,
            middle=trainer_for(job, middle, asked.clinics, parameters, state or None),
            noised={Kind(kind): torch.zeros(len(asked.clinics), dtype=torch.int64) for kind in noises},
        )
        return self._passed_up(passage, back)

    def _passed_up(self, passage: Passage, back: Reply) -> Reply:
        """Run the middle on the clinics' rows, and send on what comes of them, with their labels."""
        moment = passage.server_round, passage.step
        arrived = arrived_rows(self._below.job, Kind.SMASHED, back.payload[Kind.SMASHED], back.clinics)
        x = padded(arrived, self._width(back.rows))
        outputs = passage.middle.forward(x, rows=back.rows, want_input_gradient=True, moment=moment)
        sent = leaving_rows(self._above, Kind.SMASHED, outputs, back.rows, back.clinics, moment)
        passage.below, passage.above = back, sent
        return self._sent(passage, {**back.payload, Kind.SMASHED: sent})

    def _tail(self, asked: Tail, passage: Passage) -> Reply:
        """Bring the body's outputs to the clinics' tails, and send on their gradient."""
        below, rows, clinics = self._below.job, passage.below.rows, passage.below.clinics
        self._check_rows(Kind.BODY_OUTPUT, asked.body_output, rows)
        back = self._below.ask(
            Tail(**of_batch(passage.name, passage.below, passage.step), body_output=asked.body_output)
        )
        by_lane = self._normaliser(passage)
        at = places_sent(below, Kind.BODY_OUTPUT, asked.body_output)
        gradient = arrived_rows(below, Kind.TAIL_GRADIENT, back.payload[Kind.TAIL_GRADIENT], clinics, by_lane, at)
        moment = passage.server_round, passage.step
        sent = leaving_rows(self._above, Kind.TAIL_GRADIENT, gradient, rows, clinics, moment, by_lane, at)
        return self._sent(passage, {Kind.TAIL_GRADIENT: sent})

    def _sent(self, passage: Passage, payload: Mapping[Kind, Tensor]) -> Reply:
        for kind in payload.keys() & passage.noised.keys():
            passage.noised[kind][: len(passage.below.rows)] += 1
        return Reply(clinics=passage.below.clinics, rows=passage.below.rows, payload=payload)

    def _step(self, asked: Step, passage: Passage) -> Reply:
        """Train the middle with the cloud's gradient, send its own down, and answer with what comes back up."""
        rows, normaliser = passage.below.rows, self._normaliser(passage)
        self._check_rows(Kind.CUT_GRADIENT, asked.cut_gradient, rows)
        at = places_sent(self._above, Kind.SMASHED, passage.above)
        gradient = padded(unpacked(self._above, Kind.CUT_GRADIENT, asked.cut_gradient, at), self._width(rows))
        down = passage.middle.backward(passage.server_round, passage.step, normaliser, gradient)
        sent = leaving_server(self._below.job, Kind.CUT_GRADIENT, down, passage.below)
        [back] = self._below.send(
            Step(**of_batch(passage.name, passage.below, passage.step), cut_gradient=sent)
        )  # its clinics are at one node
        passage.step += 1
        return self._passed_up(passage, back) if Kind.SMASHED in back.payload else self._ended(passage, back)

    def _ended(self, passage: Passage, back: Reply) -> Reply:
        """Send on what becomes of the parts of clinics and edge server."""
        job, clinics, middle = self._job, passage.clinics, passage.middle
        del self._turns[passage.name]
        if job.protocol.movement == "own":
            own_values = middle.parameters, middle.state
            for lane, k in enumerate(clinics):
                self._own[k] = [{n: v[lane : lane + 1].clone() for n, v in of.items()} for of in own_values]
        parts: dict[Kind, Parameters] = {}
        if back.clinics and Kind.MODEL in back.parts:
            trained = back.model | middle.parameters
            if job.protocol.movement == "averaged":
                own = [job.sizes[k] for k in clinics]
                fixed = job.shapes(job.frozen)
                averaged = weighted_average(trained, [size / sum(own) for size in own])
                trained = {name: trained[name][:1] if name in fixed else value for name, value in averaged.items()}
            parts[Kind.MODEL] = trained
        if Kind.OPTIMIZER in back.parts:
            state = back.parts[Kind.OPTIMIZER] | {f"middle:{key}": value for key, value in middle.state.items()}
            parts[Kind.OPTIMIZER] = {re.sub("^head:", "middle:", key): value for key, value in state.items()}
        noised = {str(kind): steps.tolist() for kind, steps in passage.noised.items()}
        noised |= {part: steps for part, steps in back.noised.items() if part == "tail"}
        if job.dp is not None and "middle" not in job.frozen:
            noised["middle"] = middle.noised_steps.tolist()
        return Reply(clinics=clinics, parts=parts, noised=noised)

    def _own_of(self, clinics: list[int]) -> tuple[Parameters, Parameters]:
        """Return the middle of each of some clinics, ``[lane, *shape]``, with its optimiser's state."""
        job, middle = self._job, self._job.part("middle")
        if job.protocol.movement != "own":
            return {}, {}
        initial = middle.select(job.network.initial_parameters(job.seed))
        fresh = [initial, job.optimizer.initial_state(middle.trained(initial))]
        found = [self._own.get(k, fresh) for k in clinics]
        parameters, state = ({name: torch.cat([o[of][name] for o in found]) for name in fresh[of]} for of in (0, 1))
        return parameters, state

    def _normaliser(self, passage: Passage) -> Ints:
        sizes = np.array([self._job.sizes[k] for k in passage.below.clinics])
        return self._job.sampling.normaliser(sizes, np.array(passage.below.rows))

    def _check_rows(self, kind: Kind, rows: Tensor, sizes: list[int]) -> None:
        if fault := self._forms.rows_fault(kind, rows, sizes):
            raise ExchangeError(f"the cloud's {str(kind)!r} holds {fault}")

    def _width(self, rows: list[int]) -> int:
        return int(self._job.width(np.array(rows).max(initial=0)))

    def _check(self, asked: Instruction, model: Parameters | None, optimizer: Parameters | None = None) -> None:
        for kind, brought in ((Kind.MODEL, model), (Kind.OPTIMIZER, optimizer)):
            if brought is not None and (fault := self._forms.parameters_fault(kind, brought, 1)):
                raise ExchangeError(f"the cloud's {str(kind)!r} holds {fault}")
        if not set(asked.clinics) <= set(self.clinics):
            raise ExchangeError("the cloud asks for a clinic of another edge server")


def _of_head(state: Mapping[str, Tensor], names: Collection[str]) -> Parameters:
    """Return what of the optimiser's state as the cloud has it is the clinics', keyed ``part:slot/parameter``."""
    kept = {key: value for key, value in state.items() if not key.startswith("middle:") or _slot_of(key, names)}
    return {key.replace("middle:", "head:", 1): value for key, value in kept.items()}


def _of_middle(state: Mapping[str, Tensor], names: Collection[str]) -> Parameters:
    """Return what of it is the middle's, keyed ``slot/parameter``."""
    kept = {key: value for key, value in state.items() if key.startswith("middle:") and _slot_of(key, names)}
    return {key.removeprefix("middle:"): value for key, value in kept.items()}


def _slot_of(key: str, names: Collection[str]) -> bool:
    """Whether a key is a slot of one of these parameters, or counts the steps of all."""
    _, _, name = key.partition("/")
    return not name or name in names
