"""The Flower ServerApp: replays one run of a scenario on any grid, one clinic a node."""

from __future__ import annotations

import time

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from safetensors.torch import save_file

from sim.flower.internals import quiet
from sim.flower.strategy import build_strategy
from sim.flower.wire import array_record, tensors_in
from sim.flower.workplace import stated_run
from sim.tensor.evaluation import Evaluator

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Replay the run that the run config states, and write the model where ``out`` says.

    The run config names ``scenario`` and ``run``, as in ``[tool.flwr.app.config]``. ``out`` is a safetensors file.
    """
    quiet()
    plan, federation, _ = stated_run(context.run_config)
    job = plan.job
    while len(list(grid.get_node_ids())) < len(job.sizes):
        time.sleep(0.5)
    initial = job.network.initial_parameters(job.seed)
    result = build_strategy(job).start(grid, array_record(initial), job.spec.train.rounds)
    final = tensors_in(result.arrays) if job.spec.train.rounds else initial
    if job.apart:
        print("each clinic keeps parts of its own, which no message carries: there is no one model to evaluate here")
    else:
        scores = Evaluator(job.network, federation.test).evaluate(final).pooled
        print("held-out records, pooled: " + ", ".join(f"{name} {value:.6f}" for name, value in scores.items()))
    if out := str(context.run_config.get("out", "")):
        save_file({name: value.contiguous() for name, value in final.items()}, out)
