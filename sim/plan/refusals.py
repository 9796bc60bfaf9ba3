"""What is refused before anything is planned, in a line for each reason.

Mechanisms without a use, data without a task, what is not simulated yet, and what would not fit in this machine's
memory or take for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Final

from sim.data.archives import archive_fault
from sim.data.facts import Facts
from sim.foundation.files import scarce, status
from sim.foundation.problems import ScenarioError, show
from sim.methods.edges import CLOUD_EVERY
from sim.methods.method import Method, method_of
from sim.methods.parties import groups_at
from sim.methods.protocol import protocol_of
from sim.methods.sampling import wanted
from sim.models.build import build_network
from sim.privacy.mechanisms.mechanism import acting, on_labels, on_rows
from sim.scenario.clinics import groups_of
from sim.scenario.edges import MULTI_HOP, membership_problems
from sim.scenario.spec import RunSpec

MOST_BATCHES: Final = 50_000_000
MOST_TURNS: Final = 10_000_000
"""Of a run: rounds times clinics."""
_DRAWN_BY_SUTURE: Final = frozenset({"fraction_train", "min_train_nodes", "min_available_nodes", "fraction_evaluate"})
"""Options of Flower's strategies about whom to draw."""


def refuse(spec: RunSpec, facts: Facts) -> None:
    """Raise a ``ScenarioError`` with a line for each reason why a strategy cannot run these settings."""
    method = method_of(spec.strategy.name)
    for stage in (_NEVER_OR_NOT_YET, _FAULTS):
        if problems := list(chain.from_iterable(faults(spec, facts, method) for faults in stage)):
            raise ScenarioError(problems)


def _every(*faults: object) -> Iterator[str]:
    """Yield each fault that is one."""
    yield from (str(fault) for fault in faults if fault)


def _first(*faults: object) -> Iterator[str]:
    """Yield the first fault, if there is one."""
    yield from islice(_every(*faults), 1)


def _not_yet(spec: RunSpec, yet: str) -> tuple[object, ...]:
    """Return what neither edge servers nor a vertical layout go with, and how to say so."""
    privacy = spec.privacy
    return (
        privacy.unit == "clinic" and f"privacy.mechanism: {privacy.mechanism} {yet}take dp-sgd or smashed-noise",
        privacy.secure_aggregation and f"privacy.secure-aggregation: {yet}drop it",
        privacy.colluding_clinics and f"privacy.colluding-clinics: {yet}drop them",
        privacy.trust == "active" and f"privacy.trust: an active server {yet}take trusted or curious",
    )


def _layout_faults(spec: RunSpec, facts: Facts, method: Method) -> Iterator[str]:
    train, model, server, layout = spec.train, spec.model, spec.server, "vertical" if facts.vertical else "horizontal"
    if layout not in method.layouts:
        mend = "name [[parties]] under a vertical one"
        if facts.vertical:
            mend = "take vertical, vertical-splitfed, vertical-alone or centralised"
        yield f"strategies: {method.name} is not for a {layout} layout; {mend}"
    elif facts.vertical and method.trains:
        there = [group.behaviour() for group in groups_at(spec, facts)]
        yet = "is not simulated on a vertical layout yet; "
        yield from _every(
            (train.participation < 1 or train.over_select > 1)
            and f"train.participation: less than all {yet}set it to 1.0",
            train.deadline is not None and f"train.deadline: {yet}remove it",
            any(each.drop_out for each in there) and f"parties: drop-out {yet}remove it",
            any(there[holder].availability < 1 for holder in facts.places.holders)
            and "parties: without the label's holder nothing trains; give it an availability of 1",
            (server.uplink or server.downlink) and f"server: a link that parties share {yet}remove uplink and downlink",
            *_not_yet(spec, yet),
            model.public_head != "random" and f"model.public-head: {yet}remove it",
            model.cut_dropout and f"model.cut-dropout: {yet}drop it",
            train.nopeek and f"train.nopeek: {yet}drop it",
            train.smashed_top_k < 1 and f"train.smashed-top-k: {yet}drop it",
            _compressed(spec) and f"train: compression of updates {yet}drop it",
            facts.places.absent_anywhere
            and getattr(spec.data, "scaling", "") == "pooled"
            and 'data.scaling: "pooled" needs every column in every region; take "public" or "per-clinic"',
        )


