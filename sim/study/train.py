"""Learn a planned run: wire the apps together on the in-process grid, and hold what happened against the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, MetricRecord
from numpy.typing import NDArray
from torch import Tensor

from sim.data.federation import Federation
from sim.flower.client_app import app as client_app
from sim.flower.client_app import kept_by_clinics
from sim.flower.grid import InProcessGrid
from sim.flower.internals import quiet
from sim.flower.messages import array_record, tensors_in
from sim.flower.meter import Meter
from sim.flower.server_app import CohortStrategy, NotFiniteError, StrategyError, build_imported, build_strategy
from sim.flower.workplace import job_of, run_config
from sim.foundation.problems import ScenarioError, SutureError
from sim.methods.job import Job
from sim.methods.node_group import node_groups_of
from sim.methods.trainer import expand
from sim.plan.plan import Plan
from sim.plan.releases import build_ledger
from sim.results.audit_log import Trail
from sim.scenario.spec import RunSpec
from sim.tensor.evaluation import Evaluation, Evaluator


class PlanMismatchError(SutureError, RuntimeError):
    """What was counted while learning differs from the plan: a fault of the simulator, never of the scenario."""


class DivergedError(SutureError, ArithmeticError):
    """The model has left the range of numbers."""


@dataclass
class TrainedRun:
    """What a run brought forth.

    Attributes
    ----------
    parameters : dict of str to Tensor
        The final model: ``[1, *shape]``, or ``[clinic, *shape]`` where every clinic has its own.
    best_parameters : dict of str to Tensor
        The model after the round with the best pooled validation AUC; the final model without validation records.
    evaluations, validations : list of Evaluation
        On held-out and on validation records, before the first round and after each; no validations without such
        records.
    meter : Meter
        What really crossed.
    trail : Trail
        The same, round by round.
    clips : list of float
        Under clinic-level privacy with an adaptive clip: before the first round and after each.
    """

    parameters: dict[str, Tensor]
    meter: Meter
    trail: Trail
    best_parameters: dict[str, Tensor] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    validations: list[Evaluation] = field(default_factory=list)
    clips: list[float] = field(default_factory=list)

    @property
    def best_round(self) -> int | None:
        """The first round with the best validation AUC; None without validation records. Test records never decide."""
        scores = [validation.pooled["auc"] for validation in self.validations]
        return int(np.nanargmax(scores)) if scores and not np.all(np.isnan(scores)) else None


def train_run(
    plan: Plan,
    federation: Federation,
    node_groups: int = 1,
    watch: Callable[[int, Evaluation], None] = lambda server_round, evaluation: None,
) -> TrainedRun:
    """Train a planned run through its Flower strategy and client app.

    Parameters
    ----------
    plan : Plan
    federation : Federation
        The one that was planned for.
    node_groups : int
        Number of nodes the clinics are shared out to. A strategy named by import path always has one clinic a node.
    watch : callable
        Told of every round and its evaluation on held-out records as it ends.

    Returns
    -------
    TrainedRun

    Raises
    ------
    PlanMismatchError
        If a counted byte or a noised step differs from the plan.
    DivergedError
        If a round's model answers with something that is no number.
    """
    quiet()
    executed = plan.spec.train.model_copy(update={"rounds": plan.rounds})
    spec = plan.spec.model_copy(update={"train": executed})
    config = run_config(spec, plan.noise_multipliers, plan.release_noise, plan.attended, plan.spec.digest)
    job = job_of(config)
    strategy = build_strategy(job)
    clinics = len(job.sizes)
    nodes = node_groups if isinstance(strategy, CohortStrategy) else clinics
    meter = Meter(clinics)
    grid = InProcessGrid(client_app, node_groups_of(clinics, nodes), config, meter)
    tester = Evaluator(job.network, federation.test)
    validator = Evaluator(job.network, federation.validation) if len(federation.validation.y) else None
    trail = Trail()
    learned = TrainedRun(job.network.initial_parameters(job.seed), meter, trail)

    def noised_steps() -> dict[str, NDArray[np.int64]]:
        at_server = strategy.server_noised_steps if isinstance(strategy, CohortStrategy) else {}
        return {**meter.noised_steps, **{part: steps.numpy() for part, steps in at_server.items()}}

    def look(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        learned.parameters = _whole_model(job, tensors_in(arrays), grid) if server_round else tensors_in(arrays)
        trail.close_round(server_round, meter.traffic, noised_steps())
        if job.adaptive is not None and isinstance(strategy, CohortStrategy):
            learned.clips.append(strategy.clip)
        learned.evaluations.append(_judged(tester, learned.parameters, server_round))
        watch(server_round, learned.evaluations[-1])
        if validator is not None:
            learned.validations.append(_judged(validator, learned.parameters, server_round))
        if learned.best_round in (None, server_round):
            learned.best_parameters = learned.parameters
        return None

    try:
        strategy.start(grid, array_record(learned.parameters), plan.rounds, evaluate_fn=look)
    except NotFiniteError as error:  # the clinics are simulated, and do as they should
        raise _diverged(len(learned.evaluations)) from error
    if isinstance(strategy, CohortStrategy):
        for part, steps in strategy.server_noised_steps.items():
            meter.count_noise(part, range(clinics), steps.tolist())
    check_against_plan(plan, meter, job)
    return learned


def _whole_model(job: Job, at_server: Mapping[str, Tensor], grid: InProcessGrid) -> dict[str, Tensor]:
    """Return the model ``[1, *shape]``, or ``[clinic, *shape]`` with what lies at the clinics in its place."""
    if not job.apart:
        return dict(at_server)
    everywhere = {**expand(at_server, len(job.sizes)), **kept_by_clinics(grid.contexts)}
    return job.network.whole.select(everywhere)


def _judged(evaluator: Evaluator, parameters: Mapping[str, Tensor], server_round: int) -> Evaluation:
    with np.errstate(invalid="ignore"):
        try:
            return evaluator.evaluate(parameters)
        except ValueError:
            if np.isfinite(evaluator.class_probabilities(parameters)).all():
                raise
    raise _diverged(server_round)


def _diverged(server_round: int) -> DivergedError:
    return DivergedError(
        f"the model diverged: after round {server_round} it has no finite outputs; lower the learning rate"
    )


def check_imported(spec: RunSpec, clinics: int) -> None:
    """Raise a ``ScenarioError`` if a strategy named by import path cannot be built with the scenario's options."""
    quiet()
    try:
        build_imported(spec.strategy.name, spec.strategy.options, clinics)
    except StrategyError as error:
        raise ScenarioError([f"strategies: {error}; check the import path and the options"]) from None


