"""What is refused before anything is planned: mechanisms that a strategy has no use for, and data without a task."""

from __future__ import annotations

from sim.data.facts import Facts
from sim.foundation.problems import ScenarioError, show
from sim.methods.method import method_of
from sim.methods.protocol import protocol_of
from sim.methods.sampling import wanted
from sim.plan.edge_refusals import edge_problems
from sim.plan.layout import layout_problems
from sim.plan.sizes import size_problems
from sim.privacy.mechanisms.mechanism import acting, on_labels, on_rows
from sim.scenario.clinics import groups_of
from sim.scenario.spec import RunSpec


def refuse(spec: RunSpec, facts: Facts) -> None:
    """Raise a ``ScenarioError`` with a line for each reason why a strategy cannot run these settings."""
    if problems := [*layout_problems(spec, facts), *edge_problems(spec, facts)]:
        raise ScenarioError(problems)
    problems = _mechanism_problems(spec)
    classes = len(facts.classes) if spec.data.outcome_of_a_record.of_classes else 2
    problems += _outcome_problems(spec)
    if classes < 2:
        problems.append("data: all records have the same label, so there is nothing to learn; check data.label")
    if classes > 256:
        problems.append(
            f"data: {classes} classes; a label travels in one byte, so give at most 256, "
            "and no identifier as data.label"
        )
    if method_of(spec.strategy.name).imported:
        if spec.train.participation < 1:
            problems.append(
                f"train.participation: {spec.strategy.name} draws its clinics itself; set participation = 1.0"
            )
        groups = [group.behaviour() for group in spec.clinics]
        loses = spec.train.deadline is not None or any(behaviour.may_be_lost for behaviour in groups)
        if loses and "num-sampled-clients" in spec.strategy.options:
            problems.append(
                f"strategies.options.num-sampled-clients: {spec.strategy.name} scales its noise by it, and clinics may "
                "be away or lost; take out availability, drop-out and deadline, or take another strategy"
            )
        if spec.strategy.name.endswith(".QFedAvg") and spec.privacy.mechanism != "none":
            problems.append("strategies: QFedAvg needs each clinic's exact training loss, which no mechanism protects")
        sampling = {"fraction_train", "min_train_nodes", "min_available_nodes", "fraction_evaluate"}
        for option in spec.strategy.options:
            if option.replace("-", "_") in sampling:
                problems.append(f"strategies.options.{option}: every clinic takes part in every round; remove it")
    problems += _hostile_problems(spec, facts)
    problems += _trust_problems(spec, len(facts.sizes))
    problems += [
        *_nopeek_problems(spec),
        *_dropout_problems(spec),
        *_sparse_row_problems(spec),
        *_autocast_problems(spec),
        *_compression_problems(spec),
        *_personal_problems(spec),
    ]
    problems += size_problems(spec, facts)
    if problems:
        raise ScenarioError(problems)


def _outcome_problems(spec: RunSpec) -> list[str]:
    """Say what is about classes, where amounts or times are predicted."""
    outcome = spec.data.outcome_of_a_record
    if outcome.of_classes:
        return []
    found = {
        "privacy.mechanism: label-rr randomises classes": on_labels(spec.privacy) is not None,
        "clinics.label-noise: turns one class into another": any(group.label_noise for group in spec.clinics),
    }
    none = f'data.outcome = "{outcome.kind}" has none; take it out'
    return [f"{what}, and {none}" for what, there in found.items() if there]


def _hostile_problems(spec: RunSpec, facts: Facts) -> list[str]:
    if all(group.hostile is None for group in spec.clinics):
        return []
    group_of = groups_of(spec.clinics, facts.everyone)
    kinds = {spec.clinics[group_of[name]].hostile for name in facts.names}
    if "label-flip" in kinds and not spec.data.outcome_of_a_record.of_classes:
        return ["clinics.hostile: label-flip flips classes, and what is predicted here has none; take another"]
    if "row-noise" in kinds and on_rows(spec.privacy) is not None:
        return [f"clinics.hostile: {spec.privacy.mechanism} bounds and noises what row-noise would; take another"]
    if None in kinds:
        return []
    return ["clinics.hostile: every clinic that trains is hostile, and none is left to harm; let one be honest"]