def _edge_faults(spec: RunSpec, facts: Facts, method: Method) -> Iterator[str]:
    train, privacy, server = spec.train, spec.privacy, spec.server
    if privacy.rows_noised_at == "edge" and privacy.noises_rows and spec.strategy.cut not in MULTI_HOP:
        yield (
            f"privacy.rows-noised-at: under {method.name} no rows leave an edge server; take "
            f'cut = "{MULTI_HOP[0]}", or set it in the set of strategies that have it'
        )
    if not spec.edges:
        return
    yield from membership_problems(spec.edges, facts.everyone, facts.names)
    if method.edge_round is not None:
        every = spec.strategy.options.get(CLOUD_EVERY, method.options[CLOUD_EVERY])
        if not isinstance(every, int) or not 1 <= every <= 100_000:
            yield f"strategies.options.{CLOUD_EVERY}: {show(every)} is no number of rounds; give a whole number from 1"
        if privacy.epsilon_server is not None:
            yield "privacy.epsilon-server: the cloud gets no rows; give smashed-noise-multiplier for the edge servers"
    yet = "is not simulated with edge servers yet; "
    yield from _every(
        train.deadline is not None and f"train.deadline: {yet}remove it",
        train.over_select > 1 and f"train.over-select: {yet}remove it",
        _compressed(spec) and f"train: compressing updates {yet}drop it",
        (server.uplink or server.downlink) and f"server: a link that edge servers share {yet}remove uplink, downlink",
        *_not_yet(spec, yet),
        privacy.clipping == "joint" and f'privacy.clipping: "joint" {yet}take per-part',
        spec.model.batch_norm == "local" and f'model.batch-norm: "local" {yet}take average',
    )


def _mechanism_faults(spec: RunSpec, facts: Facts, method: Method) -> Iterator[str]:
    sent = protocol_of(method, spec.strategy.cut).rows_sent
    reasons = (mechanism.refusal(method, spec.strategy.cut, sent) for mechanism in acting(spec.privacy))
    yield from (f"privacy.mechanism: {reason}" for reason in reasons if reason)


def _task_faults(spec: RunSpec, facts: Facts, method: Method) -> Iterator[str]:
    """Say what is about classes where amounts or times are predicted, and which classes are none."""
    outcome, classes = spec.data.outcome_of_a_record, len(facts.classes)
    none = f'data.outcome = "{outcome.kind}" has none; take it out'
    if outcome.of_classes:
        yield from _every(
            classes < 2 and "data: all records have the same label, so there is nothing to learn; check data.label",
            classes > 256
            and f"data: {classes} classes; a label travels in one byte, so give at most 256, "
            "and no identifier as data.label",
        )
    else:
        noised = any(group.label_noise for group in spec.clinics)
        yield from _every(
            on_labels(spec.privacy) and f"privacy.mechanism: label-rr randomises classes, and {none}",
            noised and f"clinics.label-noise: turns one class into another, and {none}",
        )


def _imported_faults(spec: RunSpec, facts: Facts, method: Method) -> Iterator[str]:
    if not method.imported:
        return
    name, options = spec.strategy.name, spec.strategy.options
    loses = spec.train.deadline is not None or any(group.behaviour().may_be_lost for group in spec.clinics)
    yield from _every(
        spec.train.participation < 1
        and f"train.participation: {name} draws its clinics itself; set participation = 1.0",
        loses
        and "num-sampled-clients" in options
        and f"strategies.options.num-sampled-clients: {name} scales its noise by it, and clinics may "
        "be away or lost; take out availability, drop-out and deadline, or take another strategy",
        name.endswith(".QFedAvg")
        and spec.privacy.mechanism != "none"
        and "strategies: QFedAvg needs each clinic's exact training loss, which no mechanism protects",
    )
    for option in options:
        if option.replace("-", "_") in _DRAWN_BY_SUTURE:
            yield f"strategies.options.{option}: every clinic takes part in every round; remove it"


