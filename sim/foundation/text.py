"""How numbers and lists are written for people."""

import math
from collections.abc import Iterable
from numbers import Real
from typing import Final

_TIMES: Final = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3))
_SIZES: Final = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
_PREFIXES: Final = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))


def score_text(mean: float, half_width: float = math.nan) -> str:
    """Write a score between 0 and 1 to three digits, with its interval if there is one: ".853±.012"."""
    if math.isnan(mean):
        return "–"
    texts = [_short(mean)] if math.isnan(half_width) else [_short(mean), _short(half_width)]
    return "±".join(texts)


def scores_apart(first: float, second: float) -> tuple[str, str]:
    """Write two scores to three digits, or to four where three do not tell them apart."""
    digits = 3 if _short(first) != _short(second) else 4
    return _short(first, digits), _short(second, digits)


def _short(number: float, digits: int = 3) -> str:
    """Write decimals without a leading zero, and without a minus sign before nothing."""
    rounded = round(number, digits) + 0.0
    text = f"{rounded:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(rounded) < 1 else text


def margin_text(margin: float) -> str:
    """Write a margin between scores as it was set: ".01"."""
    return f"{margin:g}".replace("0.", ".", 1)


def epsilon_text(epsilon: float) -> str:
    """Write an epsilon to three significant digits, infinity as its sign and a missing one as a dash."""
    if math.isnan(epsilon):
        return "–"
    return f"{epsilon:.3g}" if math.isfinite(epsilon) else "∞"


def value_text(value: object) -> str:
    """Write a setting: infinity as its sign, a number without needless digits, a missing value as a dash."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return "–" if value is None else str(value)
    number = float(value)
    if math.isnan(number):
        return "–"
    return f"{number:.10g}" if math.isfinite(number) else "∞"


def seconds_text(seconds: float) -> str:
    """Write a duration in the unit people would use: "3.09 min"."""
    return _with_unit(seconds, _TIMES)


def bytes_text(count: float) -> str:
    """Write a number of bytes in the (decimal) unit people would use: "3.41 MB"."""
    return _with_unit(count, _SIZES)


def amount_text(amount: float, unit: str) -> str:
    """Write an amount with the decimal prefix that people would use: "10 Mbit/s"."""
    return _with_unit(amount, tuple((f"{prefix}{unit}", size) for prefix, size in _PREFIXES))


def _with_unit(value: float, units: tuple[tuple[str, float], ...]) -> str:
    """Write a value to three significant digits in the largest unit that leaves at least one, or else the smallest."""
    if math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    name, size = next((unit for unit in units if value >= unit[1]), units[-1])
    scaled = value / size
    return f"{scaled:.0f} {name}" if scaled >= 100 else f"{scaled:.3g} {name}"


def count_text(number: int, noun: str) -> str:
    """Count something: "1 seed", "1,200 clinics"."""
    several = f"{noun[:-1]}ies" if noun.endswith("ty") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else several}"


def span_text(low: str, high: str) -> str:
    """Write a range by its ends, and one value where they are the same."""
    return low if low == high else f"{low} to {high}"


def clinic_text(name: str) -> str:
    """Name a clinic in a sentence; one whose name is a number, or has no letter, would be taken for a count."""
    return name if any(map(str.isalpha, name)) else f"clinic {name}"


def listed(names: Iterable[str]) -> str:
    """Join names into a list for a sentence; semicolons, because names hold commas."""
    *first, last = names
    if len(first) < 2:
        return " and ".join([*first, last])
    return f"{'; '.join(first)}; and {last}"
