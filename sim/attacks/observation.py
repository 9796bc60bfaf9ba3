"""The attacks on one run: each is shown what its adversary sees, and what all find is put into rows and words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sim.attacks.attack import Attack, AttackError, Finding, Observer, Scalars
from sim.data.federation import Federation
from sim.methods.job import Job
from sim.methods.messages import Instruction, Reply
from sim.models import Parameters
from sim.plan.plan import Plan
from sim.privacy.ledger import Adversary


class Observation:
    """The attacks on one run, at work: those of some that apply, each with its options.

    Raises AttackError if an attack by the model user wants to see more than the final model.
    """

    def __init__(
        self, attacks: Sequence[Attack], plan: Plan, federation: Federation, options: Sequence[Scalars] | None = None
    ) -> None:
        job = plan.job
        self._attacks = attacks
        self.at_work = [
            (attack, observer)
            for attack, own in zip(attacks, options or [{}] * len(attacks), strict=True)
            if attack.suits(job) and (observer := attack.observer(plan, federation, own)) is not None
        ]
        for attack, observer in self.at_work:
            if attack.adversary == "model-user" and (looks(observer, "round") or looks(observer, "message")):
                raise AttackError(f"{attack.name}: the model user sees the final model alone; name another adversary")
        self._names = {attack.adversary: visible(job, attack.adversary) for attack in attacks}

    @property
    def listens(self) -> bool:
        """Whether an attack looks at messages."""
        return any(looks(observer, "message") for _, observer in self.at_work)

    def round(self, server_round: int, model: Parameters) -> None:
        """Show the model of a round."""
        for attack, observer in self.at_work:
            names = self._names[attack.adversary]
            if names and looks(observer, "round"):
                observer.round(server_round, {name: value for name, value in model.items() if name in names})

    def message(self, instruction: Instruction, reply: Reply) -> None:
        """Show an instruction and its reply."""
        for attack, observer in self.at_work:
            show_message(observer, attack.adversary, instruction, reply)

    def found(self, model: Parameters) -> Findings:
        """Show the final model, and collect what was found."""
        by_attack = [
            (attack, tuple(each for each in observer.findings(model) if isinstance(each, Finding)))
            for attack, observer in self.at_work
        ]
        columns = [column for attack in self._attacks for column in attack.columns.values()]
        return Findings(columns, [(attack, findings) for attack, findings in by_attack if findings])


def show_message(observer: Observer, adversary: Adversary, instruction: Instruction, reply: Reply) -> None:
    """Show an instruction and its reply as an adversary sees them."""
    if adversary == "server":
        observer.message(instruction, reply)
    elif adversary == "peer-clinic":
        for lane, clinic in enumerate(instruction.clinics):
            observer.message(instruction.of_lanes([lane]), reply.of_clinic(clinic))


def looks(observer: Observer, at: str) -> bool:
    """Whether an observer wants to see rounds, or messages."""
    return getattr(type(observer), at) is not getattr(Observer, at)


def visible(job: Job, adversary: Adversary) -> frozenset[str]:
    """Return the names of the parameters that an adversary sees after a round."""
    if adversary == "model-user" or adversary not in job.protocol.sees_model:
        return frozenset()
    at_clinic = {name for part in job.protocol.clinic_parts for name in job.part(part).shapes()}
    if adversary == "peer-clinic":
        return frozenset(at_clinic - job.apart)
    return frozenset(job.network.whole.shapes().keys() - (at_clinic & job.apart))


@dataclass(frozen=True)
class Findings:
    """What the attacks on a run found; `columns` are those of all attacks, whether they were carried out or not."""

    columns: Sequence[str]
    by_attack: Sequence[tuple[Attack, tuple[Finding, ...]]]

    def row(self) -> dict[str, float]:
        """Return the columns of ``runs.parquet``; NaN where nothing was found."""
        row = dict.fromkeys(self.columns, math.nan)
        for attack, findings in self.by_attack:
            row |= {
                attack.columns[f.measure]: f.value for f in findings if not f.clinic and f.measure in attack.columns
            }
        return row

    def of_clinics(self, names: Iterable[str]) -> dict[str, list[float]]:
        """Return the columns of ``clinics.parquet``, one value a clinic."""
        values: dict[str, dict[str, float]] = {}
        for attack, findings in self.by_attack:
            for finding in findings:
                if finding.clinic and finding.measure in attack.columns:
                    values.setdefault(attack.columns[finding.measure], {})[finding.clinic] = finding.value
        named = list(names)
        return {column: [found.get(name, math.nan) for name in named] for column, found in values.items()}

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each finding, in ``run.json`` under ``audit``; of those by clinic only the worst one's."""
        return [
            {
                "attack": attack.name,
                "adversary": attack.adversary,
                **{name: getattr(finding, name) for name in ("measure", "value", "unit", "low", "high", "chance")},
                "worst_clinic": finding.clinic,
            }
            for attack, findings in self.by_attack
            for finding in _in_short(findings)
        ]

    def stated(self) -> list[dict[str, Any]]:
        """Return one entry an attack for the privacy statement."""
        entries = []
        for attack, findings in self.by_attack:
            entry: dict[str, Any] = {"adversary": attack.adversary, "attack": attack.sentence}
            for finding in _in_short(findings):
                if finding.measure.startswith(_WORST):
                    entry["worst_clinic"] = finding.clinic
                entry[finding.measure] = round(finding.value, 4)
            entries.append(entry)
        return entries

    def not_covered(self) -> list[dict[str, Any]]:
        """Return what the findings publish of records, as :func:`sim.privacy.uncovered.not_covered` lists it."""
        return [
            {
                "what": f"findings of the attack: {attack.name}",
                "where": "run.json, privacy.md, runs.parquet, clinics.parquet, report.html",
                "of": attack.uses,
                "columns": sorted(
                    {"value", "worst_clinic", *(f.measure for f in _in_short(findings)), *attack.columns.values()}
                ),
            }
            for attack, findings in self.by_attack
        ]


_WORST = "worst_clinic_"


def _in_short(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings of all clinics together, and of those by clinic that of the worst one, as they come."""
    short: dict[str, Finding] = {}
    for finding in findings:
        name = _WORST + finding.measure if finding.clinic else finding.measure
        if math.isnan(finding.value):
            short.setdefault(name, replace(finding, measure=name, clinic=""))
        elif name not in short or not finding.value <= short[name].value:
            short[name] = replace(finding, measure=name)
    return list(short.values())
