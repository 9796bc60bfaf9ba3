"""What a study gives away in all: the releases of every run on the same records, composed.

Each run draws its noise independently of every other, so that runs on the same records compose like steps of one run.
The number of runs is fixed, not drawn: whoever publishes the best one alone has chosen it by looking at all, and
owes the composition of all. Had the number been drawn from a stated distribution, the price would be less [1]_.

References
----------
.. [1] Papernot & Steinke, "Hyperparameter tuning with Renyi differential privacy", ICLR 2022.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sim.privacy.accounting import Mechanisms, compose, largest_epsilon
from sim.privacy.adjacency import NAMES, replaced
from sim.privacy.events import DpEvent, dp
from sim.privacy.ledger import ADVERSARIES, COLUMN_OF, EDGE, Adversary, Ledger, Unit
from sim.privacy.loss import Adjacency
from sim.privacy.patients import composed, no_better_than
from sim.privacy.remembered import remembered
from sim.privacy.tuning_price import with_trials

MOST_MECHANISMS = 60
"""Of more different sampled mechanisms than this, similar ones are counted as the weakest of them."""

_ELSEWHERE: dict[Adversary, tuple[Adversary, ...]] = {
    "peers": ("peer-clinic",),
    "server-and-peers": ("server", "peer-clinic"),
    "edge": ("model-user",),
}
"""Who those are that collude, and what an edge server is, in a run that knows of none."""

_ORDERS = (*range(2, 65), *range(72, 257, 8), 512, 1024)  # whole: of others dp-accounting's series may not converge


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """The releases of one run."""

    row: Mapping[str, Any]  # Its row in the table of runs
    releases: str  # Its ledger in JSON: executed releases of a finished run, planned ones of one that failed
    clinics: tuple[str, ...]  # Names, in the order of the ledger's clinics; of parties in regions, their region's
    population: str  # Two runs with the same one are on the same records
    placement: str  # In two runs with the same one a record is at the clinic of the same name
    shared: bool = False  # Whether the clinics are parties that hold columns of the same patients, all of one region
    trials: tuple[tuple[str, int], ...] = ()  # The different ledgers of its trials, and how many have each
    not_made: tuple[str, ...] = ()  # Ledgers of runs that trials might have chosen instead

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> StudyRun:
        """Take a run from what ``run.json`` holds."""
        spec, clinics = record["spec"], tuple(clinic["name"] for clinic in record["plan"]["clinics"])
        data, seed = spec["data"], spec["seed"]
        tuning = record["privacy"].get("tuning", {"ledgers": (), "not-made": ()})
        in_regions = bool(spec["data"].get("regions"))
        shared = bool(spec.get("parties")) and not in_regions
        if in_regions:
            clinics = tuple(name.rpartition(": ")[0] for name in clinics)
        own = [data["source"], data.get("path"), data.get("clinic")] if data["split"] == "natural" else [data, seed]
        return cls(
            row=record["row"],
            releases=record["privacy"]["releases"],
            clinics=clinics,
            population=f"seed {seed}" if data["source"] == "synthetic" else "",
            placement=json.dumps([*own, *(["parties"] if shared else [])], sort_keys=True),
            shared=shared,
            trials=tuple((each["releases"], each["times"]) for each in tuning["ledgers"]),
            not_made=tuple(tuning["not-made"]),
        )

    @cached_property
    def ledger(self) -> Ledger:
        """The releases of the run itself."""
        return Ledger.from_json(self.releases)

    @cached_property
    def _of_trials(self) -> list[tuple[Ledger, int]]:
        return [(Ledger.from_json(releases), times) for releases, times in self.trials]

    @cached_property
    def _of_runs(self) -> list[Ledger]:
        return [self.ledger, *map(Ledger.from_json, self.not_made)]

    def mechanisms(self, adversary: Adversary, clinic: int, unit: Unit) -> Mechanisms:
        """Return what an adversary sees of a clinic, of the run and of all its trials; of a patient at all parties.

        A run that knows of no collusion, as one without a mechanism, says of each alone what they see together. Whoever
        runs an edge server gets the model of a run without any.
        """
        alone = () if adversary in self._known else _ELSEWHERE.get(adversary, ())
        if alone:
            return composed(self._seen(each, clinic, unit) for each in alone)
        return self._seen(adversary, clinic, unit)

    @cached_property
    def _known(self) -> frozenset[Adversary]:
        return frozenset(adversary for release in self.ledger.releases for adversary in release.adversaries)

    def _seen(self, adversary: Adversary, clinic: int, unit: Unit) -> Mechanisms:
        name = self.clinics[clinic]
        clinics = [k for k, own in enumerate(self.clinics) if self.shared or own == name]
        seen = with_trials(self._of_runs, self._of_trials, adversary, clinics, unit)
        told = [mechanisms for mechanisms in seen if mechanisms] or seen[:1]
        return told[0] if len(told) == 1 else no_better_than(told)

    def infinite(self, adversary: Adversary) -> bool:
        """Whether an adversary sees anything of any clinic without noise."""
        return any(
            isinstance(atom, dp.NonPrivateDpEvent)
            for clinic in range(len(self.clinics))
            for _, atom in self.mechanisms(adversary, clinic, "record")
        )


@dataclass(frozen=True, kw_only=True)
class Composition:
    """What one adversary learns from all runs of a study."""

    adversary: Adversary
    # runs, finite_runs: how many runs release anything to it, and how many of them nothing without noise
    runs: int
    finite_runs: int
    epsilon: float  # Of all runs, infinite if that of any is
    finite: float  # Of those with a finite one
    # Of the best of the finite ones, had their number been drawn from a Poisson distribution with that mean; None where
    # that does not apply
    drawn: float | None


@dataclass(frozen=True, kw_only=True)
class StudyPrivacy:
    """The ledger of a study, counted."""

    unit: Unit
    delta: float
    adjacency: str  # Of every epsilon in it
    compositions: tuple[Composition, ...]  # One an adversary
    # runs, failed: how many runs are counted, and how many of them by what was planned, since they failed
    runs: int
    failed: int
    trials: int  # Of all runs' tuning
    # Whether a record is at the same clinic in all runs; otherwise a run counts as a clinic that is protected no better
    # than any of its own
    by_clinic: bool
    populations: int  # How many sets of records there are; the largest epsilon over them is given
    # By which share noise or sampling rates were rounded to have fewer mechanisms to compose, always to a weaker one; 0
    # if they were not
    rounding: float


def compose_study(runs: Sequence[StudyRun], delta: float | None = None) -> StudyPrivacy:
    """Compose the releases of all runs of a study, at the largest of the runs' own deltas if none is given.

    In the unit that all noised runs share, otherwise a record; under replacement if any noised release of any run is
    stated for it.
    """
    noised = [run for run in runs if run.row["mechanism"] != "none"]
    unit: Unit = "clinic" if noised and all(run.row["unit"] == "clinic" for run in noised) else "record"
    at = max((run.row["delta"] or 0.0 for run in runs), default=0.0) if delta is None else delta
    convert = any(run.row["adjacency"] == NAMES["replace"] for run in runs)
    adjacency = NAMES["replace" if convert else "add-or-remove"] if noised else ""
    adversaries = adversaries_of_all(runs)
    without_rows = tuple(replace(run, row={}) for run in runs)
    *compositions, rounding = json.loads(_counted(without_rows, adversaries, unit, at, convert))
    return StudyPrivacy(
        unit=unit,
        delta=at,
        adjacency=adjacency,
        compositions=tuple(
            Composition(adversary=adversary, **each) for adversary, each in zip(adversaries, compositions, strict=True)
        ),
        runs=len(runs),
        failed=sum(run.row["status"] != "ok" for run in runs),
        trials=sum(times for run in runs for _, times in run.trials),
        by_clinic=all(len({run.placement for run in own}) == 1 for own in _by_population(runs)),
        populations=len(_by_population(runs)),
        rounding=rounding,
    )


def adversaries_of_all(runs: Sequence[StudyRun]) -> tuple[Adversary, ...]:
    """Return the adversaries that every run with a mechanism has, and edge servers if any has them.

    Of others a run without them tells nothing.
    """
    noised = [run.row for run in runs if run.row["mechanism"] != "none"]
    has = {a: [row.get(column) is not None for row in noised] for a, column in COLUMN_OF.items()}
    stated = {a for a, of_run in has.items() if of_run and (any if a in EDGE else all)(of_run)}
    return tuple(adversary for adversary in COLUMN_OF if adversary in ADVERSARIES or adversary in stated)


@remembered
def _counted(
    runs: tuple[StudyRun, ...], adversaries: tuple[Adversary, ...], unit: Unit, at: float, convert: bool
) -> str:
    """Return, as JSON, what each adversary learns from runs without their rows, and how it was rounded."""
    found: list[Any] = []
    rounding = 0.0
    for adversary in adversaries:
        seen = [run for run in runs if any(run.mechanisms(adversary, k, "record") for k in range(len(run.clinics)))]
        finite = [run for run in seen if not run.infinite(adversary)]
        whole = [_reduced(m, convert=convert) for m in _compositions(finite, adversary, unit)]
        rounding = max([rounding, *(share for _, share in whole)])
        of_finite = largest_epsilon((mechanisms for mechanisms, _ in whole), at)
        found.append(
            {
                "runs": len(seen),
                "finite_runs": len(finite),
                "epsilon": of_finite if len(finite) == len(seen) else math.inf,
                "finite": of_finite,
                "drawn": _drawn(finite, adversary, unit, at, convert=convert),
            }
        )
    return json.dumps([*found, rounding])


def own_epsilon(run: StudyRun, adversary: Adversary, found: StudyPrivacy, delta: float | None = None) -> float:
    """Count a run alone in the unit and under the adjacency of its study, at its own delta if none is given.

    Not a number against an adversary that the run does not have.
    """
    if run.row.get(COLUMN_OF[adversary]) is None:
        return math.nan
    clinics = (run.ledger.mechanisms(adversary, k, found.unit) for k in range(len(run.clinics)))
    convert = found.adjacency == NAMES["replace"]
    at = (run.row["delta"] or 0.0) if delta is None else delta
    return largest_epsilon((replaced(each) if convert else each for each in clinics), at)


def _by_population(runs: Iterable[StudyRun]) -> list[list[StudyRun]]:
    groups: dict[str, list[StudyRun]] = {}
    for run in runs:
        groups.setdefault(run.population, []).append(run)
    return list(groups.values())


def _compositions(runs: Sequence[StudyRun], adversary: Adversary, unit: Unit) -> list[Mechanisms]:
    """Return mechanisms of all runs together such that no record is protected less than by one of them.

    Clinics are told by name in the runs of the most frequent placement; a run of another counts as one clinic that is
    protected no better than any of its own.
    """
    found: dict[frozenset[Any], Mechanisms] = {}
    for own in _by_population(runs):
        [(named, _)] = Counter(run.placement for run in own).most_common(1)
        elsewhere = composed(
            no_better_than([run.mechanisms(adversary, k, unit) for k in range(len(run.clinics))])
            for run in own
            if run.placement != named
        )
        at: dict[str, list[Mechanisms]] = {}
        for run in own:
            places = {name: k for k, name in enumerate(run.clinics)} if run.placement == named else {}
            for name, k in places.items():
                at.setdefault(name, []).append(run.mechanisms(adversary, k, unit))
        for parts in at.values() or [[]]:
            whole = composed([elsewhere, *parts])
            found[frozenset(whole.items())] = whole
    return list(found.values())


def _reduced(mechanisms: Mechanisms, *, convert: bool) -> tuple[Mechanisms, float]:
    """Return mechanisms that protect no better and are few, and by which share they were rounded.

    Gaussians without sampling are one, exactly.
    """
    atoms: Counter[tuple[Adjacency, DpEvent]] = Counter()
    squared: Counter[Adjacency] = Counter()
    sampled: list[tuple[Adjacency, float, float, int]] = []
    for (way, atom), count in (replaced(mechanisms) if convert else mechanisms).items():
        match atom:
            case dp.GaussianDpEvent(sigma):
                squared[way] += count / sigma**2
            case dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)):
                sampled.append((way, rate, sigma, count))
            case _:
                atoms[way, atom] += count
    for way, total in squared.items():
        atoms[way, dp.GaussianDpEvent(total**-0.5)] += 1
    share = 0.0
    while True:
        groups: dict[tuple[Any, ...], tuple[float, float, int]] = {}
        for way, rate, sigma, count in sampled:
            key = (way, *(_bin(value, share) for value in (rate, sigma)))
            highest, least, times = groups.get(key, (rate, sigma, 0))
            groups[key] = max(highest, rate), min(least, sigma), times + count
        if len(groups) <= MOST_MECHANISMS:
            break
        share = 2 * share or 0.005
    for (way, *_), (rate, sigma, count) in groups.items():
        atoms[way, dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma))] += count
    return atoms, share


def _bin(value: float, share: float) -> float:
    return math.floor(math.log(value) / math.log1p(share)) if share else value


def _drawn(runs: Sequence[StudyRun], adversary: Adversary, unit: Unit, delta: float, *, convert: bool) -> float | None:
    """Count the best of a drawn number of runs; None unless all are alike and Renyi DP takes their mechanisms."""
    if len(runs) < 2 or not delta or len({(run.population, run.placement) for run in runs}) > 1:
        return None
    views = [{name: run.mechanisms(adversary, k, unit) for k, name in enumerate(run.clinics)} for run in runs]
    told = [{name: _told(mechanisms) for name, mechanisms in view.items()} for view in views]
    if any(one != told[0] for one in told):
        return None
    largest = 0.0
    for mechanisms in views[0].values():
        atoms: Counter[DpEvent] = Counter()
        for (_, atom), count in (replaced(mechanisms) if convert else mechanisms).items():
            if not isinstance(atom, dp.GaussianDpEvent) and (convert or not isinstance(atom, dp.PoissonSampledDpEvent)):
                return None
            atoms[atom] += count
        if atoms:
            event = dp.dp_event.RepeatAndSelectDpEvent(compose(atoms), float(len(runs)), math.inf)
            largest = max(largest, float(dp.rdp.RdpAccountant(_ORDERS).compose(event).get_epsilon(delta)))
    return largest


def _told(mechanisms: Mechanisms) -> dict[str, int]:
    """Write mechanisms with numbers to nine digits, so that what differs by rounding alone is alike."""
    number = re.compile(r"\d+\.\d+(?:e[+-]?\d+)?")
    told: Counter[str] = Counter()
    for key, count in mechanisms.items():
        told[number.sub(lambda found: f"{float(found[0]):.9g}", repr(key))] += count
    return told
