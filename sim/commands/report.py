"""``suture report`` and ``suture export``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from sim.commands.common import StudyFolder, modules, print_results, wide_console
from sim.foundation.lazy import loading


def report(
    folder: StudyFolder,
    figures: Annotated[bool, typer.Option("--figures", help="Also draw its figures as SVG and PNG.")] = False,
) -> None:
    """Rebuild the table and the report from the finished runs, without training."""
    with modules():
        import pandas as pd

        from sim.report.gallery import gallery, study_pictures
        from sim.report.html import write_report
        from sim.report.pictures import drawn_beside
        from sim.report.reading import read_results
        from sim.results.reading import refuse_links
        from sim.results.store import TABLE_FILE, Records, write_table, writing_to
        from sim.study.journal import read_study

    table = read_study(folder)["table"]
    if figures:
        refuse_links(folder / "figures")
    # texts as short and few as a study's are handled faster by Python than by Arrow
    short_texts = partial(pd.option_context, "mode.string_storage", "python")
    with writing_to(folder), drawn_beside(folder / "figures", wanted=figures) as draw:
        records: Records = {}
        with loading():
            write_table(folder, table, strict=True, kept=records)
            with short_texts():
                study = read_results(folder, records)
            records.clear()
        with short_texts():
            shown = gallery(study)
            if figures:
                draw(study_pictures(study, shown))
            path = write_report(study, folder, shown)
    with short_texts():
        print_results(wide_console(), study)
    print(f"Table: {folder / TABLE_FILE}\nReport: {path}")
    if figures:
        print(f"Figures: {folder / 'figures'}")


def export(
    folder: StudyFolder,
    mlflow: Annotated[str, typer.Option("--mlflow", metavar="URI", help="The URI of the tracking server or store.")],
) -> None:
    """Export a study's finished runs to MLflow (suture[mlflow]); a repeated export replaces them."""
    from sim.study.mlflow_export import export as exported

    wide_console().print(f"{exported(folder, mlflow)} runs exported", highlight=False)
