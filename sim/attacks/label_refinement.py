"""The server refines labels that it holds randomised: each by what the others tell of it.

    prior_i   <- logistic regression of the answers on the rows at the cut, fitted without the fold of record i
    p_i       <- prior_i without the randomisation: (prior - u / k) / (1 - u), u the share of uniform answers
    return p_i times the likelihood of record i's own answer, by Bayes' rule

The prior comes from other records' answers, and no epsilon of a label bounds it; a record's own answer multiplies its
odds by e^epsilon at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import scipy

from sim.attacks.attack import Attack, Finding, Target
from sim.attacks.labels import Floats, Ints, Labelled
from sim.attacks.reconstruction import drawn, most_records, rows_at_the_cut
from sim.foundation.rng import stream

FOLDS: Final = 5
RIDGE: Final = 1.0
LEAST: Final = 1e-3
"""The smallest probability of a class that the prior may come to."""


def carry_out(target: Target) -> Iterator[Finding]:
    """Return the AUC of the refined labels, of the prior and of the answers alone; pairs are within clinics.

    The bound of the answers alone is e^epsilon / (1 + e^epsilon): it is the AUC of the strongest test of one class
    against another whose likelihood ratio lies within e^epsilon.
    """
    job, train = target.plan.job, target.federation.train
    noise = job.labels
    if noise is None:
        return
    most = int(target.options["records"])
    index = drawn(job.seed, train, most if job.protocol.topology == "whole" else most_records(job, most))
    everyone = Labelled.of(train, noise.classes)
    answers = np.concatenate(
        [
            noise.mechanism.answers(everyone.y[everyone.clinic == k], noise.uniform, noise.classes, job.key, k)
            for k in range(len(job.sizes))
        ]
    )[index]
    labelled = everyone.some(index)
    if job.protocol.topology == "whole":
        rows = train.x[index].reshape(len(index), -1).astype(np.float64)
    else:
        rows = rows_at_the_cut(job, target.model, train, index, target.plan.sampled.exposures)
    own = answer_log_likelihoods(answers, noise.uniform, noise.classes)
    prior = log_prior(rows, answers, noise.uniform, noise.classes, stream(job.seed, "attack.folds"))
    yield labelled.finding("label_auc", log_odds(prior + own))
    yield labelled.finding("prior_label_auc", log_odds(prior))
    ratio = float(np.exp(np.ptp(own))) if noise.uniform else np.inf
    yield labelled.finding("answer_label_auc", log_odds(own), bound=1 / (1 + 1 / ratio))


def answer_log_likelihoods(answers: Ints, uniform: float, classes: int) -> Floats:
    """Return ``[record, class]`` the log likelihood of each record's answer under each class."""
    with np.errstate(divide="ignore"):
        found: Floats = np.log(uniform / classes + (1 - uniform) * np.eye(classes)[answers])
    return np.maximum(found, np.log(np.finfo(np.float64).tiny))


def log_prior(rows: Floats, answers: Ints, uniform: float, classes: int, rng: np.random.Generator) -> Floats:
    """Return ``[record, class]`` the log probability of each class by the answers of the other folds."""
    centre, scale = rows.mean(0), rows.std(0)
    x = np.column_stack([(rows - centre) / np.where(scale > 0, scale, 1.0), np.ones(len(rows))])
    fold = rng.permutation(len(rows)) % FOLDS
    found = np.zeros((len(rows), classes))
    for f in range(FOLDS):
        found[fold == f] = scipy.special.softmax(x[fold == f] @ fitted(x[fold != f], answers[fold != f], classes), 1)
    true = np.maximum((found - uniform / classes) / max(1 - uniform, LEAST), LEAST)
    return np.asarray(np.log(true / true.sum(1, keepdims=True)))


def fitted(x: Floats, y: Ints, classes: int) -> Floats:
    """Return the coefficients ``[column, class]`` of softmax regression with a ridge on all but the last column."""
    target, shape = np.eye(classes)[y], (x.shape[1], classes)
    ridge = np.full((x.shape[1], 1), RIDGE)
    ridge[-1] = 1e-6

    def loss(flat: Floats) -> tuple[float, Floats]:
        w = flat.reshape(shape)
        logits = x @ w
        value = -float((target * scipy.special.log_softmax(logits, 1)).sum()) + float((ridge * w * w).sum()) / 2
        return value, (x.T @ (scipy.special.softmax(logits, 1) - target) + ridge * w).ravel()

    found = scipy.optimize.minimize(loss, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B")
    return np.reshape(found.x, shape)


def log_odds(log_p: Floats) -> Floats:
    """Return ``[record, class]`` the log odds of each class against the rest."""
    log_p = scipy.special.log_softmax(log_p, 1)
    return np.asarray(log_p - np.log(np.maximum(-np.expm1(log_p), np.finfo(np.float64).tiny)))


ATTACK = Attack(
    name="label-refinement",
    sentence="randomised labels, each refined by the rows and answers of the others",
    adversary="server",
    uses="labels of training records and their randomised answers, exact",
    carry_out=carry_out,
    applies=lambda job: job.labels is not None,
    options={"records": 1000},
)
