"""What is no error but most likely not meant: keys without effect, labels that are hardly classes, short memory."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence

from sim.data.facts import Facts
from sim.foundation.text import bytes_text, listed
from sim.methods.labels import label_of
from sim.plan.edge_counts import EdgePlan
from sim.plan.plan import HOW_IT_LEARNS, ClinicPlan, Plan
from sim.scenario import Scenario
from sim.scenario.data import Npz, TableFile
from sim.scenario.privacy import TOLERATED, TRUST, Privacy, keys_of

PREDICTING = (
    "to predict for a patient all parties send their rows, not noised; scores here are what that gives, and no epsilon "
    "is about the patients for whom it is done"
)


def privacy_notes(scenario: Scenario) -> Iterator[str]:
    """Yield a line for each key of ``[privacy]`` that no mechanism of the study uses.

    Mechanisms may be swept, or set by a strategy; an infinite target has that mechanism all the same.
    """
    mechanisms = {scenario.privacy.mechanism, *map(str, scenario.sweep.get("privacy.mechanism", ()))}
    for strategy in scenario.strategies:
        own = strategy.set.get("privacy", {}).get("mechanism", ())
        mechanisms.add("+".join(own) if isinstance(own, list | tuple) else str(own))
    used = set().union(*(keys_of(name) for name in mechanisms if name))
    shown = " or ".join(sorted(filter(None, mechanisms)))
    for field in Privacy.model_fields:
        key = field.replace("_", "-")
        if field in scenario.privacy.model_fields_set and field in TOLERATED - TRUST - used:
            yield f"privacy.{key}: has no effect with mechanism {shown}; remove it, or choose a mechanism that uses it"
    if "adaptive_rate" in scenario.privacy.model_fields_set and scenario.privacy.adaptive_quantile is None:
        yield "privacy.adaptive-rate: has no effect without adaptive-quantile; remove it"


def label_notes(scenario: Scenario, facts: Facts) -> Iterator[str]:
    """Yield a line where classes differ in writing alone, and where there are nearly as many as records.

    No line quotes a label.
    """
    data = scenario.data
    if not isinstance(data, TableFile | Npz):
        return
    if alike := len(facts.classes) - len({_read_as(name) for name in facts.classes}):
        yield (
            f"data.label: {alike} of the {len(facts.classes)} classes differ from another only by case, blanks or "
            "the way a number is written; write the same class in one way"
        )
    if 2 * len(facts.classes) >= facts.records:
        yield (
            f"data.label: {len(facts.classes)} classes for {facts.records} records, so that the label may be an "
            "identifier or a measurement; name a column of classes"
        )


def tuning_note(scenario: Scenario) -> str:
    """Say what tuning may change of a plan, which is made at the scenario's values; empty without ``[tune]``."""
    if scenario.tune is None:
        return ""
    learning = {f"train.{field.replace('_', '-')}" for field in HOW_IT_LEARNS["train"]}
    keys = list(scenario.tune.keys)
    costly = [key for key in keys if key not in learning and not key.endswith(".proximal-mu")]
    what = f"with {listed(costly)} time, traffic and epsilon may change" if costly else "no cost here depends on them"
    drawn = (
        "" if costly else "; under DP-SGD every setting draws batches of its own, so bytes and seconds vary a little"
    )
    return f"tune: {listed(keys)} stand at the scenario's values, and each run chooses its own; {what}{drawn}"


def _read_as(name: str) -> str:
    plain = "".join(unicodedata.normalize("NFKC", name).casefold().split())
    try:
        return repr(float(plain))
    except ValueError:
        return plain


def memory_warnings(plans: Sequence[Plan]) -> list[str]:
    """Name the methods that need more memory than a clinic has, one line each."""
    found: dict[str, str] = {}
    for plan in plans:
        places: tuple[ClinicPlan | EdgePlan, ...] = (*plan.clinics, *plan.edges)
        short = [c for c in places if c.memory_bytes is not None and c.peak_bytes > c.memory_bytes]
        if not short:
            continue
        worst = max(short, key=lambda clinic: clinic.peak_bytes / (clinic.memory_bytes or 1.0))
        others = f" (and {len(short) - 1} more)" if len(short) > 1 else ""
        method = label_of(plan.spec)
        found.setdefault(
            method,
            f"memory: {method} needs {bytes_text(worst.peak_bytes)} at {worst.name}{others}, which has "
            f"{bytes_text(worst.memory_bytes or 0.0)}; use smaller batches, an earlier cut or more memory",
        )
    return list(found.values())


