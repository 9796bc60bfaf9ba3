"""From counted steps to the ledger: the one path that the plan takes before a run and the audit of counts after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim.job import DpSgd
from sim.privacy.accounting import dp_sgd_event
from sim.privacy.ledger import Ledger, Release
from sim.protocols import Protocol

SeenSteps = Mapping[str, Sequence[int]]
"""By part, one number a clinic: how many gradients of that part were (or will be) clipped and noised."""


def effective_noise_multiplier(part_clip: float, noise_std: float, parts: int) -> float:
    """Return the noise multiplier of a step whose parts are clipped and noised apart.

    One record moves the vector of all parts, each divided by its noise, by at most sqrt(sum_p (C_p / s_p)^2), so that
    sigma_eff = (sum_p (C_p / s_p)^2)^(-1/2).

    Parameters
    ----------
    part_clip, noise_std : float
        C_p and s_p, the same in every part.
    parts : int

    Returns
    -------
    float
        0 without noise.
    """
    if noise_std == 0:
        return 0.0
    return float((parts * (part_clip / noise_std) ** 2) ** -0.5)


def build_ledger(
    protocol: Protocol, dp: DpSgd | None, rates: Sequence[float], gradient_steps: Sequence[int], noised: SeenSteps
) -> Ledger:
    """Write down every release of every clinic.

    Parameters
    ----------
    protocol : Protocol
        Says which adversary sees what.
    dp : DpSgd or None
    rates : sequence of float
        By clinic, the probability with which a record joins a batch.
    gradient_steps : sequence of int
        By clinic, the number of training steps on its records.
    noised : mapping
        Noised steps by part and clinic. A step of which a part was not noised is un-noised.

    Returns
    -------
    Ledger
    """
    from dp_accounting import NonPrivateDpEvent

    ledger = Ledger()
    for clinic, (rate, steps) in enumerate(zip(rates, gradient_steps, strict=True)):
        if steps == 0:
            continue
        complete = dp is not None and all(
            part in noised and int(noised[part][clinic]) == steps for part in protocol.parts
        )
        sigma = 0.0
        if dp is not None and complete:
            sigma = effective_noise_multiplier(dp.part_clip, dp.noise_std[clinic], len(protocol.parts))
        ledger.add(Release(clinic, "gradients", protocol.sees_model, dp_sgd_event(rate, sigma, int(steps))))
        for adversary, kinds in protocol.sees_raw.items():
            for kind in kinds:
                ledger.add(Release(clinic, kind, (adversary,), NonPrivateDpEvent()))
    return ledger
