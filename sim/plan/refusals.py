"""What is refused before anything is planned: mechanisms that a strategy has no use for, and data without a task."""

from __future__ import annotations

from sim.data.facts import Facts
from sim.foundation.problems import ScenarioError
from sim.methods.method import method_of
from sim.methods.protocol import protocol_of
from sim.plan.sizes import size_problems
from sim.scenario.spec import RunSpec


def refuse(spec: RunSpec, facts: Facts) -> None:
    """Raise a ``ScenarioError`` with a line for each reason why a strategy cannot run these settings."""
    problems = _mechanism_problems(spec)
    classes = len(facts.classes)
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
    problems += size_problems(spec, facts)
    if problems:
        raise ScenarioError(problems)


def _mechanism_problems(spec: RunSpec) -> list[str]:
    method, problems = spec.strategy.name, []
    protocol = protocol_of(method_of(method), spec.strategy.cut)
    if spec.privacy.releases_once and spec.strategy.cut is not None:
        problems += _release_once_problems(spec)
    if spec.privacy.unit == "clinic" and method not in ("fedavg", "fedprox", "splitfed-v1", "splitfed-v3"):
        problems.append(
            f"privacy.mechanism: clinic-level noises a sum of updates, and {method} forms none here; "
            "take fedavg, fedprox, splitfed-v1 or splitfed-v3"
        )
    if spec.privacy.noises_rows and spec.strategy.cut is None:
        problems.append(
            f"privacy.mechanism: {spec.privacy.noises_rows} needs a cut, and {method} sends no smashed data; take split"
        )
    if spec.privacy.randomises_labels is not None and "labels" not in protocol.sees_raw.get("server", ()):
        shown = f"{method}, {spec.strategy.cut}," if spec.strategy.cut else method
        problems.append(
            f"privacy.mechanism: label-rr randomises labels that are sent, and those of {shown} never leave the "
            "clinic; take a vanilla cut, or leave label-rr out"
        )
    return problems


def _release_once_problems(spec: RunSpec) -> list[str]:
    if spec.strategy.cut == "u-shaped":
        return [
            f"privacy.mechanism: under release-once the server trains the body alone, and the labels of "
            f"{spec.strategy.name}, u-shaped, stay at the clinic; take split with a vanilla cut"
        ]
    if spec.strategy.name != "split":
        return [
            f"privacy.mechanism: under release-once the server trains one body on the rows that it keeps, and "
            f"{spec.strategy.name} would be no other method than split; take split"
        ]
    if spec.strategy.order == "fixed" or spec.strategy.alternate == "mini-batch":
        return ["strategies: after release-once no clinic has a turn; remove order and alternate"]
    return []
