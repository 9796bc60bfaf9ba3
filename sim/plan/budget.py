"""The epsilon that is spent round by round, and where a budget ends the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np

from sim.foundation.problems import ScenarioError
from sim.methods.job import Job
from sim.plan.releases import Sampled, build_ledger, un_noised
from sim.privacy.accounting import epsilons_along
from sim.privacy.ledger import Adversary, Ledger, adversaries_of

FOLLOWED_CLINICS = 8


def epsilon_spent(
    job: Job, after: Sequence[Sampled], at_the_end: Mapping[Adversary, Sequence[float]]
) -> dict[Adversary, tuple[float, ...]]:
    """Return the epsilon before the first round, 0, and after each, by adversary.

    It is the largest over the clinics; where there are more than ``FOLLOWED_CLINICS``, over those that are protected
    least at the end. ``after`` is what has been drawn up to the end of each round, ``at_the_end`` the epsilons after
    the last, ``[clinic]``.
    """
    if not after:
        return dict.fromkeys(adversaries_of(job.spec.privacy.colluding_clinics, edges=job.edges is not None), (0.0,))
    known = _what_it_follows_from(job, after)
    if known not in _SPENT:
        while len(_SPENT) >= _REMEMBERED:
            del _SPENT[next(iter(_SPENT))]
        _SPENT[known] = _epsilon_spent(job, after, at_the_end)
    return _SPENT[known]


_REMEMBERED = 256
_SPENT: dict[bytes, dict[Adversary, tuple[float, ...]]] = {}
"""What was spent by runs planned before: those that differ in seed or rate alone mostly spend the same."""


def _what_it_follows_from(job: Job, after: Sequence[Sampled]) -> bytes:
    """Return a digest of everything that the releases of a run depend on; the seed is in it by what it has drawn."""
    learning = {"learning_rate", "momentum", "weight_decay", "schedule"}
    apart: Any = {"study": True, "seed": True, "swept": True, "tuned": True, "train": learning}
    facts = replace(job.facts, fingerprint="")
    noise = job.dp, job.rows, job.labels, job.update_noise
    digest = blake2b(repr((job.spec.model_dump_json(exclude=apart), facts, *noise)).encode(), digest_size=16)
    for sampled in after:
        for drawn in vars(sampled).values():
            digest.update(np.ascontiguousarray(drawn).tobytes())
    return digest.digest()


def _epsilon_spent(
    job: Job, after: Sequence[Sampled], at_the_end: Mapping[Adversary, Sequence[float]]
) -> dict[Adversary, tuple[float, ...]]:
    delta, unit = job.spec.privacy.delta or 0.0, job.spec.privacy.unit
    followed = {a: sorted(range(len(e)), key=lambda k: -e[k])[:FOLLOWED_CLINICS] for a, e in at_the_end.items()}
    bounded = {a: [k for k in clinics if math.isfinite(at_the_end[a][k])] for a, clinics in followed.items()}
    needed = sorted({clinic for clinics in bounded.values() for clinic in clinics})
    ledgers = [build_ledger(job, sampled, clinics=needed) for sampled in after] if needed else []
    spent: dict[Adversary, tuple[float, ...]] = {}
    for adversary, epsilons in at_the_end.items():
        exposed = np.isinf(epsilons)  # from the first step of such a clinic on
        begun = [bool(sampled.steps[exposed].any()) for sampled in after]
        by_clinic = [
            epsilons_along([ledger.mechanisms(adversary, k, unit) for ledger in ledgers], delta)
            for k in bounded[adversary]
        ]
        worst = [max(values) for values in zip(*by_clinic, strict=True)] if by_clinic else [0.0] * len(after)
        rounds = [math.inf if over else value for over, value in zip(begun, worst, strict=True)]
        spent[adversary] = (0.0, *rounds[:-1], max(epsilons))
    return spent


def final_epsilons(job: Job, ledger: Ledger) -> dict[Adversary, list[float]]:
    """Return the epsilon of a whole plan by adversary, ``[clinic]``."""
    delta, unit = job.spec.privacy.delta or 0.0, job.spec.privacy.unit
    everyone, adversaries = (
        range(len(job.sizes)),
        adversaries_of(job.spec.privacy.colluding_clinics, edges=job.edges is not None),
    )
    return {a: ledger.epsilons(a, everyone, delta, unit) for a in adversaries}


def within_budget(job: Job, after: Sequence[Sampled], limit: float) -> int:
    """Return how many rounds spend at most ``limit`` against the adversary whom the mechanism is there for.

    ``after`` is what has been drawn up to the end of each round. Raises ``ScenarioError`` if epsilon is infinite, or
    the first round alone spends more.
    """
    if not after:
        return 0
    final = build_ledger(job, after[-1])
    if reasons := un_noised(final, job.opponent):
        raise ScenarioError(
            f"privacy.stop-at-epsilon: epsilon is infinite against the {job.opponent}: {'; '.join(reasons)}"
        )
    at_the_end = final_epsilons(job, final)
    # What was spent so far is within 1e-3 and may leave clinics out; the last word has the epsilon of a whole plan.
    rounds = sum(value <= limit * 1.01 for value in epsilon_spent(job, after, at_the_end)[job.opponent]) - 1
    while rounds and _worst(job, after[rounds - 1]) > limit:
        rounds -= 1
    if not rounds:
        spent = _worst(job, after[0])
        raise ScenarioError(
            f"privacy.stop-at-epsilon: the first round alone spends {spent:.3g} against the {job.opponent}; "
            "give a larger one, or more noise"
        )
    return rounds


def _worst(job: Job, sampled: Sampled) -> float:
    privacy = job.spec.privacy
    return build_ledger(job, sampled).worst(job.opponent, privacy.delta or 0.0, range(len(job.sizes)), privacy.unit)
