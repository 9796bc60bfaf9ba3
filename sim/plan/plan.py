"""The plan of a run: participation, traffic, FLOPs, time, memory and epsilon, from counts alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from sim.data.facts import Facts, run_key
from sim.methods.attendance import Attendance
from sim.methods.job import Job
from sim.methods.parties import groups_at
from sim.methods.protocol import Traffic
from sim.plan.afterwards import Afterwards, afterwards, with_afterwards
from sim.plan.budget import epsilon_spent, final_epsilons, within_budget
from sim.plan.counts import Counts
from sim.plan.edge_counts import EdgePlan, edge_columns, edge_plans, edges_at
from sim.plan.load import EDGE_PHASES, Floats, Ints
from sim.plan.noise import gradient_multipliers, refuse_lost_targets, row_multipliers, update_multiplier
from sim.plan.queues import PlanClock
from sim.plan.refusals import refuse
from sim.plan.releases import Sampled, build_ledger, of_one_patient, to_be_noised
from sim.privacy.adjacency import adjacency_of, replace_epsilon
from sim.privacy.ledger import COLUMN_OF, EDGE, REPLACE_COLUMN_OF, Adversary, Ledger, adversaries_of
from sim.privacy.mechanisms.mechanism import on_updates
from sim.scenario.clinics import assign_resources
from sim.scenario.spec import TUNED, RunSpec

PHASE_NAMES = ("download", "clinic", "upload", "server")
HOW_IT_LEARNS: Final[Any] = {
    "study": True,
    "swept": True,
    "tuned": True,
    "train": {"learning_rate", "momentum", "weight_decay", "schedule"},
    "strategy": {"label", "proximal_mu"},
}
"""Settings that change what a run learns, and nothing of its plan."""


@dataclass(frozen=True, kw_only=True)
class ClinicPlan:
    """What a run will ask of one clinic, and what it gives away."""

    name: str
    # records, steps: training records; training steps on them over the whole run, lost ones too
    records: int
    sample_rate: float  # Probability with which a record joins a batch; the batch's share of the records without DP
    # rounds, lost_rounds: rounds in which the clinic is there, and those of them in which it is lost
    rounds: int
    lost_rounds: int
    steps: int
    noise_multiplier: float | None  # None without DP
    epsilon: dict[str, float]  # By adversary, at the run's delta
    bytes_up: int
    bytes_down: int
    seconds: float  # Time in which something is done at, for, or on the line of this clinic
    idle_share: float  # Share of the run's time in which the clinic neither computes nor sends or receives
    # flops, peak_bytes: its work over the whole run; what it keeps at once
    flops: int
    peak_bytes: int
    # memory_bytes, joules: what its computer has; the energy of its computer while it computes, sends and receives.
    # None where the scenario gives no memory or power.
    memory_bytes: float | None
    joules: float | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run before it is trained."""

    spec: RunSpec
    job: Job  # As it is carried out: its settings have the executed rounds
    rounds: int  # Those that are executed: the scenario's, or as many as the budget allows
    # noise_multipliers, release_noise: by clinic: of DP-SGD, and of rows at the cut; empty without
    noise_multipliers: tuple[float, ...]
    release_noise: tuple[float, ...]
    sampled: Sampled
    attended: dict[int, Attendance]  # Of the rounds in which a clinic is away or lost
    # participants, returned: by round: how many clinics are there, and how many of them do all their batches and give
    # their parts back
    participants: tuple[int, ...]
    returned: tuple[int, ...]
    traffic: Traffic  # Bytes by direction and kind, [clinic] each
    noised_steps: dict[str, tuple[int, ...]]  # By part, one number a clinic
    ledger: Ledger
    # By adversary, the epsilon after each round, before the first one 0; see `sim.plan.budget`
    epsilon_spent: dict[Adversary, tuple[float, ...]]
    # By adversary, of the least protected clinic with everything under replacement; None where nothing counts it
    replace_epsilon: dict[Adversary, float | None]
    clinics: tuple[ClinicPlan, ...]
    edges: tuple[EdgePlan, ...]  # Edge servers, where there are any
    edge_traffic: Traffic  # Bytes between them and the cloud, by direction and kind, [edge] each
    round_seconds: tuple[float, ...]
    bytes_after: tuple[int, ...]  # Traffic of all clinics up to the end of each round
    # Summed over clinics and rounds; `waiting` is what a clinic waits before it has finished a round
    phase_seconds: dict[str, float]
    # Share of the run's time in which a worker of the server is at work, as a mean over its workers
    server_busy_share: float
    # clinic_flops, server_flops, peak_clinic_bytes: FLOPs in all; memory of the clinic that needs most
    clinic_flops: int
    server_flops: int
    peak_clinic_bytes: int

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process without the job's networks, which are made anew there."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "job"}
        return _arrived, (self.job.facts, values)

    def of(self, spec: RunSpec, facts: Facts) -> Plan:
        """Return this plan for a run that differs in :data:`HOW_IT_LEARNS` alone, or in what :func:`alike` leaves out.

        All is the run's own but what is drawn: bytes and seconds are then another draw's.
        """
        train = spec.train.model_copy(update={"rounds": self.rounds})
        own, key = spec.model_copy(update={"train": train}), run_key(spec.digest, facts)
        return replace(self, spec=spec, job=replace(self.job, spec=own, facts=facts, key=key))

    def on(self, facts: Facts) -> Plan:
        """Return this plan for other records of the same clinics, as many at each.

        What is drawn from the run's key, noise and secret batches, is another draw's.
        """
        return replace(self, job=replace(self.job, facts=facts, key=run_key(self.spec.digest, facts)))

    @property
    def note(self) -> str:
        """What a reader should know of who comes back; empty if somebody does in every round."""
        empty, rounds = sum(not count for count in self.returned), len(self.returned)
        if not empty:
            return ""
        if empty == rounds and self.spec.train.deadline is not None and any(self.participants):
            return f"train.deadline: no clinic meets it in any of {rounds} rounds; give a longer one"
        if self.job.secure is not None:
            return (
                f"fewer than {self.job.secure.threshold} updates arrive in {empty} of {rounds} rounds, which open no "
                "sum and leave the model as it is; privacy.tolerated-drop-outs lets more be lost"
            )
        return f"nobody comes back in {empty} of {rounds} rounds, which leave the model as it is"

    @property
    def adversaries(self) -> tuple[Adversary, ...]:
        """Those of the run."""
        return adversaries_of(self.spec.privacy.colluding_clinics, edges=self.job.edges is not None)

    def columns(self) -> dict[str, Any]:
        """Return the columns of ``runs.parquet`` that are known before training."""
        return dict(self._columns)

    @cached_property
    def _columns(self) -> dict[str, Any]:
        spec, privacy = self.spec, self.spec.privacy
        of_labels = None  # The same against everyone
        if privacy.randomises_labels is not None:
            of_labels = self.ledger.worst("server", privacy.delta or 0.0, range(len(self.clinics)), "label")
        nobody = {column: None for of in (COLUMN_OF, REPLACE_COLUMN_OF) for a, column in of.items() if a not in EDGE}
        worst = {COLUMN_OF[a]: max(clinic.epsilon[a] for clinic in self.clinics) for a in self.adversaries}
        return {
            "run_id": spec.run_id,
            "study": spec.study,
            "strategy": spec.strategy.label or spec.strategy.name,
            "method": spec.strategy.name,
            "cut": spec.strategy.cut or "",
            "seed": spec.seed,
            "held_out": ", ".join(self.job.facts.held_out),
            "rounds": self.rounds,
            "mean_participants": float(np.mean(self.participants)) if self.participants else 0.0,
            "lost_clinic_rounds": sum(clinic.lost_rounds for clinic in self.clinics),
            "sim_seconds": math.fsum(self.round_seconds),
            "bytes_up": sum(clinic.bytes_up for clinic in self.clinics),
            "bytes_down": sum(clinic.bytes_down for clinic in self.clinics),
            "clinic_flops": self.clinic_flops,
            "server_flops": self.server_flops,
            **edge_columns(self.edges),
            "peak_clinic_bytes": self.peak_clinic_bytes,
            "clinic_joules": sum(math.nan if clinic.joules is None else clinic.joules for clinic in self.clinics),
            "idle_share": sum(clinic.idle_share for clinic in self.clinics) / len(self.clinics),
            "server_busy_share": self.server_busy_share,
            "unit": privacy.unit,
            "mechanism": privacy.mechanism,
            "delta": privacy.delta,
            "adjacency": adjacency_of(self.ledger),
            **nobody,
            **worst,
            **{REPLACE_COLUMN_OF[a]: value for a, value in self.replace_epsilon.items()},
            "epsilon_label": of_labels,
            **spec.swept,
            **{f"{TUNED}{key}": value for key, value in spec.tuned.items()},
        }


