"""A record's label as it travels: one whole number, for an amount and for a time with censoring too."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sim.scenario.outcomes import STEPS, Outcome

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def time_codes(time: Floats, event: NDArray[np.bool_], edges: tuple[float, ...]) -> Ints:
    """Return ``2 * interval + event`` for each record, ``[record]``.

    With an event, the interval is that in which it was seen; each begins behind the end of the one before it. Without,
    it is the number of intervals survived: those of which at least half was seen (Gensheimer & Narasimhan, PeerJ
    7:e6257, 2019). An event behind the horizon, the last of the `edges`, is none yet.
    """
    ends = np.array(edges)
    middles = (np.append(0.0, ends[:-1]) + ends) / 2
    seen = event & (time <= ends[-1])
    interval = np.where(seen, np.searchsorted(ends, time), np.searchsorted(middles, time, side="right"))
    return np.asarray(2 * interval + seen, dtype=np.int64)


def amount_codes(amount: Floats, span: tuple[float, float]) -> Ints:
    """Return each amount as one of the steps of its public range, ``[record]``; what lies beyond moves to the end."""
    low, high = span
    codes = np.rint((np.clip(amount, low, high) - low) / (high - low) * STEPS)
    return np.asarray(codes, dtype=np.int64)


def measure_fault(outcome: Outcome, values: Floats, rows: NDArray[np.int64]) -> str:
    """Say what is wrong with times or amounts, without a value of a record; `rows` are numbered as people count."""
    is_time = outcome.kind == "time"
    wrong = ~np.isfinite(values) | ((values < 0) & is_time)
    what = "no number from 0" if is_time else "no number"
    return f"has {what} in row {rows[np.argmax(wrong)]}; correct it" if wrong.any() else ""


def outcome_remarks(outcome: Outcome, measured: NDArray[np.float64]) -> Iterator[str]:
    """Yield what a user should know of ``[record, measure]`` times or amounts though nothing is wrong."""
    if outcome.kind == "time" and (measured[:, 0] < outcome.edges[-1]).all():
        yield "data.horizon: nobody was followed up so long, so that nothing is known there; take a shorter one"
    if outcome.kind == "amount":
        low, high = outcome.span
        if beyond := int(np.count_nonzero((measured < low) | (measured > high))):
            yield (
                f"data.label-range: {beyond:,} amounts ({beyond / len(measured):.1%}) lie outside and train as "
                "its ends; check unit and range"
            )
