"""How long a study will take on this machine: a rule of thumb before it runs, corrected by every run that ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.plan.plan import Plan

STEP_SECONDS, LANE_SECONDS, NOISED_LANE_SECONDS = 0.04e-3, 0.018e-3, 0.068e-3
TURN_SECONDS, ROUND_SECONDS, FLOP_PER_S = 0.3e-3, 1.1e-3, 8e9
RUN_SECONDS, LEDGER_SECONDS, STUDY_SECONDS = 0.15, 0.012, 8.0
"""A step of a run, as its share of a group's, and each clinic's batch in it, without and with DP-SGD; a turn in
a sequential method; what a round costs besides; the rate of large layers. What a run costs at its end (scores, attacks,
its folder), each ledger of a clinic in what the study composes to, and a study (start, plan, report). Fitted to the
groups of three studies on one 2-core machine."""

BASIS = "estimated from training steps and FLOPs, and refined by suture run as runs end"


def study_seconds(plans: Sequence[Plan], jobs: int, trials: Sequence[Plan] = ()) -> float:
    """Return roughly how long a study takes on so many processors, before any of it has ended."""
    training = math.fsum(map(estimated_seconds, (*plans, *trials))) + RUN_SECONDS * len(plans)
    composing = LEDGER_SECONDS * sum(len(plan.clinics) for plan in plans if plan.noised_steps)
    return STUDY_SECONDS + composing + training / max(1, min(jobs, len(plans) + len(trials)))


def estimated_seconds(plan: Plan) -> float:
    """Return roughly how long it takes to train one run on one processor."""
    steps = [clinic.steps for clinic in plan.clinics]
    one_after_another, pooled = plan.spec.strategy.order is not None, plan.job.method.pooled
    in_turn = sum(steps) if one_after_another else max(steps, default=0)
    batches = in_turn if pooled else sum(steps)
    turns = plan.rounds * len(steps) if one_after_another else 0
    lane = NOISED_LANE_SECONDS if plan.noised_steps else LANE_SECONDS
    flops = plan.clinic_flops + plan.server_flops
    share = in_turn * STEP_SECONDS + batches * lane + turns * TURN_SECONDS
    return share + plan.rounds * ROUND_SECONDS + flops / FLOP_PER_S


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
