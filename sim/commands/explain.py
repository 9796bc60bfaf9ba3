"""A scenario in words, before it runs: what it asks, of whom, and who is protected against whom."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.attacks.attack import attack_of
from sim.data.federation import Federation
from sim.foundation.text import amount_text, clinic_text, count_text, seconds_text, span_text, value_text
from sim.methods.labels import label_of
from sim.methods.parties import groups_at
from sim.models import layers
from sim.models.build import build_network
from sim.plan.edge_counts import edges_at
from sim.plan.notes import summed, whom_they_share
from sim.plan.plan import Plan
from sim.plan.releases import un_noised
from sim.privacy.adjacency import NAMES, adjacency_of
from sim.privacy.ledger import ADVERSARIES, COLLUDING, COLUMN_OF, EDGE, REPLACE_COLUMN_OF, Adversary
from sim.privacy.mechanisms.mechanism import of
from sim.report.holdings import Holdings
from sim.report.prose import sentences
from sim.scenario import Scenario
from sim.scenario.clinics import Behaviour, ClinicResources, assign_resources

_MOST_NAMED = 6
_SENT = {
    "sign-flip": "the opposite of its update",
    "scaled": "its update, larger",
    "noise": "noise for its update",
    "label-flip": "what it learns from flipped labels",
    "row-noise": "rows with noise at a cut",
}
"""What a hostile clinic sends."""
_SERVER = {"trusted": "trusted, and is no adversary", "active": "active: it may lie, and pass on what it has"}
_FEWEST_PAIRS = 5
"""Of a clinic's held-out records; with fewer its own AUC takes a few values only."""
_KNOWN = {
    "classes": "its own class frequencies",
    "ordinal": "its own shares of grades",
    "time": "its own Kaplan-Meier curve",
    "amount": "its own mean",
}
"""What the line of reference predicts."""


def explain(
    scenario: Scenario,
    plans: Sequence[Plan],
    federation: Federation,
    wall_seconds: float,
    jobs: int,
    basis: str,
    trials: Sequence[Plan] = (),
) -> list[str]:
    """Say in paragraphs of plain text what a scenario will do.

    Parameters
    ----------
    plans : sequence of Plan
        Of all its runs.
    federation : Federation
        The clinics for the first seed.
    wall_seconds : float
        How long all trials and runs are expected to take on so many processors.
    basis : str
        How that was estimated.
    trials : sequence of Plan
        Of its tuning.
    """
    shape = federation.train.x.shape[1:]
    network = build_network(scenario.model, shape, len(federation.classes), scenario.data.outcome_of_a_record)
    names, sizes = federation.names, np.diff(federation.train.offsets)
    statistics = federation.facts.statistics_by_kind("non-private")
    described = next((plan for plan in plans if plan.spec.parties), plans[0])
    regions_alone = federation.facts.vertical and not described.spec.parties
    facts = described.job.facts if regions_alone else federation.facts
    clinics = assign_resources(groups_at(described.spec, facts), facts.everyone, scenario.seeds[0])
    references = [plan for plan in plans if not plan.job.method.trains]
    plans = [plan for plan in plans if plan.job.method.trains] or references
    with_edges = next((plan for plan in plans if plan.edges), plans[0])
    attacks = [table.name for table in scenario.attacks]
    seconds = sorted((math.fsum(plan.round_seconds), _method(plan)) for plan in plans)
    return sentences(
        "explain",
        scenario=scenario,
        plans=plans,
        trials=trials,
        budgets=_budgets(plans, trials),
        references=0 if plans == references else len(references),
        methods=list(dict.fromkeys(map(_method, plans))),
        federation=federation,
        word=federation.outcome.headline.word,
        known=_KNOWN[federation.outcome.kind],
        held=_held(scenario, federation),
        regions=list(map(clinic_text, federation.places.regions)),
        holder=next((clinic_text(party.name) for party in scenario.parties if party.label), ""),
        shared=whom_they_share(plans[0]) if federation.known else "",
        sizes=sizes,
        smallest=clinic_text(names[sizes.argmin()]),
        largest=clinic_text(names[sizes.argmax()]),
        whole=scenario.data.test == "held-out-clinics",
        strangers=_strangers(federation, plans),
        scored=_scored(federation, whole=scenario.data.test == "held-out-clinics"),
        fewest=_FEWEST_PAIRS,
        links=_links(clinics),
        unreliable=_unreliable(clinics),
        hostile=list(_hostile(plans)),
        shape=tuple(shape),
        statistics=[f"{kind}{_named(names)}" for kind, names in statistics.items()],
        parameters=network.whole.parameter_count(),
        edges=list(zip(with_edges.edges, edges_at(with_edges.job), strict=True)),
        cuts=_cuts(plans),
        protected=[plan for plan in plans if plan.spec.privacy.mechanisms],
        mechanisms={m: of(m).sentence for plan in plans for m in plan.spec.privacy.mechanisms},
        trust=list(_trust(plans)),
        guarantees=_guarantees(plans),
        simulated=dict.fromkeys(f"{seconds_text(own)} ({method})" for own, method in (seconds[0], seconds[-1])),
        attacks=[(own, sum(own.suits(plan.job) for plan in plans)) for own in map(attack_of, attacks)],
        amount=amount_text,
        duration=seconds_text,
        clinic=clinic_text,
        named=_named,
        expected=f"{seconds_text(wall_seconds)} on {count_text(jobs, 'processor')}, {basis}",
    )


