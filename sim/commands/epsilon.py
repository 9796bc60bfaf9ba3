"""``suture epsilon``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from sim.commands.common import wide_console
from sim.foundation.problems import ScenarioError, show
from sim.foundation.text import epsilon_text


def epsilon(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run's folder, OUT/<study>/<run-id>, or a study's, OUT/<study>.")
    ],
    accountant: Annotated[str, typer.Option("--accountant", metavar="pld|rdp", help="The privacy accountant.")] = "pld",
    delta: Annotated[float | None, typer.Option("--delta", help="Delta; the run's own by default.")] = None,
) -> None:
    """Compute epsilon again from saved ledgers.

    For a run: one line per clinic and one column per adversary, the worst first. For a study: the epsilon of each
    setting, and of all runs on the same records composed, with the cost of selecting the best.
    """
    from sim.results.store import RUN_FILE, STUDY_FILE

    if (folder / RUN_FILE).is_file() or not (folder / STUDY_FILE).is_file():
        _of_run(folder, accountant, delta)
    else:
        _of_study(folder, accountant, delta)


def _of_study(folder: Path, accountant: str, delta: float | None) -> None:
    from rich.markup import escape
    from rich.table import Table

    from sim.privacy.study_ledger import StudyRun, compose_study
    from sim.report.privacy import composed_frame, composed_words
    from sim.results.store import read_records, uncounted

    if accountant != "pld":
        raise ScenarioError(f"--accountant: {accountant} does not count a study; leave it out, or name a run's folder")
    runs = list(map(StudyRun.of, read_records(folder)))
    if not runs:
        raise ScenarioError(f"{folder}: has no run of this results version; run the study first")
    try:
        found = compose_study(runs, delta)
    except ValueError as error:
        raise ScenarioError(f"{folder}: {error}") from None
    frame = composed_frame(found, runs, delta)
    adjacency = f", {found.adjacency}" if found.adjacency else ""
    table = Table(title=f"epsilon at delta {found.delta:g}, by pld; unit: {found.unit}{adjacency}")
    for position, name in enumerate(frame.columns):
        table.add_column(name, justify="left" if position == 0 else "right")
    for row in frame.itertuples(index=False):
        table.add_row(*map(escape, row), end_section=False)
    console = wide_console()
    console.print(table)
    for sentence in (*composed_words(found), *uncounted(folder, {run.row["run_id"] for run in runs})):
        console.print(sentence, markup=False, highlight=False)


def _of_run(folder: Path, accountant: str, delta: float | None) -> None:
    from rich.markup import escape
    from rich.table import Table

    from sim.plan.releases import un_noised
    from sim.privacy.accounting import Accountant
    from sim.privacy.adjacency import MEANING, adjacency_of, replace_epsilon
    from sim.privacy.ledger import Ledger, adversaries_of
    from sim.privacy.risk import FALSE_POSITIVE_RATES, membership_risk
    from sim.results.store import read_record
    from sim.scenario.privacy import MIN_DELTA

    record = read_record(folder)
    plan = record["plan"]
    # Without a mechanism there are only un-noised releases and none at all, which no delta tells apart.
    own = plan["delta"] or 0.0
    at = own if delta is None else delta
    names = [clinic["name"] for clinic in plan["clinics"]]
    adversaries = adversaries_of(
        record["spec"]["privacy"].get("colluding-clinics", 0), edges=bool(record["spec"].get("edges"))
    )
    if accountant not in get_args(Accountant):
        raise ScenarioError(f"{folder}: --accountant {show(accountant)} does not exist; choose pld or rdp")
    if delta and not MIN_DELTA <= delta < 1:
        raise ScenarioError(f"{folder}: --delta {delta:g} is out of range; give 0, or {MIN_DELTA:g} to below 1")
    try:
        ledger = Ledger.from_json(record["privacy"]["releases"])
    except ValueError:
        raise ScenarioError(f"{folder}: its run.json has no ledger; restore the file, or run again") from None
    try:
        spent = [
            [ledger.epsilon(a, k, at, accountant, plan["unit"]) for a in adversaries]  # type: ignore[arg-type]
            for k in range(len(names))
        ]
    except ValueError as error:
        raise ScenarioError(f"{folder}: {error}") from None
    table = Table("clinic", *adversaries, title=f"epsilon at delta {at:g}, by {accountant}; unit: {plan['unit']}")
    worst = [max(range(len(names)), key=lambda k, a=a: spent[k][a]) for a in range(len(adversaries))]  # type: ignore[misc]
    cells = [f"{epsilon_text(spent[k][a])} ({escape(names[k])})" for a, k in enumerate(worst)]
    noised = adjacency_of(ledger)
    table.add_row("worst", *cells, end_section=not noised)
    if noised:
        replaced = [replace_epsilon(ledger, a, range(len(names)), at, plan["unit"]) for a in adversaries]
        cells = ["–" if value is None else epsilon_text(value) for value in replaced]
        table.add_row("worst, replace-one, by pld", *cells, end_section=True)
    for name, row in sorted(zip(names, spent, strict=True), key=lambda item: [-value for value in item[1]]):
        table.add_row(escape(name), *map(epsilon_text, row))
    wide_console().print(table)
    if noised:
        wide_console().print(f"This run is for {noised}. {MEANING}", markup=False, highlight=False)
    if any(release.unit == "label" for release in ledger.releases):
        of_labels = max(ledger.epsilon(a, k, at, unit="label") for a in adversaries for k in range(len(names)))
        wide_console().print(f"one label, randomised before it leaves: {epsilon_text(of_labels)} against everyone")
    for adversary in adversaries:
        if reasons := un_noised(ledger, adversary):
            wide_console().print(f"{adversary} ∞: {'; '.join(reasons)}", markup=False, highlight=False)
    risks = Table("bounds on membership inference, worst clinic", *adversaries)
    # What an attacker can tell depends on no delta; that of 0 has no finite epsilon to begin from.
    found = [
        membership_risk(
            ledger.mechanisms(a, k, plan["unit"]), spent[k][i] if at else ledger.epsilon(a, k, own, unit=plan["unit"])
        )
        for i, (a, k) in enumerate(zip(adversaries, worst, strict=True))
    ]
    risks.add_row("membership advantage, at most", *(f"{risk.advantage:.3f}" for risk in found))
    for i, rate in enumerate(FALSE_POSITIVE_RATES):
        cells = [f"{risk.true_positive_rates[i]:.3f}" for risk in found]
        risks.add_row(f"true-positive rate at {rate:.1%} FPR, at most", *cells)
    wide_console().print(risks)
