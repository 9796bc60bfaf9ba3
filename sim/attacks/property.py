"""The server tells a clinic's case mix from what the clinic sends: a property of all its records, and of none alone.

Melis et al., "Exploiting Unintended Feature Leakage in Collaborative Learning", S&P 2019, passive property inference:

    for each shadow federation
        every clinic gets held-out records of all clinics, drawn with a mix of its own:
            weight of a record = exp(t z), t uniform in -1.5 to 1.5, z its property, standardised
        train the run's method on them, and keep what each clinic sends
    ridge regression: mix of a clinic <- what it sends, over all clinics of all shadow federations
    return what that makes of what the clinics of the run have sent

What a clinic sends is its updates of the model's parts, a step's worth of them, and the means of its rows, of its tail
gradients and of its labels as they leave, each over all rounds; of long arrays random sums (a count sketch, Charikar,
Chen & Farach-Colton 2002). The property is the share of a class, by default the last one's, or the mean of a feature.
The held-out records stand for public ones of the same kind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import scipy
from numpy.typing import NDArray

from sim.attacks.attack import Attack, AttackError, Finding, Observer, Target
from sim.attacks.reconstruction import Floats, ridge_predictions
from sim.data.federation import Federation, Records
from sim.foundation.rng import stream
from sim.methods.crossing import places_sent
from sim.methods.job import Job
from sim.methods.messages import Begin, Instruction, Kind, Reply, Tail, Train
from sim.methods.row_noise import arrived_rows
from sim.models import Parameters

TILT, FEWEST_CLINICS, WIDEST = 1.5, 4, 4096
"""How far mixes are tilted; clinics that an interval needs; values that are kept of one array, summed by chance."""
_ROWS = (Kind.SMASHED, Kind.TAIL_GRADIENT)


class Sent(Observer):
    """Adds up what each clinic sends."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._begun: dict[int, Parameters] = {}
        self._sums: dict[tuple[str, int], Floats] = {}
        self._counts: dict[tuple[str, int], int] = defaultdict(int)

    def message(self, instruction: Instruction, reply: Reply) -> None:
        """Add what a message holds of each clinic."""
        if isinstance(instruction, Begin | Train) and instruction.model is not None:
            self._begun |= dict.fromkeys(instruction.clinics, instruction.model)
        for lane, clinic in enumerate(reply.clinics):
            for name, after in reply.parts.get(Kind.MODEL, {}).items():
                update = (after[lane] - self._begun[clinic][name][0]).double().numpy().ravel()
                self._add(name, clinic, update, self._job.steps(clinic))
            rows = slice(0, reply.rows[lane] if reply.rows else 0)
            own = slice(lane, lane + 1)
            down = instruction.body_output[own] if isinstance(instruction, Tail) else None
            at = None if down is None else places_sent(self._job, Kind.BODY_OUTPUT, down)
            for kind in _ROWS:
                if kind in reply.payload:
                    arrived = arrived_rows(self._job, kind, reply.payload[kind][own], [clinic], at=at)
                    values = arrived[0, rows].flatten(1).double().numpy()
                    self._add(kind, clinic, values.sum(0), len(values))
            if Kind.LABELS in reply.payload:
                labels = reply.payload[Kind.LABELS][lane, rows].long().numpy()
                classes = max(2, self._job.network.outputs)
                self._add(Kind.LABELS, clinic, np.bincount(labels, minlength=classes).astype(np.float64), len(labels))

    def features(self, clinics: int) -> Floats:
        """Return ``[clinic, value]``; 0 for what a clinic has never sent."""
        widths = {what: len(values) for (what, _), values in self._sums.items()}
        columns = [
            np.stack(
                [self._sums.get((what, k), np.zeros(width)) / max(self._counts[what, k], 1) for k in range(clinics)]
            )
            for what, width in sorted(widths.items())
        ]
        return np.concatenate([np.zeros((clinics, 0)), *columns], axis=1)

    def findings(self, model: Parameters) -> tuple[Finding, ...]:
        """Find nothing: what is seen is compared over trainings."""
        return ()

    def _add(self, what: str, clinic: int, values: Floats, count: int) -> None:
        at, values = (what, clinic), sketched(values)
        self._sums[at] = self._sums.get(at, np.zeros(len(values))) + values
        self._counts[at] += count


def sketched(values: Floats) -> Floats:
    """Return values, of many as many random sums of them as are kept: on average, products of two are kept too."""
    if len(values) <= WIDEST:
        return values
    places, signs = _sums_of(len(values))
    return np.bincount(places, values * signs, WIDEST).astype(np.float64)


