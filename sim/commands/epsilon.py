"""``suture epsilon``."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from sim.commands.common import RunFolder, wide_console


def epsilon(
    folder: RunFolder,
    accountant: Annotated[str, typer.Option("--accountant", metavar="pld|prv|rdp", help="Who counts.")] = "pld",
    delta: Annotated[float | None, typer.Option("--delta", help="The run's own if not given.")] = None,
) -> None:
    """Count a run's epsilon anew from its saved ledger: a line a clinic, a column an adversary, the worst first."""
    from rich.markup import escape
    from rich.table import Table

    from sim.privacy.accounting import MIN_DELTA, Accountant
    from sim.privacy.ledger import ADVERSARIES, Ledger
    from sim.privacy.releases import un_noised
    from sim.privacy.risk import FALSE_POSITIVE_RATES, membership_risk
    from sim.problems import ScenarioError, show
    from sim.report.table import epsilon_text
    from sim.study.store import read_record

    record = read_record(folder)
    plan = record["plan"]
    # Without a mechanism there are only un-noised releases and none at all, which no delta tells apart.
    own = plan["delta"] or 0.0
    at = own if delta is None else delta
    names = [clinic["name"] for clinic in plan["clinics"]]
    if accountant not in get_args(Accountant):
        raise ScenarioError([f"{folder}: --accountant {show(accountant)} does not exist; choose pld, prv or rdp"])
    if delta and not MIN_DELTA <= delta < 1:
        raise ScenarioError([f"{folder}: --delta {delta:g} is out of range; give 0, or {MIN_DELTA:g} to below 1"])
    try:
        ledger = Ledger.from_json(record["privacy"]["releases"])
    except ValueError:
        raise ScenarioError([f"{folder}: its run.json holds no ledger; restore the file, or run again"]) from None
    try:
        spent = [
            [ledger.epsilon(a, k, at, accountant, plan["unit"]) for a in ADVERSARIES]  # type: ignore[arg-type]
            for k in range(len(names))
        ]
    except ValueError as error:
        raise ScenarioError([f"{folder}: {error}"]) from None
    table = Table("clinic", *ADVERSARIES, title=f"epsilon at delta {at:g}, by {accountant}; unit: {plan['unit']}")
    worst = [max(range(len(names)), key=lambda k, a=a: spent[k][a]) for a in range(len(ADVERSARIES))]  # type: ignore[misc]
    cells = [f"{epsilon_text(spent[k][a])} ({escape(names[k])})" for a, k in enumerate(worst)]
    table.add_row("worst", *cells, end_section=True)
    for name, row in sorted(zip(names, spent, strict=True), key=lambda item: [-value for value in item[1]]):
        table.add_row(escape(name), *map(epsilon_text, row))
    wide_console().print(table)
    if any(release.unit == "label" for release in ledger.releases):
        of_labels = max(ledger.epsilon(a, k, at, unit="label") for a in ADVERSARIES for k in range(len(names)))
        wide_console().print(f"one label, randomised before it leaves: {epsilon_text(of_labels)} against everyone")
    for adversary in ADVERSARIES:
        if reasons := un_noised(ledger, adversary):
            wide_console().print(f"{adversary} ∞: {'; '.join(reasons)}", markup=False, highlight=False)
    risks = Table("what an attacker can tell of the worst clinic", *ADVERSARIES)
    # What an attacker can tell depends on no delta; that of 0 has no finite epsilon to begin from.
    found = [
        membership_risk(
            ledger.mechanisms(a, k, plan["unit"]), spent[k][i] if at else ledger.epsilon(a, k, own, unit=plan["unit"])
        )
        for i, (a, k) in enumerate(zip(ADVERSARIES, worst, strict=True))
    ]
    risks.add_row("membership advantage, at most", *(f"{risk.advantage:.3f}" for risk in found))
    for i, rate in enumerate(FALSE_POSITIVE_RATES):
        cells = [f"{risk.true_positive_rates[i]:.3f}" for risk in found]
        risks.add_row(f"true positives at {rate:.1%} false, at most", *cells)
    wide_console().print(risks)
