"""The privacy statement of a run: what is protected, from whom, how strongly, and what is not.

The fields are those that NIST SP 800-226 (Guidelines for Evaluating Differential Privacy Guarantees, 2025) asks for.
Everything follows from the plan, its ledger and the settings; no value of a record is in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sim.foundation.text import count_text
from sim.methods.parties import patients
from sim.plan.notes import PREDICTING, another_party, in_one_region, labels_note, summed, whom_they_share
from sim.plan.releases import SECOND_CUT, un_noised
from sim.privacy.accounting import flatten, under_one_adjacency
from sim.privacy.adjacency import NAMES
from sim.privacy.ledger import Adversary, Release
from sim.privacy.mechanisms.mechanism import acting
from sim.privacy.patients import patient_epsilon
from sim.privacy.risk import FALSE_POSITIVE_RATES, membership_risk
from sim.privacy.uncovered import not_covered

if TYPE_CHECKING:
    from sim.plan.plan import Plan
    from sim.scenario.spec import RunSpec

ACCOUNTING_PACKAGES = ("suture", "dp-accounting", "riskcal", "scipy")
_WHO: dict[Adversary, str] = {
    "model-user": "whoever gets the trained model",
    "peer-clinic": "another clinic that takes part, from all that its own messages bring",
    "server": "whoever runs the server: follows the protocol, and keeps all that is sent to it",
    "peers": "{} in collusion, with all that reaches them and all that they know",
    "server-and-peers": "whoever runs the server in collusion with {}, with all that reaches them and that they know",
}
_WITH_EDGES: dict[Adversary, str] = {
    "server": "whoever runs the cloud behind the edge servers: follows the protocol, and keeps all that is sent to it",
    "edge": "whoever runs the clinic's own edge server: follows the protocol, and keeps all that is sent to it; any "
    "other's gets what a peer clinic does",
}
_LYING: dict[Adversary, str] = {
    "model-user": "whoever gets the trained model, into which a server that lies may put all that it has",
    "peer-clinic": "another clinic that takes part, to which a server that lies may pass on all that it has",
    "server": "whoever runs the server: keeps all that is sent to it, and may lie in all that it sends",
}
_UNIT = {
    "record": "one training record of one clinic",
    "clinic": "all training records of one clinic at once",
    "patient": "one patient's training record, its columns at all parties together",
}
_MEANING = {
    "gradients": "parameters trained on the clinic's records",
    "update": "the clinic's model updates, or the model made of their sum",
    "sum": "the sum of what a round's clinics train, which secure aggregation opens",
    "own parts": "the clinic's own parts of the model",
    "smashed": "the head's output for each record (smashed data)",
    "second-cut": "what the edge server makes of each record's row (its middle's output)",
    "tail-gradient": "the loss's gradient in the body's output, for each record",
    "labels": "the label of each record",
    "norms": "the norm of each record's gradient in each part",
    "cut-gradient": "the loss's gradient in a party's row of each patient",
    "body-output": "the body's output for each patient",
    "clip-factors": "by how much each patient's gradient is clipped",
    "metrics": "the clinic's exact training loss, and whether its update was clipped",
    "records": "the training records themselves",
    "preprocessing": "all that was scaled, chosen or encoded by statistics of the records",
}
_ACCOUNTANT = (
    "privacy loss distributions, rounded so that epsilon is never underestimated; the exact formula of the Gaussian "
    "mechanism where nothing is subsampled; bounds on membership inference from the same distributions"
)
_NO_PROMISE = "it may make attacks harder, promises nothing, and lowers no epsilon"
_GENERATOR = (
    "Noise, randomised answers and Poisson batches come from streams (of gradients AES in counter mode, else Philox) "
    "that are keyed by the run: by every setting, the seed and every record, so that no two runs share a draw and a "
    "results folder does not give the key. Philox is no cryptographic generator, and whoever has the settings and all "
    "records can draw both again and subtract the noise. The guarantee is one for a deployment that draws noise and "
    "batches from a secure source and keeps them secret. What is noised leaves on a public grid. Not counted: clipping "
    "and summing in 32-bit floating point, and the sampler's finite number of random bits."
)


def privacy_statement(plan: Plan, versions: Mapping[str, Any], *, finished: bool) -> dict[str, Any]:
    """State what a run gives away, in plain values; names are as they are (escape them before showing them).

    ``versions`` are those of packages by name; an unfinished run's ledger is only planned. ``adversaries`` has a row
    each: ``sees`` (rows of ``what``, ``meaning``, ``noised``, ``times``, ``counted-in``), ``epsilon`` and ``clinic``
    (the least protected one's), ``adjacency`` (``"zero-out"``, ``"replace-one"``, or None where nothing is released or
    nothing is noised), ``replace-epsilon`` (None where it is not counted), ``reasons`` (why epsilon is infinite),
    ``advantage`` (the most by which an attacker's true positive rate exceeds its false positive rate, on that clinic)
    and ``true-positive-rates`` (the highest, by false positive rate). ``mechanisms`` has one for each kind of noised
    release: ``times`` is ``[least, most]`` over the clinics in units of ``counted-in``, and likewise ``sample-rate``
    (None where nothing is sampled) and ``noise``, of the kind ``noise-is``. ``patients`` has the stated bound on a
    patient's records at all clinics together and the largest number of clinics that train on one, as counted; None
    where no bound is stated or the unit is the clinic. ``tuning`` is None here, and otherwise has the number of
    ``trials``, of ``runs`` with different releases that they choose from, and their ``price``, as of
    :func:`sim.privacy.tuning_price.tuning_price`. ``outside`` has rows of ``what``, ``marking`` (``"public"``,
    ``"dp"``, ``"non-private"`` or, of how a simulation makes its clinics, ``"simulated"``) and ``note``.
    """
    spec = plan.spec
    groups = _grouped(plan)
    return {
        "run": spec.run_id,
        "study": spec.study,
        "strategy": spec.strategy.label or spec.strategy.name,
        "cut": spec.strategy.cut or "",
        "rounds": plan.rounds,
        "basis": "executed" if finished else "planned",
        "unit": spec.privacy.unit,
        "unit-meaning": _UNIT["patient" if plan.job.parties is not None else spec.privacy.unit] + in_one_region(plan),
        "clinics": len(plan.clinics),
        "parties": plan.job.parties is not None,
        "records": patients(plan.job),
        "delta": spec.privacy.delta,
        "adversaries": [_adversary(plan, adversary, groups) for adversary in plan.adversaries],
        "mechanisms": [
            {key: value for key, value in group.items() if key not in ("meaning", "noised")}
            for group in groups
            if group["noised"]
        ],
        "settings": _settings(plan),
        "accountant": _ACCOUNTANT,
        "versions": {name: versions[name] for name in ACCOUNTING_PACKAGES if name in versions},
        "generator": _GENERATOR,
        "label-epsilon": plan.columns()["epsilon_label"],
        "patients": _patients(plan),
        "tuning": None,
        "outside": [{"what": what, "marking": marking, "note": note} for what, marking, note in _outside(plan)],
        "not-covered": not_covered(spec, personal=plan.job.method.personal is not None),
        "attacks": [],
    }


def _most_records(plan: Plan) -> int | None:
    privacy = plan.spec.privacy
    covered = privacy.unit == "record" and privacy.mechanism != "none"
    return getattr(plan.spec.data, "max_records_per_patient", None) if covered else None


def _patients(plan: Plan) -> dict[str, Any] | None:
    most, delta = _most_records(plan), plan.spec.privacy.delta or 0.0
    if most is None:
        return None
    clinics, stays = len(plan.clinics), plan.job.facts.clinics_of_a_patient
    epsilon = {a: patient_epsilon(plan.ledger, a, clinics, most, delta, stays=stays) for a in plan.adversaries}
    return {"max-records": most, "max-clinics": stays, "epsilon": epsilon}


def _settings(plan: Plan) -> dict[str, Any]:
    privacy = plan.spec.privacy
    if privacy.mechanism == "none":
        return {}
    unused: tuple[str, ...] = () if privacy.noises_rows else ("smashed-", "tail-")
    unused += () if privacy.adaptive_quantile else ("adaptive-",)
    written = privacy.model_dump(by_alias=True)
    return {key: value for key, value in written.items() if value is not None and not key.startswith(unused)}


def _adversary(plan: Plan, adversary: Adversary, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    epsilons = [clinic.epsilon[adversary] for clinic in plan.clinics]
    worst = max(range(len(epsilons)), key=epsilons.__getitem__)
    mechanisms = plan.ledger.mechanisms(adversary, worst, plan.spec.privacy.unit)
    risk = membership_risk(mechanisms, epsilons[worst])
    reasons = un_noised(plan.ledger, adversary)
    return {
        "adversary": adversary,
        "who": _who(plan, adversary),
        "sees": _seen(group for group in groups if adversary in group["seen-by"]),
        "epsilon": epsilons[worst],
        "clinic": plan.clinics[worst].name,
        "adjacency": None if reasons or not mechanisms else NAMES[under_one_adjacency(mechanisms)[1]],
        "replace-epsilon": plan.replace_epsilon[adversary],
        "reasons": reasons,
        "advantage": risk.advantage,
        "true-positive-rates": {
            f"{rate:g}": most for rate, most in zip(FALSE_POSITIVE_RATES, risk.true_positive_rates, strict=True)
        },
    }


def _who(plan: Plan, adversary: Adversary) -> str:
    privacy = plan.spec.privacy
    if adversary == "server" and privacy.trust == "trusted":
        return "whoever runs the server, which is trusted: what it sees is stated, and nobody is protected from it"
    lies = _LYING.get(adversary, "") if privacy.trust == "active" and not plan.job.method.alone else ""
    if plan.job.parties is not None and adversary == "peer-clinic" and not lies:
        return another_party(plan)
    if plan.job.method.personal is not None and adversary == "model-user" and not lies:
        return (
            "whoever gets the model that all have in common; a clinic's own, trained on without noise, is not covered"
        )
    knows = ", and its own part of the noise" if adversary == "peer-clinic" and plan.job.shares_noise else ""
    who = _WHO if plan.job.edges is None else {**_WHO, **_WITH_EDGES}
    return (lies or who[adversary].format(count_text(privacy.colluding_clinics, "clinic"))) + knows


def _seen(groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return kinds of releases, those that differ in their mechanism alone as one."""
    kinds: dict[tuple[Any, ...], list[float]] = {}
    for group in groups:
        key = group["what"], group["meaning"], group["noised"], group["counted-in"]
        kinds.setdefault(key, []).extend(group["times"])
    names = ("what", "meaning", "noised", "counted-in")
    return [{**dict(zip(names, key, strict=True)), "times": _range(times)} for key, times in kinds.items()]


def _grouped(plan: Plan) -> list[dict[str, Any]]:
    """Return the ledger's releases, those of all clinics that differ in numbers alone as one row with ranges."""
    groups: dict[tuple[Any, ...], list[tuple[float | None, float | None, int]]] = {}
    clinics: dict[tuple[Any, ...], set[int]] = {}
    for release in plan.ledger.releases:
        for atom, count in flatten(release.event).items():
            described = filter(None, (mechanism.described(atom) for mechanism in acting(plan.spec.privacy)))
            name, noise_is, rate, noise = next(described, ("none", None, None, None))
            times, counted_in = _how_often(plan, release, count, noised=noise is not None)
            key = release.what, release.adversaries, name, noise_is, release.adjacency, counted_in
            groups.setdefault(key, []).append((rate, noise, times))
            clinics.setdefault(key, set()).add(release.clinic)
    return [
        {
            "what": what,
            "meaning": _MEANING.get(what, what),
            "seen-by": list(seen_by),
            "noised": noise_is is not None,
            "mechanism": name,
            "adjacency": NAMES[adjacency],
            "clinics": len(clinics[key]),
            "times": _range(times for _, _, times in rows),
            "counted-in": counted_in,
            "sample-rate": _range(rate for rate, _, _ in rows),
            "noise": _range(noise for _, noise, _ in rows),
            "noise-is": noise_is,
        }
        for key, rows in groups.items()
        for what, seen_by, name, noise_is, adjacency, counted_in in [key]
    ]


def _range(values: Iterable[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return [min(known), max(known)] if known else None


def _how_often(plan: Plan, release: Release, count: int, *, noised: bool) -> tuple[int, str]:
    """Return how often something is released, and what that number counts."""
    if noised and release.adjacency == "replace":
        return count, "releases of a record"
    if release.what == "preprocessing":
        return count, "times, before training"
    if release.what == "sum":
        return count, "rounds"
    if release.what == "update":
        return int(plan.sampled.rounds[release.clinic]), "rounds"
    of_batches = (*plan.job.protocol.batch_up, *plan.job.protocol.batch_down)
    if release.what in ("gradients", SECOND_CUT) or any(release.what in kinds for kinds in of_batches):
        seen_in_full = set(plan.job.protocol.sees_raw) & set(release.adversaries)
        steps = plan.sampled.steps if seen_in_full else plan.sampled.released
        return int(steps[release.clinic]), "training steps"
    return count, "messages"


def _outside(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Yield what no epsilon is about, or is not said of: what, marking, note."""
    spec, job = plan.spec, plan.job
    whose = "clinics" if job.parties is None else "parties"
    yield _sizes(plan)
    yield "batch sizes", "public", "seen where rows cross; the number of records alone decides how they are drawn"
    yield "participation", "public", "who takes part in which round is drawn without regard to any record"
    yield f"names of {whose}, features and classes", "public", "stand in the results as the source gives them"
    yield "initial parameters and frozen parts", "public", spec.model.public_note
    yield labels_note(plan)
    if spec.train.class_weights is not None:
        yield "class weights", "public", "stated constants; take none that were counted from these records"
    for marking in ("public", "dp", "non-private", "simulated"):
        used = [f"{kind}{', '.join(names)}" for kind, names in job.facts.statistics_by_kind(marking).items()]
        counted = "; counted as sent without noise" if marking == "non-private" else ""
        if used:
            yield "preprocessing", marking, "; ".join(used) + counted
    yield "timing of messages", "non-private", "follows from counts here; on real computers it may depend on records"
    yield "choice of settings", "non-private", _choice(spec)
    yield (
        "other runs on the same records",
        "non-private",
        "each seed and swept value is one more; they compose, and suture epsilon says to what for a study's "
        "folder; runs in other folders, and deleted ones, are not in that",
    )
    colluding = f"up to {spec.privacy.colluding_clinics} clinics, alone and with the server, have rows of their own"
    together = colluding if spec.privacy.colluding_clinics else "together they learn what their rows compose to"
    yield "adversaries who join forces", "non-private", together
    if job.parties is not None:
        yield "who is a patient", "non-private", whom_they_share(plan)
        if job.parties.heads:
            yield "predictions", "non-private", PREDICTING
    if job.method.personal is not None:
        yield (
            "models of the clinics' own",
            "non-private",
            "after the last round each clinic trains the model further without noise, for itself; whoever else is "
            "given that model has no guarantee",
        )
    if hostile := sorted(job.hostile):
        names = ", ".join(job.facts.names[k] for k in hostile)
        yield "hostile clinics", "simulated", f"{names}: nothing is promised to them, and all to the others"
    if job.secure is not None:
        yield "secure aggregation", "public", summed(plan)
    yield from ((what, "non-private", f"{how}; {_NO_PROMISE}") for what, how in _defences(spec))
    if spec.data.validation_share:
        yield "best round", "non-private", "chosen by the exact AUC on validation records (model_best)"
    if spec.privacy.unit == "record":
        yield _records_of_a_patient(plan)


def _sizes(plan: Plan) -> tuple[str, str, str]:
    if plan.job.parties is not None:
        if plan.job.facts.places.regions:
            return "numbers of patients by region", "public", "set sampling rates, steps and weights"
        return "number of patients", "public", "sets sampling rates and steps"
    return "sizes of the clinics", "public", "numbers of training records set sampling rates, steps and weights"


def _defences(spec: RunSpec) -> Iterator[tuple[str, str]]:
    """Yield what may stand in an attack's way without an epsilon."""
    if spec.train.nopeek:
        yield "nopeek", f"the distance correlation of records and rows is in the loss, times {spec.train.nopeek:g}"
    if spec.model.cut_dropout:
        yield "dropout at the cut", f"in training {spec.model.cut_dropout:g} of each row at the cut is set to 0"
    if spec.train.smashed_dtype == "int8" and spec.strategy.cut is not None:
        yield "rows of 8 bits", "un-noised rows at the cut are rounded"
    if spec.train.smashed_top_k < 1 and spec.strategy.cut is not None:
        yield (
            "sparse rows",
            f"of un-noised rows at the cut {spec.train.smashed_top_k:g} of the values is sent, the largest",
        )
    if spec.train.update_dtype == "int8" or spec.train.update_top_k < 1:
        yield "compressed updates", "of what clinics send, numbers are rounded or wait for the next round"


def _choice(spec: RunSpec) -> str:
    if not spec.tuned:
        return (
            "rounds, learning rate, clip and model are as the scenario gives them; a choice made by looking at results "
            "on these records is not counted"
        )
    keys = ", ".join(spec.tuned)
    return (
        f"{keys}: chosen by trials on these records and by their exact scores on validation records; epsilon is stated "
        "as if on public records"
    )


def _records_of_a_patient(plan: Plan) -> tuple[str, str, str]:
    what, most = "several records of one patient", _most_records(plan)
    if most is None:
        mend = "state data.patient and data.max-records-per-patient to have them counted"
        return what, "non-private", f"only each single record is protected; {mend}"
    places = "clinics" if plan.job.parties is None else "regions"
    return (
        what,
        "dp",
        f"at most {most}, as stated, and at the largest number of {places} that was counted, which is itself exact; "
        f"the largest over every choice of {places} and way to share out the records, or a bound where these are many",
    )
