"""The server tells labels from the gradients that the tail sends it: by direction, norm, spectrum and clusters.

    g_i   <- mean of record i's gradients in the body's output, over all batches that it was in
    direction   cos(g_i, g_j) for a record j of each class whose label is known; the nearest class wins
    norm        |g_i|: the model is surer of one class, whose gradients are the shorter
    spectrum    <g_i - mean, v> with v the first right singular vector of all g_i - mean
    clusters    k-means of g_i / |g_i| with as many clusters as classes

Direction and norm: Li et al., "Label Leakage and Protection in Two-party Split Learning", ICLR 2022. Spectrum: Sun et
al., "Label Leakage and Protection from Forward Embedding in Vertical Federated Learning", 2022, there of embeddings.
The server knows which row is which record's, as batches follow from the public seed; under ``dp-sgd`` they are secret,
and one gradient of each record has to do. Direction and norm assume that the labels of a few training records are
known, one of each class unless ``known`` says more. Spectrum and clusters assume none, and are measured under the best
naming of clusters by classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from sim.attacks.attack import Attack, Finding, Observer, Scalars
from sim.attacks.labels import Floats, Ints, Labelled, Mask, few_of_each
from sim.data.federation import Federation
from sim.foundation.rng import stream
from sim.methods.crossing import places_sent
from sim.methods.job import Job
from sim.methods.messages import Begin, Instruction, Kind, Reply, Tail
from sim.methods.row_noise import arrived_rows
from sim.models import Parameters
from sim.plan.plan import Plan

RESTARTS, STEPS, POWERS = 5, 20, 100


class TailGradients(Observer):
    """Adds up each training record's gradients as they arrive."""

    def __init__(self, plan: Plan, federation: Federation, options: Scalars) -> None:
        self._job, self._federation, self._known = plan.job, federation, int(options["known"])
        self._linked = not plan.job.sampling.poisson
        self._round = 0
        self._sums: Floats = np.zeros((len(federation.train.y), 0))
        self._times = np.zeros(len(federation.train.y))

    def message(self, instruction: Instruction, reply: Reply) -> None:
        """Add a batch's gradients to their records'."""
        if isinstance(instruction, Begin):
            self._round = instruction.server_round
        if not isinstance(instruction, Tail):
            return
        gradients = _own_gradients(self._job, instruction, reply)
        if not self._sums.shape[1]:
            self._sums = np.zeros((len(self._sums), gradients.shape[2]))
        for lane, clinic in enumerate(instruction.clinics):
            places = self._job.batches(self._round, [clinic]).index[instruction.step, 0]
            records = self._federation.train.offsets[clinic] + places[places >= 0]
            rows = gradients[lane, : len(records)]
            if not self._linked:
                rows, records = rows[self._times[records] == 0], records[self._times[records] == 0]
            self._sums[records] += rows
            self._times[records] += 1

    def findings(self, model: Parameters) -> Iterator[Finding]:
        """Return the AUC of each way to tell labels, of records whose labels are not known; pairs are within clinics.

        No epsilon bounds it: a label also follows from what other records have taught the model.
        """
        seen = self._times > 0
        gradients = self._sums[seen] / np.maximum(self._times[seen, None], 1)
        everyone = Labelled.of(self._federation.train, len(self._federation.classes)).some(seen)
        if not seen.any():
            return
        seed = self._job.seed
        known = few_of_each(everyone, self._known * everyone.classes, stream(seed, "attack.known-labels"))
        yield from told(gradients, everyone, known, seed, self._federation.names)


def told(gradients: Floats, everyone: Labelled, known: Mask, seed: int, names: Sequence[str] = ()) -> Iterator[Finding]:
    """Return the AUC of each way to tell labels that are not known by gradients ``[record, value]``.

    By direction also of each clinic, where these are named.
    """
    labelled, unknown = everyone.some(~known), gradients[~known]
    direction = closeness(unknown, gradients[known], everyone.y[known], everyone.classes)
    yield labelled.finding("label_auc", direction)
    if everyone.classes == 2:
        yield labelled.finding("norm_label_auc", by_norm(unknown, gradients[known], everyone.y[known]))
        spectrum = by_spectrum(unknown)
        yield labelled.finding_up_to_names("spectral_label_auc", spectrum, stream(seed, "attack.spectrum"))
    clusters = by_clusters(unknown, everyone.classes, stream(seed, "attack.clusters"))
    yield labelled.finding_up_to_names("cluster_label_auc", clusters, stream(seed, "attack.permuted"))
    for k in np.unique(labelled.clinic) if names else ():
        own = labelled.clinic == k
        yield labelled.some(own).finding("label_auc", direction[own], names[k])


