"""A clinic's turn in split learning: the parts in training and the batch in flight, kept between messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sim.methods.feed import Batch, Feed
from sim.methods.forms import sendable
from sim.methods.job import Job
from sim.methods.messages import Kind
from sim.methods.node_group import NodeGroup
from sim.methods.parties import part_at, protocol_at
from sim.methods.row_noise import rows_as_sent
from sim.methods.sampling import Batches
from sim.methods.trainer import Trainer, trainer_for
from sim.methods.workplace import Memory, Numbers, Workplace
from sim.models import Parameters
from sim.tensor.rows import unpadded


@dataclass(kw_only=True)
class Session:
    """A turn in progress: consecutive steps of one round, for one or more clinics in parallel lanes.

    Attributes
    ----------
    name : str
        Tells the turns apart that are in progress at one node at the same time.
    clinics : list of int
        The clinic of each lane.
    trainers : dict of str to Trainer
        ``head`` and, U-shaped, ``tail``.
    batches : Batches
        The round's batches.
    step, last : int
        The batch in flight, and the one after the turn's last.
    record : dict
        The turn's entry in the node's memory. Where the memory holds another one, it has travelled, and this session no
        longer refers to its tensors.
    due : int
        Which of a batch's messages is the next one, counted from 0.
    batch : Batch
        The batch in flight.
    protected : dict of str to Tensor
        By kind of rows, ``[lane]``: how many batches left with their rows noised.
    places : Tensor or None
        Which values of the batch's smashed data were sent, where not all were.
    squared : dict of str to Tensor
        With joint clipping, by part, ``[lane, batch]``: squared norms of the gradients that are held.
    """

    name: str
    job: Job
    group: NodeGroup
    clinics: list[int]
    trainers: dict[str, Trainer]
    batches: Batches
    server_round: int
    step: int
    last: int
    record: Numbers = field(default_factory=dict)
    due: int = 0
    batch: Batch = field(init=False)
    protected: dict[str, Tensor] = field(default_factory=dict)
    places: Tensor | None = None
    squared: dict[str, Tensor] = field(default_factory=dict)

    @property
    def lost(self) -> bool:
        """Whether the turn's clinics are lost at its end."""
        return self.job.attendance(self.server_round).loses(self.clinics, self.last)

    @property
    def rows(self) -> list[int]:
        """``[lane]`` real rows of the batch in flight."""
        rows: list[int] = self.batch.rows.tolist()
        return rows

    @property
    def at_work(self) -> list[int]:
        """The clinics that take the step."""
        return self.clinics[: len(self.batch.rows)]

    @property
    def moment(self) -> tuple[int, int]:
        """Round and step, which name the streams of noise."""
        return self.server_round, self.step

    def forward_head(self) -> Tensor:
        """Run the heads on the step's batch and return the smashed data ``[lane, batch, *feature]``."""
        step = slice(self.step, self.step + 1)
        [self.batch] = Feed.gathered(self.job, self.group, self.clinics, self.server_round, step).step(0)
        x = self.batch.x
        if self.job.parties is not None:  # whose turns are of one party each
            x = x[..., list(self.job.parties.columns[self.clinics[0]])]
        smashed = self.trainers["head"].forward(x, rows=self.rows, moment=self.moment)
        smashed = rows_as_sent(self.job, smashed, self.rows, self.at_work, self.moment)
        if self.job.cut.sparse:
            own = unpadded(sendable(self.job, Kind.SMASHED, smashed), self.rows)
            self.places = self.job.cut.places(own)
        return smashed

    def trained(self, steps: int) -> None:
        """Note that the next batches are done without messages; of what they would have carried, some was protected."""
        first, last = self.step, self.step + steps
        self.step = last
        if not self.protected:
            return
        done = (np.arange(len(self.clinics)) < self.batches.active[first:last, None]).sum(0)
        crossing = {kind for kinds in self.job.protocol.batch_up for kind in kinds}
        for kind, count in self.protected.items():
            if kind in crossing:
                count += torch.from_numpy(done)

    def train_tail(self, outputs: Tensor) -> Tensor:
        """Train the tail, or hold its gradients, on the body's outputs; return the gradient in them."""
        tail = self.trainers["tail"]
        tail.forward(outputs, rows=self.rows, want_input_gradient=True, moment=self.moment)
        tail.loss(self.batch.y, self.batch.weights)
        return self._backward("tail", None)

    def train_head(self, cut_gradient: Tensor) -> None:
        """Train the head, or hold its gradients."""
        self._backward("head", cut_gradient)

    def _backward(self, part: str, cotangent: Tensor | None) -> Tensor:
        if not self.job.joint:
            return self.trainers[part].backward(*self.moment, self.batch.normaliser, cotangent)
        self.squared[part], gradient = self.trainers[part].hold(self.batch.normaliser, cotangent)
        return gradient

    def release(self, factors: Tensor) -> None:
        """Train the clinic's parts with the gradients that are held, scaled by ``[lane, batch]`` factors."""
        for trainer in self.trainers.values():
            trainer.release(*self.moment, self.batch.normaliser, factors)

    def count(self, kind: Kind) -> None:
        """Note that the batch in flight leaves with this kind of rows protected."""
        self.protected.setdefault(kind, torch.zeros(len(self.clinics), dtype=torch.int64))[: len(self.at_work)] += 1


