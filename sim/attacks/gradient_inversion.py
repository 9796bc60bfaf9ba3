"""The server works a clinic's records out of its update in the first round of federated averaging.

Where the network begins with a linear layer z = W x + b, every neuron i of it gives a candidate in closed form (Phong
et al. 2018; Boenisch et al. 2023): over the round its row and its bias move by sums of d_ni x_n and of d_ni over the
steps' records, so that

    x <- (W' - W)_i / (b' - b)_i

is a record exactly if no other record of the round moved the neuron, as with one record; otherwise it is a weighted
mean of those that did. That holds for SGD with or without momentum, not for Adam, weight decay, FedProx or noise.

Any other network is inverted by optimisation (Geiping et al., "Inverting Gradients - How easy is it to break privacy in
federated learning?", NeurIPS 2020), labels being known as there:

    x <- the mean of known records, with noise
    for each step
        x <- Adam on 1 - cos(gradient(x), W - W') + tv |x|_TV

which takes the update for one gradient of the clinic's records: with more local steps, it degrades.

Neither says which record is which: what is rebuilt is matched with the clinic's records for the best fit, and so are as
many held-out ones, whose scores are the chance. A record that nothing is matched with counts as the mean of those.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sim.attacks.attack import Attack, Exhibit, Finding, Observer, Scalars
from sim.attacks.likeness import Floats, likeness, plausible, total_variation
from sim.data.federation import Federation
from sim.foundation.rng import stream
from sim.methods.job import Job
from sim.methods.messages import Instruction, Kind, Reply, Train
from sim.models import Network, Parameters
from sim.plan.plan import Plan
from sim.tensor.lanes import forward, leaves

TOTAL_VARIATION, RATE, START, MOST_ORIGINALS = 1e-3, 0.1, 0.1, 300
LEAST_MOVE, ALIKE, ROUNDING = 1e-3, 1e-3, 4e-7
"""Share of the largest move that counts, how near candidates are that are one, and how precisely a move is known."""


class Inversion(Observer):
    """Keeps the first round's updates of the clinics with fewest records, and inverts them.

    Under secure aggregation the server has the one update of all of them together.
    """

    def __init__(self, plan: Plan, federation: Federation, options: Scalars) -> None:
        self._plan, self._federation, self._options = plan, federation, options
        self._rounds: list[Parameters] = []
        self._updates: dict[tuple[int, ...], tuple[Parameters, Parameters]] = {}

    def round(self, server_round: int, model: Parameters) -> None:
        """Keep what is known of the first round where clinics' own updates are not."""
        job = self._plan.job
        if job.secure is not None and server_round < 2:
            self._rounds.append({name: value.clone() for name, value in model.items()})
            if server_round == 1:
                clinics = tuple(job.returning(1, sorted(job.participants(1))))
                self._updates[clinics] = self._rounds[0], self._rounds[1]

    def message(self, instruction: Instruction, reply: Reply) -> None:
        """Keep the model that is brought, and what comes back in its place."""
        if isinstance(instruction, Train) and instruction.server_round == 1 and Kind.MODEL in reply.parts:
            before = {name: value.clone() for name, value in instruction.model.items()}
            for lane, clinic in enumerate(reply.clinics):
                after = {name: value[lane : lane + 1].clone() for name, value in reply.model.items()}
                self._updates[(clinic,)] = before, after

    def findings(self, model: Parameters) -> Iterator[Finding | Exhibit]:
        """Return the scores of :mod:`sim.attacks.likeness`; nothing without held-out records."""
        job, train = self._plan.job, self._federation.train
        known = self._federation.untrained.x.astype(np.float64)
        attacked = sorted(self._updates, key=lambda clinics: (sum(job.sizes[k] for k in clinics), clinics))
        matched = []
        for clinics in attacked[: int(self._options["clinics"])]:
            own = np.concatenate([np.arange(train.offsets[k], train.offsets[k + 1]) for k in clinics])
            originals = train.x[own[:MOST_ORIGINALS]].astype(np.float64)
            rebuilt = self._inverted(clinics, train.y[own], known)
            rng = stream(job.seed, "attack.inversion", clinics[0], 1)
            guess = known[rng.choice(len(known), min(len(rebuilt), len(known)), replace=False)] if len(known) else known
            if len(known):
                matched.append([originals, *(best_fit(originals, each, known.mean(0)) for each in (rebuilt, guess))])
        if sum(len(originals) for originals, _, _ in matched) < 2:
            return
        originals, rebuilt, guess = (np.concatenate(each) for each in zip(*matched, strict=True))
        yield from likeness(originals, rebuilt, known, guess, int(self._options["pictures"]))

    def _inverted(self, clinics: tuple[int, ...], labels: NDArray[np.int64], known: Floats) -> Floats:
        before, after = self._updates[clinics]
        job = self._plan.job
        if (names := first_linear(job.network)) is not None:
            weight, bias = ((after[name] - before[name])[0].double().numpy() for name in names)
            found = from_linear_layer(weight, bias, known.reshape(len(known), -1))[: len(labels)]
            return np.clip(found.reshape(-1, *known.shape[1:]), *plausible(known))
        y = torch.from_numpy(labels[: int(self._options["records"])].copy())
        seed = int(stream(job.seed, "attack.inversion", clinics[0]).integers(2**63))
        return from_gradient(job, before, after, y, known, int(self._options["steps"]), seed)


