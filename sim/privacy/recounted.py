"""What of a clinic's records reaches whom, restated for :mod:`sim.privacy.recount`: rows, steps, and edge servers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import dp_accounting as dp
from dp_accounting import DpEvent

from sim.privacy.ledger import Adversary, adversaries_of
from sim.privacy.loss import Adjacency

if TYPE_CHECKING:
    from sim.privacy.recount import Drawn, Method

Seen: TypeAlias = "Counter[tuple[Adjacency, DpEvent]]"


def through_edges(method: Method, drawn: Drawn, clinic: int) -> dict[Adversary, Seen]:
    """Return what each sees of a clinic that an edge server stands before.

    Multi-hop, the edge server gets rows of the head and the cloud rows of the middle; otherwise the edge server gets
    rows, and the cloud, like everybody, the model. Noise hides from all who stand behind it what stands in front of
    it, if that is public or has noised gradients.
    """
    hops, at_edge = (method.cut or "").startswith("multi-hop"), method.privacy.rows_noised_at == "edge"
    rows = sent_rows(method, drawn, clinic)
    bare: Seen = Counter({("add-or-remove", dp.NonPrivateDpEvent()): 1})
    in_front = {"head"} | ({"tail"} if method.keeps_labels else set()) | ({"middle"} if at_edge else set())
    if method.rows_are_noised and not method.gradients_are_noised and in_front <= method.frozen:
        everyone = dict.fromkeys(adversaries_of(0, edges=True), rows)
        return {**everyone, "edge": bare} if at_edge else everyone
    sigma = drawn.noise_multipliers[clinic] if method.gradients_are_noised else 0.0
    model = sampled_steps(drawn.rates[clinic], sigma, drawn.released[clinic])
    getting = rows + (
        gaussian("replace", sigma / 2, max(1, drawn.exposures[clinic]))
        if method.rows_are_noised
        else sampled_steps(drawn.rates[clinic], sigma, drawn.steps[clinic])
    )
    return {
        "model-user": model,
        "peer-clinic": model,
        "server": getting if hops else model,
        "edge": bare if at_edge else getting,
    }


def sent_rows(method: Method, drawn: Drawn, clinic: int) -> Seen:
    """Return what the server receives of each record beside gradients."""
    found: Seen = Counter()
    times = max(1, drawn.exposures[clinic])
    if method.rows_are_noised:
        noise = drawn.release_noise[clinic]
        for reach in method.reaches():
            if "laplace" in method.privacy.mechanism.split("+") and noise:
                found["replace", dp.LaplaceDpEvent(noise / reach)] += times
            else:
                found += gaussian("replace", noise / reach, times)
    else:
        found["add-or-remove", dp.NonPrivateDpEvent()] += 1
    if method.keeps_labels:
        return found
    if method.label_noise is not None:
        odds = math.exp(-method.label_noise)
        uniform = drawn.classes * odds / (1 + (drawn.classes - 1) * odds)
        found["replace", dp.RandomizedResponseDpEvent(uniform, drawn.classes)] += 1
    elif method.privacy.labels != "public":
        found["add-or-remove", dp.NonPrivateDpEvent()] += 1
    return found


def gaussian(way: Adjacency, sigma: float, times: int) -> Seen:
    """Return Gaussian noise, so many times."""
    return Counter({(way, dp.GaussianDpEvent(sigma) if sigma else dp.NonPrivateDpEvent()): times} if times else {})


def sampled_steps(rate: float, sigma: float, times: int) -> Seen:
    """Return steps of DP-SGD."""
    if rate == 1 or not sigma:
        return gaussian("add-or-remove", sigma, times)
    event = dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma))
    return Counter({("add-or-remove", event): times} if times else {})


def label_holders(spec: Mapping[str, Any], places: Sequence[str]) -> tuple[int, ...]:
    """Return, by place of a party, who has the label of its patients: it, or the one with the label in its region."""
    found = [party["name"] for party in spec.get("parties", ()) if party["label"]]
    if not found:
        return ()
    if not spec["data"].get("regions"):
        return (places.index(found[0]),) * len(places)
    region_of = [place.rpartition(": ")[0] for place in places]
    return tuple(places.index(f"{region}: {found[0]}") for region in region_of)