def _held(scenario: Scenario, federation: Federation) -> list[str]:
    """Say which columns each party holds, and where it is if not everywhere, under a vertical layout."""
    columns, said = dict(zip(federation.places.party_of, federation.places.columns, strict=True)), []
    for number, party in enumerate(scenario.parties):
        where = f" (in {', '.join(map(clinic_text, party.regions))})" if party.regions else ""
        held = ", ".join(federation.features[place] for place in columns[number])
        said.append(f"{clinic_text(party.name)}{where} holds {held}")
    return said


def _cuts(plans: Sequence[Plan]) -> list[dict[str, str]]:
    """Return, for each place at which a run cuts its network, the blocks of each part."""
    found = [
        {
            "server": "server" if plan.job.method.edge_round is None else "edge server",
            **{
                part.name: ", ".join(
                    block.name
                    for block in part.blocks
                    if not isinstance(block.layer, layers.ClipRows | layers.KeepLargest)
                )
                for part in plan.job.parts
            },
        }
        for plan in plans
        if plan.spec.strategy.cut
    ]
    return [dict(parts) for parts in dict.fromkeys(tuple(parts.items()) for parts in found)]


def _budgets(plans: Sequence[Plan], trials: Sequence[Plan]) -> list[str]:
    """Say how many settings each run of a method tries; methods that try as many stand together."""
    methods: dict[int, list[str]] = defaultdict(list)
    for method in dict.fromkeys(map(_method, plans)):
        runs = sum(_method(plan) == method for plan in plans)
        most = max(Counter(_of_a_run(trial) for trial in trials if _method(trial) == method).values(), default=0)
        if runs:
            methods[most].append(method)
    if len(methods) == 1:
        return [f"{count_text(next(iter(methods)), 'setting')} each"]
    told = sorted(methods.items(), reverse=True)
    return [f"{count_text(most, 'setting') if most else 'none'} ({' | '.join(own)})" for most, own in told]


def _of_a_run(trial: Plan) -> tuple[object, ...]:
    spec = trial.spec
    return spec.seed, tuple(spec.swept.items()), spec.data.model_dump_json()