def first_linear(network: Network) -> tuple[str, str] | None:
    """Return the names of weight and bias of a linear layer to which records go as they are; None if there is none."""
    block = network.blocks[0]
    for name, module in block.module.named_modules():
        if next(module.children(), None) is not None or isinstance(module, nn.Flatten | nn.Identity):
            continue
        if not isinstance(module, nn.Linear) or module.bias is None:
            return None
        prefix = f"{block.name}.{name}." if name else f"{block.name}."
        return prefix + "weight", prefix + "bias"
    return None


def from_linear_layer(weight: Floats, bias: Floats, known: Floats) -> Floats:
    """Return ``[candidate, feature]`` records from how weight ``[neuron, feature]`` and bias ``[neuron]`` moved.

    What several neurons agree on stands first, for it is a record and no mean of some; then what lies within the range
    of the known records, ``[record, feature]``.
    """
    order = np.argsort(-np.abs(bias), kind="stable")
    order = order[np.abs(bias[order]) > max(LEAST_MOVE * np.abs(bias).max(), 10 * ROUNDING)]
    found: list[Floats] = []
    votes: list[int] = []
    for neuron in order:
        x, apart = weight[neuron] / bias[neuron], ALIKE + ROUNDING / np.abs(bias[neuron])
        alike = [n for n, other in enumerate(found) if np.abs(x - other).max() < apart * max(1.0, np.abs(other).max())]
        if alike:
            votes[alike[0]] += 1
        else:
            found.append(x)
            votes.append(1)
    candidates = np.array(found).reshape(-1, weight.shape[1])
    outside = np.abs(candidates - np.clip(candidates, known.min(0), known.max(0))).sum(1)
    return np.asarray(candidates[np.lexsort((outside, -np.array(votes, dtype=np.int64)))])


def from_gradient(
    job: Job,
    before: Parameters,
    after: Parameters,
    labels: Tensor,
    known: Floats,
    steps: int,
    seed: int,
) -> Floats:
    """Return ``[record, *feature]`` records whose gradient points where the update does; it begins near known ones."""
    trained = leaves(job.network.whole.trained(before))
    update = torch.cat([(before[name] - after[name]).flatten() for name in trained])
    update = update / update.norm().clamp_min(1e-30)
    weights = torch.full((1, len(labels)), 1 / len(labels))
    noise = torch.randn(1, len(labels), *known.shape[1:], generator=torch.Generator().manual_seed(seed))
    low, high = (torch.as_tensor(each, dtype=torch.float32) for each in plausible(known))
    x = (torch.from_numpy(known.mean(0)).float() + START * noise).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=RATE)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps * part // 8 for part in (3, 5, 7)], 0.1)
    for _ in range(steps):
        loss = job.loss.sum(forward(job.network.whole, before | trained, x), labels[None], weights)
        gradient = torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, list(trained.values()), create_graph=True)]
        )
        distance = 1 - gradient @ update / gradient.norm().clamp_min(1e-30) + TOTAL_VARIATION * total_variation(x)
        [x.grad] = torch.autograd.grad(distance, x)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            x.clamp_(low, high)
    return np.asarray(x.detach()[0].double().numpy())


def best_fit(originals: Floats, candidates: Floats, mean: Floats) -> Floats:
    """Return for each original the candidate that it is matched with, at the least squared distance in all."""
    fitted = np.broadcast_to(mean, originals.shape).copy()
    if len(candidates):
        a, b = (each.reshape(len(each), -1) for each in (originals, candidates))
        distance = np.square(a).sum(1)[:, None] - 2 * a @ b.T + np.square(b).sum(1)
        which, match = scipy.optimize.linear_sum_assignment(distance)
        fitted[which] = candidates[match]
    return fitted


ATTACK = Attack(
    name="gradient-inversion",
    sentence="reconstruction of records from a clinic's first update (Phong et al. 2018, Geiping et al. 2020)",
    adversary="server",
    uses="features of training and of held-out records, exact",
    begin=Inversion,
    applies=lambda job: job.protocol.topology == "whole" and job.protocol.movement == "averaged" and job.method.trains,
    options={"clinics": 2, "records": 8, "steps": 200, "pictures": 0},
)
