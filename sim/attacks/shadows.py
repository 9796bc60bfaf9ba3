"""Shadow models: the run's method trained on other draws of the same records, so that it is known who was in.

For every clinic as many records as it trains on are drawn anew from its training and its held-out records together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.attacks.attack import Target
from sim.data.federation import Federation, Records
from sim.foundation.rng import stream
from sim.models import Network, Parameters
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

    @classmethod
    def of(cls, federation: Federation) -> Population:
        """Return that of a run."""
        train, others = federation.train, federation.untrained
        clinic = np.concatenate([_clinic_of(train), _clinic_of(others)])
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


def shadow_models(target: Target, population: Population, masks: Sequence[Mask]) -> list[Parameters]:
    """Train a shadow model for each draw of members."""
    return target.train([population.federation(target.federation, mask) for mask in masks])


def own_class_logits(network: Network, model: Parameters, records: Records) -> Floats:
    """Return ``[record]`` log(p / (1 - p)) of each record's own class: of the loss, what is nearest to normal.

    Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022, section IV.C.
    """
    probabilities = Evaluator(network, records).class_probabilities(model)
    own = probabilities[np.arange(len(records.y)), records.y].astype(np.float64)
    others = np.maximum(probabilities.sum(1) - own, np.finfo(np.float64).tiny)
    logits: Floats = np.log(np.maximum(own, np.finfo(np.float64).tiny)) - np.log(others)
    return logits


def _clinic_of(records: Records) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(records.offsets) - 1), np.diff(records.offsets))


def _part(records: Records, mask: Mask) -> Records:
    counts = np.concatenate([[0], np.cumsum(mask)])
    offsets = counts[records.offsets].astype(np.int64)
    return Records(records.x[mask], records.y[mask], offsets, records.row[mask], records.patient[mask])