def _own_gradients(job: Job, instruction: Tail, reply: Reply) -> Floats:
    """Return ``[lane, row, value]`` the gradients of each record's own loss, noise included."""
    rows = np.array(instruction.rows)
    normaliser = job.sampling.normaliser(np.array([job.sizes[k] for k in instruction.clinics]), rows)
    by_lane = torch.from_numpy(normaliser.copy())
    at = places_sent(job, Kind.BODY_OUTPUT, instruction.body_output)
    sent = reply.payload[Kind.TAIL_GRADIENT]
    arrived = arrived_rows(job, Kind.TAIL_GRADIENT, sent, instruction.clinics, by_lane, at)
    return np.asarray(arrived.flatten(2).double().numpy() * normaliser[:, None, None])


def closeness(gradients: Floats, known: Floats, y: Ints, classes: int) -> Floats:
    """Return ``[record, class]`` the mean cosine to the known gradients of a class ``y``, less that to the others'."""
    cosines = _directions(gradients) @ _directions(known).T
    own = np.eye(classes)[y]
    to_own, to_others = (cosines @ (side / np.maximum(side.sum(0), 1)) for side in (own, 1 - own))
    return np.asarray(to_own - to_others)


def by_norm(gradients: Floats, known: Floats, y: Ints) -> Floats:
    """Return ``[record, class]`` of two classes: long gradients are of the class whose known ones are the longer."""
    norms, known_norms = (np.linalg.norm(each, axis=1) for each in (gradients, known))
    longer = known_norms[y == 1].mean() >= known_norms[y == 0].mean() if len(set(y)) == 2 else True
    return np.stack([-norms, norms] if longer else [norms, -norms], 1)


def by_spectrum(gradients: Floats) -> Floats:
    """Return ``[record, side]`` the projection on the top singular direction, and its opposite."""
    centred = gradients - gradients.mean(0)
    direction = centred[np.linalg.norm(centred, axis=1).argmax()]
    for _ in range(POWERS):
        direction = _directions(centred.T @ (centred @ direction))
    along = centred @ direction
    return np.stack([-along, along], 1)


def by_clusters(gradients: Floats, clusters: int, rng: np.random.Generator) -> Floats:
    """Return ``[record, cluster]`` how near directions are to the centres of their best clustering (Lloyd 1982)."""
    directions = _directions(gradients)
    found = []
    for _ in range(RESTARTS):
        centres = directions[rng.permutation(len(directions))[:clusters]]
        for _ in range(STEPS):
            own = np.eye(len(centres))[_distances(directions, centres).argmin(1)]
            moved = own.T @ directions / np.maximum(own.sum(0), 1)[:, None]
            centres = np.where(own.sum(0)[:, None] > 0, moved, centres)
        found.append(_distances(directions, centres))
    return -min(found, key=lambda distances: float(distances.min(1).sum()))


def _distances(points: Floats, centres: Floats) -> Floats:
    return np.asarray(np.square(points).sum(1)[:, None] - 2 * points @ centres.T + np.square(centres).sum(1))


def _directions(gradients: Floats) -> Floats:
    lengths = np.linalg.norm(gradients, axis=-1, keepdims=True)
    return np.asarray(gradients / np.maximum(lengths, np.finfo(np.float64).tiny))


ATTACK = Attack(
    name="label-norm",
    sentence="labels by direction and norm of the gradients at the second cut (Li et al. 2022), spectrum and clusters",
    adversary="server",
    uses="labels of training records and gradients of their losses, exact or as noised",
    begin=TailGradients,
    applies=lambda job: any(Kind.TAIL_GRADIENT in kinds for kinds in job.protocol.batch_up),
    options={"known": 1},
)
