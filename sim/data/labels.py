"""The words of a table's label as classes, as grades, and as events or none."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from sim.data.columns import Words
from sim.data.federation import Ints
from sim.foundation.problems import show
from sim.foundation.text import count_text
from sim.scenario.data import TableFile

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