def summed(plan: Plan) -> str:
    """Say what is assumed of secure aggregation, and whose noise counts; empty without it."""
    job, secure = plan.job, plan.job.secure
    if secure is None:
        return ""
    if job.protocol.topology != "whole":
        credited = "it hides averaged parts alone, and what else is sent to the server is seen as it is"
    elif not plan.spec.privacy.mechanisms:
        credited = "no noise is in a sum"
    elif job.shares_noise:
        credited = (
            f"each clinic adds its part of the noise, of variance 1 / {secure.parts} of what a sum needs; counted is "
            "what an adversary cannot know of it, round by round"
        )
    else:
        credited = "of several steps a round, or of other optimisers, each clinic's own noise alone counts"
    return (
        f"taken to be ideal, against whoever holds shares of fewer than {secure.threshold} clinics, and its arithmetic "
        f"to be exact modulo 2^32; {credited}"
    )


def another_party(plan: Plan) -> str:
    """Say who else takes part in vertical learning, and what one in another region learns."""
    told = "from all that its own messages bring, of what it does not hold itself; it knows who the patients are"
    if not plan.job.facts.places.regions or not (plan.job.method.joins or plan.job.method.alone):
        return f"another party, {told}"
    others = "gets nothing of them"
    if plan.job.protocol.crosses:
        others = "gets averaged parts and what they make of its own patients, of which the model user's epsilon speaks"
    return f"another party of the region, {told}; a party of another region {others}"


def in_one_region(plan: Plan) -> str:
    """Say that no patient is in two regions, where there are any; empty otherwise."""
    facts = plan.job.facts
    if not facts.places.regions or plan.job.parties is None:
        return ""
    if facts.clinics_of_a_patient > 1:
        return ", and its records in other regions by themselves"
    return "; each patient is in one region, so that what different regions release does not add up"


def whom_they_share(plan: Plan) -> str:
    """Say how parties know whom they have in common, and what that tells them."""
    facts, several = plan.job.facts, getattr(plan.spec.data, "patient", None) is not None
    records = "records of patients" if several else "patients"
    if not facts.known:
        whose = "all parties of a region" if facts.places.regions else "all parties"
        return f"{whose} know the same patients, and that each is among the data; no epsilon is about that"
    sizes = ", ".join(f"{count:,} at {name}" for name, count in zip(facts.names, facts.known, strict=True))
    if plan.job.parties is None or not plan.job.parties.heads:
        return (
            f"{facts.records:,} {records} are those whom all parties know, of {sizes}; no epsilon is about finding them"
        )
    some = " and the server how many any of them share, exact, and, with a party, whom" if len(facts.known) > 2 else ""
    return (
        f"private set intersection found {facts.records:,} {records} whom all know, of {sizes}: every party learns who "
        f"of its own they are, everybody these numbers{some or ', exact'}; no epsilon is about that"
    )


def labels_note(plan: Plan) -> tuple[str, str, str]:
    """Return what is outside the guarantee of labels: what, marking, note."""
    privacy, protocol = plan.spec.privacy, plan.job.protocol
    parties, facts = plan.job.parties, plan.job.facts
    holders = "" if parties is None else listed([facts.names[k] for k in parties.holders])
    others = f" but {holders}, which {'has' if len(facts.places.holders) == 1 else 'have'} them" if holders else ""
    sent = "labels" in protocol.rows_sent
    if sent and privacy.labels == "public":
        return "labels", "public", "stated to be public: neighbouring data sets have the same labels"
    releases = [release for release in plan.ledger.releases if release.what == "labels"]
    if sent and releases and not any(release.reason for release in releases):
        spent = plan.columns()["epsilon_label"]
        return (
            "labels",
            "dp",
            f"randomised once before they are sent: epsilon {spent:.3g} of one label, against everyone{others}"
            if math.isfinite(spent)
            else "randomised once before they are sent, but the choice of held-out records is not",
        )
    if sent:
        to = ("server", "its row") if plan.job.edges is None else ("edge server", "the rows of all who get them")
        return "labels", "non-private", f"sent to the {to[0]} as they are, and counted as such in {to[1]}"
    if parties is not None and parties.present not in (parties.holders, tuple(range(len(facts.names)))):
        who = listed([facts.names[k] for k in parties.present])
        given = (
            "is given them as they are, which it does" if len(parties.present) == 1 else "are given them, which they do"
        )
        return "labels", "non-private", f"{who} {given} not have; no epsilon counts that"
    covered, where = privacy.mechanism != "none", holders or "the clinic"
    bare = "tail-gradient" in protocol.rows_sent and not plan.job.on_grid("tail-gradient")
    told = ", but the un-noised gradients that cross tell of them" if bare else ""
    return (
        "labels",
        "dp" if covered else "non-private",
        f"stay at {where}{told}; part of the record, and protected as it is",
    )
