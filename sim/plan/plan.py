"""The plan of a run: participation, traffic, FLOPs, time, memory and epsilon, from counts alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.clinics import assign_resources
from sim.data import Federation
from sim.job import Job
from sim.plan.clock import ClosedFormClock, RoundLoad
from sim.plan.costs import FLOAT_BYTES, PartCost, part_costs
from sim.privacy.accounting import calibrate
from sim.privacy.ledger import ADVERSARIES, Ledger
from sim.privacy.releases import build_ledger
from sim.problems import ScenarioError
from sim.protocols import HEADER_BYTES, HEADERS, MODEL_KIND, Direction, Traffic
from sim.sampling import draw_rows
from sim.spec import RunSpec

Ints = NDArray[np.int64]
COLUMN_OF = {"model-user": "epsilon_model_user", "peer-clinic": "epsilon_peer", "server": "epsilon_server"}


@dataclass(frozen=True)
class ClinicPlan:
    """What a run will ask of one clinic, and what it gives away.

    Attributes
    ----------
    name : str
    records, steps : int
        Training records; training steps on them over the whole run.
    sample_rate : float
        Probability with which a record joins a batch; the batch's share of the records without DP.
    noise_multiplier : float or None
        None without DP.
    epsilon : dict of str to float
        By adversary, at the run's delta.
    bytes_up, bytes_down : int
    seconds : float
        Time in which something is done at, for, or on the line of this clinic.
    """

    name: str
    records: int
    sample_rate: float
    steps: int
    noise_multiplier: float | None
    epsilon: dict[str, float]
    bytes_up: int
    bytes_down: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """A run before it is learned.

    Attributes
    ----------
    spec : RunSpec
    noise_multipliers : tuple of float
        By clinic; empty without DP.
    traffic : Traffic
        Bytes by direction and kind, ``[clinic]`` each.
    noised_steps : dict of str to tuple of int
        By part, one number a clinic.
    ledger : Ledger
    clinics : tuple of ClinicPlan
    round_seconds : tuple of float
    phase_seconds : dict of str to float
        Summed over clinics and rounds.
    clinic_flops, server_flops, peak_clinic_bytes : int
        FLOPs in all; memory of the clinic that needs most.
    """

    spec: RunSpec
    noise_multipliers: tuple[float, ...]
    traffic: Traffic
    noised_steps: dict[str, tuple[int, ...]]
    ledger: Ledger
    clinics: tuple[ClinicPlan, ...]
    round_seconds: tuple[float, ...]
    phase_seconds: dict[str, float]
    clinic_flops: int
    server_flops: int
    peak_clinic_bytes: int

    def columns(self) -> dict[str, Any]:
        """Return the columns of ``runs.parquet`` that are known before training."""
        spec = self.spec
        worst = {COLUMN_OF[a]: max(clinic.epsilon[a] for clinic in self.clinics) for a in ADVERSARIES}
        return {
            "run_id": spec.run_id,
            "study": spec.study,
            "strategy": spec.strategy.name,
            "cut": spec.strategy.cut or "",
            "seed": spec.seed,
            "rounds": spec.train.rounds,
            "sim_seconds": math.fsum(self.round_seconds),
            "bytes_up": sum(clinic.bytes_up for clinic in self.clinics),
            "bytes_down": sum(clinic.bytes_down for clinic in self.clinics),
            "clinic_flops": self.clinic_flops,
            "server_flops": self.server_flops,
            "peak_clinic_bytes": self.peak_clinic_bytes,
            "unit": "record",
            "mechanism": spec.privacy.mechanism,
            "delta": spec.privacy.delta,
            **worst,
            **spec.swept,
        }


def make_plan(spec: RunSpec, federation: Federation) -> Plan:
    """Plan one run.

    Parameters
    ----------
    spec : RunSpec
    federation : Federation
        Its names and sizes are used, never a value.

    Returns
    -------
    Plan

    Raises
    ------
    ScenarioError
        If the cut lies outside the model, a site has no resources, delta is too large, or no noise meets the target.
    """
    if len(federation.classes) < 2:
        raise ScenarioError(["data: all records have the same label, so there is nothing to learn; check data.label"])
    resources = assign_resources(spec.clinics, federation.names)
    try:
        job = Job.build(spec, federation, [0.0] * len(federation.names))
    except ValueError as error:
        raise ScenarioError([f"model.cut: {error}"]) from None
    counts = _Counts(job)
    rates = counts.rates()
    # Without a mechanism there are only un-noised releases and none at all, which no delta tells apart.
    delta = 0.5 if spec.privacy.delta is None else spec.privacy.delta
    sigmas = _noise(spec, delta, federation, rates, counts.steps) if job.dp is not None else ()
    if sigmas:
        job = Job.build(spec, federation, sigmas)
    noised = {part: tuple(counts.steps.tolist()) for part in job.protocol.parts} if job.dp is not None else {}
    ledger = build_ledger(job.protocol, job.dp, rates, counts.steps.tolist(), noised)
    clock = ClosedFormClock(resources, spec.server.compute)
    times = [clock.time_round(load) for load in counts.loads]
    busy = np.sum([np.sum(list(t.phases.values()), axis=0) for t in times], axis=0) * np.ones(len(federation.names))
    traffic = counts.traffic
    clinics = tuple(
        ClinicPlan(
            name,
            job.sizes[k],
            rates[k],
            int(counts.steps[k]),
            sigmas[k] if sigmas else None,
            {a: ledger.epsilon(a, k, delta) for a in ADVERSARIES},
            _total(traffic, "up", k),
            _total(traffic, "down", k),
            float(busy[k]),
        )
        for k, name in enumerate(federation.names)
    )
    phases = ("download", "clinic", "upload", "server")
    return Plan(
        spec,
        tuple(sigmas),
        traffic,
        noised,
        ledger,
        clinics,
        tuple(t.seconds for t in times),
        {phase: float(sum(t.phases[phase].sum() for t in times)) for phase in phases},
        sum(int(load.clinic_flops.sum()) for load in counts.loads),
        sum(int(load.server_flops.sum() + load.common_server_flops) for load in counts.loads),
        counts.peak_clinic_bytes(),
    )


def _total(traffic: Traffic, direction: Direction, clinic: int) -> int:
    return sum(int(sizes[clinic]) for (way, _), sizes in traffic.items() if way == direction)


def _noise(
    spec: RunSpec, delta: float, federation: Federation, rates: Sequence[float], steps: Ints
) -> tuple[float, ...]:
    sizes = np.diff(federation.train.offsets)
    largest = int(sizes.argmax())
    if delta * int(sizes[largest]) >= 1:
        example = 10.0 ** -math.ceil(math.log10(10 * sizes[largest]))
        raise ScenarioError(
            [
                f"privacy.delta: {delta:g} is not below 1 / {sizes[largest]}, one over the training records of clinic "
                f'"{federation.names[largest]}": a mechanism that publishes a record would pass; '
                f"give a smaller one, for example {example:g}"
            ]
        )
    epsilon = spec.privacy.epsilon
    if epsilon is None:
        return tuple(float(spec.privacy.noise_multiplier or 0.0) for _ in rates)
    try:
        return tuple(calibrate(epsilon, delta, rate, int(count)) for rate, count in zip(rates, steps, strict=True))
    except ValueError as error:
        raise ScenarioError([f"privacy.epsilon: {error}"]) from None


class _Counts:
    """Counts every round of a job; the same numbers that the meter counts when the run is learned."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.costs = part_costs(job.parts, job.network.input_shape)
        self.clinics = len(job.sizes)
        self.steps = np.zeros(self.clinics, dtype=np.int64)
        self.traffic: Traffic = {}
        self.widest = np.zeros(self.clinics, dtype=np.int64)
        self.centralised = job.spec.strategy.name == "centralised"
        self.loads = [self._round(r) for r in range(1, job.spec.train.rounds + 1)]

    def rates(self) -> list[float]:
        """Return each clinic's sampling rate; pooled records are sampled from the pool."""
        sizes = [sum(self.job.sizes)] * self.clinics if self.centralised else self.job.sizes
        return [self.job.sampling.rate(n) for n in sizes]

    def peak_clinic_bytes(self) -> int:
        """Return parameters, gradients, optimiser state, a batch and its activations, where they need most."""
        parts = [self.costs[name] for name in self.job.protocol.clinic_parts]
        if not parts:
            return (
                max(int(sizes.max()) for (way, _), sizes in self.traffic.items() if way == "up") if self.traffic else 0
            )
        copies = 2 + len(self.job.optimizer.slots)
        inputs = int(np.prod(self.job.network.input_shape))
        per_record = inputs + sum(part.activations for part in parts)
        fixed = copies * sum(part.parameters for part in parts)
        return FLOAT_BYTES * (fixed + int(self.widest.max()) * per_record)

    def _round(self, server_round: int) -> RoundLoad:
        job, protocol, zero = self.job, self.job.protocol, np.zeros(self.clinics, dtype=np.int64)
        if self.centralised:
            return self._pooled_round(server_round)
        everyone = protocol.model_crosses is False
        clinics = job.in_lane_order(range(self.clinics)) if everyone else job.participants(server_round)
        rows = draw_rows(job.sampling, job.seed, server_round, clinics, [job.sizes[k] for k in clinics])
        steps = np.array([job.sampling.steps(job.sizes[k]) for k in clinics])
        total = rows.sum(0)
        self.steps[clinics] += steps
        self.widest[clinics] = np.maximum(self.widest[clinics], rows.max(0))
        messages, size = {"up": zero.copy(), "down": zero.copy()}, {"up": zero.copy(), "down": zero.copy()}

        def cross(direction: Direction, kind: str, amount: Ints | int) -> None:
            counted = self.traffic.setdefault((direction, kind), zero.copy())
            counted[clinics] += amount
            size[direction][clinics] += amount

        directions: tuple[tuple[Direction, tuple[tuple[str, ...], ...]], ...] = (
            ("up", protocol.batch_up),
            ("down", protocol.batch_down),
        )
        for direction, batch_messages in directions:
            count = steps * len(batch_messages) + (1 if protocol.model_crosses else 0)
            if protocol.model_crosses:
                cross(direction, MODEL_KIND, FLOAT_BYTES * sum(self._cost(p).parameters for p in protocol.clinic_parts))
            for kind in (kind for kinds in batch_messages for kind in kinds):
                cross(direction, kind, total * self._row_bytes(kind))
            if count.any():
                cross(direction, HEADERS, count * HEADER_BYTES)
            messages[direction][clinics] += count
        work = {where: zero.copy() for where in ("clinic", "server")}
        for where, parts in (("clinic", protocol.clinic_parts), ("server", protocol.server_parts)):
            for name in parts:
                work[where][clinics] += total * (self._cost(name).forward_flops + self._cost(name).backward_flops)
        averaged = sum(cost.parameters for cost in self.costs.values()) if protocol.model_crosses else 0
        aggregation = 2.0 * averaged * len(clinics)
        return RoundLoad(
            messages["up"], messages["down"], size["up"], size["down"], work["clinic"], work["server"], aggregation
        )

    def _pooled_round(self, server_round: int) -> RoundLoad:
        zero = np.zeros(self.clinics, dtype=np.int64)
        pool = sum(self.job.sizes)
        rows = draw_rows(self.job.sampling, self.job.seed, server_round, [0], [pool])
        self.steps += self.job.sampling.steps(pool)
        up, messages = zero, zero
        if server_round == 1:
            sizes = np.array(self.job.sizes)
            for kind in self.job.protocol.once_up:
                self.traffic["up", kind] = sizes * self._row_bytes(kind)
            self.traffic["up", HEADERS] = np.full(self.clinics, HEADER_BYTES)
            up, messages = np.sum(list(self.traffic.values()), axis=0), zero + 1
        cost = self._cost("model")
        flops = float(rows.sum() * (cost.forward_flops + cost.backward_flops))
        return RoundLoad(messages, zero, up, zero, zero, zero, flops)

    def _cost(self, part: str) -> PartCost:
        return self.costs[part]

    def _row_bytes(self, kind: str) -> int:
        if kind == "labels":
            return 1
        if kind == "records":
            return FLOAT_BYTES * int(np.prod(self.job.network.input_shape))
        at_first_cut = kind in ("smashed", "cut-gradient")
        return self._cost("head" if at_first_cut else "body").output_bytes
