"""Values as strict JSON can hold them."""

import math
from collections.abc import Mapping
from typing import Any


def to_plain(value: Any) -> Any:
    """Return a value as strict JSON can hold it: infinities as text, not-a-number as null."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def from_plain(value: Any) -> Any:
    """Return a value as it was before ``to_plain``; null stays as it is."""
    kind = type(value)
    if kind is dict:
        return {key: from_plain(item) for key, item in value.items()}
    if kind is list:
        return [from_plain(item) for item in value]
    return float(value) if kind is str and value in ("inf", "-inf") else value
