"""The attacks that a scenario names, on its finished runs.

Each run is trained once more, bit for bit, before the eyes of those that look on; what the others train beside it
(shadow models, canaries) are lanes of one program. What an attack comes to depends on the run's spec and the attack's
options alone: it is the same with any number of processes, and after any interruption.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from sim.attacks.attack import Attack, Exhibit, Finding, Observer, Scalars, Target, attack_of
from sim.attacks.observation import Observation, looks, show_message, visible
from sim.data.at_clinics import load_records
from sim.data.federation import Federation
from sim.foundation.problems import FolderError, told
from sim.methods.messages import Instruction, Reply
from sim.models import Parameters
from sim.plan.plan import Plan
from sim.privacy.ledger import Adversary
from sim.results.attack_log import AUDIT, read_attacks
from sim.results.attacks import note_attack, write_attacks
from sim.results.store import read_rows
from sim.scenario.spec import code_digests
from sim.scenario.study import AttackTable
from sim.study.engines import Engine
from sim.study.forecast import Forecast
from sim.study.lockstep import Shared
from sim.study.runner import Progress
from sim.study.train import train_run
from sim.tensor.program import Program

Row = dict[str, Any]
MOST_LANES: Final = 64
"""How many trainings of an attack are one program."""


@dataclass(frozen=True)
class Task:
    """An attack on a run.

    Attributes
    ----------
    attack_id : str
        Depends on the run, the attack and its options.
    table : AttackTable
    """

    attack_id: str
    table: AttackTable


def attack_study(
    plans: Sequence[Plan], tables: Sequence[AttackTable], out: Path, engine: Engine, progress: Progress
) -> bool:
    """Make the attacks that have not been made on the runs that have ended well, and write the table of all.

    Parameters
    ----------
    plans : sequence of Plan
        All of one study.
    tables : sequence of AttackTable
        None: nothing is done.
    out : Path
        The results folder.
    engine : Engine
    progress : Progress

    Returns
    -------
    bool
        Whether all attacks ended well.

    Raises
    ------
    FolderError
        If the results folder cannot be written.
    """
    if not tables:
        return True
    folder = out / plans[0].spec.study
    there = {row["run_id"] for row in read_rows(folder, [p.spec.run_id for p in plans]) if row["status"] == "ok"}
    tasks = {
        plan.spec.run_id: [
            Task(attack_id(plan.spec.run_id, table), table) for table in tables if attack_of(table.name).suits(plan.job)
        ]
        for plan in plans
        if plan.spec.run_id in there
    }
    made = {name for name, row in read_attacks(folder).items() if row["status"] == "ok"}
    open_tasks = {
        run_id: left for run_id, own in tasks.items() if (left := [t for t in own if t.attack_id not in made])
    }
    pending = [plan for plan in plans if plan.spec.run_id in open_tasks]
    forecast = Forecast(pending, engine.jobs)
    progress.attacking(len(pending), sum(map(bool, tasks.values())) - len(pending), forecast.seconds_left())
    run = partial(attack_runs, tasks=open_tasks)
    with closing(engine.run(run, [[plan] for plan in pending])) as rows:
        for row in rows:
            for each in row["attacks"]:
                note_attack(folder, each)
            forecast.finished(row["run_id"], row["wall_seconds"])
            progress.finished(row, forecast.seconds_left())
    ended = read_attacks(folder)
    asked = [ended[t.attack_id] for own in tasks.values() for t in own if t.attack_id in ended]
    write_attacks(folder, [*asked, *_of_other_runs(folder, ended, tasks)])
    return all(row["status"] == "ok" for row in asked)


def _of_other_runs(folder: Path, ended: Mapping[str, Row], tasks: Mapping[str, object]) -> list[Row]:
    """Return the last word of each attack on the runs of the folder that were left out now, as ``--only`` does."""
    others = {row["run_id"] for row in read_rows(folder)} - tasks.keys()
    found = {(row["run_id"], row["attack"]): row for row in ended.values() if row["run_id"] in others}
    return [row for (_, attack), row in found.items() if attack != AUDIT]


def attack_id(run_id: str, table: AttackTable) -> str:
    """Return the name of an attack on a run: 16 hexadecimal digits of what decides what it comes to."""
    options = {**attack_of(table.name).options, **table.options}
    code = code_digests([("attack", table.name)])
    text = json.dumps([run_id, table.name, options, code], sort_keys=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def attack_runs(plans: Sequence[Plan], tasks: Mapping[str, Sequence[Task]]) -> Iterator[Row]:
    """Make the attacks on some runs, and yield for each run its row: how each attack ended, and the time it took."""
    for plan in plans:
        started = time.perf_counter()
        federation = load_records(plan.spec.data, plan.spec.clinics, plan.spec.seed, plan.spec.parties)
        attacks = list(attack_run(plan, federation, tasks[plan.spec.run_id]))
        failed = [row for row in attacks if row["status"] != "ok"]
        yield {
            **plan.columns(),
            "attacks": attacks,
            "status": "failed" if failed else "ok",
            "error": "; ".join(f"{row['attack']}: {row['error']}" for row in failed),
            "wall_seconds": time.perf_counter() - started,
        }


class Watch:
    """What one attack looks at while a run is trained; an error of its own ends it, and nothing else."""

    def __init__(self, attack: Attack, plan: Plan, federation: Federation, options: Scalars) -> None:
        self._error: Exception | None = None
        self._observation: Observation | None = None
        with self._held():
            self._observation = Observation([attack], plan, federation, [options])

    @property
    def listens(self) -> bool:
        """Whether it looks at messages."""
        return self._observation is not None and self._observation.listens

    def round(self, server_round: int, model: Parameters) -> None:
        """Show the model of a round."""
        if self._observation is not None:
            with self._held():
                self._observation.round(server_round, model)

    def message(self, instruction: Instruction, reply: Reply) -> None:
        """Show an instruction and its reply."""
        if self._observation is not None:
            with self._held():
                self._observation.message(instruction, reply)

    def findings(self, model: Parameters) -> Iterator[Finding | Exhibit]:
        """Return what was found, or raise what went wrong."""
        if self._error is not None:
            raise self._error
        for _, observer in self._observation.at_work if self._observation is not None else ():
            yield from observer.findings(model)

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            yield
        except FolderError:
            raise
        except Exception as error:
            self._error, self._observation = error, None


def attack_run(plan: Plan, federation: Federation, tasks: Sequence[Task]) -> Iterator[Row]:
    """Make attacks on one run, and yield how each ended; an error is a row too, with status ``failed``."""
    attacks = [attack_of(task.table.name) for task in tasks]
    watches = [Watch(attack, plan, federation, task.table.options) for task, attack in zip(tasks, attacks, strict=True)]

    def look(server_round: int, model: Parameters) -> None:
        for watch in watches:
            watch.round(server_round, model)

    def listen(instruction: Instruction, reply: Reply) -> None:
        for watch in watches:
            watch.message(instruction, reply)

    model = _trained(plan, federation, look, listen if any(watch.listens for watch in watches) else None, None)
    shared: dict[Hashable, Any] = {}
    for task, attack, watch in zip(tasks, attacks, watches, strict=True):
        started = time.perf_counter()
        row: Row = {
            "attack_id": task.attack_id,
            "run_id": plan.spec.run_id,
            "attack": attack.name,
            "status": "ok",
            "error": "",
            "findings": [],
            "exhibit": None,
        }
        try:
            if attack.carry_out is None:
                found: Iterable[Finding | Exhibit] = watch.findings(model)
            else:
                found = attack.carry_out(
                    Target(
                        plan=plan,
                        federation=federation,
                        model=model,
                        options={**attack.options, **task.table.options},
                        train=partial(train_further, plan, attack.adversary),
                        shared=shared,
                    )
                )
            for each in found:
                if isinstance(each, Exhibit):
                    row["exhibit"] = each.originals, each.rebuilt
                else:
                    row["findings"].append(finding_row(each, attack.adversary))
        except FolderError:
            raise
        except Exception as error:
            row |= {"status": "failed", "error": told(error), "findings": [], "exhibit": None}
        yield row | {"wall_seconds": time.perf_counter() - started}


def train_further(
    plan: Plan,
    adversary: Adversary,
    federations: Sequence[Federation],
    observers: Sequence[Observer] = (),
    seen_by: Adversary | None = None,
) -> list[Parameters]:
    """Train a run's method on other records; see :class:`sim.attacks.attack.Train`."""
    adversary = seen_by or adversary
    names = visible(plan.job, adversary)

    def one(federation: Federation, observer: Observer | None, program: Program) -> Parameters:
        own = plan.on(federation.facts)
        if observer is None:
            return _trained(own, federation, _blind, None, program)

        def look(server_round: int, model: Parameters) -> None:
            if names:
                observer.round(server_round, {name: value for name, value in model.items() if name in names})

        def listen(instruction: Instruction, reply: Reply) -> None:
            show_message(observer, adversary, instruction, reply)

        return _trained(own, federation, look, listen if looks(observer, "message") else None, program)

    models: list[Parameters] = []
    watched: list[Observer | None] = [*observers] or [None] * len(federations)
    for first in range(0, len(federations), MOST_LANES):
        shared = Shared()
        place = slice(first, first + MOST_LANES)
        ended: dict[int, Parameters] = {}

        def kept(number: int, work: Callable[[], Parameters], ended: dict[int, Parameters] = ended) -> None:
            ended[number] = work()

        works = [
            partial(kept, number, partial(one, *each, shared))
            for number, each in enumerate(zip(federations[place], watched[place], strict=True))
        ]
        for _ in shared.run(works):
            pass
        models += [ended[number] for number in range(len(works))]
    return models


def _trained(
    plan: Plan,
    federation: Federation,
    look: Callable[[int, Parameters], None],
    listen: Callable[[Instruction, Reply], None] | None,
    program: Program | None,
) -> Parameters:
    return train_run(plan, federation, models=look, overheard=listen, program=program, trial=True).parameters


def _blind(server_round: int, model: Parameters) -> None:
    """Look at nothing."""


def finding_row(finding: Finding, adversary: Adversary) -> Row:
    """Return a finding, the adversary's unless it names another, as a row; AttackError if its measure has no unit."""
    row = asdict(finding)
    row["measure"] = finding.measure if finding.unit else ""
    return row | {"adversary": finding.adversary or adversary}
