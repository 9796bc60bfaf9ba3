"""``suture compare``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sim.commands.common import StudyFolder, wide_console
from sim.foundation.problems import ScenarioError


class Form(StrEnum):
    """Output formats of a comparison."""

    TABLE = "table"
    CSV = "csv"
    MARKDOWN = "markdown"
    LATEX = "latex"


def compare(
    folder: StudyFolder,
    by: Annotated[
        str, typer.Option("--by", metavar="COLUMNS", help="Columns to group by, comma-separated.")
    ] = "strategy,cut",
    metric: Annotated[
        str,
        typer.Option("--metric", help="The column of runs.parquet to compare; by default the score within clinics."),
    ] = "",
    at: Annotated[
        list[str] | None, typer.Option("--at", metavar="KEY=VALUE", help="Fix a swept key at a value; repeatable.")
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="CONDITION",
            help="Report time and traffic until a condition such as within_clinic_auc>=0.8 is met.",
        ),
    ] = "",
    form: Annotated[Form, typer.Option("--format", help="Output format.")] = Form.TABLE,
) -> None:
    """Compare methods: means with 95 % intervals, the differences of all pairs, and what they support."""
    from sim.report.compare import NO_ROUNDS, as_text, readable
    from sim.report.compare import compare as compared
    from sim.report.held_out import read_held_out
    from sim.report.scope import intervals_of
    from sim.report.spoken import between_parties, spoken
    from sim.report.study import NO_TRIALS
    from sim.report.table import rendered
    from sim.results.run_tables import read_run_tables
    from sim.results.store import read_table
    from sim.results.trials import trials_table

    if target:
        from sim.report.reading import read_results
        from sim.report.table import target_frame

        results = read_results(folder)
        caption = (
            f"Until {target} holds for the first time after a round: means over the runs in which it does. "
            "within_clinic_auc, auc (pooled), concordance and so on are of the held-out records of all clinics, "
            "validation_auc and so on of validation records, where the scenario sets some aside."
        )
        wide_console().print(rendered(target_frame(results, target), results.name, caption))
        return
    held = dict(item.partition("=")[::2] for item in at or ())
    if wrong := [key for key, value in held.items() if not value]:
        raise ScenarioError(f'--at: "{key}" has no value; write key=value' for key in wrong)
    table = read_table(folder)
    ok = table.loc[table["status"] == "ok", "run_id"]
    held_out, trials = read_held_out(folder, ok), trials_table(folder)
    headline = spoken(table).within
    metric = metric or headline
    rounds = read_run_tables(folder, ok, "rounds") if held_out and metric == headline else NO_ROUNDS
    columns = [column.strip() for column in by.split(",")]
    comparison = compared(table, columns, metric, held, held_out, NO_TRIALS if trials is None else trials, rounds)
    if form is not Form.TABLE:
        print(as_text(comparison, form.value), end="")
        return
    console = wide_console()
    known = comparison.differences["half_width"].notna()
    kind = intervals_of(comparison.means, held_out, parties=between_parties(table))
    pairs = f"Differences are from {comparison.best}; " + (
        "their intervals hold together for all pairs." if known.any() else "one seed alone gives them no interval."
    )
    caption = (
        f"± is half the width of the 95 % interval {kind}. {pairs}"
        if kind
        else "There is one seed, so that no interval of this metric is known."
    )
    frame = readable(comparison)
    frame.columns = [*frame.columns[:-2], "Difference", "Verdict"]
    console.print(rendered(frame, ", ".join(table["study"].unique()), caption))
    console.print(comparison.conclusion(), markup=False, highlight=False)