def _arrived(facts: Facts, values: dict[str, Any]) -> Plan:
    job = Job.build(values["spec"], facts).with_noise(values["noise_multipliers"], values["release_noise"])
    return Plan(job=job.executed(values["rounds"], values["attended"]), **values)


def alike(spec: RunSpec, facts: Facts) -> str:
    """Name what runs must share to be planned as one but for what is drawn.

    That leaves out how they learn, and the seed where neither who comes nor a noised row depends on its draws.
    """
    train = spec.train
    everyone_comes = train.participation == 1 and train.over_select == 1 and train.deadline is None
    behaviours = [group.behaviour() for group in spec.clinics]
    if facts.vertical or spec.privacy.noises_rows or not everyone_comes or any(b.may_be_lost for b in behaviours):
        return spec.model_dump_json(exclude=HOW_IT_LEARNS)
    return f"{spec.model_dump_json(exclude={**HOW_IT_LEARNS, 'seed': True})} {replace(facts, fingerprint='')}"


def make_plan(spec: RunSpec, facts: Facts) -> Plan:
    """Plan one run.

    Raises ``ScenarioError`` if the cut lies outside the model, a site has no resources, delta is too large, or no noise
    meets the target.
    """
    refuse(spec, facts)
    resources = assign_resources(groups_at(spec, facts), facts.everyone, spec.seed, set(facts.names))
    job = Job.build(spec, facts)
    clock = PlanClock(resources, spec.server.resources(), edges_at(job))
    counts = Counts(job, clock).count(spec.train.rounds)
    sigmas, release_noise = _noise(job, counts.sampled())
    job = job.with_noise(sigmas, release_noise)
    if spec.privacy.stop_at_epsilon is not None:
        counts = Counts(job, clock).count(within_budget(job, counts.after, spec.privacy.stop_at_epsilon))
    return _plan(job, counts, sigmas, release_noise)


