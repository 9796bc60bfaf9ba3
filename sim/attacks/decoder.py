"""The server trains a network that turns rows at the cut back into records, on records of its own of the same kind.

He, Zhang & Lee, "Model Inversion Attacks Against Collaborative Inference", ACSAC 2019, the black-box attack:

    rows <- head(x)                            of the records that it knows, noised as all rows are
    for each step
        decoder <- Adam on |decoder(rows) - x|^2
    return decoder(rows of a training record)

The held-out records stand for public ones of the same kind. A part of them chooses the step to stop at; the decoder
begins with their mean, so that one that learns nothing says no more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from sim.attacks.attack import Attack, Exhibit, Finding, Target
from sim.attacks.likeness import likeness, plausible
from sim.attacks.reconstruction import Floats, drawn, most_records, most_telling, rows_at_the_cut
from sim.foundation.rng import stream
from sim.models import seeded
from sim.tensor.lanes import output_shape

WIDTH, CHANNELS, BATCH, RATE, CHECKED, LEFT_OUT = 128, 32, 32, 3e-3, 20, 5
_CONVOLUTIONS: tuple[tuple[Callable[..., nn.Module], Callable[..., nn.Module]], ...] = (
    (nn.Conv1d, nn.ConvTranspose1d),
    (nn.Conv2d, nn.ConvTranspose2d),
)


def carry_out(target: Target) -> Iterator[Finding | Exhibit]:
    """Return the scores of :mod:`sim.attacks.likeness`; nothing without held-out records."""
    job, options = target.plan.job, target.options
    outside, train = target.federation.untrained, target.federation.train
    known, wanted = (
        drawn(job.seed, records, most_records(job, int(options["records"]))) for records in (outside, train)
    )
    if len(known) < 2 * LEFT_OUT or len(wanted) < 2:
        return
    rows, new_rows = (
        rows_at_the_cut(job, most_telling(job, target.model), records, index, target.plan.sampled.exposures)
        for records, index in ((outside, known), (train, wanted))
    )
    known_x, x = outside.x[known].astype(np.float64), train.x[wanted].astype(np.float64)
    shape = output_shape(job.part("head"), job.network.input_shape)
    rebuilt = decoded(rows, known_x, new_rows, shape, int(options["steps"]), job.seed)
    yield from likeness(x, rebuilt, known_x, pictures=int(options["pictures"]))


def decoded(rows: Floats, known: Floats, new_rows: Floats, shape: tuple[int, ...], steps: int, seed: int) -> Floats:
    """Train a decoder on rows of known records, and return what it makes of other rows.

    Rows are ``[record, value]``, each of the given shape; known records are ``[record, *feature]``.
    """
    rng = stream(seed, "attack.decoder")
    centre, scale = rows.mean(0), rows.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    # A value that hardly varies among known rows may lie far out in others, where nothing was learnt.
    within = np.clip(new_rows, rows.min(0), rows.max(0))
    z, new_z = (torch.from_numpy((each - centre) / scale).float().reshape(-1, *shape) for each in (rows, within))
    mean, spread = known.mean(0), max(float(known.std(0).mean()), 1e-12)
    x = torch.from_numpy((known - mean) / spread).float()
    decoder = seeded(lambda: inverse(shape, known.shape[1:]), int(rng.integers(2**63)))
    optimizer = torch.optim.Adam(decoder.parameters(), lr=RATE)
    order = rng.permutation(len(z))
    judges, learners = order[: len(z) // LEFT_OUT], order[len(z) // LEFT_OUT :]
    least, best = np.inf, torch.zeros(len(new_z), *x.shape[1:])
    for step in range(steps + 1):
        if step % CHECKED == 0:
            with torch.no_grad():
                loss = float((decoder(z[judges]) - x[judges]).square().mean())
                if loss < least:
                    least, best = loss, decoder(new_z)
        batch = rng.choice(learners, min(BATCH, len(learners)), replace=False)
        optimizer.zero_grad()
        torch.autograd.backward((decoder(z[batch]) - x[batch]).square().mean())
        optimizer.step()
    return np.asarray(np.clip(mean + spread * best.numpy().astype(np.float64), *plausible(known)))


def inverse(rows: tuple[int, ...], record: tuple[int, ...]) -> nn.Module:
    """Return a network from the shape of a row to that of a record, which answers with zeros at first.

    Rows with places (``[channel, *axis]``) go through two convolutions and a transposed one; others through a
    perceptron.
    """
    if len(rows) == 1 or len(rows) != len(record):
        last: nn.Module = nn.Linear(WIDTH, int(np.prod(record)))
        hidden = [nn.Flatten(), nn.Linear(int(np.prod(rows)), WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()]
        behind: nn.Module = nn.Unflatten(1, record)
    else:
        convolution, transposed = _CONVOLUTIONS[len(rows) - 2]
        strides = tuple(-(-size // small) for size, small in zip(record[1:], rows[1:], strict=True))
        kernel = tuple(2 * s + s % 2 for s in strides)
        padding = tuple((k - s) // 2 for k, s in zip(kernel, strides, strict=True))
        last = transposed(CHANNELS, record[0], kernel, strides, padding)
        hidden = [convolution(rows[0], CHANNELS, 3, padding=1), nn.ReLU()]
        hidden += [convolution(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU()]
        behind = nn.Upsample(record[1:])
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(*hidden, last, behind)


ATTACK = Attack(
    name="decoder",
    sentence="reconstruction of records from smashed rows by a network trained on held-out records (He et al. 2019)",
    of_classes=False,
    adversary="server",
    uses="rows and features of training and of held-out records, exact",
    carry_out=carry_out,
    applies=lambda job: job.protocol.topology != "whole",
    options={"records": 300, "steps": 300, "pictures": 0},
)
