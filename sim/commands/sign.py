"""``suture sign``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.commands.common import AnyFolder


def sign(
    folder: AnyFolder,
    key: Annotated[Path, typer.Option("--key", metavar="KEY.pem", help="An unencrypted Ed25519 private key.")],
    timestamp: Annotated[
        str | None,
        typer.Option("--timestamp", metavar="TEXT|FILE", help="Stored and signed with the head; not interpreted."),
    ] = None,
) -> None:
    """Sign the head of a study's or a run's log."""
    from sim.results.signature import sign as sign_head

    path = sign_head(folder, key, timestamp)
    print(f"{path}: written; suture verify {folder} --public-key PUB.pem checks it")
