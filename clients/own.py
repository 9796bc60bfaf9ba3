"""What is each clinic's own: parts with their optimiser's state, or BatchNorm's running statistics.

It is kept at the clinic between rounds and is in no message: the simulator reads it where it lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from clients.session import optimizer_state_of, parameters_of, trainers_for
from sim.methods.job import Job
from sim.methods.trainer import Trainer, expand
from sim.methods.workplace import Kept, Workplace
from sim.models import Parameters

PARAMETERS, OPTIMIZER = "own.parameters", "own.optimizer"


def own_values(here: Workplace, clinics: Sequence[int]) -> tuple[Parameters, Parameters]:
    """Return copies of what some clinics have of their own, parameters and optimiser state; all begin with the same."""
    job, everyone = here.job, here.group.clinics
    if not job.apart:
        return {}, {}
    if PARAMETERS not in here.memory:
        initial = expand(job.network.initial_parameters(job.seed), len(everyone))
        here.memory.keep_tensors(PARAMETERS, {name: initial[name] for name in initial if name in own_names(job)})
        whole_parts = job.protocol.movement == "own"
        alike = [[k] for k in everyone] if job.parties is not None else [list(everyone)]
        trained = (trainers_for(job, some, initial) for some in alike) if whole_parts else ()
        fresh = {name: value for each in trained for name, value in optimizer_state_of(each).items()}
        here.memory.keep_tensors(OPTIMIZER, fresh)
    lanes = [here.group.places[k] for k in clinics]
    kept = [here.memory.tensors(name) for name in (PARAMETERS, OPTIMIZER)]
    parameters, state = ({name: value[lanes] for name, value in values.items()} for values in kept)
    return parameters, state


def own_names(job: Job) -> frozenset[str]:
    """Return the names of the values that a clinic keeps."""
    return job.apart.intersection(job.shapes(job.protocol.clinic_parts))


def keep_own(here: Workplace, clinics: Sequence[int], trainers: Mapping[str, Trainer]) -> None:
    """Put what the clinics have of their own back; what the simulator has read of earlier rounds stays as it was."""
    lanes = [here.group.places[k] for k in clinics]
    for name, trained in ((PARAMETERS, parameters_of(trainers)), (OPTIMIZER, optimizer_state_of(trainers))):
        whole = {key: value.clone() for key, value in here.memory.tensors(name).items()}
        for key in whole.keys() & trained.keys():
            whole[key][lanes] = trained[key]
        here.memory.keep_tensors(name, whole)


def shared_values(job: Job, parameters: Mapping[str, Tensor]) -> Parameters:
    """Return those parameters that cross."""
    return {name: value for name, value in parameters.items() if name not in job.apart}


def kept_at(here: Workplace) -> Kept:
    """Read what the clinics of a node have of their own where it lies; for the simulator alone."""
    clinics = list(here.group.clinics)
    return clinics, own_values(here, clinics)[0]


def kept_by_clinics(job: Job, kept: Iterable[Kept]) -> Parameters:
    """Put what the clinics of all nodes have of their own together, ``[clinic, *shape]``."""
    initial = expand(job.network.initial_parameters(job.seed), len(job.sizes))
    found = {name: value for name, value in initial.items() if name in own_names(job)}
    for clinics, own in kept:
        for name, value in own.items():
            found[name][clinics] = value
    if job.parties is not None:
        return {name: value[job.parties.owners(name)] for name, value in found.items()}
    return found
