"""How long a study will take on this machine: a rule of thumb before it runs, corrected by every run that ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.plan.plan import Plan

STEP_SECONDS, NOISED_STEP_SECONDS, ROUND_SECONDS, FLOP_PER_S = 0.1e-3, 0.25e-3, 2e-3, 8e9
"""One step of all lanes, without and with DP-SGD; what a round costs besides (evaluation, messages); the rate of large
layers. Between what a run alone takes and its share in a group: in the heart study's groups 0.06 ms, 0.12 ms and 1.8 ms
were measured on one 2-core machine."""

BASIS = (
    "estimated from training steps and FLOPs; start-up, planning and pictures add some ten seconds, and suture run "
    "refines it as runs end"
)


def study_seconds(plans: Sequence[Plan], jobs: int) -> float:
    """Return roughly how long runs take on so many processors, before any has ended."""
    return Forecast(plans, jobs).seconds_left()


def estimated_seconds(plan: Plan) -> float:
    """Return roughly how long one run takes on one processor."""
    steps = [clinic.steps for clinic in plan.clinics]
    one_after_another = plan.spec.strategy.order is not None
    step = NOISED_STEP_SECONDS if plan.noised_steps else STEP_SECONDS
    flops = plan.clinic_flops + plan.server_flops
    in_turn = sum(steps) if one_after_another else max(steps, default=0)
    return in_turn * step + plan.rounds * ROUND_SECONDS + flops / FLOP_PER_S


class Forecast:
    """The time left of a study.

    Parameters
    ----------
    plans : sequence of Plan
        What is to do.
    jobs : int
        Runs at a time.
    """

    def __init__(self, plans: Sequence[Plan], jobs: int) -> None:
        self._jobs = jobs
        self._pending = {plan.spec.run_id: (_method(plan), estimated_seconds(plan)) for plan in plans}
        self._seen: dict[str, tuple[float, float]] = {}

    def finished(self, run_id: str, seconds: float) -> None:
        """Correct the forecast by a run that has ended."""
        method, estimated = self._pending.pop(run_id)
        expected, measured = self._seen.get(method, (0.0, 0.0))
        self._seen[method] = expected + estimated, measured + seconds

    def seconds_left(self) -> float:
        """Return the time left; a method's own runs correct its estimate, all that ended that of the others."""
        if not self._pending:
            return 0.0
        expected, measured = (sum(column) for column in zip((0.0, 0.0), *self._seen.values(), strict=True))
        overall = measured / expected if expected else 1.0
        left = 0.0
        for method, estimated in self._pending.values():
            known = self._seen.get(method)
            left += estimated * (known[1] / known[0] if known and known[0] else overall)
        return left / min(self._jobs, len(self._pending))


def _method(plan: Plan) -> str:
    return f"{plan.spec.strategy.label or plan.spec.strategy.name} {plan.spec.strategy.cut}"
