"""The job: everything about a run that all its parties know, derived from the same settings by each of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from sim.data.facts import Facts, run_key
from sim.foundation.problems import ScenarioError
from sim.foundation.rng import Key, stream
from sim.methods import acting
from sim.methods.attendance import Attendance, RoundDraws, everyone_returns
from sim.methods.compression import compression_of
from sim.methods.crossing import row_shapes
from sim.methods.cutting import laid_out, unfit_for_batch_norm
from sim.methods.edges import edges_of
from sim.methods.method import Method, method_of
from sim.methods.parties import Parties, drawn_by, trained_apart
from sim.methods.protocol import Protocol, protocol_of
from sim.methods.sampling import Batches, Ints, Sampling, draw_batches, wanted
from sim.models import Network, Parameters, Part
from sim.models.dense import dense_layers
from sim.models.layers import Shape
from sim.privacy.mechanisms.clinic_level import AdaptiveClip
from sim.privacy.mechanisms.noises import GradientNoise, LabelNoise, RowNoise
from sim.privacy.secure_aggregation import SecureAggregation
from sim.scenario.clinics import groups_of
from sim.scenario.outcomes import Outcome
from sim.scenario.privacy import Opponent
from sim.scenario.spec import RunSpec
from sim.tensor.cut_rows import CutRows
from sim.tensor.lane import Lane
from sim.tensor.losses import Loss
from sim.tensor.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything about a run that is not a patient's record; server and clinics derive it from the same settings.

    Attributes
    ----------
    spec : RunSpec
    facts : Facts
    method : Method
    protocol : Protocol
    network : Network
    parts : tuple of Part
        The whole model, or head, body and, for U-shaped, tail.
    sizes : tuple of int
        Training records by clinic, public.
    sampling : Sampling
    optimizer : Optimizer
    loss : Loss
        Of a record, by what is predicted.
    dp : GradientNoise or None
    frozen : frozenset of str
        The parts that do not train; their initial values are public.
    rows : RowNoise or None
        For rows that are noised at the cut.
    update_noise : float or None
        Under clinic-level privacy: noise multiplier of what a round releases.
    adaptive : AdaptiveClip or None
        Under clinic-level privacy with a clip that is not fixed.
    labels : LabelNoise or None
        For labels that are randomised before they leave.
    secure : SecureAggregation or None
        Where the server sees the sum alone of what clinics train.
    parties : Parties or None
        Under a vertical layout.
    attended : mapping of int to Attendance
        The plan's, for the rounds in which a clinic is away or lost.
    key : str
        Of whatever hides a record, see :func:`run_key`.
    """

    spec: RunSpec
    facts: Facts
    method: Method
    protocol: Protocol
    network: Network
    parts: tuple[Part, ...]
    sizes: tuple[int, ...]
    sampling: Sampling
    optimizer: Optimizer
    loss: Loss
    dp: GradientNoise | None
    frozen: frozenset[str] = frozenset()
    rows: RowNoise | None = None
    update_noise: float | None = None
    adaptive: AdaptiveClip | None = None
    labels: LabelNoise | None = None
    secure: SecureAggregation | None = None
    parties: Parties | None = None
    attended: Mapping[int, Attendance] = field(default_factory=dict)
    key: str

    @classmethod
    def build(cls, spec: RunSpec, facts: Facts) -> Job:
        """Derive the job of a run, without noise and with everybody there.

        Raises
        ------
        ScenarioError
            If the model does not fit the data, the cut lies outside it, or the class weights are not one a class.
        """
        method = method_of(spec.strategy.name)
        protocol = protocol_of(method, spec.strategy.cut)
        network, parts, frozen, rows, parties = laid_out(spec, facts, method, protocol)
        dp = acting.gradient_noise(spec.privacy, trained_apart(parts, frozen, parties), len(facts.sizes))
        job = cls(
            spec=spec,
            facts=facts,
            method=method,
            protocol=protocol.exchanging_norms() if dp is not None and dp.joint else protocol,
            network=network,
            parts=parts,
            sizes=facts.sizes,
            sampling=Sampling(dp is not None, spec.train.batch_size, spec.train.local_epochs),
            optimizer=Optimizer(spec.train.optimizer),
            loss=acting.loss_of(spec, facts),
            dp=dp,
            frozen=frozen,
            rows=rows,
            adaptive=acting.adaptive_clip(spec, len(facts.sizes)),
            labels=acting.label_noise(spec.privacy, len(facts.classes)),
            secure=acting.secure_aggregation(spec, len(facts.sizes)),
            parties=parties,
            key=run_key(spec.digest, facts),
        )
        for problem in unfit_for_batch_norm(job) if network.whole.statistics else ():
            raise ScenarioError([problem])
        return job

    def with_noise(self, noise_multipliers: Sequence[float], release_noise: Sequence[float] = ()) -> Job:
        """Return the job with its noise.

        Parameters
        ----------
        noise_multipliers : sequence of float
            ``[clinic]``; of no use without DP-SGD.
        release_noise : sequence of float
            ``[clinic]`` of rows at the cut, or of the updates' sum, the same for all.
        """
        dp, rows, update = self.dp, self.rows, self.update_noise
        if dp is not None:
            clip = self.spec.privacy.clip
            parts = self.secure.parts if self.secure is not None and self.shares_noise else 1
            # Without noise the product is 0 even for an infinite clip.
            noise_std = (sigma * clip / math.sqrt(parts) if sigma else 0.0 for sigma in noise_multipliers)
            dp = replace(dp, noise_std=tuple(noise_std))
        if rows is not None:
            rows = replace(rows, multipliers=tuple(release_noise))
        if self.spec.privacy.unit == "clinic" and release_noise:
            update = release_noise[0]
        return replace(self, dp=dp, rows=rows, update_noise=update)

    def executed(self, rounds: int, attended: Mapping[int, Attendance]) -> Job:
        """Return the job as it is carried out: with its number of rounds, and who is there in them."""
        train = self.spec.train.model_copy(update={"rounds": rounds})
        return replace(self, spec=self.spec.model_copy(update={"train": train}), attended=attended)

    @property
    def outcome(self) -> Outcome:
        """What is predicted."""
        return self.spec.data.outcome_of_a_record

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.spec.seed

    @property
    def batch_key(self) -> Key:
        """What keys the batches: the seed, so that methods see the same ones; where they are to be secret, the run."""
        return self.key if self.sampling.poisson else self.seed

    @cached_property
    def cut(self) -> CutRows:
        """How un-noised rows cross at a cut, in both directions."""
        return CutRows(self.spec.train.smashed_dtype, self.spec.train.smashed_top_k)

    def on_grid(self, kind: str) -> bool:
        """Whether rows of a kind leave noised, on a public grid."""
        return self.rows is not None and kind in self.rows.clip and not self.rows.silent

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """The parts that train."""
        return tuple(name for name in self.protocol.parts if name not in self.frozen)

    @property
    def joint(self) -> bool:
        """Whether the parts exchange the norms of records' gradients."""
        return self.dp is not None and self.dp.joint

    @property
    def shielded(self) -> bool:
        """Whether records or clinics are protected, so that no single one may end the run."""
        return self.dp is not None or self.rows is not None or self.spec.privacy.unit == "clinic"

    @property
    def opponent(self) -> Opponent:
        """The adversary against whom ``epsilon`` is stated."""
        return self.spec.privacy.opponent(self.spec.strategy.cut)

    @property
    def shares_noise(self) -> bool:
        """Whether a round's sum, which alone is seen, is one release that the noise of all clinics hides.

        So it is of clipped updates, and of one step of plain SGD a clinic on all its records: then n_k / n times what
        clinic k changes is 1 / n times its sum of clipped gradients with its noise, for every k alike. A lying server
        can send parameters beside which one clinic's noise is rounded away, and another's record is not.
        """
        if self.secure is None or self.protocol.topology != "whole":
            return False
        one_step = bool((self.sampling.steps(self.records) == 1).all())
        return self.dp is None or (one_step and self.optimizer.name == "sgd" and not self.secure.active)

    @property
    def protected_rows(self) -> tuple[str, ...]:
        """Kinds of rows that leave noised or randomised."""
        return (*(() if self.rows is None else self.rows.clip), *(() if self.labels is None else ("labels",)))

    @property
    def round_releases(self) -> tuple[str, ...]:
        """What a round of clinic-level privacy releases; together it has the noise multiplier ``update_noise``."""
        return ("update",) if self.adaptive is None else ("update", "clip-count")

    @cached_property
    def hostile(self) -> dict[int, tuple[str, float]]:
        """By clinic, what it sends in place of its update, and how strong; see :mod:`clients.updates`."""
        if all(group.hostile is None for group in self.spec.clinics):
            return {}
        group_of = groups_of(self.spec.clinics, self.facts.everyone)
        own = {k: self.spec.clinics[group_of[name]] for k, name in enumerate(self.facts.names)}
        return {k: (g.hostile, g.hostile_strength or 0.0) for k, g in own.items() if g.hostile is not None}

    def part(self, name: str) -> Part:
        """Return a part by name."""
        return next(part for part in self.parts if part.name == name)

    def shapes(self, parts: Iterable[str]) -> dict[str, Shape]:
        """Return the shapes of the values of some parts, by name."""
        return {name: shape for part in parts for name, shape in self.part(part).shapes().items()}

    def option(self, name: str) -> Any:
        """Return an option of the method: as the scenario gives it, or its default."""
        return self.spec.strategy.options.get(name, self.method.options[name])

    def in_lane_order(self, clinics: Sequence[int]) -> list[int]:
        """Order clinics by descending number of records: the order of lanes, everywhere."""
        if len(clinics) == 1:
            return list(clinics)
        of_all = np.array(clinics, dtype=np.int64)
        ordered: list[int] = of_all[self.lane_order(of_all)].tolist()
        return ordered

    def lane_order(self, clinics: Ints) -> Ints:
        """Return the positions of clinics in the order of their lanes."""
        return np.lexsort((clinics, -self.records[clinics]))

    @cached_property
    def records(self) -> Ints:
        """``[clinic]`` training records."""
        return np.array(self.sizes, dtype=np.int64)

    def attendance(self, server_round: int) -> Attendance:
        """Return who is there in a round, and how far each clinic comes."""
        return self._draws(server_round).attendance

    def _draws(self, server_round: int) -> RoundDraws:
        if server_round not in self._drawn:
            self._drawn.clear()
            share = 1.0 if self.method.alone else self.spec.train.participation
            present = None if self.parties is None else self.parties.present
            attendance = self.attended.get(server_round) or everyone_returns(
                self.sampling, self.seed, server_round, self.sizes, share, present
            )
            ordered = self.in_lane_order(attendance.clinics.tolist())
            self._drawn[server_round] = RoundDraws(attendance, {k: lane for lane, k in enumerate(ordered)})
        return self._drawn[server_round]

    @cached_property
    def _drawn(self) -> dict[int, RoundDraws]:
        return {}

    @property
    def wanted(self) -> int:
        """How many clinics a round is meant to have."""
        return wanted(len(self.sizes), self.spec.train.participation)

    def participants(self, server_round: int) -> list[int]:
        """Return a round's clinics in lane order, lost ones too."""
        return list(self._draws(server_round).lanes)

    def taking_turns(self, server_round: int) -> Mapping[int, int]:
        """Return the lanes of a round's clinics if they come one by one, so that all is drawn at once for them."""
        return self._draws(server_round).lanes if self.method.sequential and len(self.sizes) > 1 else {}

    def returning(self, server_round: int, clinics: Sequence[int]) -> list[int]:
        """Return those of a round's clinics whose parts come back, in the order given."""
        attendance = self.attendance(server_round)
        return list(clinics) if attendance.returned.all() else [k for k in clinics if attendance.returns(k)]

    def lost(self, server_round: int) -> list[int]:
        """Return those of a round's clinics whose parts do not come back."""
        attendance = self.attendance(server_round)
        lost: list[int] = attendance.clinics[~attendance.returned].tolist()
        return lost

    @cached_property
    def dense(self) -> bool:
        """Whether the network is a chain of linear layers, whose lanes may be of several runs."""
        return len(self.network.input_shape) == 1 and dense_layers(self.network.whole) is not None

    def width(self, rows: Ints) -> Ints:
        """Return how wide batches of so many rows are computed."""
        return self.sampling.width(rows, int(self.records.max())) if self.dense else np.maximum(1, rows)

    @cached_property
    def lanes(self) -> dict[tuple[int, float], Lane]:
        """The lanes made so far, by clinic and NoPeek's weight; see :func:`sim.methods.trainer.lanes_of`."""
        return {}

    def steps(self, clinic: int) -> int:
        """Return the number of a clinic's batches in one round."""
        return self.sampling.steps(self.sizes[clinic])

    def order(self, server_round: int) -> list[int]:
        """Return a round's clinics in the order in which a sequential strategy serves them."""
        clinics: list[int] = self.attendance(server_round).clinics.tolist()
        if self.spec.strategy.order == "fixed":
            return clinics
        return [int(k) for k in stream(self.seed, "order", server_round=server_round).permutation(clinics)]

    @property
    def by_mini_batch(self) -> bool:
        """Whether a sequential strategy changes clinics after every batch (Gawali et al. 2020)."""
        return self.spec.strategy.alternate == "mini-batch"

    def schedule(self, server_round: int) -> list[tuple[int, int]]:
        """Return the ``(clinic, step)`` of every batch of a sequential round, one after another."""
        attendance = self.attendance(server_round)
        batches = {k: attendance.batches_of(k) for k in self.order(server_round)}
        if self.by_mini_batch:
            longest = max(batches.values(), default=0)
            return [(k, step) for step in range(longest) for k in batches if step < batches[k]]
        return [(k, step) for k in batches for step in range(batches[k])]

    @cached_property
    def apart(self) -> frozenset[str]:
        """Names of the values that each clinic has of its own.

        They are the parts that are never averaged and, where model.batch-norm is "local", running statistics: at the
        clinics, and in the server's copies of the body, one a clinic. One body that serves all clinics has one set.
        """
        protocol, copies = self.protocol, self.method.body == "copies"
        names = {*self.shapes(protocol.clinic_parts if protocol.movement == "own" else ())}
        if self.spec.model.batch_norm == "local" and protocol.movement != "none":
            local = protocol.clinic_parts + (protocol.server_parts if copies else ())
            names |= {name for part in local for name in self.part(part).statistics}
        return frozenset(names)

    compression = cached_property(compression_of)
    row_shapes = cached_property(row_shapes)
    edges = cached_property(edges_of)

    def initial_optimizer_state(self, parameters: Parameters) -> Parameters:
        """Return the state that the first clinic is handed with its parts, keyed ``part:slot/parameter``."""
        parts = ((name, self.part(name)) for name in self.protocol.clinic_parts)
        return {
            f"{name}:{key}": value
            for name, part in parts
            for key, value in self.optimizer.initial_state(
                {each: parameters[each] for each in part.shapes() if each not in part.statistics}
            ).items()
        }

    def batches(self, server_round: int, clinics: Sequence[int]) -> Batches:
        """Draw a round's batches for clinics in lane order; once for all who ask in that round."""
        of_round, lanes = self._draws(server_round).batches, tuple(clinics)
        if lanes not in of_round:
            if len(lanes) == 1 and lanes[0] in (turns := self.taking_turns(server_round)):
                drawn = self._batches(server_round, tuple(turns))
                of_round.update(((k,), drawn.lane(lane)) for k, lane in turns.items())
            else:
                of_round[lanes] = self._batches(server_round, lanes)
        return of_round[lanes]

    def _batches(self, server_round: int, clinics: tuple[int, ...]) -> Batches:
        sizes = [self.sizes[k] for k in clinics]
        return draw_batches(self.sampling, self.batch_key, server_round, drawn_by(self.parties, clinics), sizes)
