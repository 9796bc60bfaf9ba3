"""Membership by the likelihood ratio of a record's score under models that trained on it and models that did not.

Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022, online.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import norm

from sim.attacks.attack import Attack, Finding, Target
from sim.attacks.shadows import Floats, Mask, Population, own_class_logits, shadow_models
from sim.tensor.metrics import area_under_curve


def carry_out(target: Target) -> Iterator[Finding]:
    """Return the AUC over the run's training and held-out records; nothing without held-out ones."""
    population = Population.of(target.federation)
    members = population.members()
    if members.all():
        return
    network, seed = target.plan.job.network, target.plan.spec.seed
    masks = [population.drawn(seed, number) for number in range(int(target.options["shadows"]))]
    scores = np.stack(
        [own_class_logits(network, model, population.records) for model in shadow_models(target, population, masks)]
    )
    observed = own_class_logits(network, target.model, population.records)
    ratio = log_likelihood_ratio(observed, scores, np.stack(masks))
    yield Finding(measure="auc", value=area_under_curve(ratio, members), chance=0.5)


def log_likelihood_ratio(observed: Floats, scores: Floats, inside: Mask) -> Floats:
    """Return ``[record]`` the log likelihood ratio of membership, with one variance for all records on each side.

    Parameters
    ----------
    observed : ndarray
        ``[record]`` the target model's scores.
    scores, inside : ndarray
        ``[shadow, record]`` the shadow models' scores, and whether they trained on the record.
    """
    sides = []
    for mask in (inside, ~inside):
        counts = np.maximum(mask.sum(0), 1)
        mean = np.where(mask, scores, 0).sum(0) / counts
        spread = np.sqrt(np.where(mask, np.square(scores - mean), 0).sum() / mask.sum())
        sides.append(norm.logpdf(observed, mean, max(float(spread), 1e-12)))
    return np.asarray(sides[0] - sides[1])


ATTACK = Attack(
    name="lira",
    sentence="membership by the likelihood ratio of shadow models (Carlini et al. 2022)",
    adversary="model-user",
    uses="training and held-out records, exact: the scores of single records are compared",
    carry_out=carry_out,
    applies=lambda job: job.method.trains,
    options={"shadows": 64},
)
