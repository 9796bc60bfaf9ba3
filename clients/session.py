"""A clinic's turn in split learning: the parts in training and the batch in flight, kept between messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from numpy.typing import NDArray
from torch import Tensor

from sim.flower.messages import array_record, integer, integers, tensors_in
from sim.flower.workplace import workplace_of
from sim.methods.job import Job
from sim.methods.node_group import NodeGroup
from sim.methods.sampling import Batches
from sim.methods.trainer import Trainer, trainer_for
from sim.models import Parameters


@dataclass
class Session:
    """A turn in progress: consecutive steps of one round, for one or more clinics in parallel lanes.

    Attributes
    ----------
    name : str
        Tells the turns apart that are in progress at one node at the same time.
    job : Job
    group : NodeGroup
    trainers : dict of str to Trainer
        ``head`` and, U-shaped, ``tail``.
    batches : Batches
        The round's batches.
    server_round : int
    step, last : int
        The batch in flight, and the one after the turn's last.
    record : flwr.app.ConfigRecord
        The turn's entry in the context's state. Where the state holds another one, it has travelled, and this session
        no longer refers to its tensors.
    due : int
        Which of a batch's messages is the next one, counted from 0.
    lanes : int
        Number of clinics still at work in this step.
    rows : list of int
        ``[lane]`` real rows of the batch in flight.
    labels, weights : Tensor
        ``[lane, batch]`` of the batch in flight.
    protected : dict of str to Tensor
        By kind of rows, ``[lane]``: how many batches left with their rows noised.
    squared : dict of str to Tensor
        With joint clipping, by part, ``[lane, batch]``: squared norms of the gradients that are held.
    """

    name: str
    job: Job
    group: NodeGroup
    trainers: dict[str, Trainer]
    batches: Batches
    server_round: int
    step: int
    last: int
    record: ConfigRecord = field(default_factory=ConfigRecord)
    due: int = 0
    lanes: int = 0
    rows: list[int] = field(default_factory=list)
    labels: Tensor = field(default_factory=lambda: torch.empty(0))
    weights: Tensor = field(default_factory=lambda: torch.empty(0))
    protected: dict[str, Tensor] = field(default_factory=dict)
    squared: dict[str, Tensor] = field(default_factory=dict)

    @property
    def clinics(self) -> list[int]:
        """The clinic of each lane."""
        return self.trainers["head"].clinics

    @property
    def lost(self) -> bool:
        """Whether the turn's clinics are lost at its end."""
        attendance = self.job.attendance(self.server_round)
        return not any(attendance.returns(k) or self.last < attendance.batches_of(k) for k in self.clinics)

    @property
    def normaliser(self) -> NDArray[np.int64]:
        """What each lane's summed gradient is divided by in this step."""
        return self.batches.normaliser[self.step, : self.lanes]

    def forward_head(self) -> Tensor:
        """Run the heads on the step's batch and return the smashed data ``[lane, batch, *feature]``."""
        index, weights, self.lanes = self.batches.step(self.step)
        self.rows = self.batches.rows[self.step, : self.lanes].tolist()
        x, self.labels = self.group.batch(self.clinics[: self.lanes], index)
        self.weights = torch.from_numpy(weights)
        return self.trainers["head"].forward(x, rows=self.rows, moment=(self.server_round, self.step))

    def train_tail(self, outputs: Tensor) -> Tensor:
        """Train the tail, or hold its gradients, on the body's outputs; return the gradient in them."""
        self.trainers["tail"].forward(
            outputs, rows=self.rows, want_input_gradient=True, moment=(self.server_round, self.step)
        )
        self.trainers["tail"].loss(self.labels, self.weights)
        return self._backward("tail", None)

    def train_head(self, cut_gradient: Tensor) -> None:
        """Train the head, or hold its gradients."""
        self._backward("head", cut_gradient)

    def _backward(self, part: str, cotangent: Tensor | None) -> Tensor:
        if not self.job.joint:
            return self.trainers[part].backward(self.server_round, self.step, self.normaliser, cotangent)
        self.squared[part], gradient = self.trainers[part].hold(self.normaliser, cotangent)
        return gradient

    @property
    def addressed(self) -> tuple[list[int], list[int], tuple[int, int]]:
        """Rows and clinic of each lane at work, and the moment: what names the streams of noise."""
        return self.rows, self.clinics[: self.lanes], (self.server_round, self.step)

    def count(self, kind: str) -> None:
        """Note that the batch in flight leaves with this kind of rows protected."""
        self.protected.setdefault(kind, torch.zeros(len(self.clinics), dtype=torch.int64))[: self.lanes] += 1


