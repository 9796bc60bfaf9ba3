"""An active server returns gradients of its own making, which pull a clinic's head into a space that it can decode.

Pasquini, Ateniese & Bernaschi, "Unleashing the Tiger: Inference Attacks on Split Learning", CCS 2021:

    pilot, decoder and critic are the server's; x_pub are records of its own, on which the decoder is trained before
    for each batch x of the clinic, rows z = head(x)
        pilot, decoder <- Adam on |decoder(pilot(x_pub)) - x_pub|^2
        critic         <- Adam: z from pilot(x_pub)
        head           <- the clinic's optimiser, with the gradient of softplus(-critic(z)) in place of the loss's
    return decoder(rows of a training record)

The pilot has the head's architecture and public initial values, and the critic's slope at its rows is penalised (R1,
Mescheder et al. 2018), without which so few steps end in oscillation. Attacked is the clinic with most records, over
its own batches and as many of them as the run has, at most ``steps``; noise and clipping at the cut and DP-SGD of the
head act as in the run. The held-out records stand for the server's own.

A clinic can look out for it: where the loss is the labels', the cut gradients of two records of one class are more
alike than those of two classes (Fu et al., "Focusing on Pinocchio's Nose", NDSS 2023). A round is flagged in which
their mean cosine similarities differ by less than a threshold; honest training on the same batches says how often that
is false.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sim.attacks.attack import Attack, Exhibit, Finding, Target
from sim.attacks.decoder import inverse
from sim.attacks.likeness import Floats, likeness, plausible, share_of
from sim.attacks.reconstruction import most_records, rows_at_the_cut
from sim.data.federation import Records
from sim.foundation.rng import stream
from sim.methods.feed import Batch, Feed, padded
from sim.methods.job import Job
from sim.methods.messages import Kind
from sim.methods.node_group import NodeGroup
from sim.methods.row_noise import arrived_rows, leaving_rows
from sim.methods.trainer import expand, trainer_for
from sim.models import Part, seeded
from sim.tensor.clipping import joint_factors
from sim.tensor.lanes import forward, leaves, output_shape
from sim.tensor.trainer import Trainer

WIDTH, BATCH, RATE, PILOT_RATE, CRITIC_RATE, PENALTY, ALIKE, WARM_UP = 128, 32, 3e-3, 5e-4, 1e-3, 10.0, 0.1, 200


def carry_out(target: Target) -> Iterator[Finding | Exhibit]:
    """Return the scores of :mod:`sim.attacks.likeness`, and how often the clinic notices."""
    job, train, options = target.plan.job, target.federation.train, target.options
    known = target.federation.untrained.x.astype(np.float64)
    clinic = int(np.argmax(job.records))
    wanted = np.arange(*train.offsets[clinic : clinic + 2])[: most_records(job, int(options["records"]))]
    if len(known) < 2 or len(wanted) < 2:
        return
    attacked, honest = (Clinic(job, train, clinic) for _ in range(2))
    server, rest = Server(job, known, clinic), Honest(job, clinic)
    gaps: tuple[dict[int, list[float]], ...] = ({}, {})
    for side, answers, seen in ((attacked, server, gaps[0]), (honest, rest, gaps[1])):
        for moment, batch in side.batches(int(options["steps"])):
            gradient = answers.answer(side.sent(batch, moment), batch, moment)
            seen.setdefault(moment[0], []).append(label_gap(gradient[0, : batch.rows[0]], batch.y[0, : batch.rows[0]]))
            side.take(gradient, batch, moment)
    x = train.x[wanted].astype(np.float64)
    model = target.model | attacked.head.parameters
    rebuilt = server.decode(rows_at_the_cut(job, model, train, wanted, target.plan.sampled.exposures))
    yield from likeness(x, rebuilt, known, pictures=int(options["pictures"]))
    flagged, false = (share_flagged(each.values()) for each in gaps)
    yield share_of("detected_rate", flagged, len(gaps[0]), chance=false)


def label_gap(gradient: Tensor, y: Tensor) -> float:
    """Return the mean cosine of two records' gradients of one label less that of two; NaN where both are not there."""
    unit = functional.normalize(gradient.flatten(1).double(), dim=1)
    cosine, same = unit @ unit.T, y[:, None] == y
    other = ~torch.eye(len(y), dtype=torch.bool)
    return float(cosine[same & other].mean() - cosine[~same].mean())


