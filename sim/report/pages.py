"""The templates of pages, and the style that all share."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


@cache
def environment() -> Environment:
    """Return what fills in the templates of pages; whatever is put in is escaped."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def own_text(name: str) -> Markup:
    """Return a file that lies beside the templates, such as ``report.css``, as it is."""
    return Markup(files("sim.report").joinpath(name).read_text(encoding="utf-8"))  # noqa: S704 (our own files)
