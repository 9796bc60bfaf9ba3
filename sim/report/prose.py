"""Sentences and pages from the templates beside this module."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sim.foundation.text import count_text


def sentences(template: str, **context: Any) -> list[str]:
    """Render a template of text; each of its lines that is not empty is a sentence or two."""
    text = environment(escaping=False).get_template(f"{template}.j2").render(context)
    return [line for line in text.split("\n") if line]


@cache
def environment(*, escaping: bool) -> Environment:
    """Return what fills in templates: of pages, whatever is put in is escaped; the page escapes sentences it shows."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=escaping,  # noqa: S701 (pages are escaped, text is not HTML)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"count": count_text, "grouped": "{:,}".format, "begun": _begun}
    return made


def page(template: str, **context: Any) -> str:
    """Render the template of a page, in the style that all share."""
    style = own_text("report.css")
    return environment(escaping=True).get_template(template).render(context, style=style)


def own_text(name: str) -> Markup:
    """Return a file that lies beside the templates, such as ``report.css``, as it is."""
    return Markup(files("sim.report").joinpath(name).read_text(encoding="utf-8"))  # noqa: S704 (our own files)


def _begun(text: str) -> str:
    """Begin a sentence with a text; names stay as they are."""
    return f"T{text[1:]}" if text.startswith("the ") else text
