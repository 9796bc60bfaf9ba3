"""The plan of a run: participation, traffic, FLOPs, time, memory and epsilon, from counts alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.attendance import Attendance
from sim.clinics import assign_resources
from sim.data import Federation
from sim.job import Job, RowNoise
from sim.plan.budget import epsilon_spent, within_budget
from sim.plan.counts import Counts
from sim.plan.queues import PlanClock
from sim.privacy.accounting import gaussian_epsilon
from sim.privacy.calibration import calibrate
from sim.privacy.ledger import ADVERSARIES, Adversary, Ledger
from sim.privacy.releases import Sampled, build_ledger, to_be_noised, un_noised
from sim.problems import ScenarioError
from sim.protocols import Direction, Traffic, protocol_of
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
        Training records; training steps on them over the whole run, lost ones too.
    rounds, lost_rounds : int
        Rounds in which the clinic is there, and those of them in which it is lost.
    sample_rate : float
        Probability with which a record joins a batch; the batch's share of the records without DP.
    noise_multiplier : float or None
        None without DP.
    epsilon : dict of str to float
        By adversary, at the run's delta.
    bytes_up, bytes_down : int
    seconds : float
        Time in which something is done at, for, or on the line of this clinic.
    idle_share : float
        Share of the run's time in which the clinic neither computes nor sends or receives.
    flops, peak_bytes : int
        Its work over the whole run; what it keeps at once.
    memory_bytes, joules : float or None
        What its computer has; the energy of its computer while it computes, sends and receives. None where the
        scenario gives no memory or power.
    """

    name: str
    records: int
    sample_rate: float
    rounds: int
    lost_rounds: int
    steps: int
    noise_multiplier: float | None
    epsilon: dict[str, float]
    bytes_up: int
    bytes_down: int
    seconds: float
    idle_share: float
    flops: int
    peak_bytes: int
    memory_bytes: float | None
    joules: float | None


