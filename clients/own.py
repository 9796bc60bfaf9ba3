"""Parts that are each clinic's own: kept at the clinic between rounds, parameters and optimiser state, never sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.app import Context

from clients.session import learners_for, optimizer_state_of, parameters_of
from sim.engine.learner import Learner, expand
from sim.engine.messages import array_record, tensors_in
from sim.engine.workplace import Cohort
from sim.job import Job

PARAMETERS, OPTIMIZER = "own.parameters", "own.optimizer"


def own_learners(context: Context, job: Job, cohort: Cohort, clinics: Sequence[int]) -> dict[str, Learner]:
    """Return learners of some clinics' own parts, as copies; all clinics begin with the same initial parameters."""
    if PARAMETERS not in context.state:
        initial = expand(job.network.initial_parameters(job.seed), len(cohort.clinics))
        fresh = learners_for(job, cohort.clinics, initial, {}, {})
        context.state[PARAMETERS] = array_record(parameters_of(fresh))
        context.state[OPTIMIZER] = array_record(optimizer_state_of(fresh))
    lanes = [cohort.clinics.index(k) for k in clinics]
    kept = context.state.array_records
    parameters, state = ({n: v[lanes] for n, v in tensors_in(kept[r]).items()} for r in (PARAMETERS, OPTIMIZER))
    return learners_for(job, clinics, parameters, state, {})


def keep_own(context: Context, cohort: Cohort, clinics: Sequence[int], learners: Mapping[str, Learner]) -> None:
    """Put the clinics' trained parts back; what the simulator observed of earlier rounds stays as it was."""
    lanes = [cohort.clinics.index(k) for k in clinics]
    for record, trained in ((PARAMETERS, parameters_of(learners)), (OPTIMIZER, optimizer_state_of(learners))):
        whole = {name: value.clone() for name, value in tensors_in(context.state.array_records[record]).items()}
        for name, value in trained.items():
            whole[name][lanes] = value
        context.state[record] = array_record(whole)