def share_flagged(gaps: Iterable[list[float]]) -> float:
    """Return the share of rounds in which the mean gap of the batches that have one is below the threshold."""
    means = [np.mean(known) for each in gaps if (known := [gap for gap in each if not np.isnan(gap)])]
    return float(np.mean([mean < ALIKE for mean in means])) if means else 0.0


class Clinic:
    """The attacked clinic: its batches, its head in training and what leaves it."""

    def __init__(self, job: Job, train: Records, clinic: int) -> None:
        self._job, self._group, self._clinic = job, NodeGroup.build(job, train, [clinic]), clinic
        first = job.network.initial_parameters(job.seed)
        self.head = trainer_for(job, job.part("head"), [clinic], expand(job.part("head").select(first), 1))

    def batches(self, most: int) -> Iterator[tuple[tuple[int, int], Batch]]:
        """Yield round and step of each batch, and the batch."""
        count = 0
        for server_round in range(1, self._job.spec.train.rounds + 1):
            feed = Feed.gathered(self._job, self._group, [self._clinic], server_round, slice(None))
            for step in range(len(feed.active)):
                for batch in feed.step(step):
                    if count == most:
                        return
                    count += 1
                    yield (server_round, step), batch

    def sent(self, batch: Batch, moment: tuple[int, int]) -> Tensor:
        """Return ``[1, width, *feature]`` the batch's rows as the server has them."""
        rows = batch.rows.tolist()
        smashed = self.head.forward(batch.x, rows=rows, moment=moment)
        return padded(as_sent(self._job, smashed, rows, self._clinic, moment), batch.x.shape[1])

    def take(self, gradient: Tensor, batch: Batch, moment: tuple[int, int]) -> None:
        """Train the head with the gradient that was returned."""
        stepped(self._job, self.head, batch, moment, gradient)


def stepped(job: Job, part: Trainer, batch: Batch, moment: tuple[int, int], gradient: Tensor | None = None) -> Tensor:
    """Train a part by the gradient at its end, or of its loss, and return that at its beginning."""
    if not job.joint or job.dp is None:
        return part.backward(*moment, batch.normaliser, gradient)
    squared, before = part.hold(batch.normaliser, gradient)
    part.release(*moment, batch.normaliser, joint_factors(squared, job.dp.part_clip))
    return before


def as_sent(job: Job, smashed: Tensor, rows: list[int], clinic: int, moment: tuple[int, int]) -> Tensor:
    """Return rows of one lane as they arrive from a clinic."""
    sent = leaving_rows(job, Kind.SMASHED, smashed.detach(), rows, [clinic], moment)
    return arrived_rows(job, Kind.SMASHED, sent, [clinic])


