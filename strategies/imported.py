"""Any Flower strategy by its import path, unmodified, one clinic a node and every clinic in every round."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from sim.engine.messages import array_kinds, array_record, tensors, tensors_in
from sim.job import Job
from strategies.cohorts import checked


class StrategyError(ValueError):
    """A strategy named by import path cannot be built."""


@final
class Imported(Strategy):
    """Hands every call on to the imported strategy.

    Two things are added around it: a clinic's error ends the run (Flower would go on without that clinic), and the
    model keeps its element type (some of Flower's strategies turn it into 64-bit floats, which would double the
    traffic).

    Parameters
    ----------
    job : Job
        Its strategy's name is the import path; its options are the keyword arguments.

    Raises
    ------
    StrategyError
        If the path leads to no Flower strategy or the options do not fit.
    """

    def __init__(self, job: Job) -> None:
        name = job.spec.strategy.name
        module_name, _, class_name = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise StrategyError(f"strategy {name!r} cannot be imported: {error}") from None
        if not (isinstance(found, type) and issubclass(found, Strategy)):
            raise StrategyError(f"strategy {name!r} is not a Flower Strategy")
        nodes = len(job.sizes)
        everyone = {"fraction_evaluate": 0.0, "min_train_nodes": nodes, "min_available_nodes": nodes}
        try:
            self.inner: Strategy = found(**{**everyone, **job.spec.strategy.options})
        except TypeError as error:
            raise StrategyError(f"strategy {name!r}: {error}") from None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Hand on."""
        config["server-round"] = server_round
        return self.inner.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Hand on sound replies, and give the model back in its clinics' element type."""
        sound = checked(replies)
        arrays, metrics = self.inner.aggregate_train(server_round, sound)
        if arrays is None or not sound:
            return arrays, metrics
        before = tensors(sound[0], array_kinds(sound[0])[0])
        return array_record({name: value.to(before[name].dtype) for name, value in tensors_in(arrays).items()}), metrics

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
