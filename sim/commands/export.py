"""``suture export``."""

from __future__ import annotations

from typing import Annotated

import typer

from sim.commands.common import StudyFolder, wide_console


def export(
    folder: StudyFolder,
    mlflow: Annotated[str, typer.Option("--mlflow", metavar="URI", help="The URI of the tracking server or store.")],
) -> None:
    """Export a study's finished runs to MLflow (suture[mlflow]); a repeated export replaces them."""
    from sim.study.mlflow_export import export as exported

    wide_console().print(f"{exported(folder, mlflow)} runs exported", highlight=False)