def check_against_plan(plan: Plan, meter: Meter, job: Job) -> None:
    """Hold what was counted against the plan.

    Parameters
    ----------
    plan : Plan
    meter : Meter
    job : Job

    Raises
    ------
    PlanMismatchError
        If a byte, a noised step or a release differs; names each kind that does.
    """
    nothing = np.zeros(len(job.sizes), dtype=np.int64)
    wrong = [
        f"{what}: planned {planned.get(key, nothing)}, counted {counted.get(key, nothing)}"
        for planned, counted, what, key in _compared(plan, meter)
        if not np.array_equal(planned.get(key, nothing), counted.get(key, nothing))
    ]
    noised = {part: count.tolist() for part, count in meter.noised_steps.items()}
    if build_ledger(job, plan.sampled, noised) != plan.ledger:
        wrong.append("the executed releases are not the planned ones")
    if wrong:
        raise PlanMismatchError("; ".join(wrong))


def _compared(plan: Plan, meter: Meter) -> Iterator[tuple[Mapping[Any, Any], Mapping[Any, Any], str, Any]]:
    for key in sorted({*plan.traffic, *meter.traffic}):
        yield plan.traffic, meter.traffic, f"bytes {key[0]}, {key[1]}", key
    for part in sorted({*plan.noised_steps, *meter.noised_steps}):
        yield plan.noised_steps, meter.noised_steps, f"noised steps, {part}", part