def _trust_problems(spec: RunSpec, clinics: int) -> list[str]:
    privacy, method = spec.privacy, method_of(spec.strategy.name)
    if privacy.colluding_clinics >= clinics:
        most = f"give at most {clinics - 1}, all but one" if clinics > 1 else "leave it out: there is one clinic"
        return [f"privacy.colluding-clinics: {privacy.colluding_clinics} of {clinics} clinics; {most}"]
    if not privacy.secure_aggregation:
        return []
    together = wanted(clinics, spec.train.participation)
    key = "privacy.secure-aggregation:"
    if any(group.hostile is not None for group in spec.clinics):
        return [f"{key} hidden updates of hostile clinics cannot be told from others; drop it, or clinics.hostile"]
    if method.imported:
        return [f"{key} {method.name} is handed every clinic's update, not their sum; take fedavg or fedprox"]
    if method.clinic_parts != "averaged":
        return [f"{key} under {method.name} nothing that clinics send is averaged; drop it, or take fedavg"]
    if privacy.unit == "clinic" and spec.strategy.cut is not None:
        return [f"{key} under {method.name} the server trains a body a clinic, and sees each; take fedavg or fedprox"]
    if privacy.tolerated_drop_outs >= together:
        return [f"privacy.tolerated-drop-outs: a round has {together} clinics; give fewer, so that one is left"]
    return []


def _nopeek_problems(spec: RunSpec) -> list[str]:
    if not spec.train.nopeek:
        return []
    method, key = method_of(spec.strategy.name), "train.nopeek:"
    if spec.strategy.cut is None:
        return [
            f"{key} {method.name} cuts nothing, so no rows are sent; set it under a strategy with a cut, in its set"
        ]
    if method.pooled or "head" in spec.model.freeze:
        return [f"{key} the head of {method.name} is frozen and learns nothing; drop nopeek, or let the head train"]
    if spec.privacy.noises_gradients:
        return [
            f"{key} the distance correlation of a batch is no sum over records, so dp-sgd cannot clip what one record "
            "adds; drop one of the two"
        ]
    return []


def _dropout_problems(spec: RunSpec) -> list[str]:
    method, key = method_of(spec.strategy.name), "model.cut-dropout:"
    if not spec.model.cut_dropout or (spec.strategy.cut is not None and not method.pooled):
        return []
    if method.pooled and method.cuts:
        return [f"{key} {method.name} sends each row once, before training; drop it"]
    return [f"{key} {method.name} cuts nothing, so no rows are sent; set it under a strategy with a cut, in its set"]


def _sparse_row_problems(spec: RunSpec) -> list[str]:
    if spec.train.smashed_top_k == 1 or on_rows(spec.privacy) is None:
        return []
    return [
        f"train.smashed-top-k: under {spec.privacy.mechanism} every value of a row leaves noised, or the choice would "
        "tell of it; drop it, or take dp-sgd"
    ]


def _autocast_problems(spec: RunSpec) -> list[str]:
    if spec.train.autocast is None or not spec.privacy.noises_gradients:
        return []
    return ["train.autocast: a record's gradient in bfloat16 may be longer than its clip; drop it, or dp-sgd"]


def _compression_problems(spec: RunSpec) -> list[str]:
    train, method = spec.train, method_of(spec.strategy.name)
    asked = [("update-dtype", train.update_dtype != "float32"), ("update-top-k", train.update_top_k < 1)]
    keys = ", ".join(f"train.{key}" for key, given in asked if given)
    if not keys:
        return []
    if method.imported:
        return [f"{keys}: {method.name} is sent whole models; drop it, or take fedavg"]
    if method.clinic_parts != "averaged":
        return [
            f"{keys}: under {method.name} nothing that clinics send is averaged; move it from [train] into the set of "
            "strategies that average"
        ]
    if spec.privacy.secure_aggregation:
        return [f"{keys}: masked updates add up as whole numbers of 32 bits each; drop it, or secure-aggregation"]
    if spec.model.batch_norm == "average":
        return [f'{keys}: running statistics would be rounded too; set model.batch-norm = "local"']
    return []


def _personal_problems(spec: RunSpec) -> list[str]:
    method = method_of(spec.strategy.name)
    if method.personal is None:
        return []
    given = {**method.options, **spec.strategy.options}
    epochs, rate, place = given["epochs"], given["learning-rate"], "strategies.options"
    problems = []
    if not isinstance(epochs, int) or not 0 <= epochs <= 100_000:
        problems.append(f"{place}.epochs: {show(epochs)} is no number of epochs; give a whole number from 0")
    if not 0 <= float(rate) <= 1e6:
        problems.append(f"{place}.learning-rate: {show(rate)} is no rate; give one from 0, which is that of the rounds")
    return problems


def _mechanism_problems(spec: RunSpec) -> list[str]:
    method, cut = method_of(spec.strategy.name), spec.strategy.cut
    sent = protocol_of(method, cut).rows_sent
    reasons = (mechanism.refusal(method, cut, sent) for mechanism in acting(spec.privacy))
    return [f"privacy.mechanism: {reason}" for reason in reasons if reason]
