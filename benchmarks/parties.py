"""The server and the clinics of a round as they would be deployed: bytes in, the real computation, bytes out.

Every message from a clinic answers one from the server, so that a clinic is a generator which is sent what came down
and yields what goes up, and the server's end of a clinic's turn is one which is sent what came up and yields what goes
down. What carries the messages is left open: sockets in ``benchmarks.reality``, nothing at all in ``Rehearsal``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sim.data.federation import Records
from sim.methods.feed import Feed, padded
from sim.methods.job import Job
from sim.methods.node_group import NodeGroup
from sim.methods.protocol import HEADER_BYTES
from sim.methods.sampling import loss_weights
from sim.methods.trainer import LocalTraining, Trainer, expand, trainer_for
from sim.models import Parameters
from sim.tensor.lanes import weighted_average
from sim.tensor.program import Alone


def pack(tensors: Iterable[Tensor]) -> bytes:
    """Return tensors as they lie in memory, one after another."""
    return b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)


def rows_in(payload: bytes, shape: tuple[int, ...], rows: int) -> Tensor:
    """Return ``[1, batch, *feature]`` out of the beginning of a message."""
    count = rows * int(np.prod(shape))
    return torch.from_numpy(np.frombuffer(payload, np.float32, count).copy()).view(1, rows, *shape)


def like(payload: bytes, layout: Mapping[str, Tensor]) -> Parameters:
    """Return a message's tensors, which have the names, shapes and order of ``layout``."""
    flat = torch.from_numpy(np.frombuffer(payload, np.float32).copy())
    pieces = flat.split([value.numel() for value in layout.values()])
    return {name: piece.view_as(value).clone() for (name, value), piece in zip(layout.items(), pieces, strict=True)}


def moved(job: Job, parameters: Parameters) -> Parameters:
    """Return what crosses with a turn: the clinic's parts and, where they are handed on, their optimiser's state."""
    parts = {name: parameters[name] for part in job.protocol.clinic_parts for name in job.part(part).shapes()}
    return parts | (job.initial_optimizer_state(parts) if job.protocol.movement == "handed-on" else {})


def clinic_rounds(job: Job, train: Records, clinic: int) -> Generator[bytes, tuple[int, bytes], None]:
    """Take part in round after round.

    Parameters
    ----------
    job : Job
    train : Records
    clinic : int

    Yields
    ------
    bytes
        The answer to what was sent in: the round's number and the message. The first is empty.
    """
    group = NodeGroup.build(job, train, [clinic])
    layout = moved(job, job.network.initial_parameters(job.seed))
    names = job.protocol.clinic_parts
    answer = b""
    while True:
        server_round, message = yield answer
        received = like(message, layout)
        trainers = {}
        for name in names:
            state = {key.removeprefix(f"{name}:"): v for key, v in received.items() if key.startswith(f"{name}:")}
            trainers[name] = trainer_for(job, job.part(name), [clinic], job.part(name).select(received), state or None)
        if job.protocol.topology == "whole":
            work = LocalTraining(trainer=trainers["model"], group=group, job=job, server_round=server_round)
            Alone().do(work)
        else:
            yield from _batches(job, group, clinic, server_round, trainers)
        trained = {key: value for trainer in trainers.values() for key, value in trainer.parameters.items()}
        for name, trainer in trainers.items():
            trained |= {f"{name}:{key}": value for key, value in trainer.state.items()}
        answer = pack(trained[name] for name in layout)


def _batches(
    job: Job, group: NodeGroup, clinic: int, server_round: int, trainers: Mapping[str, Trainer]
) -> Generator[bytes, tuple[int, bytes], None]:
    head = trainers["head"]
    feed = Feed.gathered(job, group, [clinic], server_round, slice(None))
    for step in range(len(feed.active)):
        normaliser, rows = feed.normaliser[step], int(feed.rows[step, 0])
        [batch] = feed.step(step)
        width, y = batch.x.shape[1], batch.y[:, :rows]
        smashed = head.forward(batch.x, moment=(server_round, step))[:, :rows]
        if job.protocol.topology == "vanilla":
            _, message = yield pack([smashed.detach(), y.to(torch.uint8)])
        else:
            tail = trainers["tail"]
            _, message = yield pack([smashed.detach()])
            outputs = padded(rows_in(message, output_shape(job, "body"), rows), width)
            tail.forward(outputs, want_input_gradient=True, moment=(server_round, step))
            tail.loss(batch.y, batch.weights)
            _, message = yield pack([tail.backward(server_round, step, normaliser)[:, :rows]])
        gradient = rows_in(message, tuple(smashed.shape[2:]), rows)
        head.backward(server_round, step, normaliser, padded(gradient, width))


def output_shape(job: Job, part: str) -> tuple[int, ...]:
    """Return the shape of one record's output of a part."""
    x = torch.empty(1, 1, *job.network.input_shape)
    with torch.no_grad():
        for each in job.parts:
            parameters = {name: torch.empty(1, *shape) for name, shape in each.shapes().items()}
            x = trainer_for(job, each, [0], parameters).forward(x)
            if each.name == part:
                break
    return tuple(x.shape[2:])


class Carrier(Protocol):
    """What carries messages between the server and the clinics."""

    def send(self, clinic: int, server_round: int, message: bytes) -> None:
        """Send a message down."""

    def receive(self, clinic: int | None = None) -> tuple[int, bytes]:
        """Wait for a clinic's message, or for the first that comes; return whose it is, and the message."""


