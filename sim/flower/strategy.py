"""Flower's ``Strategy`` made of a method's rounds, and the strategies of Flower's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from clients.own import own_names
from sim.flower.exchange import GridExchange
from sim.flower.imported import Imported
from sim.flower.wire import array_record, tensors_in
from sim.methods.job import Job
from sim.methods.method import State
from sim.tensor.program import Program


@final
class Rounds(Strategy):
    """Runs a method's rounds under Flower's server loop.

    A whole round is done when Flower asks for the messages to train, so that none is left to send. Evaluation is left
    to the simulator, which applies one rule to every method (``evaluate_fn`` of ``Strategy.start``).

    Parameters
    ----------
    job : Job
    wait : float, optional
        Seconds to wait for the nodes to come, and for their answers.
    program : Program, optional
        Does what the server trains.

    Attributes
    ----------
    state : State or None
        None before the first round.
    """

    def __init__(self, job: Job, wait: float | None = None, program: Program | None = None) -> None:
        self.exchange = GridExchange(job, wait, program)
        self.state: State | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Do the round."""
        job, exchange = self.exchange.job, self.exchange
        exchange.open(grid, server_round)
        if self.state is None:
            own = own_names(job)
            model = {name: value for name, value in tensors_in(arrays).items() if name not in own}
            state = State(model=model, clip=job.spec.privacy.clip)
            self.state = state if job.method.begin is None else job.method.begin(exchange, state)
        if job.method.round is not None:
            self.state = job.method.round(exchange, self.state)
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return what the server has of the model."""
        return (array_record(self.state.model) if self.state is not None and self.state.model else None), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask for nothing: the simulator evaluates."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing: the simulator evaluates."""
        return None

    def summary(self) -> None:
        """Log nothing: the plan says what will happen."""


def build_strategy(job: Job, wait: float | None = None, program: Program | None = None) -> Rounds | Imported:
    """Build the strategy of a job: the rounds of its method, or one of Flower's; takes what these take.

    Raises ``StrategyError`` if an import path leads to no Flower strategy or its options do not fit.
    """
    return Imported(job, wait) if job.method.imported else Rounds(job, wait, program)
