"""``suture new`` and ``suture schema``."""

from __future__ import annotations

import json
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from sim.foundation.problems import ScenarioError


class Template(StrEnum):
    """Scenarios to start from."""

    HEART = "heart"
    OWN_CSV = "own-csv"
    RURAL = "rural"
    PRIVACY = "privacy"


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The study's name; writes NAME.toml in this folder.")],
    template: Annotated[Template, typer.Option("--template", help="The scenario to start from.")] = Template.HEART,
) -> None:
    """Write a commented scenario to start from; never overwrites a file."""
    from sim.scenario.file import name_of_a_folder

    try:
        name_of_a_folder(name)
    except ValueError as error:
        raise ScenarioError(f"NAME: {error}") from None
    text = files("sim").joinpath("templates", f"{template.value}.toml").read_text(encoding="utf-8")
    path = Path(f"{name}.toml")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text.replace("NAME", name))
    except FileExistsError:
        raise ScenarioError(f"{path}: already exists; choose another name, or remove it") from None
    print(f"{path}: written; edit it, then: suture check {path}")


def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a page of all keys for people instead.")] = False,
) -> None:
    """Print the JSON schema of a scenario, for editors that complete and check TOML."""
    from sim.scenario.key_reference import described_schema
    from sim.scenario.key_reference import markdown as page

    print(page() if markdown else json.dumps(described_schema(), indent=1), end="" if markdown else "\n")