def _noise(job: Job, sampled: Sampled) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return ``[clinic]`` the noise multipliers of DP-SGD, and those of rows or updates; empty without."""
    if job.parties is not None and job.parties.heads:
        sampled = of_one_patient(sampled, job.parties)
    refuse_lost_targets(job, sampled)
    # Without a mechanism there are only un-noised releases and none at all, which no delta tells apart.
    delta = job.spec.privacy.delta or 0.0
    sigmas = () if job.dp is None else gradient_multipliers(job, job.dp.mechanism, sampled, delta)
    if (updates := on_updates(job.spec.privacy)) is not None:
        return sigmas, update_multiplier(job, updates, sampled, delta)
    return sigmas, () if job.rows is None else row_multipliers(job, job.rows, sampled, sigmas, delta)


def _plan(job: Job, counts: Counts, sigmas: tuple[float, ...], release_noise: tuple[float, ...]) -> Plan:
    """Put together what was counted and what follows from it."""
    spec, sampled, times = job.spec, counts.sampled(), counts.times
    ledger = build_ledger(job, sampled)
    epsilons = final_epsilons(job, ledger)
    delta, unit, everyone = spec.privacy.delta or 0.0, spec.privacy.unit, range(len(job.sizes))
    after = afterwards(job, counts.clock.resources)
    use = _Use.of(counts, after)
    busy = float(use.served.sum()) + math.fsum(t.common_server_flops for t in counts.loads) / spec.server.compute
    names = PHASE_NAMES if job.edges is None else (*PHASE_NAMES, *EDGE_PHASES)
    phases = {phase: float(sum(t.phases[phase].sum() for t in times)) for phase in names}
    phases["clinic"] += float(after.seconds.sum())
    return Plan(
        spec=spec,
        job=job.executed(len(counts.loads), counts.attended),
        rounds=len(counts.loads),
        noise_multipliers=sigmas,
        release_noise=release_noise,
        sampled=sampled,
        attended=counts.attended,
        participants=tuple(counts.participants),
        returned=tuple(counts.returned),
        traffic=counts.traffic,
        noised_steps={what: tuple(batches.tolist()) for what, batches in to_be_noised(job, sampled).items()},
        ledger=ledger,
        epsilon_spent=epsilon_spent(job, counts.after, epsilons),
        replace_epsilon={a: replace_epsilon(ledger, a, everyone, delta, unit) for a in epsilons},
        clinics=_clinic_plans(job, counts, use, epsilons, sigmas or release_noise),
        edges=edge_plans(job, counts.edges, counts.clock.edges) if counts.edges is not None else (),
        edge_traffic={} if counts.edges is None else counts.edges.traffic,
        round_seconds=with_afterwards([t.seconds for t in times], after),
        bytes_after=tuple(counts.bytes_after),
        phase_seconds=phases | {"waiting": float(sum(t.waiting.sum() for t in times))},
        server_busy_share=busy / (spec.server.workers * use.seconds) if use.seconds else 0.0,
        clinic_flops=counts.clinic_flops + int(after.flops.sum()),
        server_flops=counts.server_flops,
        peak_clinic_bytes=int(counts.peak_bytes().max()),
    )


@dataclass(frozen=True, kw_only=True)
class _Use:
    """What a run's rounds ask in all, ``[clinic]`` each."""

    # served, computed, on_line: seconds at the server, at the clinic's computer, and on its line
    served: Floats
    computed: Floats
    on_line: Floats
    flops: Ints  # Work at the clinic
    seconds: float  # Of the whole run

    @classmethod
    def of(cls, counts: Counts, after: Afterwards) -> _Use:
        """Add up the rounds, and what comes after them."""
        clinics = len(counts.job.sizes)
        served, computed, on_line = np.zeros((3, clinics))
        flops = np.zeros(clinics, dtype=np.int64)
        for load, time in zip(counts.loads, counts.times, strict=True):
            served[load.clinics] += time.phases["server"]
            computed[load.clinics] += time.phases["clinic"]
            on_line[load.clinics] += time.phases["download"] + time.phases["upload"]
            flops[load.clinics] += load.flops("clinic")
        seconds = math.fsum([*(time.seconds for time in counts.times), after.longest])
        computed += after.seconds
        flops += after.flops
        return cls(served=served, computed=computed, on_line=on_line, flops=flops, seconds=seconds)


