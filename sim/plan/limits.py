"""The end of a round that does not wait for everybody: a deadline, or enough clinics that have finished.

The round is timed as if nobody were in a hurry and then cut. A batch that would not be over by then is not begun, so
that clinics stop between two batches, and nothing of a batch that was never finished has crossed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sim.attendance import Attendance
from sim.plan.clock import Durations, RoundLoad, RoundTime


def time_limit(load: RoundLoad, time: RoundTime, deadline: float | None, enough: int | None) -> float:
    """Return when the server stops waiting, in seconds since the round began.

    Parameters
    ----------
    load : RoundLoad
    time : RoundTime
        Of that load, without a limit.
    deadline : float or None
        Seconds.
    enough : int or None
        How many clinics are waited for; all, where it is None.
    """
    limit = np.inf if deadline is None else deadline
    back = np.sort(np.delete(time.finish, list(load.lost)))
    if enough is not None and len(back) >= enough:
        limit = min(limit, float(back[enough - 1]))
    return limit


def attendance_until(
    load: RoundLoad, time: RoundTime, spent: Durations, limit: float, enough: int | None
) -> Attendance:
    """Return how far each clinic comes by the limit, and whose parts are back by then.

    Parameters
    ----------
    load : RoundLoad
    time : RoundTime
        Of that load, without a limit.
    spent : Durations
        Of that load.
    limit : float
    enough : int or None
        As for ``time_limit``; of clinics that finish at the same moment, those with the lowest numbers are kept.
    """
    done = (time.completed <= limit).sum(0)
    lanes = np.arange(len(done))
    gone = np.isin(lanes, list(load.lost)) & (done == load.steps)
    if load.handed_on:
        in_turn = load.steps // np.maximum(load.turns, 1)
        last = time.completed[np.maximum(done - 1, 0), lanes]
        back = (done > 0) & ~gone & (done % np.maximum(in_turn, 1) == 0) & (last + spent.end + spent.end_link <= limit)
    else:
        back = ~gone & (time.finish <= limit)
        if enough is not None:
            ranked = sorted(lanes[back].tolist(), key=lambda lane: (time.finish[lane], load.clinics[lane]))
            back = np.isin(lanes, ranked[:enough])
    order = sorted(lanes.tolist(), key=lambda lane: load.clinics[lane])
    return Attendance(
        tuple(load.clinics[lane] for lane in order),
        tuple(int(done[lane]) for lane in order),
        tuple(bool(back[lane]) for lane in order),
    )


def time_until(time: RoundTime, limit: float, cut: RoundLoad, spent: Durations) -> RoundTime:
    """Return the time of a round that ends at the limit at the latest, with the aggregation of what is there.

    Parameters
    ----------
    time : RoundTime
        Without the limit.
    limit : float
    cut : RoundLoad
        What is left of the load.
    spent : Durations
        Of what is left.
    """
    finish = np.minimum(time.finish, limit)
    phases = spent.phases(cut)
    phases["download"] = np.minimum(phases["download"], finish)  # parts still on their way to a clinic at the limit
    completed = np.where(time.completed <= limit, time.completed, np.nan)
    return replace(
        time, seconds=float(finish.max(initial=0.0)) + spent.common, phases=phases, finish=finish, completed=completed
    )
