"""The end of a round that does not wait for everybody: a deadline, or enough clinics that have finished.

The round is timed as if nobody were in a hurry and then cut. A batch that would not be over by then is not begun, so
that clinics stop between two batches, and nothing of a batch that was never finished has crossed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sim.methods.attendance import Attendance
from sim.plan.clock import RoundTime
from sim.plan.durations import Durations
from sim.plan.load import RoundLoad


def time_limit(load: RoundLoad, time: RoundTime, deadline: float | None, enough: int | None) -> float:
    """Return when the server stops waiting, in seconds since the round began.

    ``time`` is that of the load without a limit; ``enough`` says how many clinics are waited for, None for all.
    """
    limit = np.inf if deadline is None else deadline
    back = np.sort(time.finish[load.returns])
    if enough is not None and len(back) >= enough:
        limit = min(limit, float(back[enough - 1]))
    return limit


def attendance_until(
    load: RoundLoad, time: RoundTime, spent: Durations, limit: float, enough: int | None
) -> Attendance:
    """Return how far each clinic comes by the limit, and whose parts are back by then.

    ``time`` is that of the load without a limit. Of clinics that finish at the same moment, where ``enough`` are waited
    for, those with the lowest numbers are kept.
    """
    done = load.by_lane(time.completed <= limit).astype(np.int64)
    kept = load.returns | (done < load.steps)
    if load.handed_on:
        in_turn = load.steps // np.maximum(load.turns, 1)
        over = np.full(len(done), np.nan)
        over[done > 0] = time.completed[(load.first + done - 1)[done > 0]]
        back = kept & (done % np.maximum(in_turn, 1) == 0) & (over + spent.end + spent.end_link <= limit)
    else:
        back = kept & (time.finish <= limit)
        if enough is not None:
            ranked = np.lexsort((load.clinics, time.finish, ~back))
            back[ranked[enough:]] = False
    order = np.argsort(load.clinics)
    return Attendance(load.clinics[order], done[order], back[order])


def time_until(time: RoundTime, limit: float, cut: RoundLoad, spent: Durations) -> RoundTime:
    """Return the time of a round that ends at the limit at the latest, with the aggregation of what is there.

    ``time`` is without the limit; ``cut`` and ``spent`` are what is left of the load.
    """
    finish = np.minimum(time.finish, limit)
    phases = spent.phases(cut)
    phases["download"] = np.minimum(phases["download"], finish)  # parts still on their way to a clinic at the limit
    completed = time.completed[time.completed <= limit]
    return replace(
        time, seconds=float(finish.max(initial=0.0)) + spent.common, phases=phases, finish=finish, completed=completed
    )
