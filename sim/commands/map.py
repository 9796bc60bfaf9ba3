"""``suture map``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.api import UPLINKS
from sim.commands.common import Out, Overrides, ScenarioFile, Trust, wide_console


def map_(
    file: ScenarioFile,
    x: Annotated[
        str,
        typer.Option(
            "--x", metavar="KEY=A,B,...", help="What to re-time by: values, or a range such as 0.1..1000 Mbit/s."
        ),
    ] = UPLINKS,
    y: Annotated[
        str, typer.Option("--y", metavar="KEY", help="A swept key of the study, whole or by its last part.")
    ] = "",
    within: Annotated[
        list[str] | None,
        typer.Option("--within", metavar="CONDITION", help='For example "hours<=1 and epsilon_server<=8"; repeatable.'),
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write every point as CSV.")] = None,
    out: Out = Path("results"),
    overrides: Overrides = None,
    trust: Trust = False,
) -> None:
    """Draw which method to take at each point, from a finished study and re-timing, without training."""
    from sim.api.mapping import decided
    from sim.report.decision import map_frame, map_rows
    from sim.report.gallery import gallery, study_pictures
    from sim.report.html import write_report
    from sim.report.pictures import draw
    from sim.report.reading import read_results
    from sim.report.table import rendered
    from sim.results.decision_map import keep_map
    from sim.results.store import writing_to
    from sim.scenario import load_scenario

    folder = out / load_scenario(file, overrides or ()).name
    study = read_results(folder)
    shown = decided(study, folder, x, y, within or (), trust=trust)
    with writing_to(folder):
        keep_map(folder, shown, study.runs["run_id"].tolist())
        study = read_results(folder)
        figures = gallery(study)
        pictures = study_pictures(study, figures)
        paths = draw({"map": pictures["map"]}, folder / "figures")
        report = write_report(study, folder, figures)
        if csv:
            map_rows(shown).to_csv(csv, index=False)
    console = wide_console()
    conditions = f" within {'; '.join(shown.within)}" if shown.within else ""
    console.print(rendered(map_frame(shown), f"{study.name}: which method{conditions}", ""))
    console.print(f"Picture: {paths[-1]}\nReport: {report}", soft_wrap=True, highlight=False)