@dataclass(frozen=True)
class Plan:
    """A run before it is learned.

    Attributes
    ----------
    spec : RunSpec
    rounds : int
        Those that are executed: the scenario's, or as many as the budget allows.
    noise_multipliers, release_noise : tuple of float
        By clinic: of DP-SGD, and of rows at the cut; empty without.
    sampled : Sampled
    attended : dict of int to Attendance
        Of the rounds in which a clinic is away or lost.
    participants, returned : tuple of int
        By round: how many clinics are there, and how many of them do all their batches and give their parts back.
    traffic : Traffic
        Bytes by direction and kind, ``[clinic]`` each.
    noised_steps : dict of str to tuple of int
        By part, one number a clinic.
    ledger : Ledger
    epsilon_spent : dict of str to tuple of float
        By adversary, the epsilon after each round, before the first one 0; see :mod:`sim.plan.budget`.
    clinics : tuple of ClinicPlan
    round_seconds : tuple of float
    bytes_after : tuple of int
        Traffic of all clinics up to the end of each round.
    phase_seconds : dict of str to float
        Summed over clinics and rounds; ``waiting`` is what a clinic waits before it has finished a round.
    server_busy_share : float
        Share of the run's time in which a worker of the server is at work, as a mean over its workers.
    clinic_flops, server_flops, peak_clinic_bytes : int
        FLOPs in all; memory of the clinic that needs most.
    """

    spec: RunSpec
    rounds: int
    noise_multipliers: tuple[float, ...]
    release_noise: tuple[float, ...]
    sampled: Sampled
    attended: dict[int, Attendance]
    participants: tuple[int, ...]
    returned: tuple[int, ...]
    traffic: Traffic
    noised_steps: dict[str, tuple[int, ...]]
    ledger: Ledger
    epsilon_spent: dict[Adversary, tuple[float, ...]]
    clinics: tuple[ClinicPlan, ...]
    round_seconds: tuple[float, ...]
    bytes_after: tuple[int, ...]
    phase_seconds: dict[str, float]
    server_busy_share: float
    clinic_flops: int
    server_flops: int
    peak_clinic_bytes: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of who comes back, one line each."""
        empty, rounds = sum(not count for count in self.returned), len(self.returned)
        if not empty:
            return ()
        spec = self.spec
        run = f"{spec.strategy.label or spec.strategy.name}{f' {spec.strategy.cut}' * bool(spec.strategy.cut)}"
        run += f", seed {spec.seed}"
        if empty == rounds and spec.train.deadline is not None and any(self.participants):
            return (f"{run}: train.deadline: no clinic meets it in any of {rounds} rounds; give a longer one",)
        return (f"{run}: nobody comes back in {empty} of {rounds} rounds, which leave the model as it is",)

    def columns(self) -> dict[str, Any]:
        """Return the columns of ``runs.parquet`` that are known before training."""
        spec = self.spec
        worst = {COLUMN_OF[a]: max(clinic.epsilon[a] for clinic in self.clinics) for a in ADVERSARIES}
        return {
            "run_id": spec.run_id,
            "study": spec.study,
            "strategy": spec.strategy.label or spec.strategy.name,
            "cut": spec.strategy.cut or "",
            "seed": spec.seed,
            "rounds": self.rounds,
            "mean_participants": float(np.mean(self.participants)) if self.participants else 0.0,
            "lost_clinic_rounds": sum(clinic.lost_rounds for clinic in self.clinics),
            "sim_seconds": math.fsum(self.round_seconds),
            "bytes_up": sum(clinic.bytes_up for clinic in self.clinics),
            "bytes_down": sum(clinic.bytes_down for clinic in self.clinics),
            "clinic_flops": self.clinic_flops,
            "server_flops": self.server_flops,
            "peak_clinic_bytes": self.peak_clinic_bytes,
            "clinic_joules": _sum_if_known(clinic.joules for clinic in self.clinics),
            "idle_share": sum(clinic.idle_share for clinic in self.clinics) / len(self.clinics),
            "server_busy_share": self.server_busy_share,
            "unit": spec.privacy.unit,
            "mechanism": spec.privacy.mechanism,
            "delta": spec.privacy.delta,
            **worst,
            "epsilon_label": self._epsilon_of_labels(),
            **spec.swept,
        }

    def _epsilon_of_labels(self) -> float | None:
        """Return the epsilon of one label where labels are randomised: the same against everyone."""
        privacy = self.spec.privacy
        if privacy.randomises_labels is None:
            return None
        clinics = range(len(self.clinics))
        return max(self.ledger.epsilon("server", k, privacy.delta or 0.0, unit="label") for k in clinics)


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
    _refuse(spec, federation)
    resources = assign_resources(spec.clinics, federation.names, spec.seed)
    job = Job.build(spec, federation, [0.0] * len(federation.names))
    clock = PlanClock(resources, spec.server.resources())
    counts = Counts(job, clock)
    sampled = counts.sampled()
    rates = sampled.rates
    # Without a mechanism there are only un-noised releases and none at all, which no delta tells apart.
    delta = spec.privacy.delta or 0.0
    sigmas = _noise(spec, delta, federation, rates, sampled.released) if job.dp is not None else ()
    release_noise = () if job.rows is None else _row_multipliers(job, job.rows, sampled, sigmas, federation, delta)
    if spec.privacy.unit == "clinic":
        release_noise = _update_multiplier(job, sampled, delta)
    if sigmas or release_noise:
        job = Job.build(spec, federation, sigmas, release_noise)
    if spec.privacy.stop_at_epsilon is not None:
        counts = Counts(job, clock, within_budget(job, counts.after, spec.privacy.stop_at_epsilon))
        sampled = counts.sampled()
    noised = to_be_noised(job, sampled)
    ledger = build_ledger(job, sampled, noised)
    times = counts.times
    served, computed, on_line = np.zeros((3, len(federation.names)))
    flops = np.zeros(len(federation.names), dtype=np.int64)
    for load, time in zip(counts.loads, times, strict=True):
        served[list(load.clinics)] += time.phases["server"]
        computed[list(load.clinics)] += time.phases["clinic"]
        on_line[list(load.clinics)] += time.phases["download"] + time.phases["upload"]
        flops[list(load.clinics)] += load.rows.sum(0) * sum(leg.per_row for leg in load.legs if leg.place == "clinic")
    own = computed + on_line
    peaks = counts.peak_bytes()
    total = math.fsum(time.seconds for time in times)
    common = math.fsum(load.common_server_flops for load in counts.loads) / spec.server.compute
    traffic = counts.traffic
    clinics = tuple(
        ClinicPlan(
            name,
            job.sizes[k],
            rates[k],
            int(counts.rounds[k]),
            int(counts.lost_rounds[k]),
            int(counts.steps[k]),
            (sigmas or release_noise)[k] if sigmas or release_noise else None,
            {a: ledger.epsilon(a, k, delta, unit=spec.privacy.unit) for a in ADVERSARIES},
            _total(traffic, "up", k),
            _total(traffic, "down", k),
            float(own[k] + served[k]),
            max(0.0, 1 - float(own[k]) / total) if total else 0.0,
            int(flops[k]),
            int(peaks[k]),
            resources[k].memory_bytes,
            resources[k].joules(float(computed[k]), float(on_line[k])),
        )
        for k, name in enumerate(federation.names)
    )
    phases = ("download", "clinic", "upload", "server")
    return Plan(
        spec,
        len(counts.loads),
        tuple(sigmas),
        release_noise,
        sampled,
        counts.attended,
        tuple(counts.participants),
        tuple(counts.returned),
        traffic,
        noised,
        ledger,
        epsilon_spent(job, counts.after),
        clinics,
        tuple(t.seconds for t in times),
        tuple(counts.bytes_after),
        {phase: float(sum(t.phases[phase].sum() for t in times)) for phase in phases}
        | {"waiting": float(sum(t.waiting.sum() for t in times))},
        (float(served.sum()) + common) / (spec.server.workers * total) if total else 0.0,
        counts.clinic_flops,
        counts.server_flops,
        int(peaks.max()),
    )


def _refuse(spec: RunSpec, federation: Federation) -> None:
    problems = _mechanism_problems(spec)
    classes = len(federation.classes)
    if classes < 2:
        problems.append("data: all records have the same label, so there is nothing to learn; check data.label")
    if classes > 256:
        problems.append(f"data: {classes} classes; a label travels in one byte, so give at most 256")
    if "." in spec.strategy.name:
        if spec.train.participation < 1:
            problems.append(
                f"train.participation: {spec.strategy.name} draws its clinics itself; set participation = 1.0"
            )
        groups = [group.behaviour() for group in spec.clinics]
        loses = spec.train.deadline is not None or any(behaviour.may_be_lost for behaviour in groups)
        if loses and "num-sampled-clients" in spec.strategy.options:
            problems.append(
                f"strategies.options.num-sampled-clients: {spec.strategy.name} scales its noise by it, and clinics may "
                "be away or lost; take out availability, drop-out and deadline, or take another strategy"
            )
        if spec.strategy.name.endswith(".QFedAvg") and spec.privacy.mechanism != "none":
            problems.append("strategies: QFedAvg needs each clinic's exact training loss, which no mechanism protects")
        sampling = {"fraction_train", "min_train_nodes", "min_available_nodes", "fraction_evaluate"}
        for option in spec.strategy.options:
            if option.replace("-", "_") in sampling:
                problems.append(f"strategies.options.{option}: every clinic takes part in every round; remove it")
    if problems:
        raise ScenarioError(problems)


def _mechanism_problems(spec: RunSpec) -> list[str]:
    method, problems = spec.strategy.name, []
    protocol = protocol_of(method, spec.strategy.cut)
    if spec.privacy.releases_once and spec.strategy.cut is not None:
        problems += _release_once_problems(spec)
    if spec.privacy.unit == "clinic" and method not in ("fedavg", "fedprox", "splitfed-v1", "splitfed-v3"):
        problems.append(
            f"privacy.mechanism: clinic-level noises a sum of updates, and {method} forms none here; "
            "take fedavg, fedprox, splitfed-v1 or splitfed-v3"
        )
    if spec.privacy.noises_rows and spec.strategy.cut is None:
        problems.append(
            f"privacy.mechanism: {spec.privacy.noises_rows} needs a cut, and {method} sends no smashed data; take split"
        )
    if spec.privacy.randomises_labels is not None and "labels" not in protocol.sees_raw.get("server", ()):
        shown = f"{method}, {spec.strategy.cut}," if spec.strategy.cut else method
        problems.append(
            f"privacy.mechanism: label-rr randomises labels that are sent, and those of {shown} never leave the "
            "clinic; take a vanilla cut, or leave label-rr out"
        )
    return problems


def _release_once_problems(spec: RunSpec) -> list[str]:
    if spec.strategy.cut == "u-shaped":
        return [
            f"privacy.mechanism: under release-once the server trains the body alone, and the labels of "
            f"{spec.strategy.name}, u-shaped, stay at the clinic; take split with a vanilla cut"
        ]
    if spec.strategy.name != "split":
        return [
            f"privacy.mechanism: under release-once the server trains one body on the rows that it keeps, and "
            f"{spec.strategy.name} would be no other method than split; take split"
        ]
    if spec.strategy.order == "fixed" or spec.strategy.alternate == "mini-batch":
        return ["strategies: after release-once no clinic has a turn; remove order and alternate"]
    return []


def _update_multiplier(job: Job, sampled: Sampled, delta: float) -> tuple[float, ...]:
    """Return the noise multiplier of a round's release: as given, or enough for the clinic that takes part most."""
    clinics, privacy = len(sampled.rounds), job.spec.privacy
    if delta * clinics >= 1:
        raise ScenarioError(
            [f"privacy.delta: {delta:g} is not below 1 / {clinics}, one over the number of clinics; give a smaller one"]
        )
    if privacy.epsilon is None:
        noise = float(privacy.noise_multiplier or 0.0)
    else:
        try:
            noise = calibrate(privacy.epsilon, delta, 1.0, max(1, *sampled.rounds))
        except ValueError as error:
            raise ScenarioError([f"privacy.epsilon: {error}"]) from None
    if job.adaptive is not None and 2 * job.adaptive.count_noise <= noise:
        raise ScenarioError(
            [
                f"privacy.adaptive-count-noise: {job.adaptive.count_noise:g} spends more than noise multiplier "
                f"{noise:.3g} allows in all; give more than half of that, such as {noise:.2g}"
            ]
        )
    return (noise,) * clinics


