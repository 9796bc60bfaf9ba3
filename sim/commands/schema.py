"""``suture schema``."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a page of all keys for people instead.")] = False,
) -> None:
    """Print the JSON schema of a scenario, for editors that complete and check TOML."""
    from sim.scenario.key_reference import described_schema
    from sim.scenario.key_reference import markdown as page

    print(page() if markdown else json.dumps(described_schema(), indent=1), end="" if markdown else "\n")