def _hostile_faults(spec: RunSpec, facts: Facts, method: Method) -> Iterator[str]:
    if all(group.hostile is None for group in spec.clinics):
        return
    group_of = groups_of(spec.clinics, facts.everyone)
    kinds = {spec.clinics[group_of[name]].hostile for name in facts.names}
    yield from _first(
        "label-flip" in kinds
        and not spec.data.outcome_of_a_record.of_classes
        and "clinics.hostile: label-flip flips classes, and what is predicted here has none; take another",
        "row-noise" in kinds
        and on_rows(spec.privacy) is not None
        and f"clinics.hostile: {spec.privacy.mechanism} bounds and noises what row-noise would; take another",
        None not in kinds
        and "clinics.hostile: every clinic that trains is hostile, and none is left to harm; let one be honest",
    )


def _trust_faults(spec: RunSpec, facts: Facts, method: Method) -> Iterator[str]:
    privacy, key, clinics = spec.privacy, "privacy.secure-aggregation:", len(facts.sizes)
    secure, together = privacy.secure_aggregation, wanted(clinics, spec.train.participation)
    most = f"give at most {clinics - 1}, all but one" if clinics > 1 else "leave it out: there is one clinic"
    yield from _first(
        privacy.colluding_clinics >= clinics
        and f"privacy.colluding-clinics: {privacy.colluding_clinics} of {clinics} clinics; {most}",
        secure
        and any(group.hostile is not None for group in spec.clinics)
        and f"{key} hidden updates of hostile clinics cannot be told from others; drop it, or clinics.hostile",
        secure
        and method.imported
        and f"{key} {method.name} is handed every clinic's update, not their sum; take fedavg or fedprox",
        secure
        and method.clinic_parts != "averaged"
        and f"{key} under {method.name} nothing that clinics send is averaged; drop it, or take fedavg",
        secure
        and privacy.unit == "clinic"
        and spec.strategy.cut is not None
        and f"{key} under {method.name} the server trains a body a clinic, and sees each; take fedavg or fedprox",
        secure
        and privacy.tolerated_drop_outs >= together
        and f"privacy.tolerated-drop-outs: a round has {together} clinics; give fewer, so that one is left",
    )


def _cut_faults(spec: RunSpec, facts: Facts, method: Method) -> Iterator[str]:
    """Say what of rows at a cut, and of what trains there, does not go with a method or a mechanism."""
    train, privacy, dropout = spec.train, spec.privacy, spec.model.cut_dropout
    bare = f"{method.name} cuts nothing, so no rows are sent; set it under a strategy with a cut, in its set"
    uncut = spec.strategy.cut is None
    yield from _first(
        train.nopeek and uncut and f"train.nopeek: {bare}",
        train.nopeek
        and (method.pooled or "head" in spec.model.freeze)
        and f"train.nopeek: the head of {method.name} is frozen and learns nothing; drop nopeek, or let the head train",
        train.nopeek
        and privacy.noises_gradients
        and "train.nopeek: the distance correlation of a batch is no sum over records, so dp-sgd cannot clip what one "
        "record adds; drop one of the two",
    )
    yield from _first(
        dropout
        and method.pooled
        and method.cuts
        and f"model.cut-dropout: {method.name} sends each row once, before training; drop it",
        dropout and (uncut or method.pooled) and f"model.cut-dropout: {bare}",
    )
    yield from _every(
        train.smashed_top_k < 1
        and on_rows(privacy) is not None
        and f"train.smashed-top-k: under {privacy.mechanism} every value of a row leaves noised, or the choice would "
        "tell of it; drop it, or take dp-sgd",
        train.autocast is not None
        and privacy.noises_gradients
        and "train.autocast: a record's gradient in bfloat16 may be longer than its clip; drop it, or dp-sgd",
    )


def _compressed(spec: RunSpec) -> str:
    """Name the keys that compress updates; empty where none does."""
    asked = (("update-dtype", spec.train.update_dtype != "float32"), ("update-top-k", spec.train.update_top_k < 1))
    return ", ".join(f"train.{key}" for key, given in asked if given)