def holdings(federation: Federation) -> Holdings:
    """Count the records of each clinic by class; of times by whether the event was seen, of amounts all as one."""
    everyone, kind = federation.everyone, federation.outcome.kind
    classes = {"time": ("no event", "event"), "amount": ("all",)}.get(kind, federation.classes)
    counts = np.zeros((3, len(everyone), len(classes)), dtype=np.int64)
    for own, part in zip(counts, (federation.train, federation.validation, federation.test), strict=True):
        names = federation.test_names if part is federation.test else federation.names
        clinics = np.flatnonzero(np.isin(everyone, names))
        of = {"time": part.y % 2, "amount": np.zeros_like(part.y)}.get(kind, part.y)
        np.add.at(own, (np.repeat(clinics, np.diff(part.offsets)), of), 1)
    return Holdings(everyone, classes, counts)


def _strangers(federation: Federation, plans: Sequence[Plan]) -> dict[str, Any]:
    """Return which methods are tested on clinics that are held out as a whole, and on which."""
    alike: dict[tuple[tuple[str, ...], ...], dict[str, None]] = defaultdict(dict)
    first = min(plan.spec.seed for plan in plans)
    for method, own in groupby(sorted(plans, key=_method), key=_method):
        held_out = {plan.job.facts.held_out: None for plan in own if plan.spec.seed == first}
        if any(held_out):
            alike[tuple(held_out)][method] = None
    every = sum(len(part.y) for part in (federation.train, federation.validation, federation.test))
    lost = max((every - plan.job.facts.records for plan in plans if plan.job.facts.held_out), default=0)
    return {"by_folds": alike, "methods": len({_method(plan) for plan in plans}), "lost": lost}