def trainers_for(
    job: Job,
    clinics: Sequence[int],
    parameters: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    noised: Mapping[str, Tensor],
) -> dict[str, Trainer]:
    """Build the clinic's trainers from parameters and, where it is not empty, optimiser state; all are taken over."""
    trainers = {}
    for name in job.protocol.clinic_parts:
        part = job.part(name)
        own = {key.removeprefix(f"{name}:"): value for key, value in state.items() if key.startswith(f"{name}:")}
        trainers[name] = trainer_for(job, part, clinics, part.select(parameters), own or None, noised.get(name))
    return trainers


def parameters_of(trainers: Mapping[str, Trainer]) -> Parameters:
    """Return the parameters of several parts."""
    return {name: value for trainer in trainers.values() for name, value in trainer.parameters.items()}


def optimizer_state_of(trainers: Mapping[str, Trainer]) -> Parameters:
    """Return the optimiser's state of several parts, keyed ``part:slot/parameter``."""
    return {f"{part}:{key}": value for part, trainer in trainers.items() for key, value in trainer.state.items()}


# The turns in progress, so that a node which stays in one process need not rebuild them for every message. The state
# of the context is what counts: a turn is rebuilt from it unless it still refers to the very tensors of the one here.
SESSIONS: dict[tuple[int, int, str], Session] = {}


def keep(context: Context, session: Session) -> None:
    """Note a turn in the context's state; its tensors are changed in place from then on, and the state with them."""
    name = session.name
    context.state[f"{name}.parameters"] = array_record(parameters_of(session.trainers))
    context.state[f"{name}.optimizer"] = array_record(optimizer_state_of(session.trainers))
    context.state[f"{name}.noised"] = array_record({p: trainer.noised_steps for p, trainer in session.trainers.items()})
    for kind in session.job.protected_rows:
        session.protected.setdefault(kind, torch.zeros(len(session.clinics), dtype=torch.int64))
    context.state[f"{name}.protected"] = array_record(session.protected)
    session.record = ConfigRecord(
        {
            "clinics": session.clinics,
            "server-round": session.server_round,
            "step": session.step,
            "last": session.last,
            "due": session.due,
        }
    )
    context.state[f"{name}.turn"] = session.record
    SESSIONS[context.run_id, context.node_id, name] = session


HELD = ("body-output", "cut-gradient")


def hold(context: Context, session: Session, kind: str, rows: Tensor) -> None:
    """Note in the context's state what the gradients that are held were formed from."""
    context.state[f"{session.name}.{kind}"] = array_record({kind: rows})


def advance(context: Context, session: Session) -> bool:
    """Go on to the next step; say whether there is one. After the last, the turn is forgotten."""
    session.step += 1
    if session.job.joint:
        for kind in HELD:
            context.state.pop(f"{session.name}.{kind}", None)
    if session.step < session.last:
        session.record["step"] = session.step
        return True
    for record in ("parameters", "optimizer", "noised", "protected", "turn"):
        del context.state[f"{session.name}.{record}"]
    SESSIONS.pop((context.run_id, context.node_id, session.name), None)
    return False


def resume(context: Context, name: str) -> Session:
    """Return the turn in progress, rebuilt from the context's state where this process does not have it."""
    turn = _turn(context, name)
    session = SESSIONS.get((context.run_id, context.node_id, name))
    if session is not None and session.record is turn:
        return session
    server_round, step, last = (integer(turn, key) for key in ("server-round", "step", "last"))
    job, group = workplace_of(context)
    clinics = integers(turn, "clinics")
    kept = [_arrays(context, f"{name}.{record}") for record in ("parameters", "optimizer", "noised")]
    trainers = trainers_for(job, clinics, *kept)
    session = Session(name, job, group, trainers, job.batches(server_round, clinics), server_round, step, last)
    session.protected = _arrays(context, f"{name}.protected")
    session.due = integer(turn, "due")
    session.forward_head()
    for kind, train in zip(HELD, (session.train_tail, session.train_head), strict=True):
        if f"{name}.{kind}" in context.state:
            train(_arrays(context, f"{name}.{kind}")[kind])
    keep(context, session)
    return session


def _turn(context: Context, name: str) -> ConfigRecord:
    record = context.state[f"{name}.turn"]
    if not isinstance(record, ConfigRecord):
        raise TypeError(f"the state of turn {name!r} is damaged")
    return record


def _arrays(context: Context, name: str) -> Parameters:
    record = context.state[name]
    if not isinstance(record, ArrayRecord):
        raise TypeError(f"the state {name!r} is damaged")
    return tensors_in(record)
