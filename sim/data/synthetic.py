"""Made-up patients of clinics that differ: a hierarchical model with a known truth.

Clinic ``k`` has a log-normal share of the records (``size-spread`` is sigma), a shift ``v_k ~ N(0, feature-shift^2)``
of each feature and a shift ``u_k ~ N(0, intercept-shift^2)`` of the log-odds of each class but the first. A record
there has features ``x = z + v_k`` with ``z ~ N(0, 1)``, and the log-odds of class ``c`` against class 0 are
``a_c + u_kc + w_c x``: logistic for two classes, softmax for more. The random ``w_c`` has length ``signal``, so
that ``signal`` is the standard deviation of the log-odds among a clinic's patients. The intercepts ``a_c`` are set so
that `prevalence` is the share of all classes but class 0 together, each of them equally frequent; without it all
classes are.

Everything is drawn from streams of the run's seed, the truth too; a clinic's features depend on the seed, its own
number and its size alone.
"""

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.data.deal import apportion
from sim.data.federation import Table
from sim.data.split import at_sites, numbered
from sim.foundation.files import scarce
from sim.foundation.problems import ScenarioError
from sim.foundation.rng import Streams, stream
from sim.scenario.data import Synthetic

_CALIBRATION: Final = 50_000
"""Records, evenly spread, that the intercepts are set by."""

_PRECISION: Final = 1e-4

Floats = NDArray[np.float32]


def make(spec: Synthetic, seed: int) -> Table:
    """Make the records that a scenario describes, one clinic after another; `x` is ``[record, feature]``, float32.

    Raises ``ScenarioError`` for unknown sites, or if the records do not fit in memory.
    """
    # Features twice, as made and as dealt out to training and test; log-odds and shares; labels, clinics and draws.
    if fault := scarce(spec.records * (8 * spec.features + 16 * spec.classes + 48) + 1000 * spec.clinics):
        raise ScenarioError(f"scenario: data.records: {spec.records:,} records take {fault}; make fewer")
    truth = stream(seed, "synthetic.truth")
    weights = truth.standard_normal((spec.features, spec.classes - 1))
    weights *= spec.signal / np.linalg.norm(weights, axis=0)
    sizes = apportion(np.exp(spec.size_spread * truth.standard_normal(spec.clinics)), spec.records, least=2)
    offsets = np.concatenate([[0], np.cumsum(sizes)])

    x = np.empty((spec.records, spec.features), dtype=np.float32)
    odds = np.empty((spec.records, spec.classes - 1), dtype=np.float32)
    uniform = np.empty(spec.records, dtype=np.float32)
    streams = Streams(seed, "synthetic.records")
    weights = weights.astype(np.float32)
    for clinic, (start, stop) in enumerate(pairwise(offsets.tolist())):
        generator = streams.at(clinic=clinic)
        shift = (spec.feature_shift * generator.standard_normal(spec.features)).astype(np.float32)
        intercept = (spec.intercept_shift * generator.standard_normal(spec.classes - 1)).astype(np.float32)
        own = x[start:stop]
        generator.standard_normal(dtype=np.float32, out=own)
        own += shift
        odds[start:stop] = own @ weights + intercept
        generator.random(dtype=np.float32, out=uniform[start:stop])
    y = _classes(spec, odds, uniform)
    names = tuple(f"clinic-{number + 1}" for number in range(spec.clinics))
    clinic_of = np.repeat(np.arange(spec.clinics), sizes)
    features = tuple(f"x{number + 1}" for number in range(spec.features))
    classes = tuple(str(label) for label in range(spec.classes))
    row = np.arange(spec.records)
    used, unknown = at_sites(spec, names, clinic_of, public=True)
    if unknown:
        raise ScenarioError(unknown)
    if not used.all():
        (names, clinic_of), x, y, row = numbered(names, clinic_of[used]), x[used], y[used], row[used]
    return Table(
        names=names,
        features=features,
        classes=classes,
        x=x,
        y=y,
        clinic=clinic_of,
        row=row,
        scaling="none",
        ranges={},
        statistics={},
    )


def _classes(spec: Synthetic, odds: Floats, uniform: Floats) -> NDArray[np.int64]:
    """Draw a class for each record: the number of cumulative shares below its uniform draw."""
    odds += _intercepts(spec, odds[:: -(-len(odds) // _CALIBRATION)])
    y = np.zeros(len(odds), dtype=np.int64)
    below = np.zeros(len(odds), dtype=np.float32)
    shares = _shares(odds)
    for label in range(spec.classes - 1):
        below += shares[:, label]
        y += uniform >= below
    return y


def _shares(odds: Floats) -> Floats:
    """Return the probability of each class, ``[record, class]``, from the log-odds of all but the first."""
    shares = np.concatenate([np.zeros((len(odds), 1), dtype=np.float32), odds], axis=1)
    shares -= shares.max(axis=1, keepdims=True)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def _intercepts(spec: Synthetic, odds: Floats) -> Floats:
    """Find the intercepts that give each class its share, by iterative scaling."""
    others = spec.classes - 1
    prevalence = others / spec.classes if spec.prevalence is None else spec.prevalence
    wanted = np.array([1 - prevalence, *[prevalence / others] * others])
    intercepts = np.zeros(others)
    for _ in range(200):
        found = _shares(odds + intercepts.astype(np.float32)).mean(axis=0, dtype=np.float64)
        if (np.abs(found - wanted) < _PRECISION * wanted).all():
            break
        step = np.log(wanted / np.maximum(found, 1e-12))
        intercepts += 1.5 * (step[1:] - step[0])
    return intercepts.astype(np.float32)
