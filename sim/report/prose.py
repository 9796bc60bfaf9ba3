"""Sentences from the templates beside this module."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sim.foundation.text import count_text


def sentences(template: str, **context: Any) -> list[str]:
    """Render a template; each of its lines that is not empty is a sentence or two."""
    text = _environment().get_template(f"{template}.j2").render(context)
    return [line for line in text.split("\n") if line]


def _begun(text: str) -> str:
    """Begin a sentence with a text; names stay as they are."""
    return f"T{text[1:]}" if text.startswith("the ") else text


@cache
def _environment() -> Environment:
    # Text, not HTML: the page escapes what it shows.
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count_text, "grouped": "{:,}".format, "begun": _begun}
    return environment