def _clinic_plans(
    job: Job, counts: Counts, use: _Use, epsilons: Mapping[Adversary, Sequence[float]], noise: Sequence[float]
) -> tuple[ClinicPlan, ...]:
    sampled, peaks, own = counts.sampled(), counts.peak_bytes(), use.computed + use.on_line
    bytes_up, bytes_down = np.zeros_like(peaks), np.zeros_like(peaks)
    for (way, _), sizes in counts.traffic.items():
        (bytes_up if way == "up" else bytes_down)[:] += sizes
    resources = counts.clock.resources
    return tuple(
        ClinicPlan(
            name=name,
            records=job.sizes[k],
            sample_rate=float(sampled.rates[k]),
            rounds=int(counts.rounds[k]),
            lost_rounds=int(counts.lost_rounds[k]),
            steps=int(counts.steps[k]),
            noise_multiplier=noise[k] if noise else None,
            epsilon={a: epsilons[a][k] for a in epsilons},
            bytes_up=int(bytes_up[k]),
            bytes_down=int(bytes_down[k]),
            seconds=float(own[k] + use.served[k]),
            idle_share=max(0.0, 1 - float(own[k]) / use.seconds) if use.seconds else 0.0,
            flops=int(use.flops[k]),
            peak_bytes=int(peaks[k]),
            memory_bytes=resources[k].memory_bytes,
            joules=resources[k].joules(float(use.computed[k]), float(use.on_line[k])),
        )
        for k, name in enumerate(job.facts.names)
    )
