"""What is each clinic's own: parts with their optimiser's state, or BatchNorm's running statistics.

It is kept at the clinic between rounds and is in no message: the simulator reads it where it lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flwr.app import Context
from torch import Tensor

from clients.session import optimizer_state_of, parameters_of, trainers_for
from sim.flower.messages import array_record, tensors_in
from sim.flower.workplace import workplace_of
from sim.methods.job import Job
from sim.methods.node_group import NodeGroup
from sim.methods.trainer import Trainer, expand
from sim.models import Parameters

PARAMETERS, OPTIMIZER = "own.parameters", "own.optimizer"


def own_values(context: Context, job: Job, group: NodeGroup, clinics: Sequence[int]) -> tuple[Parameters, Parameters]:
    """Return copies of what some clinics have of their own, parameters and optimiser state; all begin with the same."""
    if not job.apart:
        return {}, {}
    if PARAMETERS not in context.state:
        initial = expand(job.network.initial_parameters(job.seed), len(group.clinics))
        context.state[PARAMETERS] = array_record({name: initial[name] for name in initial if name in own_names(job)})
        whole_parts = job.protocol.movement == "own"
        fresh = optimizer_state_of(trainers_for(job, group.clinics, initial, {}, {})) if whole_parts else {}
        context.state[OPTIMIZER] = array_record(fresh)
    lanes = [group.clinics.index(k) for k in clinics]
    kept = context.state.array_records
    parameters, state = ({n: v[lanes] for n, v in tensors_in(kept[r]).items()} for r in (PARAMETERS, OPTIMIZER))
    return parameters, state


def own_names(job: Job) -> frozenset[str]:
    """Return the names of the values that a clinic keeps."""
    return job.apart & {name for part in job.protocol.clinic_parts for name in job.part(part).shapes()}


def keep_own(
    context: Context, job: Job, group: NodeGroup, clinics: Sequence[int], trainers: Mapping[str, Trainer]
) -> None:
    """Put what the clinics have of their own back; what the simulator has read of earlier rounds stays as it was."""
    lanes = [group.clinics.index(k) for k in clinics]
    for record, trained in ((PARAMETERS, parameters_of(trainers)), (OPTIMIZER, optimizer_state_of(trainers))):
        whole = {name: value.clone() for name, value in tensors_in(context.state.array_records[record]).items()}
        for name, value in whole.items():
            value[lanes] = trained[name]
        context.state[record] = array_record(whole)


def shared_values(job: Job, parameters: Mapping[str, Tensor]) -> Parameters:
    """Return those parameters that cross."""
    return {name: value for name, value in parameters.items() if name not in job.apart}


def kept_by_clinics(contexts: Iterable[Context]) -> Parameters:
    """Read what all clinics have of their own where it lies, ``[clinic, *shape]``; for the simulator alone."""
    kept: Parameters = {}
    for context in contexts:
        job, group = workplace_of(context)
        clinics = list(group.clinics)
        if not kept:
            initial = expand(job.network.initial_parameters(job.seed), len(job.sizes))
            kept = {name: value for name, value in initial.items() if name in own_names(job)}
        for name, value in own_values(context, job, group, clinics)[0].items():
            kept[name][clinics] = value
    return kept