def trainers_for(
    job: Job,
    clinics: Sequence[int],
    parameters: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    noised: Mapping[str, Tensor] | None = None,
) -> dict[str, Trainer]:
    """Build the clinic's trainers from parameters and, where it is not empty, optimiser state; all are taken over."""
    trainers = {}
    for name in protocol_at(job, clinics[0]).clinic_parts if clinics else ():
        part, prefix = part_at(job, name, clinics[0]), f"{name}:"
        own = {key.removeprefix(prefix): value for key, value in (state or {}).items() if key.startswith(prefix)}
        trainers[name] = trainer_for(job, part, clinics, part.select(parameters), own or None, (noised or {}).get(name))
    return trainers


def parameters_of(trainers: Mapping[str, Trainer]) -> Parameters:
    """Return the parameters of several parts."""
    return {name: value for trainer in trainers.values() for name, value in trainer.parameters.items()}


def optimizer_state_of(trainers: Mapping[str, Trainer]) -> Parameters:
    """Return the optimiser's state of several parts, keyed ``part:slot/parameter``."""
    return {f"{part}:{key}": value for part, trainer in trainers.items() for key, value in trainer.state.items()}


_TENSORS = ("parameters", "optimizer", "noised", "protected")
HELD = (Kind.BODY_OUTPUT, Kind.CUT_GRADIENT)
"""What the gradients that are held for joint clipping were formed from."""


def keep(here: Workplace, session: Session) -> None:
    """Note a turn in the memory; its tensors are changed in place from then on, and the memory with them."""
    name, memory = session.name, here.memory
    for kind in session.job.protected_rows:
        session.protected.setdefault(kind, torch.zeros(len(session.clinics), dtype=torch.int64))
    if not here.with_server:  # a turn that the server does in this process does not go on in another
        noised = {part: trainer.noised_steps for part, trainer in session.trainers.items()}
        values = (parameters_of(session.trainers), optimizer_state_of(session.trainers), noised, session.protected)
        for what, kept in zip(_TENSORS, values, strict=True):
            memory.keep_tensors(f"{name}.{what}", kept)
    session.record = memory.keep_numbers(
        f"{name}.turn",
        {
            "clinics": session.clinics,
            "server-round": session.server_round,
            "step": session.step,
            "last": session.last,
            "due": session.due,
        },
    )
    here.live[name] = session


def hold(memory: Memory, session: Session, kind: Kind, rows: Tensor) -> None:
    """Note in the memory what the gradients that are held were formed from."""
    memory.keep_tensors(f"{session.name}.{kind}", {kind: rows})


def advance(here: Workplace, session: Session) -> bool:
    """Go on to the next step; say whether there is one. After the last, the turn is forgotten."""
    session.step += 1
    if session.job.joint:
        for kind in HELD:
            here.memory.forget(f"{session.name}.{kind}")
    if session.step < session.last:
        session.record["step"] = session.step
        return True
    forget(here, session)
    return False


def forget(here: Workplace, session: Session) -> None:
    """Take a turn that is over out of the memory."""
    for what in (*_TENSORS, "turn"):
        here.memory.forget(f"{session.name}.{what}")
    here.live.pop(session.name, None)


def resume(here: Workplace, name: str) -> Session:
    """Return the turn in progress, rebuilt from the memory where this process does not have it."""
    turn, session = here.memory.numbers(f"{name}.turn"), here.live.get(name)
    if isinstance(session, Session) and session.record is turn:
        return session
    job, clinics = here.job, turn["clinics"]
    server_round, step, last, due = (_whole(turn, key) for key in ("server-round", "step", "last", "due"))
    if not isinstance(clinics, list):
        raise TypeError(f"the turn {name!r} is damaged")
    *kept, protected = (here.memory.tensors(f"{name}.{what}") for what in _TENSORS)
    session = Session(
        name=name,
        job=job,
        group=here.group,
        clinics=clinics,
        trainers=trainers_for(job, clinics, *kept),
        batches=job.batches(server_round, clinics),
        server_round=server_round,
        step=step,
        last=last,
        due=due,
        protected=protected,
    )
    session.forward_head()
    for kind, train in zip(HELD, (session.train_tail, session.train_head), strict=True):
        if f"{name}.{kind}" in here.memory:
            train(here.memory.tensors(f"{name}.{kind}")[kind])
    keep(here, session)
    return session


def _whole(turn: Numbers, key: str) -> int:
    value = turn[key]
    if not isinstance(value, int):
        raise TypeError(f"{key!r} of a turn is damaged")
    return value
