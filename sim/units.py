"""Quantities with units, written as text in a scenario file and held as SI floats inside.

Only the units below exist, so that a slip such as ``"10 mbit/s"`` (a thousandth of a bit) or ``"5 Hz"`` is refused
instead of being read as something else. Pint does the conversion; it is imported when the first quantity is read.
"""

import math
import re
from functools import cache
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from sim.problems import show

if TYPE_CHECKING:
    from pint import UnitRegistry

__all__ = ["Compute", "Duration", "Memory", "Power", "Rate", "parse_compute", "parse_duration", "parse_rate"]

_DEFINITIONS: Final = (
    "kilo- = 1e3 = k-",
    "mega- = 1e6 = M-",
    "giga- = 1e9 = G-",
    "tera- = 1e12 = T-",
    "peta- = 1e15 = P-",
    "second = [time] = s = sec",
    "millisecond = 1e-3 * second = ms",
    "microsecond = 1e-6 * second = us = µs",
    "minute = 60 * second = min",
    "hour = 3600 * second = h",
    "day = 86400 * second = d",
    "bit = [information]",
    "byte = 8 * bit = B",
    "bps = bit / second",
    "flop = [computation] = FLOP",
    "watt = [power] = W",
)
_QUANTITY: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµ]+(?:/[A-Za-zµ]+)?)")


@cache
def _registry() -> "UnitRegistry[float]":
    import pint

    return pint.UnitRegistry(_DEFINITIONS)


def _parse(value: object, unit: str, what: str, example: str) -> float:
    wanted = f'give {what} such as "{example}"'
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{show(value)} is not a number with a unit; {wanted}")
    import pint

    number, written = match.groups()
    try:
        amount = float(_registry().Quantity(float(number), written).to(unit).magnitude)
    except pint.UndefinedUnitError:
        raise ValueError(f"{show(value)} has an unknown unit; {wanted}") from None
    except pint.DimensionalityError:
        raise ValueError(f"{show(value)} is of the wrong kind; {wanted}") from None
    if not 0 < amount < math.inf:
        raise ValueError(f"{show(value)} is not positive and finite; {wanted}")
    return amount


def parse_rate(value: object) -> float:
    """Return a data rate in bit/s.

    Parameters
    ----------
    value : object
        Text such as ``"10 Mbit/s"``, ``"1 Gbps"`` or ``"5 MB/s"``.

    Returns
    -------
    float
        The rate in bit/s, positive and finite.

    Raises
    ------
    ValueError
        For anything else, in one sentence that gives an example.
    """
    return _parse(value, "bit/s", "a data rate", "10 Mbit/s")


def parse_duration(value: object) -> float:
    """Return a time in seconds.

    Parameters
    ----------
    value : object
        Text such as ``"40 ms"`` or ``"30 min"``.

    Returns
    -------
    float
        The time in seconds, positive and finite.

    Raises
    ------
    ValueError
        For anything else, in one sentence that gives an example.
    """
    return _parse(value, "s", "a time", "40 ms")


def parse_compute(value: object) -> float:
    """Return a compute rate in FLOP/s.

    Parameters
    ----------
    value : object
        Text such as ``"2 TFLOP/s"``.

    Returns
    -------
    float
        The rate in FLOP/s, positive and finite.

    Raises
    ------
    ValueError
        For anything else, in one sentence that gives an example.
    """
    return _parse(value, "FLOP/s", "a compute rate", "2 TFLOP/s")


# An SI float that is read from text and written as text again, so that a dump can be parsed.
Rate = Annotated[
    float,
    BeforeValidator(parse_rate),
    PlainSerializer(lambda rate: f"{rate!r} bit/s", return_type=str),
    WithJsonSchema({"type": "string", "examples": ["10 Mbit/s"]}),
]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(lambda seconds: f"{seconds!r} s", return_type=str),
    WithJsonSchema({"type": "string", "examples": ["40 ms"]}),
]
Compute = Annotated[
    float,
    BeforeValidator(parse_compute),
    PlainSerializer(lambda rate: f"{rate!r} FLOP/s", return_type=str),
    WithJsonSchema({"type": "string", "examples": ["2 TFLOP/s"]}),
]
Memory = Annotated[
    float,
    BeforeValidator(lambda value: _parse(value, "B", "an amount of memory", "8 GB")),
    PlainSerializer(lambda size: f"{size!r} B", return_type=str),
    WithJsonSchema({"type": "string", "examples": ["8 GB"]}),
]
Power = Annotated[
    float,
    BeforeValidator(lambda value: _parse(value, "W", "a power", "45 W")),
    PlainSerializer(lambda watts: f"{watts!r} W", return_type=str),
    WithJsonSchema({"type": "string", "examples": ["45 W"]}),
]
