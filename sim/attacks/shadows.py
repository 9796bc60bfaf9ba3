"""Shadow models: the run's method trained on other draws of the same records, so that it is known who was in.

For every clinic as many records as it trains on are drawn anew from its training and its held-out records together.
Attacks on one run share them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.attacks.attack import Observer, Target
from sim.attacks.observation import visible
from sim.data.federation import Federation, Records
from sim.foundation.rng import stream
from sim.methods.messages import Instruction, Kind, Reply, Train
from sim.models import Network, Parameters
from sim.privacy.ledger import ADVERSARIES, Adversary
from sim.tensor.evaluation import Evaluator

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Population:
    """The records of which a part trains.

    Attributes
    ----------
    records : Records
        Training and held-out ones of each clinic, in this order within a clinic.
    sizes : ndarray of int
        ``[clinic]`` how many of them train.
    """

    records: Records
    sizes: NDArray[np.int64]

    @property
    def independent(self) -> bool:
        """Whether each record is of another patient; those of one patient are all in the run, or all out."""
        return len(np.unique(self.records.patient)) == len(self.records.patient)

    @classmethod
    def of(cls, federation: Federation) -> Population:
        """Return that of a run."""
        train, others = federation.train, federation.untrained
        clinic = np.concatenate([train.clinic, others.clinic])
        order = np.argsort(clinic, kind="stable")
        records = Records(
            np.concatenate([train.x, others.x])[order],
            np.concatenate([train.y, others.y])[order],
            train.offsets + others.offsets,
            np.concatenate([train.row, others.row])[order],
            np.concatenate([train.patient, others.patient])[order],
        )
        return cls(records, np.diff(train.offsets))

    def members(self) -> Mask:
        """``[record]``: who trains in the run itself."""
        mask = np.zeros(len(self.records.y), dtype=np.bool_)
        for first, size in zip(self.records.offsets[:-1], self.sizes, strict=True):
            mask[first : first + size] = True
        return mask

    def drawn(self, seed: int, number: int) -> Mask:
        """``[record]``: who trains in a shadow run, drawn without regard to labels."""
        mask = np.zeros(len(self.records.y), dtype=np.bool_)
        rng = stream(seed, "attack.shadow", number)
        for (first, end), size in zip(pairwise(self.records.offsets.tolist()), self.sizes, strict=True):
            mask[first + rng.permutation(end - first)[:size]] = True
        return mask

    def federation(self, base: Federation, members: Mask) -> Federation:
        """Return the clinics with these training records, and the others to be tested on."""
        parts = [_part(self.records, mask) for mask in (members, ~members)]
        none = _part(self.records, np.zeros_like(members))
        return replace(base, train=parts[0], test=parts[1], test_names=base.names, validation=none)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trials:
    """The run and its shadows, and how well each knows the population's records.

    Attributes
    ----------
    population : Population
    inside : ndarray of bool
        ``[model, record]`` who trained in which; the run itself is the first model.
    logits : mapping of adversary to ndarray
        ``[view, model, record]`` by :func:`own_class_logits`, of the models that the adversary sees whole: the final
        one, or those of some rounds; the server has also what each clinic made of them, where it is sent that openly.
    """

    population: Population
    inside: Mask
    logits: Mapping[Adversary, Floats]


def trials_of(target: Target) -> Trials | None:
    """Train the run and its shadows, unless another attack has; None without held-out records.

    Options
    -------
    shadows : how many.
    rounds : of how many rounds the models are looked at, evenly spread up to the last.
    """
    shadows, rounds = int(target.options["shadows"]), int(target.options["rounds"])
    key = "trials", shadows, rounds
    if key not in target.shared:
        target.shared[key] = _trials(target, shadows, rounds)
    found: Trials | None = target.shared[key]
    return found


def _trials(target: Target, shadows: int, rounds: int) -> Trials | None:
    plan, population = target.plan, Population.of(target.federation)
    members = population.members()
    if members.all():
        return None
    inside = np.stack([members, *(population.drawn(plan.spec.seed, number) for number in range(shadows))])
    federations = [target.federation, *(population.federation(target.federation, mask) for mask in inside[1:])]
    job, records = plan.job, population.records
    looked_at = frozenset(math.ceil(plan.rounds * (i + 1) / rounds) for i in range(rounds))
    whole = job.network.whole.shapes().keys()
    seers = [adversary for adversary in ADVERSARIES if visible(job, adversary) >= whole and plan.rounds]
    kind = _Updates if job.protocol.topology == "whole" and job.protocol.crosses and job.secure is None else _Rounds
    watchers = [kind(job.network, records, looked_at) for _ in federations] if seers else []
    models = target.train(federations, watchers, seen_by=seers[-1] if seers else None)
    final = np.stack([own_class_logits(job.network, model, records) for model in models])
    logits: dict[Adversary, Floats] = {"model-user": final[None]}
    if watchers:
        logits |= dict.fromkeys(seers, np.stack([np.stack(watcher.logits) for watcher in watchers], axis=1))
    if kind is _Updates and "server" in seers:
        updates = np.stack([np.stack(watcher.of_updates) for watcher in watchers], axis=1)
        logits["server"] = np.concatenate([logits["server"], updates])
    return Trials(population=population, inside=inside, logits=logits)


class _Rounds(Observer):
    """Looks at the models of some rounds."""

    def __init__(self, network: Network, records: Records, looked_at: frozenset[int]) -> None:
        self._network, self._records, self._looked_at = network, records, looked_at
        self._made: Parameters = {}
        self.logits: list[Floats] = []
        self.of_updates: list[Floats] = []

    def round(self, server_round: int, model: Parameters) -> None:
        if server_round in self._looked_at:
            self.logits.append(self._of(model))
            self.of_updates.append(self._of(self._made) if self._made else self.logits[-1])
        self._made = {}

    def findings(self, model: Parameters) -> tuple[()]:
        return ()

    def _of(self, model: Parameters) -> Floats:
        return own_class_logits(self._network, model, self._records)


class _Updates(_Rounds):
    """Looks also at what each clinic makes of them; at the model that it was given, where nothing comes back."""

    def message(self, instruction: Instruction, reply: Reply) -> None:
        if not isinstance(instruction, Train) or instruction.server_round not in self._looked_at:
            return
        clinics = len(self._records.offsets) - 1
        for name, value in instruction.model.items():
            if name not in self._made:
                self._made[name] = value.expand(clinics, *value.shape[1:]).clone()
            if Kind.MODEL in reply.parts:
                self._made[name][reply.clinics] = reply.model[name]


def own_class_logits(network: Network, model: Parameters, records: Records) -> Floats:
    """Return ``[record]`` log(p / (1 - p)) of each record's own class: of the loss, what is nearest to normal.

    Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022, section IV.C.
    """
    probabilities = Evaluator(network, records).predictions(model)
    own = probabilities[np.arange(len(records.y)), records.y].astype(np.float64)
    least = np.finfo(np.float64).eps
    return np.asarray(np.log(np.maximum(own, least)) - np.log(np.maximum(probabilities.sum(1) - own, least)))


def _part(records: Records, mask: Mask) -> Records:
    counts = np.concatenate([[0], np.cumsum(mask)])
    offsets = counts[records.offsets].astype(np.int64)
    return Records(records.x[mask], records.y[mask], offsets, records.row[mask], records.patient[mask])
