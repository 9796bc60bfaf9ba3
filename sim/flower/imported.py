"""Any Flower strategy by its import path, unmodified, one clinic a node, and in each round every clinic there is."""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from sim.flower.exchange import NO_ANSWER, hosts, in_order, read
from sim.flower.internals import quiet
from sim.flower.wire import array_record, reply_in, tensors_in
from sim.foundation.problems import ScenarioError, SutureError, place_of
from sim.foundation.rng import Key, stream
from sim.methods.forms import Forms
from sim.methods.job import Job
from sim.methods.replies import (
    CLIPPED,
    MOST,
    TRAINING_LOSS,
    AbsentError,
    ExchangeError,
    expected_of_whole,
    raise_fault,
    reply_fault,
)
from sim.scenario.spec import RunStrategy


class StrategyError(SutureError, ValueError):
    """A strategy named by import path cannot be built."""


@final
class Imported(Strategy):
    """Hands every call on to the imported strategy.

    Four things are added around it: a clinic's error ends the run (Flower would go on without that clinic); a clinic
    that is away is not asked, and a lost one's reply is missing; the model keeps its element type (some of Flower's
    strategies turn it into 64-bit floats, which would double the traffic); and the global generators that Flower draws
    from hold a stream of the run's while it draws.

    Parameters
    ----------
    job : Job
        Its strategy's name is the import path; its options are the keyword arguments. An option ``strategy`` that is an
        import path too is built first, for Flower's wrappers.
    wait : float, optional
        Seconds to wait for the nodes to come.

    Raises
    ------
    StrategyError
        If the path leads to no Flower strategy or the options do not fit.
    """

    def __init__(self, job: Job, wait: float | None = None) -> None:
        self._job = job
        self._wait = wait
        self._home: dict[int, int] = {}
        self._asked: list[int] = []
        self._forms = Forms(job)
        self.inner = build_imported(job.spec.strategy.name, job.spec.strategy.options, len(job.sizes))

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Put the strategy's name in front of an error raised inside it."""
        try:
            yield
        except Exception as error:
            name = self._job.spec.strategy.name
            raise StrategyError(f"strategy {name!r} failed: {place_of(error)}; check its options") from None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Hand on."""
        config["server-round"] = server_round
        if not self._home:
            self._home = hosts(grid, len(self._job.sizes), self._wait)
        elif gone := set(self._home.values()).difference(grid.get_node_ids()):
            raise AbsentError([k for k, node in self._home.items() if node in gone], "the node is gone")
        there = {self._home[k] for k in self._job.participants(server_round)}
        with self._named_errors(), seeded_globals(self._job.seed, server_round):
            asked = list(self.inner.configure_train(server_round, arrays, config, grid))
        kept = [message for message in asked if message.metadata.dst_node_id in there]
        self._asked = [message.metadata.dst_node_id for message in kept]
        return kept

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Hand on sound replies, and give the model back in its clinics' element type."""
        sound = self._sound(server_round, replies)
        if not sound:
            return None, None
        kept = reply_in(sound[0]).model
        with self._named_errors(), seeded_globals(self._job.key, server_round):
            arrays, metrics = self.inner.aggregate_train(server_round, sound)
        if arrays is None:
            return None, metrics
        return array_record({name: value.to(kept[name].dtype) for name, value in tensors_in(arrays).items()}), metrics

    def _sound(self, server_round: int, replies: Iterable[Message]) -> list[Message]:
        """Return the replies that an honest clinic could have sent; lost clinics' are left out.

        Raises
        ------
        ExchangeError
            If one is missing, an error, or none of these.
        """
        found, sound = in_order(replies), []
        clinic_of = {node: k for k, node in self._home.items()}
        if silent := set(self._asked).difference(node for node, _ in found):
            raise AbsentError(sorted(clinic_of[node] for node in silent), NO_ANSWER)
        if [node for node, _ in found] != sorted(self._asked):
            raise ExchangeError(
                f"{len(found)} replies came from {len(self._asked)} nodes that were asked; one each is due"
            )
        for node, message in found:
            reply, k = read(message, [clinic_of[node]]), clinic_of[node]
            told = {TRAINING_LOSS} if self._job.dp is None else set()
            told |= {CLIPPED} & reply.metrics.keys()
            expected = expected_of_whole(self._job, server_round, [k], {key: MOST[key] for key in told})
            if fault := reply_fault(self._forms, expected, reply):
                raise_fault([k], fault)
            if expected.parts:
                sound.append(message)
        return sound

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Hand on."""
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Hand on."""
        return self.inner.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Hand on."""
        self.inner.summary()


def build_imported(name: str, options: Mapping[str, Any], nodes: int) -> Strategy:
    """Build a Flower strategy by its import path, to run with every one of ``nodes`` nodes in every round.

    Raises
    ------
    StrategyError
        If the path leads to no Flower strategy or the options do not fit.
    """
    module_name, _, class_name = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise StrategyError(f"strategy {name!r} cannot be imported: {error}") from None
    except (Exception, SystemExit) as error:
        raise StrategyError(f"strategy {name!r} cannot be imported: {place_of(error)}") from None
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise StrategyError(f"strategy {name!r} is not a Flower Strategy")
    accepted = inspect.signature(found).parameters
    everyone = {"fraction_evaluate": 0.0, "min_train_nodes": nodes, "min_available_nodes": nodes}
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    arguments = {key: value for key, value in everyone.items() if anything or key in accepted}
    arguments |= {key.replace("-", "_"): value for key, value in options.items()}
    if arguments.get("num_sampled_clients", nodes) != nodes:
        raise StrategyError(
            f"strategy {name!r}: its noise is scaled by num-sampled-clients, which must be {nodes} here"
        )
    if isinstance(inner := arguments.get("strategy"), str):
        arguments["strategy"] = build_imported(inner, {}, nodes)
    try:
        return found(**arguments)
    except (TypeError, ValueError) as error:
        raise StrategyError(f"strategy {name!r}: {error}") from None


@contextmanager
def seeded_globals(key: Key, server_round: int) -> Iterator[None]:
    """Let code that draws from ``random`` and ``numpy.random`` draw from a stream of this key, and put both back."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    drawn = stream(key, "imported-strategy", server_round=server_round).integers(2**32, size=2)
    random.seed(int(drawn[0]))
    np.random.seed(int(drawn[1]))  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def check_imported(strategy: RunStrategy, clinics: int) -> None:
    """Raise a ``ScenarioError`` if a strategy named by import path cannot be built with the scenario's options."""
    quiet()
    try:
        build_imported(strategy.name, strategy.options, clinics)
    except StrategyError as error:
        raise ScenarioError(f"strategies: {error}; check the import path and the options") from None
