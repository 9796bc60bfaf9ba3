"""``suture audit``."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.commands.common import Jobs, StudyFolder, Trust, wide_console
from sim.foundation.text import epsilon_text

if TYPE_CHECKING:
    from collections.abc import Sequence


class CanaryKind(StrEnum):
    """What the canaries of trainings are."""

    CRAFTED = "crafted"
    ORDINARY = "ordinary"
    MISLABELLED = "mislabelled"


def audit(
    folder: StudyFolder,
    canaries: Annotated[
        int | None,
        typer.Option(
            "--canaries",
            min=40,
            max=1_000_000,
            help="Trainings with canaries in or out, a run; by default as many as take about half a minute.",
        ),
    ] = None,
    kind: Annotated[
        CanaryKind,
        typer.Option("--kind", help="Worst-case canaries, a clinic's own records, or these with another label."),
    ] = CanaryKind.CRAFTED,
    one_run: Annotated[
        bool, typer.Option("--one-run", help="One training with that many canaries, for large models; bounds are low.")
    ] = False,
    jobs: Jobs = None,
    trust: Trust = False,
) -> None:
    """Train with canaries, and print a lower bound at 95 % beside every finite epsilon; one above a claim is an error.

    What has been audited with the same options is not audited again.
    """
    from rich.console import Console

    from sim.api.progress import shown_progress
    from sim.study.auditing import Options, audit_study
    from sim.study.engines import InProcess, Workers, default_jobs

    jobs = jobs or default_jobs()
    options = Options(canaries=canaries, kind=kind.value, one_run=one_run)
    try:
        with shown_progress(Console(stderr=True)) as progress:
            audits = audit_study(folder, options, Workers(jobs) if jobs > 1 else InProcess(), progress, trust=trust)
    except KeyboardInterrupt:
        print("interrupted; finished audits are kept, and the same command resumes", file=sys.stderr)
        raise typer.Exit(130) from None
    if not _shown(audits):
        raise typer.Exit(1)


def _shown(audits: Sequence[dict[str, Any]]) -> bool:
    """Print what was found; return whether all went well and no bound is above its claim."""
    from rich.markup import escape
    from rich.table import Table

    from sim.methods.labels import method_label
    from sim.privacy.ledger import ADVERSARIES, COLLUDING
    from sim.results.attack_log import exceeds
    from sim.results.columns import is_swept

    named = {finding["adversary"] for audit in audits for finding in audit["findings"]}
    adversaries = [*ADVERSARIES, *(each for each in COLLUDING if each in named)]
    table = Table(
        "run", "method", "seed", "unit", *adversaries, "label", title="epsilon: audited, at least, of claimed"
    )
    errors = []
    for audit in audits:
        run = audit["run"]
        settings = [f"{key} {value}" for key, value in run.items() if is_swept(key)]
        name = ", ".join([method_label(run["strategy"], run["cut"]), *settings])
        found = {(each["adversary"], each["measure"]): (each["value"], each["bound"]) for each in audit["findings"]}
        cells = [found.get((adversary, "epsilon")) for adversary in adversaries]
        cells.append(found.get(("server", "label_epsilon")))
        words = [f"{epsilon_text(c[0])} of {epsilon_text(c[1])}" if c else "–" for c in cells]
        table.add_row(audit["run_id"], escape(name), str(run["seed"]), run["unit"], *words)
        if audit["status"] != "ok":
            errors.append(f"{audit['run_id']} {name}: {audit['error']}")
        errors += [
            f"{audit['run_id']} {name}: {adversary}: {measure.replace('_', ' ')} is at least {epsilon_text(value)}, "
            f"above the claimed {epsilon_text(claim)}: an error of the program, or of what it imports"
            for (adversary, measure), (value, claim) in found.items()
            if exceeds(value, claim)
        ]
    console = wide_console()
    console.print(table)
    console.print(
        "Lower bounds at 95 % confidence, each by itself, by canaries. Of noise that has a scale the shape of the "
        "claimed trade-off curve is taken as known, and its scale is measured; bounds without that assumption are in "
        "attacks.parquet. – stands where nothing is claimed.",
        markup=False,
        highlight=False,
    )
    for error in errors:
        console.print(error, markup=False, highlight=False, style="red")
    return not errors