class Server:
    """The attacker: pilot, decoder and critic."""

    def __init__(self, job: Job, known: Floats, clinic: int) -> None:
        self._job, self._clinic = job, clinic
        self._rng = stream(job.seed, "attack.fsha")
        self._head = job.part("head")
        self._first = self._head.select(job.network.initial_parameters(job.seed))
        self._pilot = leaves({name: value.clone() for name, value in self._head.trained(self._first).items()})
        shape = output_shape(self._head, job.network.input_shape)
        self._decoder, self._critic = seeded(
            lambda: (inverse(shape, known.shape[1:]), critic(shape)), int(self._rng.integers(2**63))
        )
        self._known = torch.from_numpy(known).float()
        self._mean, self._spread = self._known.mean(0), max(float(known.std(0).mean()), 1e-12)
        self._of_pilot = torch.optim.Adam(self._pilot.values(), lr=PILOT_RATE)
        self._of_decoder = torch.optim.Adam(self._decoder.parameters(), lr=RATE)
        self._of_critic = torch.optim.Adam(self._critic.parameters(), lr=CRITIC_RATE)
        self._plausible = plausible(known)
        self._steps = 0
        for _ in range(WARM_UP):
            self._own_rows(pilot=False)

    def answer(self, rows: Tensor, batch: Batch, moment: tuple[int, int]) -> Tensor:
        """Train on a batch's rows, ``[1, width, *feature]``, and return the gradient that goes back."""
        real = int(batch.rows[0])
        if not real:
            return torch.zeros_like(rows)
        z, own = rows[0, :real].clone().requires_grad_(), self._own_rows().requires_grad_()
        approved = self._critic(own)
        [slope] = torch.autograd.grad(approved.sum(), own, create_graph=True)
        told_apart = functional.softplus(self._critic(z.detach())).mean() + functional.softplus(-approved).mean()
        self._of_critic.zero_grad()
        torch.autograd.backward(told_apart + PENALTY / 2 * slope.square().flatten(1).sum(1).mean())
        self._of_critic.step()
        [gradient] = torch.autograd.grad(functional.softplus(-self._critic(z)).mean(), z)
        return padded(gradient[None], rows.shape[1])

    def _own_rows(self, *, pilot: bool = True) -> Tensor:
        """Train decoder and pilot on some of the known records, and return the pilot's rows of them."""
        x = self._known[self._rng.choice(len(self._known), min(BATCH, len(self._known)), replace=False)]
        own = forward(self._head, self._first | self._pilot, x[None])
        if self._job.rows is not None:  # as noisy as the clinic's, from streams of no round of training
            self._steps += 1
            apart = (self._job.spec.train.rounds + 1, self._steps)
            own = own + (as_sent(self._job, own, [len(x)], self._clinic, apart) - own).detach()
        missed = (self._decoder(own[0]) - (x - self._mean) / self._spread).square().mean()
        self._of_decoder.zero_grad()
        self._of_pilot.zero_grad()
        torch.autograd.backward(missed)
        self._of_decoder.step()
        if pilot:
            self._of_pilot.step()
        return own[0].detach()

    @torch.no_grad()
    def decode(self, rows: Floats) -> Floats:
        """Return ``[record, *feature]`` what the decoder makes of rows ``[record, value]``."""
        shape = output_shape(self._head, self._job.network.input_shape)
        z = torch.from_numpy(rows).float().reshape(-1, *shape)
        return np.asarray(np.clip((self._decoder(z) * self._spread + self._mean).double().numpy(), *self._plausible))


class Honest:
    """A server that does as it should: the rest of the network in training."""

    def __init__(self, job: Job, clinic: int) -> None:
        self._job = job
        part = Part("body", tuple(block for each in job.parts[1:] for block in each.blocks))
        first = part.select(job.network.initial_parameters(job.seed))
        self._rest = trainer_for(job, part, [clinic], expand(first, 1))

    def answer(self, rows: Tensor, batch: Batch, moment: tuple[int, int]) -> Tensor:
        """Train on a batch's rows, ``[1, width, *feature]``, and return the gradient that goes back."""
        self._rest.forward(rows, rows=batch.rows.tolist(), want_input_gradient=True, moment=moment)
        self._rest.loss(batch.y, batch.weights)
        return stepped(self._job, self._rest, batch, moment)


def critic(shape: tuple[int, ...]) -> nn.Module:
    """Return a network from the shape of a row to one number."""
    size = int(np.prod(shape))
    hidden = [nn.Linear(size, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(WIDTH, 1))


ATTACK = Attack(
    name="fsha",
    sentence="reconstruction of records by a server that returns gradients of its own making (Pasquini et al. 2021)",
    adversary="server",
    uses="features of training and of held-out records and labels, exact",
    carry_out=carry_out,
    applies=lambda job: (
        any(Kind.CUT_GRADIENT in kinds for kinds in job.protocol.batch_down) and "head" not in job.frozen
    ),
    options={"records": 300, "steps": 300, "pictures": 0},
)
