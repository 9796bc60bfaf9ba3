"""Train a planned run, and hold what happened against the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from sim.data.federation import Federation
from sim.flower.actors import Hosts
from sim.flower.meter import Meter
from sim.flower.simulation import Overhears, Simulation, Through
from sim.foundation.problems import SutureError
from sim.methods.alignment import messages_of
from sim.methods.job import Job
from sim.methods.protocol import ALIGNMENT
from sim.methods.replies import NotFiniteError
from sim.methods.secure_sum import set_up_bytes
from sim.models import Parameters
from sim.plan.plan import Plan
from sim.plan.releases import build_ledger
from sim.results.audit_log import Trail
from sim.scenario.outcomes import HEADLINES
from sim.tensor.evaluation import Evaluation, Evaluator
from sim.tensor.program import Program
from sim.tensor.scoring import scorer_of


class PlanMismatchError(SutureError, RuntimeError):
    """What was counted in training differs from the plan: a fault of the simulator, never of the scenario."""


class DivergedError(SutureError, ArithmeticError):
    """The model has left the range of numbers."""


@dataclass
class TrainedRun:
    """What came of a run.

    Attributes
    ----------
    parameters : dict of str to Tensor
        The final model: ``[1, *shape]``, or ``[clinic, *shape]`` where every clinic has its own.
    best_parameters : dict of str to Tensor
        The model after the round with the best validation headline; without such records the final one.
    evaluations, validations : list of Evaluation
        On held-out and on validation records, before the first round and after each, without numbers where
        ``eval-every`` leaves a round out; no validations without such records.
    meter : Meter
        What really crossed.
    trail : Trail
        The same, round by round.
    headline : str
        The score that methods are compared by.
    clips : list of float
        Under clinic-level privacy with an adaptive clip: before the first round and after each.
    """

    parameters: dict[str, Tensor]
    meter: Meter
    trail: Trail
    headline: str = HEADLINES["classes"].within
    best_parameters: dict[str, Tensor] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    validations: list[Evaluation] = field(default_factory=list)
    clips: list[float] = field(default_factory=list)

    @property
    def best_round(self) -> int | None:
        """The first round with the best validation score, None without such records; test records never decide."""
        scores = [validation.pooled[self.headline] for validation in self.validations]
        return int(np.nanargmax(scores)) if scores and not np.all(np.isnan(scores)) else None


def train_run(
    plan: Plan,
    federation: Federation,
    node_groups: int = 1,
    watch: Callable[[int, Evaluation], None] = lambda server_round, evaluation: None,
    through: Through | None = None,
    models: Callable[[int, Parameters], None] = lambda server_round, model: None,
    overheard: Overhears | None = None,
    program: Program | None = None,
    shortcut: bool = True,
    trial: bool = False,
    hosts: Hosts | None = None,
) -> TrainedRun:
    """Train a planned run through its Flower strategy and client app.

    Parameters
    ----------
    plan : Plan
    federation : Federation
        The one that was planned for.
    node_groups, through, overheard, program, shortcut, hosts
        As for :class:`sim.flower.simulation.Simulation`.
    watch : callable
        Told of every round and its evaluation on held-out records as it ends.
    models : callable
        Told of the model before the first round and after each; see :meth:`sim.flower.simulation.Simulation.run`.
    trial : bool
        Whether it is one of tuning: the model is judged once, at the end, nothing is kept of the rounds, and traffic is
        not held against the plan.

    Returns
    -------
    TrainedRun

    Raises
    ------
    PlanMismatchError
        If the plan is for other records, or a counted byte or a noised step differs from it.
    DivergedError
        If a round's model answers with something that is no number.
    """
    job = replace(plan.job)  # what it draws goes with the run
    if federation.facts.fingerprint != job.facts.fingerprint:
        raise PlanMismatchError("the plan was made for other records")
    simulation = Simulation(
        job, federation.train, node_groups, through, overheard, program, shortcut=shortcut, hosts=hosts
    )
    scorer = scorer_of(job.outcome, plan.spec.evaluation)
    tester = Evaluator(job.network, federation.test, unseen=federation.unseen, scorer=scorer, program=program)
    chooses = len(federation.validation.y) and job.method.trains  # of its one round nothing is to be chosen
    validator = Evaluator(job.network, federation.validation, scorer=scorer, program=program) if chooses else None
    skipped = Evaluation.none(len(federation.test_names), scorer.every_round)
    meter, trained = simulation.meter, TrainedRun({}, simulation.meter, Trail(), job.outcome.headline.within)

    def look(server_round: int, model: Parameters) -> None:
        trained.parameters = model
        if server_round:
            meter.count_set_up(set_up_bytes(job, server_round))
        if server_round == 1:
            meter.count_set_up(((way, [party], size) for way, party, size in messages_of(job)), ALIGNMENT)
        if not trial:
            at_server = {part: steps.numpy() for part, steps in simulation.server_noised.items()}
            above = {} if simulation.edge_meter is None else simulation.edge_meter.traffic
            trained.trail.close_round(server_round, meter.traffic, {**meter.noised_steps, **at_server}, above)
        if job.adaptive is not None:
            trained.clips.append(simulation.clip)
        last = server_round == job.spec.train.rounds
        judged = last or (server_round % job.spec.train.eval_every == 0 and not trial)
        used = simulation.personal(model) if last and not federation.unseen else model
        trained.evaluations.append(_judged(tester, used, server_round, last=last and not trial) if judged else skipped)
        watch(server_round, trained.evaluations[-1])
        models(server_round, model)
        if validator is not None:
            trained.validations.append(_judged(validator, used, server_round) if judged else skipped)
        if trained.best_round in (None, server_round):
            trained.best_parameters = model

    try:
        simulation.run(look)
    except NotFiniteError as error:  # the clinics are simulated, and do as they should
        raise _diverged(len(trained.evaluations)) from error
    for part, steps in simulation.server_noised.items():
        meter.count_noise(part, range(meter.clinics), steps.tolist())
    check_against_plan(plan, meter, job, simulation.edge_meter, noise_alone=trial)
    return trained


def _judged(
    evaluator: Evaluator, parameters: Mapping[str, Tensor], server_round: int, *, last: bool = False
) -> Evaluation:
    try:
        return evaluator.evaluate(parameters, last=last, server_round=server_round)
    except FloatingPointError:
        raise _diverged(server_round) from None


def _diverged(server_round: int) -> DivergedError:
    return DivergedError(
        f"the model diverged: after round {server_round} it has no finite outputs; lower the learning rate"
    )


def check_against_plan(
    plan: Plan, meter: Meter, job: Job, edge_meter: Meter | None = None, *, noise_alone: bool = False
) -> None:
    """Hold what was counted against the plan.

    Parameters
    ----------
    plan : Plan
    meter : Meter
    job : Job
    edge_meter : Meter, optional
        Of what crossed between edge servers and cloud.
    noise_alone : bool
        Whether traffic is left aside.

    Raises
    ------
    PlanMismatchError
        If a byte, a noised step or a release differs; names each kind that does.
    """
    wrong = [
        f"{what}: planned {planned.get(key, nothing)}, counted {counted.get(key, nothing)}"
        for planned, counted, what, key in _compared(plan, meter, edge_meter)
        if not (noise_alone and counted is not meter.noised_steps)
        for nothing in [np.zeros_like(next(iter((planned or counted).values())))]
        if not np.array_equal(planned.get(key, nothing), counted.get(key, nothing))
    ]
    noised = {part: count.tolist() for part, count in meter.noised_steps.items()}
    if build_ledger(job, plan.sampled, noised) != plan.ledger:
        wrong.append("the executed releases are not the planned ones")
    if wrong:
        raise PlanMismatchError("; ".join(wrong))


def _compared(
    plan: Plan, meter: Meter, edge_meter: Meter | None
) -> Iterator[tuple[Mapping[Any, Any], Mapping[Any, Any], str, Any]]:
    for key in sorted({*plan.traffic, *meter.traffic}):
        yield plan.traffic, meter.traffic, f"bytes {key[0]}, {key[1]}", key
    above = {} if edge_meter is None else edge_meter.traffic
    for key in sorted({*plan.edge_traffic, *above}):
        yield plan.edge_traffic, above, f"bytes {key[0]}, {key[1]}, between edge servers and cloud", key
    for part in sorted({*plan.noised_steps, *meter.noised_steps}):
        yield plan.noised_steps, meter.noised_steps, f"noised steps, {part}", part
