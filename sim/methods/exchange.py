"""What a round is written against: the exchange with the clinics, and what the server trains and averages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sim.foundation.problems import ScenarioError
from sim.methods.averaging import noised_average
from sim.methods.edges import meets_at_cloud
from sim.methods.feed import padded
from sim.methods.job import Job
from sim.methods.messages import Instruction, Kind, Reply
from sim.methods.method import State
from sim.methods.pool import Pool
from sim.methods.secure_sum import added, opened
from sim.methods.trainer import Trainer, expand, trainer_for
from sim.methods.turn import JoinedTurn, Shortcut, Turn
from sim.models import Parameters
from sim.tensor.lanes import weighted_average
from sim.tensor.program import Alone, Program

S = TypeVar("S", bound=State)


class Exchange(ABC):
    """The exchange with the clinics, round by round, as the server sees it.

    Attributes
    ----------
    job : Job
    server_round : int
        The round that is on, from 1.
    noised : dict of str to Tensor
        By server part, ``[clinic]``: how many of its gradients were clipped and noised so far; ``update`` and
        ``clip-count`` count rounds.
    program : Program
        Does what the server trains.
    shortcut : Shortcut or None
        Leads to clinics in this process; without it every batch has its messages.
    """

    def __init__(self, job: Job, program: Program | None = None) -> None:
        self.job = job
        self.program = program or Alone()
        self.shortcut: Shortcut | None = None
        self.server_round = 0
        self.noised: dict[str, Tensor] = {}

    def option(self, name: str) -> Any:
        """Return an option of the method: as the scenario gives it, or its default."""
        return self.job.option(name)

    # The clinics

    @abstractmethod
    def send(self, instruction: Instruction) -> list[Reply]:
        """Send an instruction to the nodes that host its clinics, each its own lanes.

        Returns
        -------
        list of Reply
            One a node, in the order of the nodes; each is what an honest node could have answered.

        Raises
        ------
        ExchangeError
            If a node does not answer, or answers with an error or with what it was not asked.
        """

    def ask(self, instruction: Instruction) -> Reply:
        """Send an instruction, and join the replies along the lane axis."""
        return self.joined(self.send(instruction))

    def joined(self, replies: Sequence[Reply]) -> Reply:
        """Join replies along the lane axis, in lane order; a node whose clinics are all lost has sent nothing."""
        sound = [reply for reply in replies if reply.payload or reply.parts]
        found = [k for reply in sound for k in reply.clinics]
        clinics = self.job.in_lane_order(found)
        if len(sound) == 1 and clinics == found:
            return sound[0]
        if not sound:
            return Reply(clinics=[])
        lanes = self.job.lane_order(np.array(found)).tolist()
        rows = [r for reply in sound for r in reply.rows]

        def join(pieces: Sequence[Tensor]) -> Tensor:
            if pieces[0].dim() > 1:
                widest = max(piece.shape[1] for piece in pieces)
                pieces = [padded(piece, widest) for piece in pieces]
            return torch.cat(list(pieces))[lanes]

        return Reply(
            clinics=clinics,
            rows=[rows[lane] for lane in lanes] if rows else [],
            payload={kind: join([reply.payload[kind] for reply in sound]) for kind in sound[0].payload},
            parts={
                kind: {
                    name: (added if kind == Kind.MASKED else join)([reply.parts[kind][name] for reply in sound])
                    for name in named
                }
                for kind, named in sound[0].parts.items()
            },
        )

    @property
    def participants(self) -> list[int]:
        """The round's clinics in lane order, lost ones too."""
        return self.job.participants(self.server_round)

    @property
    def everyone(self) -> list[int]:
        """All clinics in lane order, whoever takes part in the round."""
        return self.job.in_lane_order(range(len(self.job.sizes)))

    def meets_at_cloud(self, server_round: int) -> bool:
        """Whether the cloud averages the edge servers at the end of a round; before the first they are alike."""
        return meets_at_cloud(self.job, server_round, self.job.spec.train.rounds)

    @property
    def returning(self) -> list[int]:
        """Those of them whose parts come back."""
        return self.job.returning(self.server_round, self.participants)

    @property
    def lost(self) -> list[int]:
        """Those of them whose parts do not come back."""
        return self.job.lost(self.server_round)

    def batches_of(self, clinic: int) -> int:
        """Return how many batches of the round a clinic completes."""
        return self.job.attendance(self.server_round).batches_of(clinic)

    @property
    def schedule(self) -> list[tuple[int, int]]:
        """The clinic and the step of every batch of a sequential round, one after another."""
        return self.job.schedule(self.server_round)

    @property
    def turns(self) -> list[tuple[int, list[int]]]:
        """A relay's turns, one after another: the clinic, and its batches of that turn."""
        if self.job.by_mini_batch:
            return [(k, [step]) for k, step in self.schedule]
        return [(k, [step for _, step in batches]) for k, batches in groupby(self.schedule, key=itemgetter(0))]

    def turn(self, clinics: Sequence[int], first: int = 0, steps: int | None = None) -> Turn:
        """Return the turn of a clinic, or of several in parallel lanes: as many batches as the largest of them has."""
        if steps is None:
            steps = self.batches_of(clinics[0]) if len(clinics) == 1 else max(self.job.steps(k) for k in clinics)
        return Turn(self, list(clinics), first, steps)

    @property
    def joined_turns(self) -> list[JoinedTurn]:
        """A round of the parties of each region, in the order of regions; they run in parallel."""
        parties = self.job.parties
        if parties is None:
            raise ScenarioError(f'data.layout: {self.job.method.name} needs parties; set it to "vertical"')
        return [JoinedTurn(self, parties, region) for region in range(len(parties.holders))]

    # The server

    def clinic_parts(self, model: Mapping[str, Tensor]) -> Parameters:
        """Return the parameters ``[1, *shape]`` that the server sends to the clinics for their parts."""
        job = self.job
        return {name: model[name] for name in job.shapes(job.protocol.clinic_parts) if name not in job.apart}

    def body(self, clinics: Sequence[int], model: Mapping[str, Tensor]) -> Trainer:
        """Return one copy of the body for each of some clinics, from the model's body or from each one's own."""
        part = self.job.part("body")
        own = {name: v[list(clinics)] if v.shape[0] > 1 else v for name, v in part.select(model).items()}
        return trainer_for(self.job, part, clinics, expand(own, len(clinics)))

    def body_serving(self, clinic: int, body: Trainer | None, model: Mapping[str, Tensor]) -> Trainer:
        """Return the one body, made ready for a clinic's batches; its parameters and optimiser's state live on."""
        part = self.job.part("body")
        if body is None:
            return trainer_for(self.job, part, [clinic], expand(part.select(model), 1))
        return trainer_for(self.job, part, [clinic], body.parameters, body.state)

    def snapshot(self, trainer: Trainer) -> Parameters:
        """Return what a trainer's parameters are now, ``[lane, *shape]``: it goes on to change them in place."""
        return {name: value.clone() for name, value in trainer.parameters.items()}

    def side_by_side(self, trainers: Iterable[Trainer]) -> Parameters:
        """Return what several trainers' parameters are now, one lane after another."""
        now = [self.snapshot(trainer) for trainer in trainers]
        return {name: torch.cat([own[name] for own in now]) for name in now[0]}

    def pool(self, model: Mapping[str, Tensor]) -> Pool:
        """Fetch what every clinic sends once, and make the server's part ready to train on it."""
        return Pool.fetched(self, model)

    def count_noise(self, trainer: Trainer, clinics: Sequence[int]) -> None:
        """Add a server part's noised steps to the count, clinic by clinic."""
        if self.job.dp is not None:
            self.count(trainer.part.name, clinics, trainer.noised_steps)

    def count(self, what: str, clinics: Sequence[int], steps: Tensor | int = 1) -> None:
        """Add noised steps of a server part, or released rounds, of some clinics."""
        counted = self.noised.setdefault(what, torch.zeros(len(self.job.sizes), dtype=torch.int64))
        counted[list(clinics)] += steps

    def average(self, state: S, trained: Mapping[str, Tensor], clinics: Sequence[int]) -> S:
        """Average what some clinics have trained, and what of it is each one's own keep apart.

        Weights are n_k / n. Frozen parts are the same at all clinics. Under clinic-level privacy the clipped updates
        from the model of the round's beginning count alike, and their sum is noised. Under secure aggregation the
        server has the sum of what the clinics trained, and the copies of the body, which are its own.

        Parameters
        ----------
        state : State
        trained : mapping of str to Tensor
            ``[lane, *shape]`` each: whole parts, or several; ``[1, *shape]`` of integers where it is a sum.
        clinics : sequence of int
            The clinic of each lane.

        Returns
        -------
        State
            With these parts of the model, and the next clip.
        """
        job = self.job
        fixed = job.shapes(job.frozen).keys()
        common = {name: value for name, value in trained.items() if name not in fixed | job.apart}
        sums = {name: common.pop(name) for name, value in trained.items() if value.dtype == torch.int32}
        if job.spec.privacy.unit == "clinic" and not sums:
            averaged, clip = noised_average(job, self.server_round, common, state)
            state = replace(state, clip=clip)
            for what in reversed(job.round_releases):
                self.count(what, clinics)
        else:
            total = sum(job.sizes[k] for k in clinics)
            averaged = weighted_average(common, [job.sizes[k] / total for k in clinics]) if common else {}
            averaged |= opened(job, sums, clinics, state.model)
        averaged |= {name: trained[name][:1] for name in fixed & trained.keys()}
        kept = {name: value for name, value in trained.items() if name in job.apart and name in state.model}
        return self.keep_copies(replace(state, model=state.model | averaged), kept, clinics)

    def average_edges(self, state: S, gathered: Reply) -> S:
        """Average what the edge servers send; each counts with the records that came back to it since the last time.

        Parameters
        ----------
        state : State
        gathered : Reply
            Of every clinic, in its lane what its edge server sends.
        """
        job, begun, count = self.job, self.server_round - 1, np.zeros(len(self.job.sizes), dtype=np.int64)
        while not self.meets_at_cloud(begun):
            begun -= 1
        for server_round in range(begun + 1, self.server_round + 1):
            attendance = job.attendance(server_round)
            count[attendance.clinics[attendance.returned]] += 1
        weights = (count * job.records)[gathered.clinics]
        if not weights.any():
            return state
        averaged = weighted_average(gathered.model, (weights / weights.sum()).tolist())
        return replace(state, model=state.model | averaged)

    def average_by_part(self, state: S, trained: Mapping[int, Mapping[str, Tensor]]) -> S:
        """Average each value over the clinics that have trained it, with weights n_k / n among these.

        ``trained`` holds ``[1, *shape]`` by clinic.
        """
        of_clinics: dict[tuple[int, ...], list[str]] = {}
        for name in dict.fromkeys(name for own in trained.values() for name in own):
            of_clinics.setdefault(tuple(k for k, own in trained.items() if name in own), []).append(name)
        for clinics, names in of_clinics.items():
            together = {name: torch.cat([trained[k][name] for k in clinics]) for name in names}
            state = self.average(state, together, clinics)
        return state

    def keep_copies(self, state: S, copies: Mapping[str, Tensor], clinics: Sequence[int]) -> S:
        """Keep some clinics' copies ``[lane, *shape]`` as they are; every clinic has one of its own from then on."""
        model = dict(state.model)
        for name, value in copies.items():
            model[name] = expand({name: model[name]}, len(self.job.sizes))[name]
            model[name][list(clinics)] = value
        return replace(state, model=model)
