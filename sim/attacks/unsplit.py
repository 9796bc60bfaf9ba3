"""The server searches for records and a head that give the rows it has been sent; it has no records of its own.

Erdogan, Küpçü & Çiçek, "UnSplit: Data-Oblivious Model Inversion, Model Stealing, and Label Inference Attacks Against
Split Learning", WPES 2022, algorithm 1:

    clone <- the head's architecture
    x <- 0
    in turn, several steps each
        x <- Adam on |clone(x) - rows|^2 + tv |x|_TV
        clone <- Adam on |clone(x) - rows|^2

Here the clone begins with the public initial values. Where the head itself has passed the server (it is frozen,
averaged or handed on), it stands in the clone's place and only the records are searched for: the white-box attack of He
et al., ACSAC 2019. The range of values is public; held-out records serve to say what chance is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.attacks.attack import Attack, Exhibit, Finding, Target
from sim.attacks.likeness import Floats, likeness, plausible, total_variation
from sim.attacks.observation import visible
from sim.attacks.reconstruction import drawn, most_records, most_telling, rows_at_the_cut
from sim.models import Parameters, Part
from sim.tensor.lanes import forward, leaves

TOTAL_VARIATION, RATE, CLONE_RATE, TURN = 0.03, 0.1, 1e-3, 20


def carry_out(target: Target) -> Iterator[Finding | Exhibit]:
    """Return the scores of :mod:`sim.attacks.likeness`; nothing without held-out records."""
    job, train, options = target.plan.job, target.federation.train, target.options
    known = target.federation.untrained.x.astype(np.float64)
    wanted = drawn(job.seed, train, most_records(job, int(options["records"])))
    if len(known) < 2 or len(wanted) < 2:
        return
    seen = most_telling(job, target.model)
    rows = rows_at_the_cut(job, seen, train, wanted, target.plan.sampled.exposures)
    head = job.part("head")
    passed = "head" in job.frozen or head.shapes().keys() <= visible(job, "server")
    first = head.select(seen if passed else job.network.initial_parameters(job.seed))
    owner = train.clinic[wanted] if job.protocol.movement == "own" else np.zeros_like(wanted)
    rebuilt = searched(head, first, rows, owner, plausible(known), int(options["steps"]), with_clone=not passed)
    x = train.x[wanted].astype(np.float64)
    yield from likeness(x, rebuilt, known, pictures=int(options["pictures"]))


def searched(
    head: Part,
    first: Parameters,
    rows: Floats,
    owner: NDArray[np.int64],
    span: tuple[Floats, Floats],
    steps: int,
    *,
    with_clone: bool,
) -> Floats:
    """Return ``[record, *feature]`` records whose rows behind the head, or a clone of it, are those given.

    Parameters
    ----------
    head : Part
    first : dict of str to Tensor
        ``[1, *shape]`` the head's values, or those that the clones begin with.
    rows : ndarray
        ``[record, value]``
    owner : ndarray
        ``[record]`` in ascending order, whose head the record went through; each has a clone.
    span : (ndarray, ndarray)
        Least and largest values of a record.
    steps : int
    with_clone : bool
        Whether the head is searched for, too.
    """
    _, lane, counts = np.unique(owner, return_inverse=True, return_counts=True)
    slot = np.arange(len(owner)) - np.concatenate([[0], np.cumsum(counts)])[lane]
    wanted, real = torch.zeros(len(counts), counts.max(), rows.shape[1]), torch.zeros(len(counts), counts.max(), 1)
    wanted[lane, slot], real[lane, slot] = torch.from_numpy(rows).float(), 1.0
    low, high = (torch.as_tensor(each, dtype=torch.float32) for each in span)
    x = ((low + high) / 2).expand(*wanted.shape[:2], *low.shape).clone().requires_grad_()
    heads = {name: value.expand(len(counts), *value.shape[1:]).clone() for name, value in first.items()}
    clones = leaves(head.trained(heads)) if with_clone else {}
    of_x = torch.optim.Adam([x], lr=RATE)
    of_clones = torch.optim.Adam(clones.values(), lr=CLONE_RATE) if clones else None
    scale = max(float(rows.std() ** 2), 1e-12) * rows.shape[1]

    def error() -> Tensor:
        missed = (real * (forward(head, heads | clones, x).flatten(2) - wanted)).square()
        of_all: Tensor = missed.sum() / scale
        return of_all

    for step in range(steps):
        smooth = len(rows) * TOTAL_VARIATION * total_variation(x)
        [x.grad] = torch.autograd.grad(error() + smooth, x)
        of_x.step()
        with torch.no_grad():
            x.clamp_(low, high)
        if of_clones is not None and step % TURN == TURN - 1:
            for _ in range(TURN):
                of_clones.zero_grad()
                torch.autograd.backward(error(), inputs=[*clones.values()])
                of_clones.step()
    return np.asarray(x.detach()[lane, slot].double().numpy())


ATTACK = Attack(
    name="unsplit",
    sentence="reconstruction of records from smashed rows without records of one's own (Erdogan et al. 2022)",
    adversary="server",
    uses="rows and features of training records, exact",
    carry_out=carry_out,
    applies=lambda job: job.protocol.topology != "whole",
    options={"records": 100, "steps": 300, "pictures": 0},
)
