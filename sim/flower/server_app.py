"""The Flower ServerApp: replays one run of a scenario on any grid."""

from __future__ import annotations

import os

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from safetensors.torch import save_file

from sim.data.federation import Federation
from sim.flower.internals import quiet, told_in_one_line
from sim.flower.strategy import build_strategy
from sim.flower.wire import array_record, tensors_in
from sim.flower.workplace import RunConfig, stated_run
from sim.foundation.problems import ScenarioError, SutureError
from sim.methods.job import Job
from sim.methods.replies import AbsentError
from sim.models import Parameters
from sim.tensor.evaluation import Evaluator
from sim.tensor.scoring import scorer_of

app = ServerApp()


class ReplayError(SutureError):
    """A replay that could not be finished."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Replay the run that the run config states; see :class:`sim.flower.workplace.RunConfig`.

    Raises
    ------
    SutureError
        In one line a problem, each a clear one; Flower ends the run as failed.
    """
    told_in_one_line()
    quiet()
    print(
        "This is a replay of a simulation, not a deployment: every party, the server and each node, reads the scenario "
        "and all records of all clinics.",
        flush=True,
    )
    config = RunConfig.of(context.run_config)
    if config.out is not None and not os.access(config.out.parent, os.W_OK):
        raise ScenarioError(f"run config: out: nothing can be written into {config.out.parent} of the server")
    plan, federation, _ = stated_run(config)
    job = plan.job
    try:
        final, rounds = job.network.initial_parameters(job.seed), job.spec.train.rounds
        result = build_strategy(job, config.wait).start(grid, array_record(final), rounds, timeout=config.wait)
        final = tensors_in(result.arrays) if rounds else final
    except AbsentError as error:
        names = ", ".join(job.facts.names[k] for k in error.clinics)
        raise ReplayError(f"lost {names}: {error.text}; the limit is {config.wait:g} s (wait-seconds)") from None
    _tell_scores(job, federation, final)
    if config.out is not None:
        try:
            save_file({name: value.contiguous() for name, value in final.items()}, config.out)
        except Exception as error:
            raise ReplayError(f"{config.out} cannot be written ({type(error).__name__})") from None


def _tell_scores(job: Job, federation: Federation, model: Parameters) -> None:
    if job.apart:
        print("each clinic keeps parts of its own, which no message carries: there is no one model to evaluate here")
        return
    scorer = scorer_of(job.outcome, job.spec.evaluation)
    scores = Evaluator(job.network, federation.test, unseen=federation.unseen, scorer=scorer).evaluate(model).pooled
    print("held-out records: " + ", ".join(f"{name} {value:.6f}" for name, value in scores.items()))