class Server:
    """The server of federated averaging, relay, SplitFed V1 and V2.

    Parameters
    ----------
    job : Job

    Attributes
    ----------
    parameters : dict of str to Tensor
        ``[1, *shape]``, after the last round.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._one_body = job.spec.strategy.order is not None
        self._smashed_shape = output_shape(job, "head") if job.protocol.topology != "whole" else ()
        self.parameters = job.network.initial_parameters(job.seed)
        self._moved = moved(job, self.parameters)
        self._body = self._new_body(0) if self._one_body else None

    def train(self, server_round: int, carrier: Carrier) -> None:
        """Do a round, aggregation and all."""
        job = self._job
        order = job.order(server_round) if self._one_body else job.participants(server_round)
        bodies = {} if job.protocol.topology == "whole" else {k: self._body or self._new_body(k) for k in order}
        turns = {k: self._turn(k, server_round, bodies.get(k)) for k in order}
        ends: dict[int, bytes] = {}

        def begin(k: int) -> None:
            next(turns[k])
            carrier.send(k, server_round, pack(self._moved.values()))

        def answer(k: int, message: bytes) -> None:
            try:
                carrier.send(k, server_round, turns[k].send(message))
            except StopIteration as end:
                ends[k] = end.value

        if job.protocol.movement == "handed-on":
            for k in order:
                begin(k)
                while k not in ends:
                    answer(*carrier.receive(k))
                self._moved = like(ends[k], self._moved)
        else:
            for k in order:
                begin(k)
            for k, _ in job.schedule(server_round) if self._one_body else ():
                for _ in job.protocol.batch_up:
                    answer(*carrier.receive(k))
            while len(ends) < len(order):
                answer(*carrier.receive())
            self._average(ends, {} if self._one_body else bodies)
        learned = {} if self._body is None else self._body.parameters
        self.parameters = job.network.whole.select({**self.parameters, **self._moved, **learned})

    def _turn(self, clinic: int, server_round: int, body: Trainer | None) -> Generator[bytes, bytes, bytes]:
        """Answer a clinic's messages; the value at the end is its last message, with its trained parts."""
        message = yield b""
        if body is None:
            return message
        job, size = self._job, self._job.sampling.batch_size
        for step in range(job.steps(clinic)):
            rows = np.array([min(size, job.sizes[clinic] - step % -(-job.sizes[clinic] // size) * size)])
            normaliser = job.sampling.normaliser(np.array([job.sizes[clinic]]), rows)
            smashed = rows_in(message, self._smashed_shape, int(rows[0]))
            width = int(job.width(rows)[0])
            outputs = body.forward(padded(smashed, width), want_input_gradient=True, moment=(server_round, step))
            if job.protocol.topology == "vanilla":
                labels = torch.from_numpy(np.frombuffer(message, np.uint8, offset=smashed.nbytes).copy())[None]
                body.loss(padded(labels, width), torch.from_numpy(loss_weights(rows, normaliser, width)))
                gradient = body.backward(server_round, step, normaliser)
            else:
                message = yield pack([outputs.detach()[:, : rows[0]]])
                cotangent = padded(rows_in(message, tuple(outputs.shape[2:]), int(rows[0])), width)
                gradient = body.backward(server_round, step, normaliser, cotangent)
            message = yield pack([gradient[:, : rows[0]]])
        return message

    def _average(self, ends: Mapping[int, bytes], bodies: Mapping[int, Trainer]) -> None:
        clinics = self._job.in_lane_order(list(ends))
        each = [{**like(ends[k], self._moved), **(bodies[k].parameters if bodies else {})} for k in clinics]
        total = sum(self._job.sizes[k] for k in clinics)
        stacked = {name: torch.cat([parts[name] for parts in each]) for name in each[0]}
        averaged = weighted_average(stacked, [self._job.sizes[k] / total for k in clinics])
        self._moved = {name: averaged[name] for name in self._moved}
        self.parameters = {**self.parameters, **averaged}

    def _new_body(self, clinic: int) -> Trainer:
        part = self._job.part("body")
        return trainer_for(self._job, part, [clinic], expand(part.select(self.parameters), 1))


class Rehearsal:
    """Carries messages by hand: one round after another in one process, with all clinics at hand.

    Parameters
    ----------
    job : Job
    train : Records

    Attributes
    ----------
    up, down : ndarray
        ``[clinic]`` bytes so far, headers included.
    clinic_seconds, server_seconds : list of float
        Computation of all clinics and of the server in each round, to and from bytes included.
    server : Server
    """

    def __init__(self, job: Job, train: Records) -> None:
        self.server = Server(job)
        self._clinics = [clinic_rounds(job, train, k) for k in range(len(job.sizes))]
        for clinic in self._clinics:
            next(clinic)
        self._answers: deque[tuple[int, bytes]] = deque()
        self.up, self.down = (np.zeros(len(job.sizes), dtype=np.int64) for _ in range(2))
        self.clinic_seconds: list[float] = []
        self.server_seconds: list[float] = []

    def train(self, server_round: int) -> None:
        """Do a round."""
        self.clinic_seconds.append(0.0)
        start = time.perf_counter()
        self.server.train(server_round, self)
        self.server_seconds.append(time.perf_counter() - start - self.clinic_seconds[-1])

    def send(self, clinic: int, server_round: int, message: bytes) -> None:
        """Let the clinic answer at once."""
        start = time.perf_counter()
        answer = self._clinics[clinic].send((server_round, message))
        self.clinic_seconds[-1] += time.perf_counter() - start
        self.down[clinic] += len(message) + HEADER_BYTES
        self.up[clinic] += len(answer) + HEADER_BYTES
        self._answers.append((clinic, answer))

    def receive(self, clinic: int | None = None) -> tuple[int, bytes]:
        """Return the first answer that fits."""
        found = next(answer for answer in self._answers if clinic in (None, answer[0]))
        self._answers.remove(found)
        return found
