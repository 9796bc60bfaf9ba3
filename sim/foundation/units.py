"""Quantities with units, written as text in a scenario file and held as SI floats inside.

Only the units below exist, so that a slip such as ``"10 mbit/s"`` (a thousandth of a bit) or ``"5 Hz"`` is refused
instead of being read as something else; and only what may exist, so that no sum of times overflows or vanishes.
"""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from sim.foundation.problems import show

_TIMES: Final = {
    **dict.fromkeys(("us", "µs", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_PREFIXES: Final = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_PREFIXED: Final = {
    **dict.fromkeys(("bit", "bits"), ("data", 1.0)),
    **dict.fromkeys(("B", "byte", "bytes"), ("data", 8.0)),
    "bps": ("data per time", 1.0),
    **dict.fromkeys(("FLOP", "flop"), ("work", 1.0)),
    **dict.fromkeys(("W", "watt", "watts"), ("power", 1.0)),
}
_UNITS: Final = {name: ("time", size) for name, size in _TIMES.items()} | {
    f"{prefix}{name}": (kind, factor * size)
    for prefix, factor in _PREFIXES.items()
    for name, (kind, size) in _PREFIXED.items()
}
"""What a unit measures, and its size in seconds, bits, FLOPs or watts."""
_QUANTITY: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµ]+)(?:/([A-Za-zµ]+))?")


def _read(text: str) -> tuple[str, float]:
    """Return what a quantity measures and how much it is; ValueError where it is none, KeyError for a unit."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    number, unit, per = match.groups()
    kind, size = _UNITS[unit]
    if per is None:
        return kind, float(number) * size
    per_kind, per_size = _UNITS[per]
    return f"{kind} per {per_kind}", float(number) * size / per_size


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A kind of quantity, which marks a field of a pydantic model: a float inside, text with a unit outside."""

    unit: str  # Of the float
    # least, most: what it may be
    least: str
    most: str
    # noun, example: how to ask for it
    noun: str
    example: str

    def parse(self, value: object) -> float:
        """Return a quantity in the unit of its kind.

        ``ValueError``, in one sentence with an example, for anything else than text with a positive number and a
        fitting unit.
        """
        wanted, one = f'give {self.noun} such as "{self.example}"', _read(f"1 {self.unit}")
        try:
            kind, amount = _read(value if isinstance(value, str) else "")
        except ValueError:
            raise ValueError(f"{show(value)} is not a number with a unit; {wanted}") from None
        except KeyError:
            raise ValueError(f"{show(value)} has an unknown unit; {wanted}") from None
        if kind != one[0]:
            raise ValueError(f"{show(value)} is of the wrong kind; {wanted}")
        if not 0 < amount < math.inf:
            raise ValueError(f"{show(value)} is not positive and finite; {wanted}")
        if not _read(self.least)[1] <= amount <= _read(self.most)[1]:
            raise ValueError(f"{show(value)} is not between {self.least} and {self.most}; {wanted}")
        return amount / one[1]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read text, and write text again, so that a dump can be parsed."""
        written = core_schema.plain_serializer_function_ser_schema(
            lambda amount: f"{amount!r} {self.unit}", return_schema=core_schema.str_schema()
        )
        return core_schema.no_info_before_validator_function(self.parse, handler(source), serialization=written)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Describe the text."""
        return {"type": "string", "examples": [self.example]}


_RATE = _Kind(unit="bit/s", least="1 bit/s", most="1 Pbit/s", noun="a data rate", example="10 Mbit/s")
_DURATION = _Kind(unit="s", least="1e-9 s", most="1e9 s", noun="a time", example="40 ms")
_COMPUTE = _Kind(unit="FLOP/s", least="1 FLOP/s", most="1e6 PFLOP/s", noun="a compute rate", example="2 TFLOP/s")
_MEMORY = _Kind(unit="B", least="1 B", most="1e3 PB", noun="an amount of memory", example="8 GB")
_POWER = _Kind(unit="W", least="1e-6 W", most="1 GW", noun="a power", example="45 W")

parse_rate, parse_duration, parse_compute = _RATE.parse, _DURATION.parse, _COMPUTE.parse

Rate = Annotated[float, _RATE]
Duration = Annotated[float, _DURATION]
Compute = Annotated[float, _COMPUTE]
Memory = Annotated[float, _MEMORY]
Power = Annotated[float, _POWER]
