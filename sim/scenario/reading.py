"""Reads a scenario file as TOML, and finds what no key can hold, whichever it is, before anything looks at the keys."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sim.foundation.files import status
from sim.foundation.problems import ScenarioError, show

DEEPEST: Final = 12
"""How deep tables and lists may stand in each other."""
_MOST_BYTES: Final = 4_000_000
"""Of a scenario file."""


def read_toml(path: Path, label: str) -> dict[str, Any]:
    """Return what a scenario file holds; ``ScenarioError`` in one line that begins with the label if it is none."""
    if path.is_dir():
        raise ScenarioError(f"{label}: is a folder; give a scenario file, NAME.toml")
    try:
        status(path, _MOST_BYTES)
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"{label}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise ScenarioError(f"{label}: is not UTF-8 text; save it as UTF-8") from None
    except ValueError as error:
        raise ScenarioError(f"{label}: {error}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).rstrip(")").partition(" (at ")
        raise ScenarioError(f"{label}: {where}: {what}; write it as TOML") from None
    except RecursionError:
        raise ScenarioError(
            f"{label}: lists or tables stand more than {DEEPEST} deep in each other; no key has so many"
        ) from None
    except ValueError:  # Python reads no number of more than some thousands of digits
        raise ScenarioError(f"{label}: has a whole number of thousands of digits; give a smaller one") from None


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
