"""The strategies by name, how to build one for a job, and the Flower ServerApp that runs one on any grid."""

from __future__ import annotations

import time

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy
from safetensors.torch import save_file

from sim.flower.imported import Imported, StrategyError, build_imported
from sim.flower.internals import quiet
from sim.flower.messages import array_record, tensors_in
from sim.flower.workplace import federation_of, job_of
from sim.methods.job import Job
from sim.tensor.evaluation import Evaluator
from strategies.centralised import Centralised
from strategies.cohorts import CohortStrategy
from strategies.fedavg import FedAvg
from strategies.fedprox import FedProx
from strategies.local import Local
from strategies.release_once import ReleaseOnce
from strategies.replies import NotFiniteError
from strategies.split import Split
from strategies.splitfed_v1 import SplitFedV1
from strategies.splitfed_v2 import SplitFedV2
from strategies.splitfed_v3 import SplitFedV3

__all__ = ["STRATEGIES", "CohortStrategy", "NotFiniteError", "StrategyError", "app", "build_imported", "build_strategy"]

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
    if job.spec.privacy.releases_once:
        return ReleaseOnce(job)
    name = job.spec.strategy.name
    return STRATEGIES[name](job) if name in STRATEGIES else Imported(job)


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the job that the run config states, one clinic a node, and write the model where ``out`` says.

    The run config names ``scenario`` and ``run``, as in ``[tool.flwr.app.config]``. ``out`` is a safetensors file.
    """
    quiet()
    job = job_of(context.run_config)
    while len(list(grid.get_node_ids())) < len(job.sizes):
        time.sleep(0.5)
    initial = job.network.initial_parameters(job.seed)
    result = build_strategy(job).start(grid, array_record(initial), job.spec.train.rounds)
    final = tensors_in(result.arrays) if job.spec.train.rounds else initial
    if job.apart:
        print("each clinic keeps parts of its own, which no message carries: there is no one model to evaluate here")
    else:
        scores = Evaluator(job.network, federation_of(context.run_config).test).evaluate(final).pooled
        print("held-out records, pooled: " + ", ".join(f"{name} {value:.6f}" for name, value in scores.items()))
    if out := str(context.run_config.get("out", "")):
        save_file({name: value.contiguous() for name, value in final.items()}, out)