def _row_multipliers(
    job: Job, noise: RowNoise, sampled: Sampled, sigmas: Sequence[float], federation: Federation, delta: float
) -> tuple[float, ...]:
    """Return the noise on rows over their clip, clinic by clinic: as given, or enough for the target.

    Gaussian noise adds up as mu^2 = exposures * (sum over kinds (reach / multiplier)^2 + (2 / sigma)^2), the last term
    for DP-SGD, whose batches the server knows. Pure epsilons add up: that of Laplace noise, exposures * sum over kinds
    reach / multiplier, that of randomised labels, and what DP-SGD has beside Laplace noise.
    """
    given, target, _ = job.spec.privacy.row_noise
    clinics = range(len(job.sizes))
    _check_delta(job.spec, delta, federation)
    if target is None:
        return (float(given or 0.0),) * len(clinics)
    key = "epsilon-server" if job.dp is not None else "epsilon"
    probe = Job.build(job.spec, federation, sigmas, [1.0 for _ in clinics])
    ledger = build_ledger(probe, sampled, to_be_noised(probe, sampled))
    if reasons := un_noised(ledger, "server"):
        raise ScenarioError(
            [f"privacy.{key}: no noise on rows reaches {target:g} against the server: {'; '.join(reasons)}"]
        )
    found = []
    labels = job.spec.privacy.randomises_labels if job.protocol.topology == "vanilla" else None
    for_rows = target - (labels or 0.0)
    if for_rows <= 0:
        raise ScenarioError(
            [f"privacy.{key}: the labels alone spend label-epsilon {labels:g}; give a larger target than {target:g}"]
        )
    laplace = noise.kind == "laplace"
    mu_squared = 0.0 if laplace else calibrate(for_rows, delta, 1.0, 1) ** -2
    for clinic in clinics:
        exposures = max(1, int(sampled.exposures[clinic]))
        steps = exposures * 4 / sigmas[clinic] ** 2 if sigmas and sigmas[clinic] else 0.0
        if laplace:
            left = (for_rows - (gaussian_epsilon(steps**0.5, delta) if steps else 0.0)) / exposures
        else:
            left = (mu_squared - steps) / exposures
        if left <= 0:
            raise ScenarioError(
                [
                    f"privacy.{key}: the server sees who is in a batch, so that dp-sgd alone spends more than "
                    f"{target:g} there; give a larger target, or dp-sgd more noise"
                ]
            )
        reach = noise.reach.values()
        found.append(sum(reach) / left if laplace else (sum(r**2 for r in reach) / left) ** 0.5)
    return tuple(found)