def _compression_faults(spec: RunSpec, facts: Facts, method: Method) -> Iterator[str]:
    if keys := _compressed(spec):
        yield from _first(
            method.imported and f"{keys}: {method.name} is sent whole models; drop it, or take fedavg",
            method.clinic_parts != "averaged"
            and f"{keys}: under {method.name} nothing that clinics send is averaged; move it from [train] into the set "
            "of strategies that average",
            spec.privacy.secure_aggregation
            and f"{keys}: masked updates add up as whole numbers of 32 bits each; drop it, or secure-aggregation",
            spec.model.batch_norm == "average"
            and f'{keys}: running statistics would be rounded too; set model.batch-norm = "local"',
        )


def _personal_faults(spec: RunSpec, facts: Facts, method: Method) -> Iterator[str]:
    if method.personal is None:
        return
    given, place = {**method.options, **spec.strategy.options}, "strategies.options"
    epochs, rate = given["epochs"], given["learning-rate"]
    if not isinstance(epochs, int) or not 0 <= epochs <= 100_000:
        yield f"{place}.epochs: {show(epochs)} is no number of epochs; give a whole number from 0"
    if not 0 <= float(rate) <= 1e6:
        yield f"{place}.learning-rate: {show(rate)} is no rate; give one from 0, which is that of the rounds"


def _size_faults(spec: RunSpec, facts: Facts, method: Method) -> Iterator[str]:
    """Yield a line for each size of a run that is out of all proportion."""
    if fault := _fault_of_head(spec):
        yield fault
        return
    yield from _model_faults(spec, facts)
    yield from _batch_faults(spec, [sum(facts.sizes)] if method.pooled and not facts.vertical else list(facts.sizes))


def _fault_of_head(spec: RunSpec) -> str:
    path = spec.model.public_file
    if path is None:
        return ""
    try:
        status(path)
        fault = archive_fault(path, ("x",)) if spec.model.components is not None else ""
    except ValueError as error:
        fault = str(error)
    return f"model.public-head: {path} {fault}" if fault else ""


def _model_faults(spec: RunSpec, facts: Facts) -> Iterator[str]:
    if spec.model.factory is not None or spec.model.components is not None:
        return  # to count their parameters would be to make them
    try:
        network = build_network(spec.model, facts.input_shape, len(facts.classes), spec.data.outcome_of_a_record)
    except ValueError:
        return  # the job says what does not fit
    parameters = network.whole.parameter_count()
    if fault := scarce(3 * 4 * parameters):  # the model, its gradient, and a clinic's copy
        yield f"model: with {parameters:,} parameters, it takes at least {fault}; take narrower layers"


def _batch_faults(spec: RunSpec, sizes: list[int]) -> Iterator[str]:
    train = spec.train
    batches = train.local_epochs * sum(-(-own // train.batch_size) for own in sizes)
    if train.rounds * len(sizes) > MOST_TURNS:
        yield (
            f"train.rounds: {train.rounds:,} rounds of {len(sizes):,} clinics, and a run has at most {MOST_TURNS:,} "
            "rounds and clinics, multiplied; take fewer"
        )
        return
    if train.rounds * batches > MOST_BATCHES:
        yield (
            f"train: {train.rounds * batches:,} batches in all, and a run has at most {MOST_BATCHES:,}; "
            "take fewer rounds or local epochs, or larger batches"
        )
        return
    most = max(sizes)
    a_pass = -(-most // train.batch_size)
    if spec.privacy.noises_gradients:
        if fault := scarce(9 * train.local_epochs * a_pass * most):  # each record's coin, for each batch
            yield f"train.batch-size: to draw a round's batches of {most:,} records takes {fault}; take larger ones"
        return
    padded = train.batch_size > most  # the rows of every clinic then
    if fault := scarce(32 * (len(sizes) if padded else 1) * train.local_epochs * a_pass * train.batch_size):
        if padded:
            yield f"train.batch-size: to draw a round's batches takes {fault}; no clinic has more than {most:,} records"
        else:
            yield f"train.local-epochs: to draw a round's batches takes {fault}; take fewer"


_NEVER_OR_NOT_YET: Final = (_layout_faults, _edge_faults)
_FAULTS: Final = (
    *(_mechanism_faults, _task_faults, _imported_faults, _hostile_faults, _trust_faults),
    *(_cut_faults, _compression_faults, _personal_faults, _size_faults),
)
"""Looked for where there is none of the former."""