@cache
def _sums_of(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = stream(count, "attack.sketch")
    return rng.integers(WIDEST, size=count), 2 * rng.integers(2, size=count) - 1


def carry_out(target: Target) -> Iterator[Finding]:
    """Return error and correlation of the mixes over clinics, and each clinic's error; nothing if nothing is sent."""
    base, options, job = target.federation, target.options, target.plan.job
    clinics = len(base.names)
    pool = property_of(base, base.untrained, str(options["of"]))
    truth = _means(property_of(base, base.train, str(options["of"])), base.train)
    if not np.ptp(pool):
        return
    rng = stream(job.seed, "attack.property")
    shadows = [shadow_federation(base, pool, rng) for _ in range(int(options["shadows"]))]
    watched = [Sent(job) for _ in range(len(shadows) + 1)]
    target.train([base, *shadows], watched)
    own, *others = (each.features(clinics) for each in watched)
    if not own.shape[1]:
        return
    mixes = [_means(property_of(base, shadow.train, str(options["of"])), shadow.train) for shadow in shadows]
    guessed = ridge_predictions(np.concatenate(others), np.concatenate(mixes)[:, None], own)[:, 0]
    yield from scored(guessed, truth, float(pool.mean()), base.names)


def property_of(federation: Federation, records: Records, of: str) -> Floats:
    """Return ``[record]`` whether it is of a class, by default the last one, or its value of a feature."""
    if of in federation.features:
        values = records.x[:, federation.features.index(of)].astype(np.float64)
        return np.asarray(values.reshape(len(values), -1).mean(1))
    if of and of not in federation.classes:
        raise AttackError(f'property: options.of: "{of}" is no class and no feature of these records')
    wanted = federation.classes.index(of) if of else len(federation.classes) - 1
    return np.asarray(records.y == wanted, dtype=np.float64)


def shadow_federation(base: Federation, pool: Floats, rng: np.random.Generator) -> Federation:
    """Return the clinics with as many training records each, drawn from the held-out ones with mixes of their own."""
    z = (pool - pool.mean()) / pool.std()
    drawn = []
    for size in np.diff(base.train.offsets):
        weights = np.exp(rng.uniform(-TILT, TILT) * z)
        drawn.append(rng.choice(len(z), size, p=weights / weights.sum()))
    index, outside = np.concatenate(drawn), base.untrained
    train = Records(outside.x[index], outside.y[index], base.train.offsets, outside.row[index], outside.patient[index])
    return replace(base, train=train)


def scored(guessed: Floats, truth: Floats, mean: float, names: Sequence[str]) -> Iterator[Finding]:
    """Return how far guesses lie from the truth; intervals are over clinics, and chance is to guess the mean."""
    errors, by_chance = np.abs(guessed - truth), np.abs(mean - truth)
    spread = scipy.stats.t.ppf(0.975, len(errors) - 1) * scipy.stats.sem(errors) if len(errors) > 1 else np.nan
    value = float(errors.mean())
    yield Finding(
        measure="mix_error",
        value=value,
        chance=float(by_chance.mean()),
        low=max(0.0, value - float(spread)),
        high=value + float(spread),
    )
    if len(errors) >= FEWEST_CLINICS and np.ptp(guessed) and np.ptp(truth):
        correlation = float(np.corrcoef(guessed, truth)[0, 1])
        around = scipy.stats.norm.ppf(0.975) / np.sqrt(len(errors) - 3)  # Fisher's z
        low, high = np.tanh(np.arctanh(np.clip(correlation, -1 + 1e-12, 1 - 1e-12)) + around * np.array([-1, 1]))
        yield Finding(measure="mix_correlation", value=correlation, chance=0.0, low=float(low), high=float(high))
    for name, error, by_mean in zip(names, errors.tolist(), by_chance.tolist(), strict=True):
        yield Finding(measure="mix_error", value=error, chance=by_mean, clinic=name)


def _means(values: Floats, records: Records) -> Floats:
    return np.asarray(np.add.reduceat(values, records.offsets[:-1]) / np.diff(records.offsets))


ATTACK = Attack(
    name="property",
    sentence="a clinic's case mix from what it sends, by regression on shadow federations (Melis et al. 2019)",
    adversary="server",
    uses="the case mix of each clinic's training records, and held-out records, exact",
    carry_out=carry_out,
    applies=lambda job: job.method.trains and not job.method.alone and not (job.method.pooled and not job.method.cuts),
    options={"shadows": 8, "of": ""},
)