def _sum_if_known(values: Iterable[float | None]) -> float:
    known = [math.nan if value is None else value for value in values]
    return sum(known)


def _total(traffic: Traffic, direction: Direction, clinic: int) -> int:
    return sum(int(sizes[clinic]) for (way, _), sizes in traffic.items() if way == direction)


def _noise(
    spec: RunSpec, delta: float, federation: Federation, rates: Sequence[float], steps: Sequence[int]
) -> tuple[float, ...]:
    _check_delta(spec, delta, federation)
    epsilon = spec.privacy.epsilon
    if epsilon is None:
        return tuple(float(spec.privacy.noise_multiplier or 0.0) for _ in rates)
    try:
        return tuple(calibrate(epsilon, delta, rate, int(count)) for rate, count in zip(rates, steps, strict=True))
    except ValueError as error:
        raise ScenarioError([f"privacy.epsilon: {error}"]) from None


def _check_delta(spec: RunSpec, delta: float, federation: Federation) -> None:
    sizes = np.diff(federation.train.offsets)
    most, holder = int(sizes.max()), f'clinic "{federation.names[int(sizes.argmax())]}"'
    if spec.strategy.name == "centralised" and delta * most < 1:
        most, holder = int(sizes.sum()), "all clinics together"
    if delta * most >= 1:
        example = 10.0 ** -math.ceil(math.log10(10 * most))
        raise ScenarioError(
            [
                f"privacy.delta: {delta:g} is not below 1 / {most}, one over the training records of {holder}: "
                f"a mechanism that publishes a record would pass; give a smaller one, for example {example:g}"
            ]
        )
