"""What is each clinic's own: parts with their optimiser's state, or BatchNorm's running statistics.

It is kept at the clinic between rounds and never sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.app import Context
from torch import Tensor

from clients.session import learners_for, optimizer_state_of, parameters_of
from sim.engine.learner import Learner, expand
from sim.engine.messages import MODEL, OBSERVED, array_record, tensors_in
from sim.engine.workplace import Cohort
from sim.job import Job
from sim.models import Parameters

PARAMETERS, OPTIMIZER = "own.parameters", "own.optimizer"
DESTINATIONS = ((MODEL, False), (OBSERVED, True))


def own_values(context: Context, job: Job, cohort: Cohort, clinics: Sequence[int]) -> tuple[Parameters, Parameters]:
    """Return copies of what some clinics have of their own, parameters and optimiser state; all begin with the same."""
    if not job.apart:
        return {}, {}
    if PARAMETERS not in context.state:
        initial = expand(job.network.initial_parameters(job.seed), len(cohort.clinics))
        context.state[PARAMETERS] = array_record({name: initial[name] for name in initial if name in own_names(job)})
        whole_parts = job.protocol.movement == "own"
        fresh = optimizer_state_of(learners_for(job, cohort.clinics, initial, {}, {})) if whole_parts else {}
        context.state[OPTIMIZER] = array_record(fresh)
    lanes = [cohort.clinics.index(k) for k in clinics]
    kept = context.state.array_records
    parameters, state = ({n: v[lanes] for n, v in tensors_in(kept[r]).items()} for r in (PARAMETERS, OPTIMIZER))
    return parameters, state


def own_names(job: Job) -> frozenset[str]:
    """Return the names of the values that a clinic keeps."""
    return job.apart & {name for part in job.protocol.clinic_parts for name in job.part(part).shapes()}


def keep_own(
    context: Context, job: Job, cohort: Cohort, clinics: Sequence[int], learners: Mapping[str, Learner]
) -> None:
    """Put what the clinics have of their own back; what the simulator observed of earlier rounds stays as it was."""
    lanes = [cohort.clinics.index(k) for k in clinics]
    for record, trained in ((PARAMETERS, parameters_of(learners)), (OPTIMIZER, optimizer_state_of(learners))):
        whole = {name: value.clone() for name, value in tensors_in(context.state.array_records[record]).items()}
        for name, value in whole.items():
            value[lanes] = trained[name]
        context.state[record] = array_record(whole)


def by_destination(job: Job, parameters: Mapping[str, Tensor]) -> dict[str, Parameters]:
    """Share trained parameters out by kind of message: those that cross, and those that the simulator observes."""
    kinds = {kind: {n: v for n, v in parameters.items() if (n in job.apart) == own} for kind, own in DESTINATIONS}
    return {kind: named for kind, named in kinds.items() if named}
