"""The server reconstructs records from rows that cross the cut, by ridge regression from rows whose records it knows.

It is taken to know the held-out records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from sim.attacks.attack import Attack, Finding, Observer
from sim.data.federation import Federation, Records
from sim.foundation.rng import stream
from sim.methods.job import Job
from sim.methods.messages import Kind
from sim.methods.row_noise import arrived_rows, leaving_rows
from sim.models import Parameters
from sim.models.joined import side_by_side
from sim.plan.costs import FLOAT_BYTES, part_costs
from sim.plan.plan import Plan
from sim.tensor.lane_rules import DropoutMasks
from sim.tensor.lanes import forward

Floats = NDArray[np.float64]
MOST_RECORDS, FEWEST_RECORDS, MOST_VALUES = 500, 20, 4_000_000
"""How many records the reconstruction looks at: fewer where one has more than 8,000 values at the cut or before it."""
RIDGES = np.logspace(-6, 6, 25)
LAST_ROUNDS, MOST_MASKS = 10, 100
"""In how many rounds a head that trains hardly moves, and how many masks of a frozen one are averaged at most."""


class Reconstruction(Observer):
    """Reconstructs training records from their rows at the cut, as they leave the clinic after the last round.

    Under NoPeek, which takes rounds to hide anything, it takes those of the first batches.
    """

    def __init__(self, plan: Plan, federation: Federation) -> None:
        self._plan, self._federation = plan, federation

    def findings(self, model: Parameters) -> Iterator[Finding]:
        """Return the share of the training records' variance that is recovered; nothing without held-out records."""
        job, exposures = self._plan.job, self._plan.sampled.exposures
        r2 = reconstruction(job, most_telling(job, model), self._federation, exposures)
        if np.isnan(r2):
            return
        yield Finding(measure="r2", value=r2, chance=0.0)
        if job.spec.train.nopeek:
            last = reconstruction(job, model, self._federation, exposures)
            yield Finding(measure="last_round_r2", value=last, chance=0.0)


def most_telling(job: Job, model: Parameters) -> Parameters:
    """Return the model behind whose head rows are attacked: the last; under NoPeek the first, which is public."""
    return job.network.initial_parameters(job.seed) if job.spec.train.nopeek else model


def reconstruction(job: Job, parameters: Parameters, federation: Federation, exposures: NDArray[np.int64]) -> float:
    """Reconstruct training records from their rows at the cut, as they leave the clinic after the last round.

    The server is taken to know the held-out records and their rows, on which it fits the regression. Of rows from a
    frozen head it has as many noised copies as a record has exposures, by clinic, and takes their mean. Parameters are
    ``[1, *shape]``, or ``[clinic, *shape]`` where every clinic has its own. See :func:`probe_r2`; NaN without held-out
    records.
    """
    most = most_records(job, MOST_RECORDS)
    outside = federation.untrained
    known, wanted = (drawn(job.seed, records, most) for records in (outside, federation.train))
    if min(len(known), len(wanted)) < 2:
        return np.nan
    rows = [
        rows_at_the_cut(job, parameters, records, index, exposures)
        for records, index in ((outside, known), (federation.train, wanted))
    ]
    inputs, targets = (np.nan_to_num(_flat(each)) for each in (outside.x[known], federation.train.x[wanted]))
    return probe_r2(rows[0], inputs, rows[1], targets)


def probe_r2(rows: Floats, inputs: Floats, new_rows: Floats, new_inputs: Floats) -> float:
    """Fit inputs by ridge regression on rows, ``[record, column]`` each, and apply it to others.

    Return R^2 over all new inputs together, weighted by their variance; 0 if their mean would do as well, NaN if they
    do not vary.
    """
    spread = float(np.square(new_inputs - new_inputs.mean(0)).sum())
    if spread == 0:
        return np.nan
    predicted = ridge_predictions(rows, inputs, new_rows)
    return max(0.0, 1 - float(np.square(new_inputs - predicted).sum()) / spread)


