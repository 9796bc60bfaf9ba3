"""Quantities with units, written as text in a scenario file and held as SI floats inside.

Only the units below exist, so that a slip such as ``"10 mbit/s"`` (a thousandth of a bit) or ``"5 Hz"`` is refused
instead of being read as something else; and only what may exist, so that no sum of times overflows or vanishes. Pint
does the conversion; it is imported when the first quantity is read.
"""

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from sim.foundation.problems import show

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


@dataclass(frozen=True)
class _Kind:
    """A kind of quantity: its unit inside, what it may be, and how to ask for it."""

    unit: str
    least: float
    most: float
    span: str
    wanted: str


_RATE: Final = _Kind("bit/s", 1.0, 1e15, "1 bit/s and 1 Pbit/s", 'give a data rate such as "10 Mbit/s"')
_DURATION: Final = _Kind("s", 1e-9, 1e9, "1e-9 s and 1e9 s", 'give a time such as "40 ms"')
_COMPUTE: Final = _Kind("FLOP/s", 1.0, 1e21, "1 FLOP/s and 1e6 PFLOP/s", 'give a compute rate such as "2 TFLOP/s"')
_MEMORY: Final = _Kind("B", 1.0, 1e18, "1 B and 1e3 PB", 'give an amount of memory such as "8 GB"')
_POWER: Final = _Kind("W", 1e-6, 1e9, "1e-6 W and 1 GW", 'give a power such as "45 W"')


def _parse(value: object, kind: _Kind) -> float:
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{show(value)} is not a number with a unit; {kind.wanted}")
    import pint

    number, written = match.groups()
    try:
        amount = float(_registry().Quantity(float(number), written).to(kind.unit).magnitude)
    except pint.UndefinedUnitError:
        raise ValueError(f"{show(value)} has an unknown unit; {kind.wanted}") from None
    except pint.DimensionalityError:
        raise ValueError(f"{show(value)} is of the wrong kind; {kind.wanted}") from None
    if not 0 < amount < math.inf:
        raise ValueError(f"{show(value)} is not positive and finite; {kind.wanted}")
    if not kind.least <= amount <= kind.most:
        raise ValueError(f"{show(value)} is not between {kind.span}; {kind.wanted}")
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
        The rate in bit/s, from 1 to 1e15.

    Raises
    ------
    ValueError
        For anything else, in one sentence that gives an example.
    """
    return _parse(value, _RATE)


def parse_duration(value: object) -> float:
    """Return a time in seconds.

    Parameters
    ----------
    value : object
        Text such as ``"40 ms"`` or ``"30 min"``.

    Returns
    -------
    float
        The time in seconds, from 1e-9 to 1e9.

    Raises
    ------
    ValueError
        For anything else, in one sentence that gives an example.
    """
    return _parse(value, _DURATION)


def parse_compute(value: object) -> float:
    """Return a compute rate in FLOP/s.

    Parameters
    ----------
    value : object
        Text such as ``"2 TFLOP/s"``.

    Returns
    -------
    float
        The rate in FLOP/s, from 1 to 1e21.

    Raises
    ------
    ValueError
        For anything else, in one sentence that gives an example.
    """
    return _parse(value, _COMPUTE)


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
    BeforeValidator(lambda value: _parse(value, _MEMORY)),
    PlainSerializer(lambda size: f"{size!r} B", return_type=str),
    WithJsonSchema({"type": "string", "examples": ["8 GB"]}),
]
Power = Annotated[
    float,
    BeforeValidator(lambda value: _parse(value, _POWER)),
    PlainSerializer(lambda watts: f"{watts!r} W", return_type=str),
    WithJsonSchema({"type": "string", "examples": ["45 W"]}),
]
