"""The clinic's side of split learning: the head and, U-shaped, the tail, batch by batch.

One exchange a batch and direction. ``begin`` brings the clinic's parts and is answered with the first smashed data;
``step`` brings the cut gradient of a batch and is answered with the smashed data of the next one, or, after the last,
with the clinic's parts. U-shaped, ``tail`` brings the body's outputs in between and is answered with their gradient.
The clinic's optimiser starts afresh in every round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message
from numpy.typing import NDArray
from torch import Tensor

from sim.engine.learner import Learner, expand
from sim.engine.messages import MODEL, array_record, config_of, content, integers, tensors, tensors_in
from sim.engine.workplace import Cohort, workplace_of
from sim.job import Job
from sim.models import Parameters
from sim.sampling import Batches

PARAMETERS, KEPT, SESSION, NOISED = "session-parameters", "session-kept", "session", "noised-steps"


@dataclass
class Session:
    """A round in progress at one node.

    Attributes
    ----------
    learners : dict of str to Learner
        ``head`` and, U-shaped, ``tail``.
    batches : Batches
        The round's batches.
    server_round, step : int
    labels, weights : Tensor
        ``[lane, batch]`` of the batch in flight.
    """

    job: Job
    cohort: Cohort
    learners: dict[str, Learner]
    batches: Batches
    server_round: int
    step: int = 0
    labels: Tensor = field(default_factory=lambda: torch.empty(0))
    weights: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def lanes(self) -> int:
        """Number of clinics still at work in this step."""
        return int(self.batches.active[self.step])

    def forward_head(self) -> Tensor:
        """Run the heads on the step's batch and return the smashed data ``[lane, batch, *feature]``."""
        index, weights, lanes = self.batches.step(self.step)
        x, self.labels = self.cohort.batch(self.learners["head"].clinics[:lanes], index)
        self.weights = torch.from_numpy(weights)
        return self.learners["head"].forward(x)

    def normaliser(self) -> NDArray[np.int64]:
        """Return what each lane's summed gradient is divided by in this step."""
        return self.batches.normaliser[self.step, : self.lanes]


def begin(message: Message, context: Context) -> Message:
    """Take the clinic's parts for this round and send the first batch's smashed data."""
    job, cohort = workplace_of(context)
    config = config_of(message)
    clinics = job.in_lane_order(integers(config, "clinics"))
    received = expand(tensors(message, MODEL), len(clinics))
    learners = {name: _learner(job, name, clinics, received, {}) for name in job.protocol.clinic_parts}
    server_round = int(config["server-round"])  # type: ignore[arg-type]
    session = Session(job, cohort, learners, job.batches(server_round, clinics), server_round)
    _keep(context, session)
    return _send_smashed(message, session)


def tail(message: Message, context: Context) -> Message:
    """Run the tail on the body's outputs, train it, and return the gradient in those outputs."""
    session = _resume(context)
    learner = session.learners["tail"]
    learner.forward(tensors(message, "body-output")["body-output"], want_input_gradient=True)
    learner.loss(session.labels, session.weights)
    gradient = learner.backward(session.server_round, session.step, session.normaliser())
    return _send_rows(message, session, {"tail-gradient": gradient})


def step(message: Message, context: Context) -> Message:
    """Train the head with the cut gradient; answer with the next batch, or with the trained parts after the last."""
    session = _resume(context)
    gradient = tensors(message, "cut-gradient")["cut-gradient"]
    session.learners["head"].backward(session.server_round, session.step, session.normaliser(), gradient)
    session.step += 1
    if session.step < len(session.batches.active):
        _session_record(context)["step"] = session.step
        return _send_smashed(message, session)
    _SESSIONS.pop((context.run_id, context.node_id), None)
    return _send_parts(message, session)


def _send_smashed(message: Message, session: Session) -> Message:
    smashed = session.forward_head()
    kinds: dict[str, Tensor] = {"smashed": smashed}
    if session.job.protocol.topology == "vanilla":
        kinds["labels"] = session.labels.to(torch.uint8)
    return _send_rows(message, session, kinds)


def _send_rows(message: Message, session: Session, kinds: Mapping[str, Tensor]) -> Message:
    arrays = {kind: {kind: tensor} for kind, tensor in kinds.items()}
    lanes = session.lanes
    rows = session.batches.rows[session.step, :lanes].tolist()
    clinics = session.learners["head"].clinics[:lanes]
    return Message(content(arrays, {"clinics": clinics, "rows": rows}), reply_to=message)


def _send_parts(message: Message, session: Session) -> Message:
    config: dict[str, list[int] | list[str]] = {"clinics": session.learners["head"].clinics}
    if session.job.dp is not None:
        config |= {
            "noised-parts": list(session.learners),
            "noised-steps": session.learners["head"].noised_steps.tolist(),
        }
    return Message(content({MODEL: _parameters(session)}, config), reply_to=message)


def _parameters(session: Session) -> Parameters:
    return {name: value for learner in session.learners.values() for name, value in learner.parameters.items()}


def _learner(
    job: Job, name: str, clinics: Sequence[int], parameters: Mapping[str, Tensor], kept: Mapping[str, Tensor]
) -> Learner:
    part = job.part(name)
    own = {key.removeprefix(f"{name}:"): value for key, value in kept.items() if key.startswith(f"{name}:")}
    noised = own.pop(NOISED, None)
    return Learner(job, part, clinics, part.select(parameters), own or None, noised)


# The round in progress, so that a node which stays in one process need not rebuild it for every message. The context's
# state is what counts: it refers to the same tensors, and a session is rebuilt from it where the memo is missing.
_SESSIONS: dict[tuple[int, int], Session] = {}


def _keep(context: Context, session: Session) -> None:
    kept = {
        f"{name}:{key}": value
        for name, learner in session.learners.items()
        for key, value in {**learner.state, NOISED: learner.noised_steps}.items()
    }
    clinics = session.learners["head"].clinics
    context.state[PARAMETERS] = array_record(_parameters(session))
    context.state[KEPT] = array_record(kept)
    context.state[SESSION] = ConfigRecord(
        {"clinics": clinics, "server-round": session.server_round, "step": session.step}
    )
    _SESSIONS[context.run_id, context.node_id] = session


def _session_record(context: Context) -> ConfigRecord:
    return context.state.config_records[SESSION]


def _resume(context: Context) -> Session:
    state = _session_record(context)
    server_round, position = int(state["server-round"]), int(state["step"])  # type: ignore[arg-type]
    session = _SESSIONS.get((context.run_id, context.node_id))
    if session is not None and (session.server_round, session.step) == (server_round, position):
        return session
    job, cohort = workplace_of(context)
    clinics = integers(state, "clinics")
    parameters = tensors_in(context.state.array_records[PARAMETERS])
    kept = tensors_in(context.state.array_records[KEPT])
    learners = {name: _learner(job, name, clinics, parameters, kept) for name in job.protocol.clinic_parts}
    session = Session(job, cohort, learners, job.batches(server_round, clinics), server_round, position)
    session.forward_head()
    _SESSIONS[context.run_id, context.node_id] = session
    return session
