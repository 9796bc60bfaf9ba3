"""``suture report``."""

from __future__ import annotations

from sim.commands.common import StudyFolder


def report(folder: StudyFolder) -> None:
    """Rebuild the table, the report and its figures from the finished runs, without training."""
    from sim.report.html import write_report
    from sim.report.reading import read_results
    from sim.results.reading import refuse_links
    from sim.results.store import TABLE_FILE, write_table, writing_to
    from sim.study.journal import read_study

    table = read_study(folder)["table"]
    refuse_links(folder / "figures")
    with writing_to(folder):
        write_table(folder, table, strict=True)
        path = write_report(read_results(folder), folder)
    print(f"Table: {folder / TABLE_FILE}\nReport: {path}\nFigures: {folder / 'figures'}")
