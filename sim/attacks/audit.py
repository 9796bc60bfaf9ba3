"""The audit of a run: a lower bound on every finite epsilon that is claimed, from canaries.

Where a mechanism is applied to one release that can be drawn by itself (rows at the cut, labels, the noised sum of
updates), that release is audited; everything else through whole trainings of the run's method, with canaries in or out.
A bound above its claim is taken once more on trials of its own with a confidence of 99.9 %, and stands only if it is
above there too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np

from sim.attacks.attack import Finding, Target
from sim.attacks.audit_releases import label_trials, row_trials, update_trials
from sim.attacks.canaries import Canaries, Directions, ServerView, coins, crafted, final_scores, ordinary, room
from sim.foundation.lazy import Lazy
from sim.models import Parameters
from sim.privacy.accounting import Mechanisms
from sim.privacy.audited import Audited, Trials, audited
from sim.privacy.ledger import COLLUDING, Adversary
from sim.results.attack_log import exceeds

dp: Any = Lazy("dp_accounting")

Kind = Literal["crafted", "ordinary", "mislabelled"]
KINDS: Final[tuple[Kind, ...]] = ("crafted", "ordinary", "mislabelled")
TOGETHER: Final = 64
"""How many trainings are one program."""
DRAWS_A_TRAINING: Final = 60
"""How many draws of a release stand for one training."""
FEWEST: Final = 40
_ALONE: Final[dict[Adversary, Adversary]] = {"peers": "peer-clinic", "server-and-peers": "server"}
"""Whose view of whole trainings and rows stands for that of clinics which collude, and may know more."""
LEAST_SIGNAL: Final = 0.9
"""Of a canary's gradient along its own direction; where canaries overlap more, clinics have fewer."""
CONFIDENCE, WHEN_ABOVE = 0.95, 0.999


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An epsilon that a run claims."""

    adversary: Adversary
    clinic: int  # The least protected
    epsilon: float
    mechanisms: Mechanisms

    @classmethod
    def of(cls, target: Target, adversary: Adversary, unit: Literal["record", "clinic", "label"]) -> Claim:
        """Return that of the least protected clinic."""
        plan = target.plan
        delta = plan.spec.privacy.delta or 0.0
        epsilons = plan.ledger.epsilons(adversary, range(len(plan.clinics)), delta, unit)
        clinic = int(np.argmax(epsilons))
        mechanisms = plan.ledger.mechanisms(adversary, clinic, unit)
        return cls(adversary=adversary, clinic=clinic, epsilon=epsilons[clinic], mechanisms=mechanisms)


def audit(target: Target, trainings: int, kind: Kind, *, one_run: bool = False) -> Iterator[Finding]:
    """Audit every finite claim of a run.

    Parameters
    ----------
    target : Target
    trainings : int
        How many times the method is trained, where that is needed; with ``one_run`` how many canaries one training has.
        Of a release that is drawn by itself there are 60 times as many draws.
    kind : {"crafted", "ordinary", "mislabelled"}
        Of the canaries in trainings.
    one_run : bool
        Whether to train once, with many canaries (Steinke et al. 2023).
    """
    auditor = Auditor(target=target, trainings=trainings, kind=kind, one_run=one_run)
    unit = target.plan.spec.privacy.unit
    for adversary in target.plan.adversaries:
        claim = Claim.of(target, adversary, unit)
        if math.isfinite(claim.epsilon):
            yield from auditor.findings(claim, "", auditor.trials_of(claim))
    if target.plan.job.labels is not None:
        claim = Claim.of(target, "server", "label")
        yield from auditor.findings(claim, "label_", auditor.labels)


@dataclass(frozen=True, kw_only=True)
class Auditor:
    """Makes the trials of one run's audits; what several adversaries see of the same trainings is made once."""

    target: Target
    trainings: int
    kind: Kind
    one_run: bool
    _seen: dict[int, dict[Adversary, Trials]] = field(default_factory=dict)

    def findings(self, claim: Claim, prefix: str, trials: Callable[[Claim, int], Trials]) -> Iterator[Finding]:
        """Bound one epsilon."""
        if claim.epsilon == 0:
            found = Audited(guesses=0, correct=0, shaped=0.0, free=0.0)
        else:
            found = self._bounds(claim, trials(claim, 0), CONFIDENCE)
            if exceeds(found.epsilon, claim.epsilon):
                found = self._bounds(claim, trials(claim, 1), WHEN_ABOVE)
        for measure, value in (("epsilon", found.epsilon), ("assumption_free_epsilon", found.free)):
            yield Finding(
                measure=prefix + measure, value=value, chance=0.0, bound=claim.epsilon, adversary=claim.adversary
            )

    def trials_of(self, claim: Claim) -> Callable[[Claim, int], Trials]:
        """Choose the audit whose view is that of an adversary."""
        job = self.target.plan.job
        if job.spec.privacy.unit == "clinic":
            return self.updates
        if job.rows is not None and _ALONE.get(claim.adversary, claim.adversary) == "server":
            return self.rows
        return self.whole_trainings

    def rows(self, claim: Claim, attempt: int) -> Trials:
        """Draw rows at the cut."""
        plan = self.target.plan
        exposures = max(1, int(plan.sampled.exposures[claim.clinic]))
        return row_trials(plan.job, self._initial, claim.clinic, exposures, self._draws, self._key("rows", attempt))

    def labels(self, claim: Claim, attempt: int) -> Trials:
        """Draw answers for labels."""
        return label_trials(self.target.plan.job, claim.clinic, self._draws, self._key("labels", attempt))

    def updates(self, claim: Claim, attempt: int) -> Trials:
        """Draw sums of updates."""
        plan = self.target.plan
        colluding = plan.spec.privacy.colluding_clinics if claim.adversary in COLLUDING else 0
        key, rounds = self._key("updates", attempt), int(plan.sampled.rounds[claim.clinic])
        return update_trials(plan.job, self._initial, rounds, self._draws, key, colluding)

    def whole_trainings(self, claim: Claim, attempt: int) -> Trials:
        """Train with canaries in and out."""
        if attempt not in self._seen:
            self._seen[attempt] = self._trained(attempt)
        return self._seen[attempt][_ALONE.get(claim.adversary, claim.adversary)]

    @property
    def _draws(self) -> int:
        return DRAWS_A_TRAINING * self.trainings

    def _key(self, purpose: str, attempt: int) -> str:
        return f"audit/{purpose}/{attempt}/{self.target.plan.job.key}"

    @cached_property
    def _initial(self) -> Parameters:
        job = self.target.plan.job
        return job.network.initial_parameters(job.seed)

    def _bounds(self, claim: Claim, trials: Trials, confidence: float) -> Audited:
        """Bound what a claim counts; randomised labels, which no other audit looks at, are left out of the shape."""
        delta = self.target.plan.spec.privacy.delta or 0.0
        scaled = {key: n for key, n in claim.mechanisms.items() if not isinstance(key[1], dp.RandomizedResponseDpEvent)}
        return audited(trials, scaled, delta, confidence)

    def _canaries(self) -> Canaries:
        plan, federation = self.target.plan, self.target.federation
        each = max(1, self.trainings // len(plan.clinics)) if self.one_run else room(plan.job)
        if self.kind == "crafted" and plan.job.dp is not None:
            made = crafted(plan.job, federation, self._initial, each)
            while not self.one_run and each > 1 and Directions(plan.job, self._initial, made).signal < LEAST_SIGNAL:
                each -= 1
                made = crafted(plan.job, federation, self._initial, each)
            return made
        return ordinary(plan.job, federation, each, mislabelled=self.kind == "mislabelled")

    def _trained(self, attempt: int) -> dict[Adversary, Trials]:
        plan, canaries = self.target.plan, self._canaries()
        directions, count = Directions(plan.job, self._initial, canaries), len(canaries.y)
        few = max(FEWEST, self.trainings // 10)  # where no gradient is noised, and no canary moves the model much
        trainings = 1 if self.one_run else self.trainings if plan.job.dp is not None else few
        numbers = range(attempt * trainings, (attempt + 1) * trainings)
        included = np.stack([coins(plan.job.seed, number, count) for number in numbers])
        seen, final = [], []
        null = float(np.finfo(np.float32).max) if plan.job.method.pooled else math.nan
        for first in range(0, trainings, TOGETHER):
            place = slice(first, first + TOGETHER)
            federations = [
                canaries.planted(self.target.federation, own, number, null)
                for own, number in zip(included[place], numbers[place], strict=True)
            ]
            views = [ServerView(directions, count) for _ in federations] if self._server_trains else []
            models = self.target.train(federations, views)
            final.append(final_scores(directions, canaries, self._initial, models))
            seen += [view.scores for view in views]
        at_the_end = Trials(scores=np.concatenate(final), included=included)
        at_the_server = Trials(scores=np.stack(seen), included=included) if seen else at_the_end
        return {"model-user": at_the_end, "peer-clinic": at_the_end, "server": at_the_server}

    @cached_property
    def _server_trains(self) -> bool:
        """Whether the server is claimed to learn little from whole models, which it is sent."""
        job = self.target.plan.job
        whole = job.protocol.topology == "whole" and job.secure is None
        return whole and math.isfinite(Claim.of(self.target, "server", "record").epsilon)
