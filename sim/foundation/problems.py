"""Everything wrong with a scenario, told at once and in one line each.

A line reads ``<file or 'scenario'>: <dotted.kebab.place>: what is wrong; how to mend it``.
"""

import json
import traceback
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails


class SutureError(Exception):
    """An error of ours, whose text is meant to be read and never quotes a record."""


class FolderError(SutureError):
    """A results folder takes no more: its disk is full, or it is not to be written."""


class ScenarioError(SutureError, ValueError):
    """A scenario, or the data it names, cannot be used: one problem, or several, a line each.

    Lines said twice are kept once, and signs that nobody sees are written as escapes.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        lines = (problems,) if isinstance(problems, str) else problems
        self.problems: tuple[str, ...] = tuple(dict.fromkeys(_seen(" ".join(line.splitlines())) for line in lines))
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


def suggest(word: object, known: Collection[str]) -> str:
    """Return how to mend an unknown word: ``'did you mean "x"?'`` if one is close, and otherwise the list of all."""
    by_lower_case = {name.lower(): name for name in known}
    if close := get_close_matches(str(word).lower(), by_lower_case, n=1):
        return f'did you mean "{by_lower_case[close[0]]}"?'
    *others, last = (f'"{name}"' for name in known)
    if len(others) > 12:
        return f"choose {', '.join(others[:12])} or another of the {len(known)}"
    return f"choose {', '.join(others)} or {last}" if others else f"only {last} exists"


def place_of(error: BaseException, file: str | None = None) -> str:
    """Say what failed and where, without the error's own text, which may quote a patient's value.

    Of the lines that the error came through, the one in ``file`` is told, if there is one.
    """
    frames = traceback.extract_tb(error.__traceback__)
    frame = ([own for own in frames if own.filename == file] or frames)[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"


def told(error: Exception) -> str:
    """Return an error in words: our own say what to do and quote no record; the text of others may."""
    return f"{type(error).__name__}: {error}" if isinstance(error, SutureError) else place_of(error)


_SENTENCES: Final = {
    "dict_type": "{got} is not a table; write it as one",
    "finite_number": "{got} is not a finite number; give one",
    "float_type": "{got} is not a number; give one such as 0.5",
    "greater_than": "{got} is out of range; give a number greater than {gt:g}",
    "greater_than_equal": "{got} is out of range; give a number of at least {ge:g}",
    "int_type": "{got} is not a whole number; give one such as 5",
    "less_than": "{got} is out of range; give a number less than {lt:g}",
    "less_than_equal": "{got} is out of range; give a number of at most {le:g}",
    "missing": "is missing; add this key",
    "model_attributes_type": "{got} is not a table; write it as one",
    "model_type": "{got} is not a table; write it as one",
    "path_type": "{got} is not a path; write one in quotes",
    "string_type": "{got} is not text; write it in quotes",
    "too_long": "has too many values, {actual_length}; give at most {max_length}",
    "too_short": "has too few values, {actual_length}; give at least {min_length}",
    "tuple_type": "{got} is not a list; write it in square brackets",
    "union_tag_not_found": "is missing; add this key",
}
COUNTED: Final = "[number]"
LISTED: Final = "[list]"
"""Tags of the kinds of value that one key may have; no place holds them."""
_TAGS: Final = {"union_tag_invalid": "expected_tags", "literal_error": "expected"}


_UNSEEN: Final = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})


def unwritable(name: str) -> bool:
    """Say whether a name holds a sign that nobody sees, or that turns the signs around it: a control or formatting one.

    Those are the Unicode categories Cc, Cf, Cn, Co, Cs, Zl and Zp: escapes of a terminal, bidirectional overrides, line
    separators, signs without a meaning, and halves of one.
    """
    return not name.isprintable() and any(unicodedata.category(sign) in _UNSEEN for sign in name)


def _seen(text: str) -> str:
    """Write signs that nobody sees as escapes."""
    if text.isprintable():
        return text
    return "".join(f"\\u{ord(sign):04x}" if unwritable(sign) else sign for sign in text)


def show(value: object) -> str:
    """Return a value of a scenario as TOML would write it, in at most 60 characters."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, list | tuple):
        text = f"[{', '.join(show(element) for element in value)}]"
    else:
        text = repr(value) if isinstance(value, float) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _choices(listed: str) -> list[str]:
    return [choice.strip(" '") for choice in listed.replace(" or ", ",").split(",")]


def _sentence(error: "ErrorDetails", models: "Mapping[tuple[str, ...], type[BaseModel]]") -> str:
    kind, context, got = error["type"], error.get("ctx", {}), error["input"]
    if kind == "value_error":
        return str(context["error"])
    if kind == "extra_forbidden":
        table = models[tuple(part for part in error["loc"][:-1] if isinstance(part, str))]
        return f"unknown key; {suggest(error['loc'][-1], [f.alias or n for n, f in table.model_fields.items()])}"
    if kind in _TAGS:
        word = context["tag"] if kind == "union_tag_invalid" else got
        return f"{show(word)} does not exist; {suggest(word, _choices(context[_TAGS[kind]]))}"
    if kind == "too_short" and not got:
        return "is empty; give at least one value"
    if kind in _SENTENCES:
        return _SENTENCES[kind].format(got=show(got), **context)
    return f"{error['msg']}; got {show(got)}"


def problem_lines(
    error: "ValidationError",
    label: str,
    models: "Mapping[tuple[str, ...], type[BaseModel]]",
    swept: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Return one line for each place at which pydantic found an error, in the order of the file's tables.

    Parameters
    ----------
    label : str
        The file that was read, or ``"scenario"``.
    models : mapping of tuple of str to type
        The model of each table, keyed by its place; a table that is one of several kinds has the kind in its key, as
        pydantic reports it (``("data", "csv")``).
    swept : mapping of str to str
        Dotted keys whose value came from another table, and the place there that the line is to point to.
    """
    lines: dict[str, str] = {}
    details = error.errors(include_url=False)
    wrong_inside = {detail["loc"][:end] for detail in details for end in range(len(detail["loc"]))}
    for detail in details:
        if detail["type"] == "too_short" and detail["loc"] in wrong_inside:
            continue  # it is the wrong elements that were not counted, and they have lines of their own
        place = _place(detail["loc"], detail["type"], models)
        place = swept.get(place, place)
        lines.setdefault(place, f"{label}: {place}: {_sentence(detail, models)}")
    return list(lines.values())


def _place(location: Sequence[Any], kind: str, models: "Mapping[tuple[str, ...], type[BaseModel]]") -> str:
    parts = [str(part) for part in location if part not in ("[key]", COUNTED, LISTED)]
    table = models.get(tuple(part for part in location[:-1] if isinstance(part, str)))
    if (
        kind != "extra_forbidden" and table is not None and parts[-1] in table.model_fields
    ):  # what was left out is placed by its name in Python
        parts[-1] = table.model_fields[parts[-1]].alias or parts[-1]
    if tuple(parts[:2]) in models and len(parts) > 1 and (parts[0],) not in models:
        del parts[1]
    if kind.startswith("union_tag"):
        parts.append("source")
    return ".".join(parts)