def ridge_predictions(rows: Floats, inputs: Floats, new_rows: Floats) -> Floats:
    """Fit inputs ``[record, column]`` by ridge regression on rows, and return what it makes of new rows.

    The ridge is chosen by generalised cross-validation (Golub et al. 1979).
    """
    centre, scale, middle = rows.mean(0), rows.std(0), inputs.mean(0)
    scale = np.where(scale > 0, scale, 1.0)
    known, new = (rows - centre) / scale, (new_rows - centre) / scale
    strengths, u = np.linalg.eigh(known @ known.T)
    strengths = np.maximum(strengths, 0.0)
    along = u.T @ (inputs - middle)

    def cross_validated(ridge: float) -> float:
        left = ridge / (strengths + ridge)
        return float(np.square(left[:, None] * along).sum()) / max(float(left.sum()) - 1, 1e-9) ** 2

    ridge = min(RIDGES * len(rows), key=cross_validated)
    return np.asarray(middle + (new @ known.T) @ (u @ (along / (strengths + ridge)[:, None])))


def most_records(job: Job, most: int) -> int:
    """Return how many records an attack on rows looks at: fewer where one has many values at the cut or before it."""
    smashed = part_costs(job.parts, job.network.input_shape, job.frozen)["head"].output_bytes // FLOAT_BYTES
    widest = max(smashed, int(np.prod(job.network.input_shape)))
    return min(most, max(FEWEST_RECORDS, MOST_VALUES // widest))


def drawn(seed: int, records: Records, most: int) -> NDArray[np.int64]:
    """Draw at most so many records; their indices ascend."""
    count = len(records.y)
    if count <= most:
        return np.arange(count)
    return np.sort(stream(seed, "audit.records").choice(count, most, replace=False)).astype(np.int64)


@torch.no_grad()
def rows_at_the_cut(
    job: Job,
    parameters: Parameters,
    records: Records,
    index: NDArray[np.int64],
    exposures: NDArray[np.int64],
) -> Floats:
    """Return the smashed data of some records, ``[record, value]``, of all parties, clipped and noised as the job says.

    Behind dropout it is their mean over several masks.
    """
    head = side_by_side(job.part("head"))
    own = head.select(parameters)
    noise = job.rows
    if noise is not None and "head" in job.frozen:
        copies = np.sqrt(np.maximum(exposures, 1))
        noise = replace(noise, multipliers=tuple(float(m / c) for m, c in zip(noise.multipliers, copies, strict=True)))
        job = replace(job, rows=noise)
    clinic_of = records.clinic[index]
    rows = []
    for clinic in np.unique(clinic_of):
        x = torch.tensor(records.x[index[clinic_of == clinic]])[None]
        after = (job.spec.train.rounds + 1, 0)  # no round of training draws from these streams
        values = of_clinic(own, int(clinic))
        masks = _masks(job, int(clinic)) if head.drops else [None]
        smashed = torch.stack([forward(head, values, x, masks=mask) for mask in masks]).mean(0)
        place = int(clinic) if job.parties is None else job.parties.holders[clinic]
        sent = leaving_rows(job, Kind.SMASHED, smashed, [x.shape[1]], [place], after)
        rows.append(_flat(arrived_rows(job, Kind.SMASHED, sent, [place])[0].numpy()))
    return np.concatenate(rows)


def of_clinic(parameters: Parameters, clinic: int) -> Parameters:
    """Return ``[1, *shape]`` a clinic's own parameters, or those of all."""
    return {name: value[clinic : clinic + 1] if len(value) > 1 else value for name, value in parameters.items()}


def _masks(job: Job, clinic: int) -> list[DropoutMasks | None]:
    """Return the dropout behind which a record is seen: a frozen head's each time, another's in its last rounds."""
    train = job.spec.train
    times = int(train.rounds * train.local_epochs * train.participation)
    copies = max(1, min(times, MOST_MASKS if "head" in job.frozen else LAST_ROUNDS))
    return [DropoutMasks(job.seed, [clinic], train.rounds + 1, copy) for copy in range(copies)]


def _flat(x: NDArray[np.float32]) -> Floats:
    return x.reshape(len(x), -1).astype(np.float64)


ATTACK = Attack(
    name="reconstruction",
    sentence="reconstruction of records from smashed rows by ridge regression, fitted on held-out records",
    of_classes=False,
    layouts=("horizontal", "vertical"),
    adversary="server",
    uses="rows and features of training and of held-out records, exact",
    begin=Reconstruction,
    applies=lambda job: job.protocol.topology != "whole",
    on_every_run=True,
    columns={"r2": "smashed_reconstruction_r2"},
)