def _scored(federation: Federation, *, whole: bool) -> dict[str, Any]:
    """Count the held-out records, or the pairs of them, on which the comparison of methods rests.

    Parameters
    ----------
    whole : bool
        Whether a clinic is tested on all its records.
    """
    held = holdings(federation)
    if not federation.outcome.of_classes:
        return {"records": held.counts[2].sum(), "seen": held.counts[2][:, 1].sum() if len(held.classes) > 1 else None}
    pairs = comparable_pairs(held.counts.sum(axis=0) if whole else held.counts[2])
    most, large = int(np.argmax(pairs)), np.sort(pairs)[::-1][: len(pairs) // 10]
    return {
        "pairs": int(pairs.sum()),
        "most": clinic_text(held.names[most]),
        "of_most": pairs[most] / max(pairs.sum(), 1),
        "large": len(large),
        "of_large": large.sum() / max(pairs.sum(), 1),
        "none": int((pairs == 0).sum()),
        "few": int(((pairs > 0) & (pairs < _FEWEST_PAIRS)).sum()),
        "clinics": len(pairs),
    }


def comparable_pairs(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``[clinic]`` pairs of records of different classes, from ``[clinic, class]`` counts."""
    totals = counts.sum(axis=1)
    ordered = (counts * (totals[:, None] - counts)).sum(axis=1)
    pairs: NDArray[np.int64] = ordered // 2 if counts.shape[1] == 2 else ordered
    return pairs


def _links(clinics: Sequence[ClinicResources]) -> str:
    links: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for clinic in clinics:
        links[clinic.uplink_bits_per_s, clinic.downlink_bits_per_s, clinic.latency_s].append(clinic.name)
    if len(links) > _MOST_NAMED:
        ends = zip(*((min(values), max(values)) for values in zip(*links, strict=True)), strict=True)
        up, down, each_way = map(span_text, *map(_link, ends))
        return f"Links differ: {up} up, {down} down, {each_way} one way."
    told = ("{} up, {} down, {} one way".format(*_link(link)) for link in links)
    return " ".join(f"{_named(names)}: {link}." for link, names in zip(told, links.values(), strict=True))


def _link(values: Iterable[float]) -> list[str]:
    up, down, latency = values
    return [amount_text(up, "bit/s"), amount_text(down, "bit/s"), seconds_text(latency)]


def _unreliable(clinics: Sequence[ClinicResources]) -> list[tuple[str, Behaviour]]:
    """Return how clinics may be away, fail or straggle, and who does so."""
    alike: dict[Behaviour, list[str]] = defaultdict(list)
    for clinic in clinics:
        alike[clinic.behaviour].append(clinic.name)
    return [(_named(names), own) for own, names in alike.items() if own.may_be_lost or own.straggler_chance]


def _hostile(plans: Sequence[Plan]) -> Iterator[str]:
    """Say what hostile clinics send, of any run."""
    found: dict[tuple[str, str], set[float]] = defaultdict(set)
    for plan in plans:
        for clinic, (kind, strength) in plan.job.hostile.items():
            found[clinic_text(plan.job.facts.names[clinic]), kind].add(strength)
    for (name, kind), strengths in found.items():
        told = "" if kind == "label-flip" else f", hostile-strength {', '.join(map(value_text, sorted(strengths)))}"
        yield f"{name} sends {_SENT[kind]} ({kind}{told})"


def _trust(plans: Sequence[Plan]) -> Iterator[str]:
    """Say what the server is taken to be where it is not as usual, and what secure aggregation is worth."""
    said: dict[str, set[str]] = defaultdict(set)
    for plan in plans:
        if plan.spec.privacy.trust != "curious":
            said[f"Trust: the server is taken to be {_SERVER[plan.spec.privacy.trust]}"].add(_method(plan))
        if plan.job.secure is not None:
            said[f"Secure aggregation: {summed(plan)}"].add(_method(plan))
    for sentence, methods in said.items():
        yield f"{sentence} ({' | '.join(sorted(methods))})."


def _guarantees(plans: Sequence[Plan]) -> Iterator[str]:
    alike: dict[tuple[str, float | None, str], list[Plan]] = defaultdict(list)
    for plan in plans:
        if plan.spec.privacy.mechanisms:
            alike[plan.spec.privacy.unit, plan.spec.privacy.delta, adjacency_of(plan.ledger)].append(plan)
    for ((unit, delta, adjacency), own), adversary in product(alike.items(), (*ADVERSARIES, *COLLUDING, *EDGE)):
        own = [plan for plan in own if adversary in plan.adversaries]
        if not own:
            continue
        protected = "patient's record" if own[0].job.parties is not None else unit
        where = f"one {protected} at delta {delta:g}{f', {adjacency}' if adjacency else ''}"
        who = "edge server" if adversary == "edge" else adversary.replace("-", " ")
        yield f"Against the {who}, {where}: {_against(adversary, own)}."


def _against(adversary: Adversary, plans: Sequence[Plan]) -> str:
    finite: dict[str, list[float]] = defaultdict(list)
    infinite: dict[str, str] = {}
    for plan in plans:
        row = plan.columns()
        # A run whose noise is for replacing a record may have an adversary whom only noise for zeroing it out protects.
        columns = REPLACE_COLUMN_OF if row["adjacency"] == NAMES["replace"] else COLUMN_OF
        epsilon = row[columns[adversary]]
        if math.isfinite(epsilon):
            finite[_method(plan)].append(epsilon)
        else:
            infinite[_method(plan)] = "; ".join(un_noised(plan.ledger, adversary))
    methods_of: dict[str, list[str]] = defaultdict(list)
    for method, epsilons in finite.items():
        ends = (value_text(float(f"{value:.3g}")) for value in (min(epsilons), max(epsilons)))
        methods_of[f"epsilon {span_text(*ends)}"].append(method)
    for method, reason in infinite.items():
        methods_of[f"no guarantee, since {reason}"].append(method)
    everyone = set(map(_method, plans))
    return "; ".join(
        f"{what} ({'every method' if set(methods) == everyone else ' | '.join(methods)})"
        for what, methods in methods_of.items()
    )


def _method(plan: Plan) -> str:
    return label_of(plan.spec)


def _named(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMED:
        return ", ".join(map(clinic_text, names))
    return f"{', '.join(map(clinic_text, names[:2]))} and {len(names) - 2:,} others"
