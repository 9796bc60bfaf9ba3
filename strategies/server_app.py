"""The strategies by name, and how to build one for a job."""

from __future__ import annotations

from flwr.serverapp.strategy import Strategy

from sim.job import Job
from strategies.centralised import Centralised
from strategies.cohorts import CohortStrategy
from strategies.fedavg import FedAvg
from strategies.fedprox import FedProx
from strategies.imported import Imported
from strategies.local import Local
from strategies.split import Split
from strategies.splitfed_v1 import SplitFedV1
from strategies.splitfed_v2 import SplitFedV2
from strategies.splitfed_v3 import SplitFedV3

__all__ = ["STRATEGIES", "CohortStrategy", "build_strategy"]

STRATEGIES: dict[str, type[CohortStrategy]] = {
    "centralised": Centralised,
    "local": Local,
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "split": Split,
    "splitfed-v1": SplitFedV1,
    "splitfed-v2": SplitFedV2,
    "splitfed-v3": SplitFedV3,
}


def build_strategy(job: Job) -> Strategy:
    """Build the strategy that a job names: one of ``STRATEGIES``, or the import path of any Flower strategy.

    Raises
    ------
    StrategyError
        If an import path leads to no Flower strategy or its options do not fit.
    """
    name = job.spec.strategy.name
    return STRATEGIES[name](job) if name in STRATEGIES else Imported(job)
