"""A record's label: the words of a table as classes, grades and events, and one whole number for whatever it is.

One number stands for an amount too, and for a time with censoring.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.data.columns import Words
from sim.data.federation import Ints
from sim.foundation.problems import show
from sim.foundation.text import count_text
from sim.scenario.data import TableFile
from sim.scenario.outcomes import STEPS, Outcome

Floats = NDArray[np.float64]

_MOST_NUMBERS: Final = 20
"""Of different whole numbers as labels; more are no classes."""


def class_names(words: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    """Name the classes that a label's sorted words stand for, and ``[word]`` the index of each into them.

    Whole numbers stand in their own order. Raises ``ValueError`` if all words are numbers and some are not whole; the
    text ends a line that begins with the column.
    """
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return tuple(words), np.arange(len(words))
    if not all(number.is_integer() for number in numbers):
        raise ValueError("holds numbers that are not whole; give a column of classes")
    ordered = sorted({int(number) for number in numbers})
    return tuple(str(number) for number in ordered), np.searchsorted(ordered, numbers)


def event_codes(spec: TableFile, event: Words) -> tuple[tuple[str, ...], Ints]:
    """Return the names and the code of each word of a column of events."""
    if spec.positive is None and (strange := [word for word in event.words if _whole(word) not in ("0", "1")]):
        mend = "list the values that mean an event as data.positive"
        raise ValueError(
            f'event: column "{spec.event}" holds {count_text(len(strange), "value")} besides 0 and 1; {mend}'
        )
    if spec.positive is None and "1" not in map(_whole, event.words):
        mend = "take other records, or list the values that mean an event as data.positive"
        raise ValueError(f'event: column "{spec.event}" says that nobody had the event; {mend}')
    return class_codes(spec.model_copy(update={"positive": spec.positive or ("1",)}), event)


def class_codes(spec: TableFile, label: Words) -> tuple[tuple[str, ...], Ints]:
    """Return class names and the class of each word of the label."""
    if spec.positive is None:
        try:
            names, class_of = class_names(label.words)
        except ValueError as error:
            raise ValueError(f'label: column "{spec.label}" {error}') from None
        if len(names) > _MOST_NUMBERS and all(name.lstrip("-").isdecimal() for name in names):
            fault = f"holds {len(names):,} different numbers, as an amount or an identifier does"
            mend = "name a column of classes, or list the values that are cases as data.positive"
            raise ValueError(f'label: column "{spec.label}" {fault}; {mend}')
        return names, class_of
    words = [_whole(word) for word in label.words]
    positive = [_whole(word) for word in spec.positive]
    if absent := [value for value in positive if value not in words]:
        fault = f'column "{spec.classes_column}" has no value {show(absent[0])}'
        raise ValueError(f"positive: {fault}; write it as in the file, capitals too")
    name = " or ".join(spec.positive)
    return (f"not {name}", name), np.isin(words, positive).astype(np.int64)


def grade_codes(spec: TableFile, grades: tuple[str, ...], label: Words) -> Ints:
    """Return the grade of each word of the label."""
    ranks = {_whole(grade): rank for rank, grade in enumerate(grades)}
    found = [ranks.get(_whole(word), -1) for word in label.words]
    if others := found.count(-1):
        fault = f"holds {count_text(others, 'value')} that data.grades does not list"
        raise ValueError(f'label: column "{spec.label}" {fault}; list all, from the lowest grade to the highest')
    return np.array(found, dtype=np.int64)


def _whole(word: str) -> str:
    """Return "1" for "1.0" and the like."""
    try:
        return str(int(float(word))) if float(word).is_integer() else word
    except ValueError:
        return word


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
