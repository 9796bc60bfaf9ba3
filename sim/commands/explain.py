"""A scenario in words, before it runs: what it asks, of whom, and who is protected against whom."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, product

import numpy as np
from numpy.typing import NDArray

from sim.attacks.attack import attack_of
from sim.data.federation import Federation
from sim.foundation.text import amount_text, clinic_text, count_text, seconds_text, span_text, value_text
from sim.methods.labels import label_of
from sim.methods.parties import groups_at
from sim.models import ClipRows, KeepLargest
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
    clinics = assign_resources(groups_at(plans[0].spec, federation.facts), federation.facts.everyone, scenario.seeds[0])
    references = [plan for plan in plans if not plan.job.method.trains]
    plans = [plan for plan in plans if plan.job.method.trains] or references
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
        predicted=_predicted(federation),
        known=_KNOWN[federation.outcome.kind],
        held=_held(scenario, federation),
        regions=list(map(clinic_text, federation.places.regions)),
        holder=next((clinic_text(party.name) for party in scenario.parties if party.label), ""),
        shared=whom_they_share(plans[0]) if federation.known else "",
        sizes=sizes,
        smallest=clinic_text(names[sizes.argmin()]),
        largest=clinic_text(names[sizes.argmax()]),
        whole=scenario.data.test == "held-out-clinics",
        strangers=list(_strangers(federation, plans)),
        scores=_scores(federation, whole=scenario.data.test == "held-out-clinics"),
        links=_links(clinics),
        failures=_failures(scenario, clinics),
        hostile=list(_hostile(plans)),
        shape=tuple(shape),
        statistics=[f"{kind}{_named(names)}" for kind, names in statistics.items()],
        parameters=network.whole.parameter_count(),
        edges=list(_edges(plans)),
        cuts=_cuts(plans),
        protected=[plan for plan in plans if plan.spec.privacy.mechanisms],
        mechanisms={m: of(m).sentence for plan in plans for m in plan.spec.privacy.mechanisms},
        trust=list(_trust(plans)),
        guarantees=_guarantees(plans),
        simulated=dict.fromkeys(f"{seconds_text(own)} ({method})" for own, method in (seconds[0], seconds[-1])),
        attacks=list(_attacks(scenario, plans)),
        expected=f"{seconds_text(wall_seconds)} on {count_text(jobs, 'processor')}, {basis}",
    )


def _predicted(federation: Federation) -> str:
    """Say what is predicted."""
    outcome = federation.outcome
    if outcome.kind == "time":
        return f"times to an event up to {outcome.edges[-1]:g} in {count_text(len(outcome.edges), 'interval')}"
    if outcome.kind == "amount":
        return "amounts between {:g} and {:g}".format(*outcome.span)
    return f"{len(federation.classes)} {'grades' if outcome.kind == 'ordinal' else 'classes'}"


def _held(scenario: Scenario, federation: Federation) -> list[str]:
    """Say which columns each party holds, and where it is if not everywhere, under a vertical layout."""
    columns, said = dict(zip(federation.places.party_of, federation.places.columns, strict=True)), []
    for number, party in enumerate(scenario.parties):
        where = f" (in {', '.join(map(clinic_text, party.regions))})" if party.regions else ""
        held = ", ".join(federation.features[place] for place in columns[number])
        said.append(f"{clinic_text(party.name)}{where} holds {held}")
    return said


def _edges(plans: Sequence[Plan]) -> Iterator[str]:
    """Say whose the edge servers are, and what links them to the cloud."""
    for plan in [plan for plan in plans if plan.edges][:1]:
        for edge, its in zip(plan.edges, edges_at(plan.job), strict=True):
            link = its.own.uplink_bits_per_s, its.own.downlink_bits_per_s, its.own.latency_s
            yield "Edge server {} of {}: {} up to the cloud, {} down, {} one way.".format(
                clinic_text(edge.name), _named(edge.clinics), *_link(link)
            )


def _cuts(plans: Sequence[Plan]) -> list[dict[str, str]]:
    """Return, for each place at which a run cuts its network, the blocks of each part."""
    found = [
        {
            "server": "server" if plan.job.method.edge_round is None else "edge server",
            **{
                part.name: ", ".join(
                    block.name for block in part.blocks if not isinstance(block.module, ClipRows | KeepLargest)
                )
                for part in plan.job.parts
            },
        }
        for plan in plans
        if plan.spec.strategy.cut
    ]
    return [dict(parts) for parts in dict.fromkeys(tuple(parts.items()) for parts in found)]


def _attacks(scenario: Scenario, plans: Sequence[Plan]) -> Iterator[str]:
    """Say of each attack whose it is and on how many runs it is made."""
    for table in scenario.attacks:
        attack = attack_of(table.name)
        count = sum(attack.suits(plan.job) for plan in plans)
        yield f"{attack.name} by the {attack.adversary.replace('-', ' ')}, on {count_text(count, 'run')}"


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


def _strangers(federation: Federation, plans: Sequence[Plan]) -> Iterator[str]:
    """Say which methods are tested on clinics that are held out as a whole, and on which."""
    alike: dict[tuple[tuple[str, ...], ...], dict[str, None]] = defaultdict(dict)
    first = min(plan.spec.seed for plan in plans)
    for method, own in groupby(sorted(plans, key=_method), key=_method):
        held_out = {plan.job.facts.held_out: None for plan in own if plan.spec.seed == first}
        if any(held_out):
            alike[tuple(held_out)][method] = None
    every = sum(len(part.y) for part in (federation.train, federation.validation, federation.test))
    lost = max((every - plan.job.facts.records for plan in plans if plan.job.facts.held_out), default=0)
    for folds, methods in alike.items():
        held = "in turn" if len(folds) == len(federation.everyone) else f"in one of {len(folds)} folds"
        named = f"each of the {len(federation.everyone):,} clinics is held out {held}"
        if len(folds) == 1:
            named = f"{_named(folds[0])} {'is' if len(folds[0]) == 1 else 'are'} held out"
        who = "" if len(methods) == len({_method(plan) for plan in plans}) else f"{' | '.join(methods)}: "
        others = (
            f" Of a held-out clinic's patients no record elsewhere trains (up to {lost:,} in a run)." if lost else ""
        )
        yield (
            f"Test: {who}{named}, with all records and without any part in training. Where clinics have models of "
            f"their own, a held-out one is told the mean of their probabilities.{others}"
        )


def _scores(federation: Federation, *, whole: bool) -> str:
    """Say what methods are compared by, and on how many held-out records or pairs of them it rests.

    Parameters
    ----------
    whole : bool
        Whether a clinic is tested on all its records.
    """
    held, word = holdings(federation), federation.outcome.headline.word
    place = "region" if federation.places.regions else "clinic"
    one, several = ("grade", "grades") if federation.outcome.kind == "ordinal" else ("class", "classes")
    if not federation.outcome.of_classes:
        seen = f", {held.counts[2][:, 1].sum():,} of them with the event" if len(held.classes) > 1 else ""
        records = held.counts[2].sum()
        return f"Scores: methods are compared by the {word} within {place}s, on {records:,} held-out records{seen}."
    pairs = comparable_pairs(held.counts.sum(axis=0) if whole else held.counts[2])
    if not pairs.any():
        return f"Scores: no {place}'s held-out records are of two {several}, so there is no {word} within {place}s."
    most = int(np.argmax(pairs))
    said = [
        f"Scores: the {word} within {place}s rests on {count_text(int(pairs.sum()), 'pair')} of held-out records of "
        f"different {several}; {clinic_text(held.names[most])} has {pairs[most] / pairs.sum():.0%} of them."
    ]
    large = np.sort(pairs)[::-1][: len(pairs) // 10]
    if len(large) > 1:
        said.append(f"The {len(large):,} {place}s with most, a tenth of all, have {large.sum() / pairs.sum():.0%}.")
    none, few = int((pairs == 0).sum()), int(((pairs > 0) & (pairs < _FEWEST_PAIRS)).sum())
    if none:
        of_all = f"{none:,} of {len(pairs):,}"
        said.append(f"{place.capitalize()}s without any, all of one {one}, and so without an {word}: {of_all}.")
    if few:
        said.append(
            f"{place.capitalize()}s with fewer than {_FEWEST_PAIRS}, too few for an {word} to mean much: {few:,}."
        )
    if none or few:
        more = "" if whole else "; a larger data.test-share holds out more"
        said.append(f"data.min-records leaves small {place}s out{more}.")
    return " ".join(said)


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


def _failures(scenario: Scenario, clinics: Sequence[ClinicResources]) -> list[str]:
    """Say which clinics may be away, fail or straggle, and when a round does not wait for all."""
    alike: dict[Behaviour, list[str]] = defaultdict(list)
    for clinic in clinics:
        alike[clinic.behaviour].append(clinic.name)
    said = []
    for behaviour, names in alike.items():
        habits = []
        if behaviour.availability < 1:
            outage = behaviour.mean_outage
            away = "" if outage is None else f", with outages of {outage:g} rounds on average"
            habits.append(f"available in {behaviour.availability:.3g} of the rounds{away}")
        if behaviour.drop_out:
            habits.append(f"dropping out of {behaviour.drop_out:.3g} of the rounds that they begin")
        if behaviour.straggler_chance:
            habits.append(f"{behaviour.slowdown:g} times slower in {behaviour.straggler_chance:.3g} of the rounds")
        if habits:
            said.append(f"{_named(names)}: {'; '.join(habits)}.")
    train = scenario.train
    if train.deadline is not None:
        said.append(f"A round ends after {seconds_text(train.deadline)} at the latest, without clinics not yet back.")
    if train.over_select > 1:
        said.append(f"{train.over_select:g} times as many clinics as needed are asked; the first to return count.")
    return said


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
