"""Counts every round of a job before it is learned: the same numbers that the meter counts while it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sim.job import Job
from sim.plan.clock import Leg, RoundLoad
from sim.plan.costs import FLOAT_BYTES, part_costs
from sim.privacy.releases import Sampled
from sim.protocols import HEADER_BYTES, HEADERS, MODEL_KIND, OPTIMIZER_KIND, Direction, Traffic
from sim.sampling import draw_rows

Ints = NDArray[np.int64]


class Counts:
    """The counts of a whole run.

    Parameters
    ----------
    job : Job
    rounds : int, optional
        Stop after so many rounds instead of the scenario's.

    Attributes
    ----------
    steps : ndarray
        ``[clinic]`` training steps on the clinic's records.
    rounds : ndarray
        ``[clinic]`` rounds in which the clinic takes part.
    traffic : Traffic
        Bytes by direction and kind, ``[clinic]`` each.
    loads : list of RoundLoad
        One a round, as the clock wants them.
    after : list of Sampled
        What has been drawn up to the end of each round.
    clinic_flops, server_flops : int
        In all.
    """

    def __init__(self, job: Job, rounds: int | None = None) -> None:
        self.job = job
        self.costs = part_costs(job.parts, job.network.input_shape, job.frozen)
        self._pooled = job.protocol.movement == "none"
        if self._pooled and job.protocol.clinic_parts:  # what is trained on kept rows forms no gradient in them
            self.costs |= part_costs(job.parts[1:], self.costs["head"].output_shape)
        self.steps = np.zeros(len(job.sizes), dtype=np.int64)
        self._steps = np.array([job.steps(k) for k in range(len(job.sizes))])
        self.rounds = np.zeros(len(job.sizes), dtype=np.int64)
        self._stood = [np.zeros(n, dtype=np.int64) for n in job.sizes]
        self.traffic: Traffic = {}
        self.clinic_flops = self.server_flops = 0
        self._widest = 0
        self._legs = () if self._pooled else tuple(self._batch_legs())
        self._row_kinds: tuple[tuple[Direction, tuple[tuple[str, ...], ...]], ...] = (
            ("up", job.protocol.batch_up),
            ("down", job.protocol.batch_down),
        )
        self._rates = self.rates()
        self.loads: list[RoundLoad] = []
        self.after: list[Sampled] = []
        for server_round in range(1, 1 + (job.spec.train.rounds if rounds is None else rounds)):
            self.loads.append(self._round(server_round))
            self.after.append(self.sampled())

    def rates(self) -> list[float]:
        """Return each clinic's sampling rate; pooled records are sampled from the pool."""
        sizes = [sum(self.job.sizes)] * len(self.job.sizes) if self._pooled else self.job.sizes
        return [self.job.sampling.rate(n) for n in sizes]

    def sampled(self) -> Sampled:
        """Return what was drawn without regard to the data, for the ledger."""
        exposures = [int(stood.max(initial=0)) for stood in self._stood]
        return Sampled(self._rates, self.steps.tolist(), exposures, self.rounds.tolist())

    def peak_clinic_bytes(self) -> int:
        """Return what the clinic that needs most keeps at once.

        Parameters, gradients, optimiser state, and the largest batch with its activations; where rows or records are
        sent once, that message and the head.
        """
        parts = [self.costs[name] for name in self.job.protocol.clinic_parts]
        if self._pooled:
            message = max(self.job.sizes) * sum(self._row_bytes(kind) for kind in self.job.protocol.once_up)
            return message + self._model_bytes()
        copies = 2 + len(self.job.optimizer.slots)
        per_record = int(np.prod(self.job.network.input_shape)) + sum(part.activations for part in parts)
        return FLOAT_BYTES * (copies * sum(part.parameters for part in parts) + self._widest * per_record)

    def _round(self, server_round: int) -> RoundLoad:
        if self._pooled:
            return self._pooled_round(server_round)
        job, protocol = self.job, self.job.protocol
        alone = protocol.topology == "whole" and protocol.movement == "own"
        clinics = job.in_lane_order(range(len(job.sizes))) if alone else job.participants(server_round)
        rows = draw_rows(job.sampling, job.seed, server_round, clinics, [job.sizes[k] for k in clinics])
        steps = self._steps[clinics]
        handed_on = protocol.movement == "handed-on"
        turns = steps if handed_on and job.by_mini_batch else np.ones_like(steps)
        self.steps[clinics] += steps
        self.rounds[clinics] += 1
        if job.rows is not None:
            self._expose(server_round, clinics)
        self._widest = max(self._widest, int(rows.max()))
        self._count_traffic(clinics, rows.sum(0), steps, turns)
        flops = {place: sum(leg.per_row for leg in self._legs if leg.place == place) for place in ("clinic", "server")}
        self.clinic_flops += int(rows.sum()) * flops["clinic"]
        averaged = () if protocol.movement == "handed-on" or alone else self._averaged_parts()
        aggregation = 2 * len(clinics) * sum(self.costs[name].parameters for name in averaged)
        self.server_flops += int(rows.sum()) * flops["server"] + aggregation
        schedule = None
        if job.spec.strategy.order is not None:
            lane = {k: position for position, k in enumerate(clinics)}
            schedule = tuple((lane[k], step) for k, step in job.schedule(job.order(server_round)))
        moved = self._moved_bytes()
        return RoundLoad(
            tuple(clinics), rows, steps, self._legs, moved, moved, turns, schedule, handed_on, float(aggregation)
        )

    def _expose(self, server_round: int, clinics: list[int]) -> None:
        """Count how often each record stands in a batch."""
        if not self.job.sampling.poisson:
            for clinic in clinics:
                self._stood[clinic] += self.job.sampling.local_epochs
            return
        batches = self.job.batches(server_round, clinics)
        for lane, clinic in enumerate(clinics):
            inside = np.arange(batches.index.shape[2]) < batches.rows[:, lane, None]
            drawn = batches.index[:, lane][inside]
            self._stood[clinic] += np.bincount(drawn, minlength=self.job.sizes[clinic])

    def _pooled_round(self, server_round: int) -> RoundLoad:
        job = self.job
        pool = sum(job.sizes)
        everyone = tuple(range(len(job.sizes)))
        rows = draw_rows(job.sampling, job.seed, server_round, [0], [pool])
        self.steps += job.sampling.steps(pool)
        sent = np.zeros((0, len(job.sizes)), dtype=np.int64)
        legs = [Leg("up", sum(self._row_bytes(kind) for kind in job.protocol.once_up), job.protocol.once_up[0])]
        head_bytes = 0
        if server_round == 1:
            sent = np.array([job.sizes])
            for stood in self._stood:
                stood += 1
            if job.protocol.clinic_parts:
                legs.insert(0, Leg("clinic", self.costs["head"].forward_flops, "head forward"))
                self.clinic_flops += pool * self.costs["head"].forward_flops
                head_bytes = self._model_bytes()
                self._cross("down", MODEL_KIND, list(everyone), head_bytes)
                self._cross("down", HEADERS, list(everyone), HEADER_BYTES)
            for kind in job.protocol.once_up:
                self._cross("up", kind, list(everyone), sent[0] * self._row_bytes(kind))
            self._cross("up", HEADERS, list(everyone), HEADER_BYTES)
        trained = self.costs[job.protocol.server_parts[0]]
        flops = int(rows.sum()) * (trained.forward_flops + trained.backward_flops)
        self.server_flops += flops
        steps = np.full(len(job.sizes), len(sent))
        return RoundLoad(everyone, sent, steps, tuple(legs), head_bytes, 0, steps, None, False, float(flops))

    def _count_traffic(self, clinics: list[int], rows: Ints, steps: Ints, turns: Ints) -> None:
        for direction, messages in self._row_kinds:
            count = steps * len(messages)
            for kind in (kind for kinds in messages for kind in kinds):
                self._cross(direction, kind, clinics, rows * self._row_bytes(kind))
            if self.job.protocol.crosses:
                count = count + turns
                self._cross(direction, MODEL_KIND, clinics, turns * self._model_bytes())
                if optimizer := self._optimizer_bytes():
                    self._cross(direction, OPTIMIZER_KIND, clinics, turns * optimizer)
            if count.any():
                self._cross(direction, HEADERS, clinics, count * HEADER_BYTES)

    def _cross(self, direction: Direction, kind: str, clinics: list[int], size: Ints | int) -> None:
        counted = self.traffic.setdefault((direction, kind), np.zeros(len(self.job.sizes), dtype=np.int64))
        counted[clinics] += size

    def _averaged_parts(self) -> tuple[str, ...]:
        protocol = self.job.protocol
        copies = () if self.job.spec.strategy.order is not None else protocol.server_parts
        return copies + (protocol.clinic_parts if protocol.movement == "averaged" else ())

    def _moved_bytes(self) -> int:
        return self._model_bytes() + self._optimizer_bytes() if self.job.protocol.crosses else 0

    def _model_bytes(self) -> int:
        return FLOAT_BYTES * sum(self.costs[name].parameters for name in self.job.protocol.clinic_parts)

    def _optimizer_bytes(self) -> int:
        if self.job.protocol.movement != "handed-on":
            return 0
        slots = self.job.optimizer.slots
        step_counters = 8 * len(self.job.protocol.clinic_parts) if self.job.optimizer.name == "adam" else 0
        return len(slots) * self._model_bytes() + step_counters

    def _batch_legs(self) -> Iterator[Leg]:
        """Return the way of one batch."""
        costs, protocol = self.costs, self.job.protocol
        if protocol.topology == "whole":
            yield Leg("clinic", costs["model"].forward_flops + costs["model"].backward_flops, "training")
            return
        yield Leg("clinic", costs["head"].forward_flops, "head forward")
        yield Leg("up", sum(self._row_bytes(kind) for kind in protocol.batch_up[0]), "smashed")
        if protocol.topology == "vanilla":
            yield Leg("server", costs["body"].forward_flops + costs["body"].backward_flops, "body")
        else:
            yield Leg("server", costs["body"].forward_flops, "body forward")
            yield Leg("down", self._row_bytes("body-output"), "body-output")
            yield Leg("clinic", costs["tail"].forward_flops + costs["tail"].backward_flops, "tail")
            yield Leg("up", self._row_bytes("tail-gradient"), "tail-gradient")
            yield Leg("server", costs["body"].backward_flops, "body backward")
        yield Leg("down", self._row_bytes("cut-gradient"), "cut-gradient")
        yield Leg("clinic", costs["head"].backward_flops, "head backward")
        if self.job.joint:
            yield Leg("up", self._row_bytes("norms"), "norms")
            yield Leg("server", 0, "body update")
            yield Leg("down", self._row_bytes("clip-factors"), "clip-factors")

    def _row_bytes(self, kind: str) -> int:
        if kind == "labels":
            return 1
        if kind in ("norms", "clip-factors"):
            return FLOAT_BYTES
        if kind == "records":
            return FLOAT_BYTES * int(np.prod(self.job.network.input_shape))
        return self.costs["head" if kind in ("smashed", "cut-gradient") else "body"].output_bytes
