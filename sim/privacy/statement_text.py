"""The privacy statement as Markdown, for people who answer for the data."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, UndefinedError

from sim.foundation.text import span_text
from sim.privacy.adjacency import MEANING

STATEMENT_FILE = "privacy.md"


def statement_text(statement: Mapping[str, Any]) -> str:
    """Write a statement, as of :func:`sim.plan.statement.privacy_statement`, as Markdown.

    Names in it are escaped: none can open a table cell, a link or a tag. ``ValueError`` if something is missing in it.
    """
    try:
        return _template().render(s=statement, meaning=MEANING, inf=math.inf)
    except UndefinedError as error:
        raise ValueError(str(error)) from None


@cache
def _template() -> Template:
    # Text, not HTML: what comes from a scenario passes through `escaped`.
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": escaped, "between": between, "upper_bound": _upper_bound}
    return environment.get_template("statement.md.j2")


def escaped(value: object) -> str:
    """Return text that Markdown shows as it is, on one line."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    text = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(text, quote=False))
    return re.sub(r"^(?=(?:[+-]+|#{1,6})(?:\s|$))|(?<=^\d)(?=[.)](?:\s|$))|(?=://)|(?<=www)(?=\.)", r"\\", text)


def between(bounds: Sequence[float]) -> str:
    """Write a range to four significant digits, and one value where both ends are the same."""
    return span_text(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in bounds))


def _upper_bound(value: float) -> str:
    """Write a bound to three significant digits, rounded up; infinity as its sign."""
    if not 0 < value < math.inf:
        return "0" if value <= 0 else "∞"
    scale = 10.0 ** (2 - math.floor(math.log10(value)))
    return f"{math.ceil(value * scale * (1 - 1e-12)) / scale:.3g}"
