"""What no key of a scenario can hold, whichever it is: checked before anything looks at the keys."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sim.foundation.problems import show

DEEPEST: Final = 12
"""How deep tables and lists may stand in each other."""


def shape_problems(mapping: Mapping[str, Any]) -> Iterator[str]:
    """Yield ``place: what is wrong; how to mend it`` for numbers beyond 64 bits, no text, and deep nesting."""
    left: list[tuple[tuple[str, ...], Any]] = [((), mapping)]
    while left:
        place, value = left.pop()
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            yield f"{'.'.join(place)}: {show(value)} does not fit in 64 bits; give a smaller number"
        if any("\ud800" <= sign <= "\udfff" for text in (*place[-1:], value) if isinstance(text, str) for sign in text):
            yield f"{'.'.join(place)}: is not UTF-8 text; write it as such"
        if not isinstance(value, Mapping | list | tuple):
            continue
        if len(place) > DEEPEST:
            yield f"{'.'.join(place[:3])}: holds lists or tables more than {DEEPEST} deep; no key has so many"
            continue
        inside = value.items() if isinstance(value, Mapping) else enumerate(value)
        left += reversed([((*place, str(key)), part) for key, part in inside])
