"""Counts every round of a job before it is learned: the same numbers that the meter counts while it is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sim.methods.alignment import messages_of
from sim.methods.attendance import Attendance, available, drop_outs, slowdowns
from sim.methods.crossing import crossing_form, label_form
from sim.methods.job import Job
from sim.methods.messages import Kind
from sim.methods.parties import drawn_by, patients
from sim.methods.protocol import ALIGNMENT, HEADER_BYTES, HEADERS, Direction, Kinds, Traffic
from sim.methods.sampling import choose, draw_rows, selected
from sim.plan.clock import RoundTime, attendance_until, time_limit, time_until
from sim.plan.costs import FLOAT_BYTES, nopeek_flops, part_costs
from sim.plan.edge_counts import EdgeCounts
from sim.plan.load import Ints, Leg, Place, RoundLoad, legs_of_a_batch
from sim.plan.party_costs import PartyCosts, alignment_seconds, sends
from sim.plan.queues import PlanClock
from sim.plan.releases import Sampled
from sim.privacy.secure_aggregation import WORD
from sim.tensor.cut_rows import form_bytes


class Counts:
    """The counts of a whole run: who is there, what crosses, and how long it takes.

    What the job says of attendance is left aside; it is drawn here. The clock times the rounds, and with them decides
    who meets a deadline.
    """

    def __init__(self, job: Job, clock: PlanClock) -> None:
        def by_clinic() -> Ints:
            return np.zeros(len(job.sizes), dtype=np.int64)

        self.job = replace(job, attended={})
        self.clock = clock
        self.costs = part_costs(job.parts, job.network.input_shape, job.frozen)
        joined = job.parties if job.method.joins else None
        self._parties = None if joined is None else PartyCosts(job, joined, self.costs, self._row_bytes)
        self.edges = None if job.edges is None else EdgeCounts(job, job.edges, self.costs)
        self.steps = by_clinic()  # training steps on the clinic's records
        self.rounds = by_clinic()  # in which the clinic is there
        self.returned_rounds = by_clinic()  # in which its parts come back
        self.lost_rounds = by_clinic()  # in which it does not do all its batches or its parts do not come back
        self.traffic: Traffic = {}  # by direction and kind, [clinic] each
        self.clinic_flops = self.server_flops = 0
        # By round: those in which a clinic is away or lost; how many clinics are there, and how many are not lost; the
        # bytes of all clinics, and what has been drawn, up to its end.
        self.attended: dict[int, Attendance] = {}
        self.participants: list[int] = []
        self.returned: list[int] = []
        self.loads: list[RoundLoad] = []
        self.times: list[RoundTime] = []
        self.bytes_after: list[int] = []
        self.after: list[Sampled] = []
        self._pooled = job.method.pooled
        if self._pooled and job.protocol.clinic_parts:  # what is trained on kept rows forms no gradient in them
            self.costs |= part_costs(job.parts[1:], self.costs["head"].output_shape)
        self._left, self._released, self._exposures, self._widest = (by_clinic() for _ in range(4))
        self._all_steps = job.sampling.steps(job.records)
        self._stood = [np.zeros(n, dtype=np.int64) for n in job.sizes] if job.rows is not None else []
        message = self.edges.message if self.edges is not None and self.edges.hops else self._message
        ways = (self._work, message) if self._parties is None else (self._parties.work, self._parties.message)
        self._legs = () if self._pooled else tuple(legs_of_a_batch(job, *ways))
        if self.edges is not None and not self.edges.hops:
            self._legs = tuple(replace(leg, place="edge") if leg.place == "server" else leg for leg in self._legs)
        if not job.method.trains:
            self._legs = tuple(replace(leg, per_row=0) for leg in self._legs)
        # Pooled records are sampled from the pool.
        self._rates = job.sampling.rates(np.full_like(job.records, patients(job)) if self._pooled else job.records)
        self._model_bytes: Ints | int = FLOAT_BYTES * self._common_scalars(job.protocol.clinic_parts)
        if self._parties is not None:
            self._model_bytes = FLOAT_BYTES * self._parties.crossing()
        self._optimizer_bytes = self._state_bytes()
        self._compressed = self.job.compression.sent_bytes if self.job.compression is not None else 0
        self._behaviours = [each.behaviour for each in clock.resources]
        self._masked = sum(
            self._common_scalars((part,)) for part in job.protocol.clinic_parts if part not in job.frozen
        )
        self._sums = np.zeros((0, 0), dtype=np.int64)
        self._uneven = any(behaviour.straggler_chance for behaviour in self._behaviours)
        self._reliable = not any(behaviour.may_be_lost for behaviour in self._behaviours)

    def count(self, rounds: int) -> Counts:
        """Count so many rounds; return itself."""
        self._rounds = rounds
        self._there = available(self.job.seed, self._behaviours, rounds)
        self._sums = np.zeros((len(self.job.sizes) if self.job.secure else 0, rounds), dtype=np.int64)
        for server_round in range(1, 1 + rounds):
            self._pooled_round(server_round) if self._pooled else self._round(server_round)
            self.bytes_after.append(sum(int(sizes.sum()) for sizes in self.traffic.values()))
            self.after.append(self.sampled())
        return self

    def sampled(self) -> Sampled:
        """Return what was drawn without regard to the data, for the ledger."""
        return Sampled(
            rates=self._rates,
            steps=self._left.copy(),
            exposures=self._exposures.copy(),
            rounds=self.returned_rounds.copy(),
            released=self._released.copy(),
            sums=self._sums[:, : len(self.participants)],
        )

    def _work(self, place: Place, part: str, *passes: str) -> Leg:
        nopeek = nopeek_flops(self.job, self.costs[part]) if (part, passes) == ("head", ("backward",)) else 0
        return Leg(place, self.costs[part].flops(*passes) + nopeek)

    def _message(self, direction: Direction, kinds: Kinds) -> list[Leg]:
        return [Leg(direction, sum(self._row_bytes(kind) for kind in kinds))]

    def peak_bytes(self) -> Ints:
        """Return ``[clinic]`` what each keeps at once.

        Parameters, gradients, optimiser state, what compression leaves for the next round, and the largest batch with
        its activations; where rows or records are sent once, that message and the head.
        """
        parts = [self.costs[name] for name in self.job.protocol.clinic_parts]
        if self._pooled:
            message = self.job.records * sum(self._once_bytes(kind) for kind in self.job.protocol.once_up)
            return message + self._model_bytes
        copies = 2 + len(self.job.optimizer.slots)
        if self._parties is not None:
            return FLOAT_BYTES * self._parties.scalars(copies, self._widest)
        per_record = int(np.prod(self.job.network.input_shape)) + sum(part.activations for part in parts)
        return FLOAT_BYTES * (
            copies * sum(part.parameters for part in parts)
            + sum(self.job.part(name).statistics_count() for name in self.job.protocol.clinic_parts)
            + (self.job.compression.numbers if self.job.compression is not None else 0)
            + self._widest * per_record
        )

    def _round(self, server_round: int) -> None:
        """Draw who is there, time the round, cut it at its limit, and count what is left."""
        attendance = self._drawn(server_round)
        load = self._load(server_round, attendance)
        time = self.clock.time_round(load)
        train = self.job.spec.train
        enough = self.job.wanted if train.over_select > 1 else None
        if (train.deadline or enough) and not self.job.method.alone:
            limit = time_limit(load, time, train.deadline, enough)
            attendance = attendance_until(load, time, self.clock.durations(load), limit, enough)
            load = self._load(server_round, attendance)
            time = time_until(time, limit, load, self.clock.durations(load))
        if self.job.secure is not None and attendance.returned.sum() < self.job.secure.threshold:
            attendance = Attendance(attendance.clinics, attendance.batches, np.zeros_like(attendance.returned))
            load = self._load(server_round, attendance)
        if attendance != self.job.attendance(server_round):
            self.attended[server_round] = attendance
        self._count(server_round, load)
        self.loads.append(load)
        self.times.append(time)

    def _drawn(self, server_round: int) -> Attendance:
        """Draw who is there, and who drops out. A clinic that trains alone drops out of nothing."""
        job, train = self.job, self.job.spec.train
        if self._reliable and train.over_select == 1:
            return job.attendance(server_round)
        there = np.flatnonzero(self._there[server_round - 1])
        if job.parties is not None:
            there = there[np.isin(there, job.parties.present)]
        if job.method.alone or job.parties is not None:
            return Attendance.complete(there, self._all_steps[there])
        size = selected(job.wanted, train.over_select)
        clinics = choose(job.seed, server_round, there, size)
        steps = self._all_steps[clinics].tolist()
        return drop_outs(job.seed, server_round, clinics.tolist(), steps, self._behaviours)

    def _load(self, server_round: int, attendance: Attendance) -> RoundLoad:
        job, protocol = self.job, self.job.protocol
        order = job.lane_order(attendance.clinics)
        clinics, steps, back = attendance.clinics[order], attendance.batches[order], attendance.returned[order]
        rows = self._rows(server_round, clinics, job.records[clinics], steps)
        handed_on = protocol.movement == "handed-on"
        turns = steps if job.by_mini_batch else np.minimum(steps, 1)
        schedule = None
        if job.method.sequential:
            lane = {k: position for position, k in enumerate(clinics.tolist())}
            attended = replace(job, attended={server_round: attendance})
            schedule = tuple((lane[k], step) for k, step in attended.schedule(server_round))
        averaged = 0 if handed_on or job.method.alone else self._averaged_scalars(server_round)
        secure, present, lost = job.secure, len(clinics), int((~back).sum())
        unmasking = secure.server_operations(present, lost, self._masked) if secure is not None else 0
        moved = self._moved(clinics) + self._optimizer_bytes if protocol.crosses else 0
        own = self._parties.averaged(clinics) if self._parties is not None else averaged * back
        load = RoundLoad(
            clinics=clinics,
            rows=rows,
            steps=steps,
            legs=self._legs,
            begin_bytes=moved,
            end_bytes=self._compressed or (moved if secure is None else WORD * self._masked),
            before=() if secure is None else secure.before(present, self._masked),
            after=() if secure is None else secure.after(present),
            turns=turns if handed_on else np.ones_like(steps),
            schedule=schedule,
            handed_on=handed_on,
            common_server_flops=2.0 * int(own.sum()) + unmasking,
            lost=frozenset(np.flatnonzero(~back).tolist()),
            joined=job.parties.region_of if job.parties is not None and job.method.joins else (),
            before_s=alignment_seconds(job, self.clock.resources) if server_round == 1 else 0.0,
            slowed=slowdowns(job.seed, server_round, clinics.tolist(), self._behaviours) if self._uneven else (),
        )
        return load if self.edges is None else self.edges.through(load, server_round, self._rounds)

    def _rows(self, server_round: int, clinics: Ints, records: Ints, steps: Ints) -> Ints:
        """Return the rows of each batch, one lane after another.

        Where batches are secret and no rows cross, nothing that is published may tell their sizes: they count as they
        are expected.
        """
        sampling = self.job.sampling
        if sampling.poisson and not self.job.protocol.batch_up:
            return np.repeat(np.minimum(sampling.batch_size, records), steps)
        return draw_rows(
            sampling, self.job.batch_key, server_round, drawn_by(self.job.parties, clinics), records, steps
        )

    def _count(self, server_round: int, load: RoundLoad) -> None:
        clinics, back = load.clinics, load.returns
        complete = back & (load.steps == self._all_steps[clinics])
        self.participants.append(len(clinics))
        self.returned.append(int(complete.sum()))
        self.rounds[clinics] += 1
        self.returned_rounds[clinics] += back
        if self.job.secure is not None:
            self._sums[clinics[back], server_round - 1] = back.sum()
        self.lost_rounds[clinics] += ~complete
        # Steps of a lost clinic are in the model where they trained a body, or parts, that live on.
        forgotten = self.job.protocol.movement == "averaged" and not self.job.method.sequential
        kept = load.steps * back if forgotten else load.steps
        self.steps[clinics] += load.steps
        self._released[clinics] += kept
        self._left[clinics] += kept if self.job.protocol.topology == "whole" else load.steps
        if self.job.rows is not None:
            self._expose(server_round, load)
        np.maximum.at(self._widest, clinics[load.lane_and_step[0]], load.rows)
        self._count_traffic(load)
        if self.edges is not None and load.edges is not None:
            self.edges.count(load, load.edges)
        for way, party, size in messages_of(self.job) if server_round == 1 else ():
            self._cross(way, ALIGNMENT, np.array([party]), size)
        self.clinic_flops += int(load.flops("clinic").sum())
        self.clinic_flops += len(clinics) * sum(size for place, size in load.before if place == "clinic")
        self.server_flops += int(load.flops("server").sum()) + int(load.common_server_flops)

    def _expose(self, server_round: int, load: RoundLoad) -> None:
        """Count how often each record stands in a batch that leaves."""
        clinics = load.clinics.tolist()
        index = self.job.batches(server_round, clinics).index
        for lane, (clinic, first, steps) in enumerate(zip(clinics, load.first, load.steps, strict=True)):
            inside = np.arange(index.shape[2]) < load.rows[first : first + steps, None]
            drawn = index[:steps, lane][inside]
            self._stood[clinic] += np.bincount(drawn, minlength=self.job.sizes[clinic])
            self._exposures[clinic] = self._stood[clinic].max(initial=0)

    def _pooled_round(self, server_round: int) -> None:
        job = self.job
        pool = patients(job)
        everyone = np.arange(len(job.sizes))
        steps = job.sampling.steps(pool)
        rows = self._rows(server_round, np.zeros(1, dtype=np.int64), np.array([pool]), np.array([steps]))
        for counted in (self.steps, self._left, self._released):
            counted += steps
        for counted in (self.rounds, self.returned_rounds):
            counted += 1
        self.participants.append(len(everyone))
        self.returned.append(len(everyone))
        once = sum((self._once_bytes(kind) for kind in job.protocol.once_up), np.zeros_like(everyone))
        legs = [Leg("up", 0, tuple(once.tolist()))]
        head_bytes: Ints | int = 0
        if server_round == 1:
            self._exposures += 1
            if job.protocol.clinic_parts:
                legs.insert(0, Leg("clinic", self.costs["head"].forward_flops))
                self.clinic_flops += pool * self.costs["head"].forward_flops
                head_bytes = self._model_bytes
                self._cross("down", Kind.MODEL, everyone, head_bytes)
                self._cross("down", HEADERS, everyone, HEADER_BYTES)
            for kind in job.protocol.once_up:
                self._cross("up", kind, everyone, job.records * self._once_bytes(kind))
            self._cross("up", HEADERS, everyone, HEADER_BYTES)
        trained = self.costs[job.protocol.server_parts[0]]
        flops = int(rows.sum()) * (trained.forward_flops + trained.backward_flops)
        self.server_flops += flops
        sent = job.records if server_round == 1 else job.records[:0]
        batches = np.full(len(job.sizes), int(server_round == 1))
        load = RoundLoad(
            clinics=everyone,
            rows=sent,
            steps=batches,
            legs=tuple(legs),
            begin_bytes=head_bytes,
            end_bytes=0,
            turns=batches,
            schedule=None,
            handed_on=False,
            common_server_flops=float(flops),
        )
        self.loads.append(load)
        self.times.append(self.clock.time_round(load))

    def _count_traffic(self, load: RoundLoad) -> None:
        clinics, rows = load.clinics, load.records
        sent: tuple[tuple[Direction, tuple[tuple[str, ...], ...]], ...]
        sent = (("up", self.job.protocol.batch_up), ("down", self.job.protocol.batch_down))
        for direction, messages in sent:
            count = np.zeros_like(load.steps)
            for kinds in messages:
                there = {kind: load.steps * sends(self.job.parties, kind, clinics) for kind in kinds}
                count += np.max(list(there.values()), axis=0)
                for kind, steps in there.items():
                    self._cross(direction, kind, clinics, rows * (steps > 0) * self._row_bytes(kind))
            if self.job.protocol.crosses:
                times = load.ends if direction == "up" else load.turns
                count = count + times
                if direction == "up" and (self._compressed or self.job.secure is not None):
                    kind = Kind.UPDATE if self._compressed else Kind.MASKED
                    self._cross(direction, kind, clinics, times * load.end_bytes)
                else:
                    self._cross(direction, Kind.MODEL, clinics, times * self._moved(clinics))
                if self._optimizer_bytes:
                    self._cross(direction, Kind.OPTIMIZER, clinics, times * self._optimizer_bytes)
            if count.any():
                self._cross(direction, HEADERS, clinics, count * HEADER_BYTES)
        for (direction, what), size in load.set_up.items():
            self._cross(direction, what, clinics, size)

    def _once_bytes(self, kind: str) -> Ints:
        """Return ``[clinic]`` what one record's row takes of a kind that crosses once."""
        parties, everyone = self.job.parties, np.arange(len(self.job.sizes))
        if parties is not None and kind == "records":
            return FLOAT_BYTES * np.array([len(own) for own in parties.columns])
        return sends(parties, kind, everyone) * self._row_bytes(kind)

    def _cross(self, direction: Direction, kind: str, clinics: Ints, size: Ints | int) -> None:
        counted = self.traffic.setdefault((direction, kind), np.zeros(len(self.job.sizes), dtype=np.int64))
        counted[clinics] += size

    def _averaged_scalars(self, server_round: int) -> int:
        """Return the scalars that the server averages at the end of a round, of each clinic."""
        method, protocol = self.job.method, self.job.protocol
        copies = protocol.server_parts if method.body == "copies" else ()
        heads = protocol.clinic_parts if protocol.movement == "averaged" else ()
        named = method.averages(server_round)
        return self._common_scalars(tuple(part for part in copies + heads if part in named))

    def _moved(self, clinics: Ints) -> Ints | int:
        """Return the bytes, or ``[lane]`` where clinics differ, of the parts that a turn begins and ends with."""
        return self._model_bytes if isinstance(self._model_bytes, int) else self._model_bytes[clinics]

    def _common_scalars(self, parts: tuple[str, ...]) -> int:
        """Return the scalars of some parts, running statistics among them, that are not each clinic's own."""
        shapes = (named for part in parts for named in self.job.part(part).shapes().items())
        return sum(math.prod(shape) for name, shape in shapes if name not in self.job.apart)

    def _state_bytes(self) -> int:
        if self.job.protocol.movement != "handed-on":
            return 0
        slots = self.job.optimizer.slots
        step_counters = 8 * len(self.job.protocol.clinic_parts) if self.job.optimizer.name == "adam" else 0
        trained = sum(self.costs[name].parameters for name in self.job.protocol.clinic_parts)
        return len(slots) * FLOAT_BYTES * trained + step_counters

    def _row_bytes(self, kind: str) -> int:
        if kind == "labels":
            return form_bytes(label_form(self.job))
        if kind in ("norms", "clip-factors"):
            return FLOAT_BYTES
        if kind == "records":
            return FLOAT_BYTES * int(np.prod(self.job.network.input_shape))
        part = "head" if kind in ("smashed", "cut-gradient") else "body"
        cost = self._parties.heads[0] if self._parties is not None and part == "head" else self.costs[part]
        job = self.job if self.edges is None else self.edges.below
        return form_bytes(crossing_form(job, kind, cost.output_shape))
