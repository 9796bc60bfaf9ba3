"""One round as it is drawn and told: who does what when, and who waits for whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sim.foundation.text import seconds_text
from sim.plan.clock import RoundTime
from sim.plan.load import RoundLoad

_PHASES = ("download", "clinic", "upload", "edge", "to cloud", "server", "from cloud", "waiting")
_MOST_CLINICS = 20
_MOST_SPANS = 120
_WINDOWS = 80

_Spans = list[tuple[str, float, float]]


def round_frame(load: RoundLoad, time: RoundTime, names: Sequence[str]) -> pd.DataFrame:
    """Lay out a round that was played with its spans kept; ``names`` are those of all clinics.

    One row a bar: `row` (a clinic or a worker of the server), `phase`, `start` and `end` in seconds. Of more than
    20 clinics, 20 from the first to the last to finish. In a row of more than 120 bars, those of the same phase
    within an 80th of the round are drawn as one.
    """
    lanes = np.argsort(time.finish, kind="stable")[::-1]
    if len(lanes) > _MOST_CLINICS:
        lanes = lanes[np.linspace(0, len(lanes) - 1, _MOST_CLINICS).round().astype(int)]
    rows: dict[str, _Spans] = {}
    for lane in lanes.tolist():
        own = sorted((span.start, span.end, span.phase) for span in time.spans if span.lane == lane)
        rows[names[load.clinics[lane]]] = _with_waits(own, in_turn=load.handed_on)
    for worker in sorted({span.worker for span in time.spans} - {0}):
        label = "server" if load.schedule is not None else f"server, worker {worker}"
        rows[label] = [("server", span.start, span.end) for span in time.spans if span.worker == worker]
    bars = [
        (row, phase, start, end) for row, spans in rows.items() for phase, start, end in _legible(spans, time.seconds)
    ]
    return pd.DataFrame(bars, columns=["row", "phase", "start", "end"])


def _with_waits(spans: list[tuple[float, float, str]], in_turn: bool) -> _Spans:
    """Add the waits between what is done for a clinic; in a relay, not the one for its turn."""
    filled: _Spans = []
    now = spans[0][0] if in_turn and spans else 0.0
    for start, end, phase in spans:
        if start > now:
            filled.append(("waiting", now, start))
        filled.append((phase, start, end))
        now = end
    return filled


def _legible(spans: _Spans, total: float) -> _Spans:
    if len(spans) > _MOST_SPANS:
        spans = _by_window(spans, total / _WINDOWS)
    merged: _Spans = []
    for phase, start, end in spans:
        if merged and merged[-1][0] == phase and start - merged[-1][2] <= 1e-9 * total:
            merged[-1] = (phase, merged[-1][1], end)
        else:
            merged.append((phase, start, end))
    return merged


def _by_window(spans: _Spans, width: float) -> _Spans:
    """Draw the bars of one phase within a window as one, from the first of them on; each keeps its seconds."""
    seconds: dict[int, dict[str, float]] = {}
    first: dict[int, float] = {}
    for phase, start, end in spans:
        for window in range(int(start / width), int(end / width) + 1):
            inside = min(end, (window + 1) * width) - max(start, window * width)
            if inside > 0:
                of_window = seconds.setdefault(window, {})
                of_window[phase] = of_window.get(phase, 0.0) + inside
                first.setdefault(window, start)
    drawn: _Spans = []
    for window, of_window in sorted(seconds.items()):
        now = max(window * width, first[window])
        for phase in _PHASES:
            if phase in of_window:
                drawn.append((phase, now, now + of_window[phase]))
                now += of_window[phase]
    return drawn


def round_words(
    load: RoundLoad, time: RoundTime, names: Sequence[str], deadline: float | None = None, over_select: float = 1.0
) -> list[str]:
    """Say in words who waits for whom, and what of the scenario would end the round before all are back.

    Two lines, and a third on what is not drawn. ``deadline`` is in seconds; ``over_select`` says how many times as many
    clinics the scenario asks as it waits for, and the load has those that it waits for.
    """
    site, sites = ("party", "parties") if load.joined else ("clinic", "clinics")
    last = int(time.finish.argmax())
    text = (
        f"The round takes {seconds_text(time.seconds)}. {names[load.clinics[last]]} finishes last, after "
        f"{seconds_text(time.finish[last])}; half of the {sites} have finished after "
        f"{seconds_text(float(np.median(time.finish)))}."
    )
    waits = float(time.waiting.sum())
    if load.handed_on:
        queue = "Each clinic starts when the one before it has finished."
    elif waits <= 1e-9 * time.seconds:
        queue = f"No {site} waits for the server."
    elif waits <= 1e-3 * time.seconds:
        queue = f"Together, the {sites} wait for the server for less than a thousandth of the round."
    else:
        queue = f"Together, the {sites} wait {seconds_text(waits)} for the server."
    drawn = []
    if len(load.clinics) > _MOST_CLINICS:
        drawn.append(f"{_MOST_CLINICS} of {len(load.clinics):,} clinics are drawn.")
    if deadline is not None and time.finish[last] > deadline:
        drawn.append(f"The deadline ends the round after {seconds_text(deadline)}, without clinics not yet back.")
    if over_select > 1:
        drawn.append(f"With over-selection of {over_select:g}, the round would not wait for the slowest.")
    return [text, queue, *filter(None, [" ".join(drawn)])]
