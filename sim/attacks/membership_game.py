"""The membership game: whether a record is among those that a model was trained on.

Where there are shadows, each of them and the run is the target in turn, attacked with the help of the others; what is
measured is about models trained as the run was, of which the run's own is one. All guesses stand on one ROC curve, so
that one threshold holds for all records and models (Carlini et al. 2022). Confidence intervals resample models, and
records within clinics, both at once (pigeonhole bootstrap, Owen 2007).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.attacks.attack import Attack, Finding, Target
from sim.attacks.shadows import Floats, Mask, Population, trials_of
from sim.data.groups import read_groups
from sim.foundation.rng import stream
from sim.plan.plan import Plan
from sim.privacy.adjacency import replace_epsilon, replaced
from sim.privacy.ledger import Adversary
from sim.privacy.risk import FALSE_POSITIVE_RATES, membership_risk

shadowed = partial(
    Attack,
    adversary="model-user",
    uses="training and held-out records, exact: the scores of single records are compared",
    applies=lambda job: job.method.trains,
    options={"shadows": 31, "rounds": 5},
)
"""An attack that compares a model with shadow models."""
LEVELS: Final = FALSE_POSITIVE_RATES[:2]
MEASURES: Final = ("auc", *(f"fpr_{level:g}_tpr".replace(".", "_") for level in LEVELS))
CHANCE: Final = dict(zip(MEASURES, (0.5, *LEVELS), strict=True))
REPLICATES: Final = 200
FEWEST_RECORDS: Final = 20
"""Groups of fewer records are left out."""
MOST_INTERVALS: Final = 50
"""Where there are more clinics, single ones have no interval."""


@dataclass(frozen=True, eq=False)
class Guesses:
    """Scores of records under models, the highest first: ``[guess]`` whose they are, and whether the record is in.

    `ends` are the places of the last guess of each score.
    """

    model: NDArray[np.int64]
    record: NDArray[np.int64]
    member: Mask
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, scores: Floats, inside: Mask, among: Mask) -> Guesses:
        """Return the guesses of ``[model, record]`` about some records, ``[record]``."""
        model, record = np.nonzero(np.broadcast_to(among, scores.shape))
        order = np.argsort(-scores[model, record], kind="stable")
        model, record = model[order], record[order]
        ranked = scores[model, record]
        return cls(model, record, inside[model, record], np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)))

    def measured(self, models: Floats, records: Floats) -> Floats:
        """Return :data:`MEASURES` where models and records count with these weights; NaN without members or others.

        Equal scores are told apart by tossing coins: between two thresholds the curve is straight.
        """
        weight = models[self.model] * records[self.record]
        rates = []
        for side in (self.member, ~self.member):
            above = np.append(0.0, np.cumsum(weight * side)[self.ends])
            if not above[-1] > 0:
                return np.full(len(MEASURES), np.nan)
            rates.append(above / above[-1])
        true, false = rates
        found = [float(np.trapezoid(true, false))]
        for level in LEVELS:
            last = int(np.searchsorted(false, level * (1 + 1e-9), side="right")) - 1
            slope = (true[last + 1] - true[last]) / (false[last + 1] - false[last])
            found.append(float(true[last] + slope * max(level - false[last], 0.0)))
        return np.array(found)


def played(target: Target, scores: Callable[[Floats, Mask], tuple[Floats, Floats]]) -> Iterator[Finding]:
    """Return the findings on the final model and on the models of rounds; nothing without held-out records.

    Parameters
    ----------
    scores : callable
        Makes ``[model, record]`` scores, online and offline, of ``[round, model, record]`` logits and of who is inside.
        Each model is the target in turn, and the others are its shadows.
    """
    trials = trials_of(target)
    if trials is None:
        return
    found: dict[int, tuple[Floats, Floats]] = {}
    for adversary, logits in trials.logits.items():
        if id(logits) not in found:  # the server and its clinics may see the same
            found[id(logits)] = scores(logits, trials.inside)
        online, offline = found[id(logits)]
        yield from findings(target.plan, trials.population, trials.inside, online, adversary)
        if len(logits) == 1:
            yield from findings(target.plan, trials.population, trials.inside, offline, adversary, "offline_")


def findings(
    plan: Plan, population: Population, inside: Mask, scores: Floats, adversary: Adversary, kind: str = ""
) -> Iterator[Finding]:
    """Return how well scores tell members from others.

    Over all records; and unless a kind is given by clinic, in the worst group of patients, and in the run itself.

    Parameters
    ----------
    plan : Plan
    population : Population
    inside : ndarray of bool
        ``[model, record]`` who trained in which; the run itself is the first model.
    scores : ndarray
        ``[model, record]``: the higher, the likelier a member.
    adversary : {"model-user", "peer-clinic", "server"}
        Who made the guesses.
    kind : str
        What the measures' names begin with.
    """
    clinic = population.records.clinic
    everybody = np.ones(len(clinic), dtype=np.bool_)
    game = _Game(
        scores=scores,
        inside=inside,
        resampled=resampled(plan.spec.seed, len(scores), clinic),
        adversary=adversary,
        bounds=bounds(plan, adversary) if population.independent else dict.fromkeys(MEASURES, math.nan),
    )
    yield from (replace(found, measure=f"{kind}{found.measure}") for found in game.findings(everybody))
    if kind:
        return
    if len(scores) > 1:
        yield replace(game.of_the_run().findings(everybody)[0], measure="run_auc")
    names = plan.job.facts.names
    alone = game if len(names) <= MOST_INTERVALS else replace(game, resampled=())
    for k, name in enumerate(names):
        yield replace(alone.findings(clinic == k)[0], clinic=name)
    of_groups = [
        game.findings(codes == code)[0]
        for groups in read_groups(plan.spec.data, plan.spec.evaluation.groups, plan.spec.seed)
        for codes in [groups.codes[population.records.row]]
        for code in np.flatnonzero(np.bincount(codes) >= FEWEST_RECORDS)
    ]
    if told := [found for found in of_groups if not math.isnan(found.value)]:
        yield replace(max(told, key=lambda found: found.value), measure="worst_group_auc")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Game:
    scores: Floats
    inside: Mask
    resampled: Sequence[tuple[Floats, Floats]]
    adversary: Adversary
    bounds: Mapping[str, float]

    def of_the_run(self) -> _Game:
        """Return the game on the run itself."""
        one = [(np.ones(1), records) for _, records in self.resampled]
        return replace(self, scores=self.scores[:1], inside=self.inside[:1], resampled=one)

    def findings(self, among: Mask) -> list[Finding]:
        """Return :data:`MEASURES` over some records."""
        guesses = Guesses.of(self.scores, self.inside, among)
        values = guesses.measured(*map(np.ones, self.scores.shape))
        drawn = np.array([guesses.measured(*weights) for weights in self.resampled]).reshape(-1, len(MEASURES))
        drawn = drawn[~np.isnan(drawn).any(1)]
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0) if len(drawn) else np.full((2, len(MEASURES)), np.nan)
        return [
            Finding(
                measure=measure,
                value=float(values[i]),
                chance=CHANCE[measure],
                low=float(low[i]),
                high=float(high[i]),
                bound=self.bounds[measure],
                adversary=self.adversary,
            )
            for i, measure in enumerate(MEASURES)
        ]


def bounds(plan: Plan, adversary: Adversary) -> dict[str, float]:
    """Return the most that an adversary can reach by what is claimed for the least protected clinic; NaN for no bound.

    The number of training records is public and the same in all draws: in a record's absence another stands in its
    place. So everything counts under replacement, for single records. A ROC curve that never rises more than A above
    chance has at most the area 1 - (1 - A)^2 / 2.
    """
    nothing = dict.fromkeys(MEASURES, math.nan)
    epsilons = [clinic.epsilon[adversary] for clinic in plan.clinics]
    worst = int(np.argmax(epsilons))
    epsilon = replace_epsilon(plan.ledger, adversary, [worst], plan.spec.privacy.delta or 0.0)
    if epsilon is None or math.isinf(epsilon):
        return nothing
    risk = membership_risk(replaced(plan.ledger.mechanisms(adversary, worst)), epsilon)
    if risk.advantage >= 1:
        return nothing
    auc = 1 - (1 - risk.advantage) ** 2 / 2
    return dict(zip(MEASURES, (auc, *risk.true_positive_rates[: len(LEVELS)]), strict=True))


def resampled(seed: int, models: int, clinic: NDArray[np.int64]) -> list[tuple[Floats, Floats]]:
    """Return how often each model and each record is drawn, in each replicate."""
    rng = stream(seed, "attack.bootstrap")
    sizes = np.bincount(clinic)
    return [
        (
            rng.multinomial(models, np.full(models, 1 / models)).astype(np.float64),
            np.concatenate([rng.multinomial(n, np.full(n, 1 / n)) for n in sizes]).astype(np.float64),
        )
        for _ in range(REPLICATES)
    ]
