"""Training the whole model at the clinic: federated averaging's client, and a clinic that trains alone."""

from __future__ import annotations

from flwr.app import Context, Message, MetricRecord

from sim.engine.learner import Learner, expand, train_whole
from sim.engine.messages import MODEL, OBSERVED, array_record, config_of, content, integers, tensors, tensors_in
from sim.engine.workplace import workplace_of

KEPT_PARAMETERS, KEPT_OPTIMIZER = "parameters", "optimizer"


def train(message: Message, context: Context) -> Message:
    """Take the global model, train it on each clinic's own records, and return one model a clinic.

    The optimiser starts afresh in every round (McMahan et al. 2017, ClientUpdate).
    """
    job, cohort = workplace_of(context)
    config = config_of(message)
    clinics = job.in_lane_order(integers(config, "clinics") or cohort.clinics)
    learner = Learner(job, job.network.whole, clinics, expand(tensors(message, MODEL), len(clinics)))
    train_whole(learner, cohort, _round(message))
    return _reply(message, learner, MODEL)


def train_alone(message: Message, context: Context) -> Message:
    """Train each clinic's own model further; model and optimiser stay at the clinic, and nothing crosses."""
    job, cohort = workplace_of(context)
    clinics = list(cohort.clinics)
    kept = context.state.array_records
    if KEPT_PARAMETERS in kept:
        learner = Learner(
            job, job.network.whole, clinics, tensors_in(kept[KEPT_PARAMETERS]), tensors_in(kept[KEPT_OPTIMIZER])
        )
    else:
        initial = expand(job.network.initial_parameters(job.seed), len(clinics))
        learner = Learner(job, job.network.whole, clinics, initial)
    train_whole(learner, cohort, _round(message))
    context.state[KEPT_PARAMETERS] = array_record(learner.parameters)
    context.state[KEPT_OPTIMIZER] = array_record(learner.state)
    return _reply(message, learner, OBSERVED)


def _round(message: Message) -> int:
    return int(config_of(message)["server-round"])  # type: ignore[arg-type]


def _reply(message: Message, learner: Learner, kind: str) -> Message:
    config: dict[str, list[int] | list[str]] = {"clinics": learner.clinics}
    if learner.job.dp is not None:
        config |= {"noised-parts": [learner.part.name], "noised-steps": learner.noised_steps.tolist()}
    record = content({kind: learner.parameters}, config)
    record["metrics"] = MetricRecord({"num-examples": sum(learner.job.sizes[k] for k in learner.clinics)})
    return Message(record, reply_to=message)
