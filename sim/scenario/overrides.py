"""One value set in a scenario's tables, as ``--set key=value`` and a sweep do."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel

from sim.foundation.problems import show

_MOST_KEYS: Final = 12
_ONE_KEY: Final = re.compile(r"\s*[^\s\[#]")
_BARE_TEXT: Final = re.compile(r"[^\"'\[\]{}=,#\n]+")


def replaced(table: Mapping[str, Any], keys: Sequence[str], value: object) -> dict[str, Any]:
    """Return a copy of nested tables with one value set.

    Tables on the way are made if absent, and a number picks an element of a list. Raises ``ValueError`` if something on
    the way is neither a table nor a list with that element.
    """
    changed: dict[str, Any] = _with(table, keys, value)
    return changed


def _with(node: Any, keys: Sequence[str], value: object) -> Any:
    if not keys:
        return value
    first, *rest = keys
    if isinstance(node, BaseModel):
        node = node.model_dump(by_alias=True)
    if isinstance(node, Mapping):
        return {**node, first: _with(node.get(first, {}), rest, value)}
    if isinstance(node, list | tuple):
        if not first.isdecimal() or len(first) > 9 or int(first) >= len(node):
            raise ValueError(f"there is no element {show(first)}; the list has {len(node)}, counted from 0")
        position = int(first)
        return [*node[:position], _with(node[position], rest, value), *node[position + 1 :]]
    raise ValueError(f"there is no table that could hold {show(first)}; check the dots in the key")


Override = str | tuple[str, object]
"""``"key=value"`` with a TOML value or bare text, or a dotted key and its value."""


def override_key(override: Override) -> str:
    """Return the dotted key of an override, as it is written."""
    return override.partition("=")[0].strip() if isinstance(override, str) else override[0]


def parsed_override(override: Override) -> tuple[list[str], object]:
    """Take an override apart: the way to the key, and the value."""
    if not isinstance(override, str):
        return _keys(override[0]), override[1]
    key, equals, text = override.partition("=")
    if not equals:
        raise ValueError('has no "="; write key=value')
    return _keys(key), _value(text.strip())


def _keys(key: str) -> list[str]:
    keys: list[str] = []
    try:
        node: Any = tomllib.loads(f"{key} = 0") if _ONE_KEY.match(key) else None
    except tomllib.TOMLDecodeError:
        node = None
    while isinstance(node, dict) and len(node) == 1 and len(keys) <= _MOST_KEYS:
        [(name, node)] = node.items()
        keys.append(name)
    if node != 0:
        raise ValueError("is no dotted key; write it like train.rounds")
    return keys


def _value(text: str) -> object:
    try:
        read = tomllib.loads(f"value = {text}")
        if len(read) == 1:
            return read["value"]
    except RecursionError:
        raise ValueError("holds lists or tables in each other far too deep; no key has so many") from None
    except tomllib.TOMLDecodeError:
        if _BARE_TEXT.fullmatch(text):
            return text
    except ValueError:
        raise ValueError("has a whole number of thousands of digits; give a smaller one") from None
    raise ValueError(f"{show(text)} is no TOML value; write a number, text, true, false or a list")
