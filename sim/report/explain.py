"""A scenario in words, before it runs: what it asks, of whom, and who is protected against whom."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, product

import numpy as np

from sim.data.federation import Federation
from sim.foundation.text import seconds_text, value_text
from sim.methods.labels import method_label
from sim.models.build import build_network
from sim.plan.plan import Plan
from sim.plan.releases import un_noised
from sim.privacy.adjacency import NAMES, adjacency_of
from sim.privacy.ledger import ADVERSARIES, COLUMN_OF, REPLACE_COLUMN_OF, Adversary
from sim.scenario import Scenario
from sim.scenario.clinics import Behaviour, assign_resources

_MOST_NAMED = 6
_UNITS = (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3), ("bit/s", 1.0))
PROTECTS = {
    "dp-sgd": "one record: its gradient is clipped and noised; for the model user and peer clinics, and for the server "
    "where nothing else is sent to it",
    "smashed-noise": "one record: its row at the cut is clipped and noised; for the server, if the clinic's parts "
    "learn nothing from raw records or dp-sgd stands beside it",
    "laplace": "one record: its row at the cut is clipped and noised, with an epsilon that needs no delta; for the "
    "server, on the terms of smashed-noise",
    "release-once": "one record: its row behind a public head is clipped, noised and sent once, before training; for "
    "everyone, but its label only if that is public or randomised",
    "label-rr": "one label: it is randomised once, before it leaves; for everyone, and labels alone",
    "clinic-level": "all records of a clinic: its update is clipped and the sum noised by a trusted server; for the "
    "model user and peer clinics",
}


def explain(
    scenario: Scenario, plans: Sequence[Plan], federation: Federation, wall_seconds: float, jobs: int, basis: str
) -> list[str]:
    """Say what a scenario will do.

    Parameters
    ----------
    scenario : Scenario
    plans : sequence of Plan
        Of all its runs.
    federation : Federation
        The clinics for the first seed.
    wall_seconds : float
        How long all runs are expected to take,
    jobs : int
        on so many processors,
    basis : str
        and how that was estimated.

    Returns
    -------
    list of str
        Paragraphs of plain text.
    """
    return [
        _study(scenario, plans),
        _clinics(scenario, federation),
        *_losses(scenario, federation),
        _data(scenario, federation),
        *_cuts(scenario, federation),
        *_privacy(plans),
        _simulated(plans),
        f"Time to wait: about {seconds_text(wall_seconds)} on {_count(jobs, 'processor')} for all runs, {basis}.",
    ]


def _study(scenario: Scenario, plans: Sequence[Plan]) -> str:
    methods = list(dict.fromkeys(map(_method, plans)))
    factors = [_count(len(methods), "method")]
    factors += [f"{_count(len(values), 'value')} of {key}" for key, values in scenario.sweep.items()]
    factors += [_count(len(scenario.seeds), "seed")]
    train = scenario.train
    settings = [_count(train.rounds, "round"), f"batches of {train.batch_size}", train.optimizer]
    return (
        f"Study {scenario.name}: {_count(len(plans), 'run')}, {' x '.join(factors)}. Methods: {' | '.join(methods)}. "
        f"Training: {', '.join(settings)} at a learning rate of {train.learning_rate:g}."
    )


def _clinics(scenario: Scenario, federation: Federation) -> str:
    sizes = np.diff(federation.train.offsets)
    least, most = int(sizes.argmin()), int(sizes.argmax())
    held_out = len(federation.test.y)
    text = (
        f"Clinics: {len(federation.names):,} with {sizes.sum():,} training and {held_out:,} held-out records; the "
        f"smallest {federation.names[least]} ({_count(int(sizes[least]), 'training record')}), the largest "
        f"{federation.names[most]} ({sizes[most]:,})."
    )
    one_class = sum(len(set(federation.test.y[a:b])) < 2 for a, b in pairwise(federation.test.offsets.tolist()))
    if one_class:
        have = "of them has" if one_class == 1 else "of them have"
        text += f" {one_class:,} {have} held-out records of one class only, and so no AUC of their own."
    resources = assign_resources(scenario.clinics, federation.names, scenario.seeds[0])
    lines: dict[str, list[str]] = defaultdict(list)
    for clinic in resources:
        up, down = _rate(clinic.uplink_bits_per_s), _rate(clinic.downlink_bits_per_s)
        lines[f"{up} up, {down} down, {seconds_text(clinic.latency_s)} each way"].append(clinic.name)
    if len(lines) > _MOST_NAMED:
        up, down = (
            _rates([getattr(clinic, way) for clinic in resources])
            for way in ("uplink_bits_per_s", "downlink_bits_per_s")
        )
        latencies = [clinic.latency_s for clinic in resources]
        each_way = " to ".join(dict.fromkeys(seconds_text(latency) for latency in (min(latencies), max(latencies))))
        return f"{text} Their lines differ: {up} up, {down} down, {each_way} each way."
    return " ".join([text, *(f"{_named(names)}: {line}." for line, names in lines.items())])


def _losses(scenario: Scenario, federation: Federation) -> Iterator[str]:
    """Say which clinics may be away, lost or slow, and when a round does not wait for all."""
    alike: dict[Behaviour, list[str]] = defaultdict(list)
    for clinic in assign_resources(scenario.clinics, federation.names, scenario.seeds[0]):
        alike[clinic.behaviour].append(clinic.name)
    said = []
    for behaviour, names in alike.items():
        habits = []
        if behaviour.availability < 1:
            outage = behaviour.mean_outage
            away = "" if outage is None else f", away for {outage:g} rounds on average"
            habits.append(f"there in {behaviour.availability:.3g} of the rounds{away}")
        if behaviour.drop_out:
            habits.append(f"lost in {behaviour.drop_out:.3g} of the rounds that they begin")
        if behaviour.straggler_chance:
            habits.append(f"{behaviour.slowdown:g} times slower in {behaviour.straggler_chance:.3g} of the rounds")
        if habits:
            said.append(f"{_named(names)}: {'; '.join(habits)}.")
    train = scenario.train
    if train.deadline is not None:
        said.append(f"A round ends after {seconds_text(train.deadline)} at the latest, without those who are not back.")
    if train.over_select > 1:
        said.append(f"{train.over_select:g} times as many clinics are asked as are wanted; the first ones back count.")
    if said:
        yield f"Losses: {' '.join(said)}"


def _data(scenario: Scenario, federation: Federation) -> str:
    data = scenario.data
    where = "at their natural clinics" if data.split == "natural" else f"dealt to clinics by {data.split}"
    private = [f"{kind}{_named(names)}" for kind, names in federation.statistics_by_kind("non-private").items()]
    scaled = (
        f"Not private, and no epsilon is finite where it is used: {', '.join(private)}."
        if private
        else ("The preprocessing uses public constants only.")
    )
    columns = (
        f"{len(federation.features)} features"
        if federation.train.x.ndim == 2
        else (f"records of shape {tuple(federation.train.x.shape[1:])}")
    )
    return f"Data: {data.source}, {columns}, {len(federation.classes)} classes, {where}. {scaled}"


def _cuts(scenario: Scenario, federation: Federation) -> Iterator[str]:
    network = build_network(scenario.model, federation.train.x.shape[1:], len(federation.classes))
    yield f"Model: {scenario.model.name}, {network.whole.parameter_count():,} parameters."
    used = dict.fromkeys(cut for strategy in scenario.strategies for cut in strategy.cut)
    for cut in used:
        parts = network.split(cut, scenario.model.cut)
        held = {part.name: ", ".join(block.name for block in part.blocks) for part in parts}
        if cut == "vanilla":
            yield f"Vanilla cut: {held['head']} at the clinic; {held['body']} at the server, which is sent the labels."
        else:
            yield (
                f"U-shaped cut: {held['head']} and {held['tail']} at the clinic, where the labels stay; {held['body']} "
                "at the server."
            )


def _privacy(plans: Sequence[Plan]) -> Iterator[str]:
    protected = [plan for plan in plans if plan.spec.privacy.mechanisms]
    bare = len(plans) - len(protected)
    if bare:
        which = "No run has a privacy mechanism" if not protected else f"{bare} of the {len(plans)} runs have none"
        yield f"Privacy: {which}: what is released there is released as it is."
    for mechanism in dict.fromkeys(m for plan in protected for m in plan.spec.privacy.mechanisms):
        yield f"Privacy: {mechanism} protects {PROTECTS[mechanism]}."
    guarantees: dict[tuple[str, float | None, str], list[Plan]] = {}
    for plan in protected:
        privacy = plan.spec.privacy
        guarantees.setdefault((privacy.unit, privacy.delta, adjacency_of(plan.ledger)), []).append(plan)
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
    said = {method: f"epsilon {_span(epsilons)}" for method, epsilons in finite.items()}
    bare = {method: f"no guarantee, since {reason}" for method, reason in infinite.items()}
    everyone = {_method(plan) for plan in plans}
    return "; ".join(
        f"{what} ({'every method' if set(methods) == everyone else ' | '.join(methods)})"
        for what, methods in [*_inverted(said), *_inverted(bare)]
    )


def _inverted(said_of: dict[str, str]) -> Iterable[tuple[str, list[str]]]:
    by_what: dict[str, list[str]] = defaultdict(list)
    for method, what in said_of.items():
        by_what[what].append(method)
    return by_what.items()


def _simulated(plans: Sequence[Plan]) -> str:
    by_seconds = sorted(plans, key=lambda plan: math.fsum(plan.round_seconds))
    ends = dict.fromkeys(
        f"{seconds_text(math.fsum(plan.round_seconds))} ({_method(plan)})" for plan in (by_seconds[0], by_seconds[-1])
    )
    return f"Simulated time of a run: {' to '.join(ends)}; suture plan says it for each."


def _method(plan: Plan) -> str:
    strategy = plan.spec.strategy
    return method_label(strategy.label or strategy.name, strategy.cut)


def _span(epsilons: Sequence[float]) -> str:
    low, high = (value_text(float(f"{value:.3g}")) for value in (min(epsilons), max(epsilons)))
    return low if low == high else f"{low} to {high}"


def _named(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:2])} and {len(names) - 2:,} others"


def _rates(bits_per_s: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(_rate(rate) for rate in (min(bits_per_s), max(bits_per_s))))


def _rate(bits_per_s: float) -> str:
    unit, size = next((unit for unit in _UNITS if bits_per_s >= unit[1]), _UNITS[-1])
    return f"{bits_per_s / size:.3g} {unit}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
