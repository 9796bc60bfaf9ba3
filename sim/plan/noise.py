"""The noise multipliers of a run: as the scenario gives them, or the least that meet its target."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sim.foundation.problems import ScenarioError
from sim.methods.job import Job
from sim.methods.parties import patients, releases_of_a_row
from sim.plan.releases import Sampled, build_ledger, un_noised
from sim.privacy.calibration import six_digits
from sim.privacy.mechanisms.mechanism import OnGradients, OnUpdates
from sim.privacy.mechanisms.noises import RowNoise
from sim.privacy.preprocessing import exposed


def refuse_lost_targets(job: Job, sampled: Sampled) -> None:
    """Raise a ``ScenarioError`` for each target that no noise meets, since the preprocessing used the records."""
    privacy, used = job.spec.privacy, list(exposed(job.facts.non_private, getattr(job.spec.data, "scaling", None)))
    of_label = privacy.randomises_labels
    alone = privacy.labels_alone
    label_key = "label-epsilon" if privacy.label_epsilon is not None else "epsilon"
    targets = (
        ("epsilon", None if alone else privacy.epsilon, job.opponent, [found.reason for found in used]),
        (label_key, of_label, "everyone", [found.reason for found in used if found.unit == "label"]),
    )
    problems = [
        f"privacy.{key}: no noise reaches {target:g} against {'' if who == 'everyone' else 'the '}{who}: "
        f"{'; '.join(reasons)}"
        for key, target, who, reasons in targets
        if target is not None and math.isfinite(target) and reasons
    ]
    if problems and sampled.steps.any():
        raise ScenarioError(problems)
    if privacy.trust == "active" and privacy.epsilon is not None and math.isfinite(privacy.epsilon) and not alone:
        clinics = (1.0,) * len(job.sizes)
        if reasons := un_noised(build_ledger(job.with_noise(clinics, clinics), sampled), job.opponent):
            raise ScenarioError(
                f"privacy.epsilon: under {job.method.name} no noise reaches {privacy.epsilon:g} against the "
                f"{job.opponent}, as an active server may pass on what it sees: {'; '.join(reasons)}; take fedavg "
                'with noise at the clinics, or trust = "curious"'
            )


def update_multiplier(job: Job, mechanism: OnUpdates, sampled: Sampled, delta: float) -> tuple[float, ...]:
    """Return the noise multiplier of a round's release: as given, or enough for the clinic that takes part most."""
    clinics, privacy = len(sampled.rounds), job.spec.privacy
    if delta * clinics >= 1:
        raise ScenarioError(
            f"privacy.delta: {delta:g} is not below 1 / {clinics}, one over the number of clinics; give a smaller one"
        )
    if privacy.epsilon is None:
        noise = float(privacy.noise_multiplier or 0.0)
    else:
        try:
            rounds = max(1, int(sampled.rounds.max()))
            noise = mechanism.noise_for(privacy.epsilon, delta, rounds if job.secure is None else 1)
        except ValueError as error:
            raise ScenarioError(f"privacy.epsilon: {error}") from None
        noise = shared(job, noise, sampled)
    if job.adaptive is not None and 2 * job.adaptive.count_noise <= noise:
        raise ScenarioError(
            f"privacy.adaptive-count-noise: {job.adaptive.count_noise:g} spends more than noise multiplier "
            f"{noise:.3g} allows in all; give more than half of that, such as {noise:.2g}"
        )
    return (noise,) * clinics


def shared(job: Job, once: float, sampled: Sampled) -> float:
    """Return the noise multiplier of sums that meets, for every clinic, what this one meets for a single sum."""
    if job.secure is None or not once:
        return once
    colluders = job.secure.colluding if job.opponent == "server-and-peers" else 0
    most = max(job.secure.weight(sampled.sums_of(k), colluders) for k in range(len(job.sizes)))
    return six_digits(once * math.sqrt(most)) if most else once


def row_multipliers(
    job: Job, noise: RowNoise, sampled: Sampled, sigmas: Sequence[float], delta: float
) -> tuple[float, ...]:
    """Return the noise on rows over their clip, clinic by clinic: as given, or enough for the target.

    What randomised labels spend counts, and what noised gradients spend, whose batches the server knows.
    """
    given, target, _ = job.spec.privacy.row_noise
    clinics = range(len(job.sizes))
    _check_delta(job, delta)
    if target is None:
        return (float(given or 0.0),) * len(clinics)
    key = "epsilon-server" if job.dp is not None else "epsilon"
    ledger = build_ledger(job.with_noise(sigmas, [1.0 for _ in clinics]), sampled)
    if reasons := un_noised(ledger, "server"):
        raise ScenarioError(
            f"privacy.{key}: no noise on rows reaches {target:g} against the server: {'; '.join(reasons)}"
        )
    labels = job.spec.privacy.randomises_labels if "labels" in job.protocol.rows_sent else None
    for_rows = target - (labels or 0.0)
    if for_rows <= 0:
        raise ScenarioError(
            f"privacy.{key}: the labels alone spend label-epsilon {labels:g}; give a larger target than {target:g}"
        )
    reach = tuple(r for kind, r in noise.reach.items() for _ in range(releases_of_a_row(job.parties, kind)))
    found = list[float]()
    for clinic in clinics:
        exposures, gradients = max(1, int(sampled.exposures[clinic])), sigmas[clinic] if sigmas else 0.0
        found.append(noise.mechanism.noise_for(for_rows, delta, exposures, gradients, reach))
        if not found[-1]:
            raise ScenarioError(
                f"privacy.{key}: the server sees who is in a batch, so that noise on gradients alone spends more "
                f"than {target:g} there; give a larger target, or the gradients more noise"
            )
    return tuple(found)


def gradient_multipliers(job: Job, mechanism: OnGradients, sampled: Sampled, delta: float) -> tuple[float, ...]:
    """Return the noise multipliers of gradients by clinic: as given, or the least that meet the target."""
    _check_delta(job, delta)
    epsilon = job.spec.privacy.epsilon
    if epsilon is None:
        return tuple(float(job.spec.privacy.noise_multiplier or 0.0) for _ in sampled.rates)
    try:
        if job.shares_noise:
            return (shared(job, mechanism.noise_for(epsilon, delta, 1.0, 1), sampled),) * len(job.sizes)
        # Of a clinic whose rounds are all lost nothing is released, and it trains as if all had been.
        steps = np.where(sampled.released > 0, sampled.released, sampled.steps)
        drawn = zip(sampled.rates.tolist(), steps.tolist(), strict=True)
        return tuple(mechanism.noise_for(epsilon, delta, rate, count) for rate, count in drawn)
    except ValueError as error:
        raise ScenarioError(f"privacy.epsilon: {error}") from None


def _check_delta(job: Job, delta: float) -> None:
    most = max(job.sizes)
    holder = f'clinic "{job.facts.names[job.sizes.index(most)]}"'
    if job.method.pooled and not job.method.cuts and delta * most < 1:
        most, holder = patients(job), "all clinics together"
    if delta * most >= 1:
        example = 10.0 ** -math.ceil(math.log10(10 * most))
        raise ScenarioError(
            f"privacy.delta: {delta:g} is not below 1 / {most}, one over the training records of {holder}: "
            f"a mechanism that publishes a record would pass; give a smaller one, for example {example:g}"
        )
