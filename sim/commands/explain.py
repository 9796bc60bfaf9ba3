"""A scenario in words, before it runs: what it asks, of whom, and who is protected against whom."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, product

import numpy as np

from sim.data.federation import Federation
from sim.foundation.text import amount_text, count_text, seconds_text, span_text, value_text
from sim.models.build import build_network
from sim.plan.first_round import label_of
from sim.plan.plan import Plan
from sim.plan.releases import un_noised
from sim.privacy.adjacency import NAMES, adjacency_of
from sim.privacy.ledger import ADVERSARIES, COLUMN_OF, REPLACE_COLUMN_OF, Adversary
from sim.privacy.mechanisms.mechanism import of
from sim.report.holdings import Holdings
from sim.scenario import Scenario
from sim.scenario.clinics import Behaviour, assign_resources

_MOST_NAMED = 6


def explain(
    scenario: Scenario, plans: Sequence[Plan], federation: Federation, wall_seconds: float, jobs: int, basis: str
) -> list[str]:
    """Say what a scenario will do.

    Paragraphs of plain text.

    Parameters
    ----------
    plans : sequence of Plan
        Of all its runs.
    federation : Federation
        The clinics for the first seed.
    wall_seconds : float
        How long all runs are expected to take on so many processors.
    basis : str
        How that was estimated.
    """
    return [
        _study(scenario, plans),
        _clinics(scenario, federation),
        *_failures(scenario, federation),
        _data(scenario, federation),
        *_cuts(scenario, federation),
        *_privacy(plans),
        _simulated(plans),
        f"Expected running time: about {seconds_text(wall_seconds)} on {count_text(jobs, 'processor')}, {basis}.",
    ]


def holdings(federation: Federation) -> Holdings:
    """Count the records of each clinic."""
    clinics, classes = len(federation.names), len(federation.classes)
    counts = np.zeros((3, clinics, classes), dtype=np.int64)
    for own, part in zip(counts, (federation.train, federation.validation, federation.test), strict=True):
        np.add.at(own, (np.repeat(np.arange(clinics), np.diff(part.offsets)), part.y), 1)
    return Holdings(federation.names, federation.classes, counts)


def _study(scenario: Scenario, plans: Sequence[Plan]) -> str:
    methods = list(dict.fromkeys(map(_method, plans)))
    factors = [
        count_text(len(methods), "method"),
        *(f"{count_text(len(values), 'value')} of {key}" for key, values in scenario.sweep.items()),
        count_text(len(scenario.seeds), "seed"),
    ]
    train = scenario.train
    return (
        f"Study {scenario.name}: {count_text(len(plans), 'run')}, {' x '.join(factors)}. "
        f"Methods: {' | '.join(methods)}. Training: {count_text(train.rounds, 'round')}, batches of "
        f"{train.batch_size}, {train.optimizer} at a learning rate of {train.learning_rate:g}."
    )


def _clinics(scenario: Scenario, federation: Federation) -> str:
    sizes = np.diff(federation.train.offsets)
    least, most = int(sizes.argmin()), int(sizes.argmax())
    text = (
        f"Clinics: {len(federation.names):,} with {sizes.sum():,} training and {len(federation.test.y):,} held-out "
        f"records; the smallest is {federation.names[least]} ({count_text(int(sizes[least]), 'training record')}), the "
        f"largest {federation.names[most]} ({sizes[most]:,})."
    )
    one_class = sum(len(set(federation.test.y[a:b])) < 2 for a, b in pairwise(federation.test.offsets.tolist()))
    if one_class:
        have = "of them has" if one_class == 1 else "of them have"
        text += f" {one_class:,} {have} held-out records of one class only, and so no AUC of their own."
    links: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for clinic in assign_resources(scenario.clinics, federation.names, scenario.seeds[0]):
        links[clinic.uplink_bits_per_s, clinic.downlink_bits_per_s, clinic.latency_s].append(clinic.name)
    if len(links) > _MOST_NAMED:
        ends = zip(*((min(values), max(values)) for values in zip(*links, strict=True)), strict=True)
        up, down, each_way = map(span_text, *map(_link, ends))
        return f"{text} Links differ: {up} up, {down} down, {each_way} one way."
    told = ("{} up, {} down, {} one way".format(*_link(link)) for link in links)
    return " ".join([text, *(f"{_named(names)}: {link}." for link, names in zip(told, links.values(), strict=True))])


def _link(values: Iterable[float]) -> list[str]:
    up, down, latency = values
    return [amount_text(up, "bit/s"), amount_text(down, "bit/s"), seconds_text(latency)]


def _failures(scenario: Scenario, federation: Federation) -> Iterator[str]:
    """Say which clinics may be away, fail or straggle, and when a round does not wait for all."""
    alike: dict[Behaviour, list[str]] = defaultdict(list)
    for clinic in assign_resources(scenario.clinics, federation.names, scenario.seeds[0]):
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
    if said:
        yield f"Availability and failures: {' '.join(said)}"


def _data(scenario: Scenario, federation: Federation) -> str:
    data, shape = scenario.data, federation.train.x.shape[1:]
    where = "by natural clinic" if data.split == "natural" else f"partitioned by {data.split}"
    columns = f"{len(federation.features)} features" if len(shape) == 1 else f"records of shape {tuple(shape)}"
    private = [f"{kind}{_named(names)}" for kind, names in federation.facts.statistics_by_kind("non-private").items()]
    used = "Preprocessing uses public constants only."
    if private:
        used = (
            f"Preprocessing uses non-private statistics; no epsilon is finite where they enter: {', '.join(private)}."
        )
    return f"Data: {data.source}, {columns}, {len(federation.classes)} classes, {where}. {used}"


def _cuts(scenario: Scenario, federation: Federation) -> Iterator[str]:
    network = build_network(scenario.model, federation.train.x.shape[1:], len(federation.classes))
    yield f"Model: {scenario.model.name}, {network.whole.parameter_count():,} parameters."
    for cut in dict.fromkeys(cut for strategy in scenario.strategies for cut in strategy.cut):
        parts = network.split(cut, scenario.model.cut)
        held = {part.name: ", ".join(block.name for block in part.blocks) for part in parts}
        if "tail" in held:
            at_clinic = f"{held['head']} and {held['tail']} at the clinic, where the labels stay"
            yield f"U-shaped cut: {at_clinic}; {held['body']} at the server."
        else:
            yield f"Vanilla cut: {held['head']} at the clinic; {held['body']} at the server, which receives the labels."


def _privacy(plans: Sequence[Plan]) -> Iterator[str]:
    protected = [plan for plan in plans if plan.spec.privacy.mechanisms]
    if bare := len(plans) - len(protected):
        which = f"{bare} of the {len(plans)} runs have none" if protected else "No run has a privacy mechanism"
        yield f"Privacy: {which}: whatever they release is released as it is."
    for mechanism in dict.fromkeys(m for plan in protected for m in plan.spec.privacy.mechanisms):
        yield f"Privacy: {mechanism} protects {of(mechanism).sentence}."
    guarantees: dict[tuple[str, float | None, str], list[Plan]] = defaultdict(list)
    for plan in protected:
        guarantees[plan.spec.privacy.unit, plan.spec.privacy.delta, adjacency_of(plan.ledger)].append(plan)
    for ((unit, delta, adjacency), alike), adversary in product(guarantees.items(), ADVERSARIES):
        where = f"one {unit} at delta {delta:g}{f', {adjacency}' if adjacency else ''}"
        yield f"Against the {adversary.replace('-', ' ')}, {where}: {_against(adversary, alike)}."


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


def _simulated(plans: Sequence[Plan]) -> str:
    seconds = sorted((math.fsum(plan.round_seconds), _method(plan)) for plan in plans)
    ends = (f"{seconds_text(own)} ({method})" for own, method in (seconds[0], seconds[-1]))
    return f"Simulated time of a run: {' to '.join(dict.fromkeys(ends))}; suture plan lists each."


def _method(plan: Plan) -> str:
    return label_of(plan.spec)


def _named(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:2])} and {len(names) - 2:,} others"
