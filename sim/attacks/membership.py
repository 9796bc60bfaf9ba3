"""The model user guesses who was in the training data: records with a small loss.

Yeom et al., "Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting", CSF 2018.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.attacks.attack import Attack, Finding, Observer
from sim.data.federation import Federation, Records
from sim.models import Network, Parameters
from sim.plan.plan import Plan
from sim.tensor.evaluation import Evaluator
from sim.tensor.metrics import area_under_curve
from sim.tensor.scoring import Scorer, scorer_of

Floats = NDArray[np.float64]


class Membership(Observer):
    """Tells training records from held-out ones by their loss under the final model."""

    def __init__(self, plan: Plan, federation: Federation) -> None:
        self._network, self._federation = plan.job.network, federation
        self._scorer = scorer_of(plan.job.outcome, plan.spec.evaluation)

    def findings(self, model: Parameters) -> Iterator[Finding]:
        """Return AUC and advantage over all records, and the AUC on each clinic's own.

        Where clinics are held out as a whole, validation records stand for held-out ones: a stranger's records differ.
        Without any there is nothing to tell training records from.

        The AUC is the probability that a training record has a smaller loss than a held-out one, ties counted half. The
        advantage is true less false positives of the guess "in" for a loss of at most the training records' mean.
        """
        train, test = self._federation.train, self._federation.untrained
        if not len(test.y):
            return
        members, others = (losses(self._scorer, self._network, model, records) for records in (train, test))
        yield Finding(measure="auc", value=membership_auc(members, others), chance=0.5)
        yield Finding(measure="advantage", value=advantage(members, others), chance=0.0)
        spans = zip(pairwise(train.offsets.tolist()), pairwise(test.offsets.tolist()), strict=True)
        for name, ((a, b), (c, d)) in zip(self._federation.names, spans, strict=True):
            yield Finding(measure="auc", value=membership_auc(members[a:b], others[c:d]), chance=0.5, clinic=name)
        yield Finding(measure="training_records", value=len(members))
        yield Finding(measure="held_out_records", value=len(others))


def losses(scorer: Scorer, network: Network, model: Parameters, records: Records) -> Floats:
    """Return ``[record]`` the loss of each record."""
    if not len(records.y):
        return np.zeros(0)
    predicted = Evaluator(network, records, scorer=scorer).predictions(model)
    return scorer.losses(predicted, scorer.seen(records))


def membership_auc(members: Floats, others: Floats) -> float:
    """Return the probability that a member's loss is the smaller one; NaN where one kind is missing."""
    if not len(members) or not len(others):
        return np.nan
    inside = np.concatenate([np.ones(len(members), dtype=bool), np.zeros(len(others), dtype=bool)])
    return area_under_curve(-np.concatenate([members, others]), inside)


def advantage(members: Floats, others: Floats) -> float:
    """Return true less false positives at the members' mean loss; NaN without others."""
    limit = members.mean() if len(members) else np.nan
    return float(np.mean(members <= limit) - np.mean(others <= limit)) if len(others) else np.nan


ATTACK = Attack(
    name="membership",
    sentence="membership by a threshold on the loss (Yeom et al. 2018)",
    of_classes=False,
    layouts=("horizontal", "vertical"),
    adversary="model-user",
    uses="training and held-out records, exact: the losses of single records are compared",
    begin=Membership,
    on_every_run=True,
    columns={"auc": "membership_auc"},
)
