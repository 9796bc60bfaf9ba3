"""What each adversary sees, derived again from settings and counts: the other side of ``suture verify``.

Nothing here looks at the ledger, at the protocols or at :mod:`sim.plan.releases`: which method sends what to whom is
stated a second time, after Thapa et al. (2022), Gupta & Raskar (2018) and Gawali et al. (2020), so that an error or a
forgery on one side shows as a difference. Two things are taken as stated: which method lets clinics keep parts, and
whether the head of a user's own factory has no negative outputs, which only the factory's code can tell. The counts are
those that the run's log counted; their limits follow from the settings (:func:`count_faults`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import dp_accounting as dp
from dp_accounting import DpEvent, NonPrivateDpEvent
from pydantic import Field, Strict

from sim.privacy.ledger import ADVERSARIES, Adversary, adversaries_of
from sim.privacy.loss import Adjacency
from sim.privacy.recounted import Seen, gaussian, sampled_steps, sent_rows, through_edges
from sim.scenario.base import Number, Section
from sim.scenario.model import Model
from sim.scenario.privacy import Privacy

RECOUNTED = frozenset({"dp-sgd", "smashed-noise", "laplace", "label-rr", "clinic-level"})
"""The mechanisms whose releases are known here."""


Count = Annotated[int, Strict(), Field(ge=0)]
Noise = Annotated[Number, Field(ge=0)]


class Drawn(Section):
    """Counts and noise of a run as ``plan.drawn`` of ``run.json`` has them, a value a clinic.

    ``rates``, ``steps``, ``exposures``, ``rounds`` and ``released`` are those of
    :class:`sim.plan.releases.Sampled`; ``sums`` says how often the clinic's update was in a sum of how many;
    ``noise_multipliers`` are DP-SGD's, ``release_noise`` those of rows or updates, empty without.
    """

    rates: tuple[Noise, ...]
    steps: tuple[Count, ...]
    exposures: tuple[Count, ...]
    rounds: tuple[Count, ...]
    released: tuple[Count, ...]
    sums: tuple[tuple[tuple[Count, Count], ...], ...]
    noise_multipliers: tuple[Noise, ...]
    release_noise: tuple[Noise, ...]
    classes: Annotated[int, Strict(), Field(ge=0)]

    def of(self, clinics: int) -> bool:
        """Say whether every list has a value for each of so many clinics."""
        counts = (self.rates, self.steps, self.exposures, self.rounds, self.released, self.sums)
        noise = (self.noise_multipliers, self.release_noise)
        return all(len(x) == clinics for x in counts) and all(len(x) in (0, clinics) for x in noise)


_ALONE = frozenset({"local", "prevalence", "vertical-alone"})
"""Methods in which nothing leaves a clinic but its own model, for whoever uses that."""
_JOINED = frozenset({"vertical", "vertical-splitfed"})
"""Methods in which the server joins the rows of parties that hold columns of the same patients."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """What of a run's settings says who sees what."""

    name: str
    cut: str | None
    privacy: Privacy
    model: Model
    tight_rows: bool = False  # Whether the smashed rows of a factory's head are stated to have no negative value
    preprocessing: frozenset[str] = frozenset()  # The statistics of the records that the preprocessing used
    pooled: bool = False  # Whether features are scaled by statistics of all clinics
    parties: int = 0  # How many hold columns of the same patients
    # By clinic, who has the label of its patients, where parties hold columns of the same patients; empty elsewhere
    label_holders: tuple[int, ...] = ()
    edges: bool = False  # Whether edge servers stand between clinics and the server
    own_parts: bool = False  # Whether each clinic keeps parts of the model to itself
    together: int = 1  # How many clinics a round is meant to have
    invited: int = 1  # How many it has at most before the slowest are left out
    one_step: bool = False  # Whether every clinic takes one step of plain SGD a round, on all its records

    @property
    def of_all_clinics(self) -> bool:
        """Whether the records of one clinic change the features or the columns of another."""
        within = {name for name in self.preprocessing if name.startswith("mean and deviation of ")}
        within |= {"held-out records drawn by class"}
        return bool(self.preprocessing - within) or (self.pooled and bool(self.preprocessing))

    @property
    def parts(self) -> int:
        """Into how many parts the model is cut."""
        return {"vanilla": 2, "u-shaped": 3, "multi-hop": 3, "multi-hop-u-shaped": 4}.get(self.cut or "", 1)

    @property
    def keeps_labels(self) -> bool:
        """Whether the loss is at the clinic, behind a tail of its own, so that labels stay."""
        return self.cut in ("u-shaped", "multi-hop-u-shaped")

    @property
    def frozen(self) -> frozenset[str]:
        """The parts that do not train."""
        return frozenset(self.model.freeze) | ({"head"} if self.name == "release-once" else frozenset())

    @property
    def trained(self) -> int:
        """How many parts train."""
        return self.parts - len(self.frozen)

    @property
    def gradients_are_noised(self) -> bool:
        """Whether DP-SGD is among the mechanisms."""
        return "dp-sgd" in self.privacy.mechanism.split("+")

    @property
    def rows_are_noised(self) -> bool:
        """Whether rows at the cut get noise, of which the server sees nothing else."""
        names = {"smashed-noise", "laplace"}
        norms_too = self.gradients_are_noised and self.privacy.clipping == "joint" and self.trained > 1
        return not names.isdisjoint(self.privacy.mechanism.split("+")) and not norms_too

    @property
    def label_noise(self) -> float | None:
        """Epsilon of a label's randomised answer."""
        if "label-rr" not in self.privacy.mechanism.split("+"):
            return None
        given = self.privacy.label_epsilon
        return self.privacy.epsilon if given is None else given

    @property
    def noised(self) -> frozenset[str]:
        """Names of what has its noised steps counted: parts, kinds of rows, or what a round releases."""
        privacy, names = self.privacy, set[str]()
        mechanisms = privacy.mechanism.split("+")
        if privacy.mechanism == "clinic-level":
            return frozenset({"update"} | (set() if privacy.adaptive_quantile is None else {"clip-count"}))
        if self.gradients_are_noised:
            names |= (
                {"model"}
                if self.cut is None
                else {"head", "body"}
                | ({"tail"} if self.keeps_labels else set())
                | ({"middle"} if self.cut.startswith("multi-hop") else set())
            )
        names -= self.frozen
        if not {"smashed-noise", "laplace"}.isdisjoint(mechanisms):
            names |= {"smashed", "tail-gradient"} if self.keeps_labels else {"smashed"}
        return frozenset(names | ({"labels"} if "label-rr" in mechanisms else set()))

    @property
    def least(self) -> int:
        """With fewer updates than this no sum is opened."""
        return self.together - self.privacy.tolerated_drop_outs

    @property
    def adds_up(self) -> bool:
        """Whether a round's sum is one Gaussian, with the noise of all whose updates are in it."""
        if not self.privacy.secure_aggregation or self.cut is not None:
            return False
        of_records = self.privacy.mechanism == "dp-sgd" and self.one_step and self.privacy.trust != "active"
        return self.privacy.mechanism == "clinic-level" or of_records

    def variance(self, updates: int, knowing: int) -> float:
        """Return the noise in a sum that is left when some clinics know their own, over that which was asked for."""
        lying = self.privacy.trust == "active"
        apart = knowing >= self.least or (lying and self.invited + knowing >= 2 * self.least)
        left = 1 if apart else (self.least if lying else updates) - knowing
        return max(left, 1) / max(self.least - self.privacy.colluding_clinics, 1)

    def reaches(self) -> list[float]:
        """Return, for each kind of noised row, how far another record's row can lie away, over the clip."""
        built_in = self.model.name != "factory"
        cut = self.model.cut if isinstance(self.model.cut, tuple) else (self.model.cut,)
        first = cut[:2][-1] if self.privacy.rows_noised_at == "edge" else cut[0]
        behind = 1 if self.model.name == "logistic" else len(self.model.hidden) + 1  # blocks, counted from the end too
        components_alone = self.model.components is not None and first in (1, -behind)
        # Built-in heads end in a rectifier; principal components have both signs; Laplace noise goes by the L1 norm.
        tight = (built_in and not components_alone) or (not built_in and self.tight_rows)
        smashed = math.sqrt(2) if tight and "laplace" not in self.privacy.mechanism.split("+") else 2.0
        of_a_patient = [smashed] * (self.parties or 1)
        return [*of_a_patient, 2.0] if self.keeps_labels else of_a_patient


def seen(method: Method, drawn: Drawn, clinic: int) -> dict[Adversary, Seen]:
    """Return what each adversary sees of a clinic's records, in the unit that the run protects."""
    views = _learned(method, drawn, clinic)
    if method.privacy.trust == "active" and method.name not in _ALONE and not method.adds_up:
        # A lying server may put all that it has into what it sends.
        views |= {"peer-clinic": views["server"], "model-user": views["server"]}
    if method.privacy.colluding_clinics and "peers" not in views:
        views |= {"peers": views["peer-clinic"], "server-and-peers": views["server"]}
    if method.preprocessing:
        everybody = method.of_all_clinics and any(drawn.steps)
        told = {a for a, view in views.items() if view or (everybody and not (a == "server" and method.name in _ALONE))}
        for a in told:
            views[a] = views[a] + Counter({("add-or-remove", NonPrivateDpEvent()): 1})
    return views


def _learned(method: Method, drawn: Drawn, clinic: int) -> dict[Adversary, Seen]:
    """Return what the training gives away, whatever its features were made with."""
    views: dict[Adversary, Seen] = {a: Counter() for a in adversaries_of(0, edges=method.edges)}
    if (
        method.name in _JOINED and method.label_holders
    ):  # a record is a patient's, at all parties of the region together
        clinic = method.label_holders[clinic]
    if not drawn.steps[clinic]:
        return views
    bare: Seen = Counter({("add-or-remove", NonPrivateDpEvent()): 1})
    if method.edges:
        return through_edges(method, drawn, clinic)
    if method.adds_up:
        together = method.privacy.colluding_clinics
        knowing: dict[Adversary, int] = {"model-user": 0, "peer-clinic": 1, "server": 0}
        knowing |= {"peers": together, "server-and-peers": together} if together else {}
        sigma = (drawn.noise_multipliers or drawn.release_noise)[clinic]
        for adversary, clinics in knowing.items():
            views[adversary] = Counter()
            for updates, times in drawn.sums[clinic]:
                left = sigma * math.sqrt(method.variance(updates, clinics))
                views[adversary] += gaussian("add-or-remove", left, times)
        return views
    if method.privacy.mechanism == "clinic-level":
        update = gaussian("add-or-remove", drawn.release_noise[clinic], drawn.rounds[clinic])
        return {
            "model-user": update + bare if method.own_parts else update,
            "peer-clinic": update,
            "server": bare,
        }
    public_ends = {"vanilla": {"head"}, "u-shaped": {"head", "tail"}}.get(method.cut or "", {"model"})
    only_rows = method.rows_are_noised and not method.gradients_are_noised and public_ends <= method.frozen
    rows = sent_rows(method, drawn, clinic) if method.cut or method.name == "centralised" else Counter()
    if only_rows:
        return dict.fromkeys(ADVERSARIES, rows)
    sigma = drawn.noise_multipliers[clinic] if method.gradients_are_noised else 0.0
    views["model-user"] = sampled_steps(drawn.rates[clinic], sigma, drawn.released[clinic])
    if method.name in _ALONE:
        return views
    if method.name in _JOINED:
        # Each party gets gradients that other parties' records and the labels have formed, and the server all rows.
        if not method.rows_are_noised:
            return views | {"peer-clinic": bare, "server": bare}
        all_of_it = rows + gaussian("replace", sigma / 2, max(1, drawn.exposures[clinic]))
        return views | {"peer-clinic": all_of_it, "server": all_of_it}
    views["peer-clinic"] = views["model-user"]
    if method.rows_are_noised:  # who sees the rows sees who is in a batch, and a replaced record moves a sum by 2 C
        views["server"] = rows + gaussian("replace", sigma / 2, max(1, drawn.exposures[clinic]))
    else:
        views["server"] = rows + sampled_steps(drawn.rates[clinic], sigma, drawn.steps[clinic])
    return views


def alike(one: Mapping[tuple[Adjacency, DpEvent], int], other: Mapping[tuple[Adjacency, DpEvent], int]) -> bool:
    """Say whether two lists of mechanisms are the same, noise and rates to nine digits; un-noised is un-noised."""
    ours, theirs = (sorted(_plain(mechanisms)) for mechanisms in (one, other))
    if len(ours) != len(theirs):  # noise that one side reckons the same the other may tell apart in its last digit
        ours, theirs = _merged(ours), _merged(theirs)
    return len(ours) == len(theirs) and all(
        a[:-1] == b[:-1] and all(map(_close, a[-1], b[-1])) for a, b in zip(ours, theirs, strict=True)
    )


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def _merged(rows: list[tuple[str, str, tuple[float, ...]]]) -> list[tuple[str, str, tuple[float, ...]]]:
    """Add up the counts of mechanisms whose noise and rates are the same to nine digits."""
    counts: Counter[tuple[str, str, tuple[float, ...]]] = Counter()
    for way, kind, (*numbers, count) in rows:
        counts[way, kind, tuple(float(f"{number:.9g}") for number in numbers)] += int(count)
    return sorted((way, kind, (*numbers, count)) for (way, kind, numbers), count in counts.items())


def _plain(mechanisms: Mapping[tuple[Adjacency, DpEvent], int]) -> list[tuple[str, str, tuple[float, ...]]]:
    rows: list[tuple[str, str, tuple[float, ...]]] = []
    for (way, atom), count in mechanisms.items():
        match atom:
            case dp.NonPrivateDpEvent():
                return [("", "none", ())]
            case dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)):
                rows.append((way, "sampled", (sigma, rate, count)))
            case dp.GaussianDpEvent(noise) | dp.LaplaceDpEvent(noise):
                rows.append((way, type(atom).__name__, (noise, count)))
            case dp.RandomizedResponseDpEvent(uniform, classes):
                rows.append((way, "randomised response", (uniform, classes, count)))
            case _:
                rows.append((way, repr(atom), (count,)))
    return rows


def count_faults(method: Method, drawn: Drawn, plan: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    """Hold the counts of a run against its settings and against the noised steps that its log counted.

    ``plan`` and ``settings`` are ``plan`` and ``spec`` of ``run.json``. Each fault is a field of that file, and what is
    wrong.
    """
    train, clinics = settings["train"], plan["clinics"]
    pooled = method.name in ("centralised", "release-once")
    holders = set(method.label_holders)
    alike = bool(holders)
    pool = sum(clinic["records"] for k, clinic in enumerate(clinics) if not alike or k in holders)
    for k, clinic in enumerate(clinics):
        records = pool if pooled else clinic["records"]
        if not _close(drawn.rates[k], min(1.0, train["batch-size"] / records)):
            yield f"plan.drawn.rates.{k}: is not batch-size over the {records} records"
        most = train["local-epochs"] * math.ceil(records / train["batch-size"])
        if not drawn.released[k] <= drawn.steps[k] <= clinic["steps"] <= most * clinic["rounds"]:
            yield f"plan.drawn.steps.{k}: {drawn.steps[k]} steps cannot come from {clinic['rounds']} rounds of {most}"
        elif not clinic["lost_rounds"] and drawn.released[k] != most * clinic["rounds"]:
            yield f"plan.drawn.released.{k}: {drawn.released[k]} steps, but {clinic['rounds']} whole rounds of {most}"
        if not drawn.rounds[k] <= clinic["rounds"] <= plan["rounds"] <= train["rounds"]:
            yield f"plan.drawn.rounds.{k}: {drawn.rounds[k]} are not among {plan['rounds']} of {train['rounds']}"
        if not drawn.exposures[k] <= clinic["steps"]:
            yield f"plan.drawn.exposures.{k}: {drawn.exposures[k]} are more than the steps"
    counted = {key: list(value) for key, value in plan["counts"].items() if key.startswith("noised-steps ")}
    for key in sorted(counted.keys() ^ {f"noised-steps {name}" for name in method.noised}):
        yield f"plan.counts.{key}: {'is not of this method' if key in counted else 'is missing'}"
    for key, values in counted.items():
        of_rows = key.removeprefix("noised-steps ") in ("smashed", "labels")
        due = [min(steps, 1) for steps in drawn.steps] if pooled and of_rows else list(drawn.steps)
        due = list(drawn.rounds) if method.privacy.mechanism == "clinic-level" else due
        if alike and key.removeprefix("noised-steps ") in ("tail", "labels", "tail-gradient"):
            due = [steps * (k in holders) for k, steps in enumerate(due)]
        if values != due:
            yield f"plan.counts.{key}: are not as many as plan.drawn has"


def sum_faults(method: Method, drawn: Drawn, returned: Sequence[int]) -> Iterator[str]:
    """Hold the sizes of the sums of secure aggregation against how many clinics came back, round by round."""
    shares: Counter[int] = Counter()
    for k, sums in enumerate(drawn.sums):
        if sum(times for _, times in sums) != (drawn.rounds[k] if method.privacy.secure_aggregation else 0):
            yield f"plan.drawn.sums.{k}: are not as many as the rounds in which the clinic's update came back"
        for updates, times in sums:
            shares[updates] += times
            if not method.least <= updates <= method.together:
                yield f"plan.drawn.sums.{k}: {updates} updates are not {method.least} to {method.together}"
    rounds = Counter(int(back) for back in returned if back)
    for updates in sorted(shares.keys() | rounds.keys()) if method.adds_up else ():
        if shares[updates] != updates * rounds[updates]:
            yield f"plan.drawn.sums: {shares[updates]} clinics' updates are not those of {rounds[updates]} rounds"


def noise_faults(method: Method, drawn: Drawn, plan: Mapping[str, Any]) -> Iterator[str]:
    """Hold the noise of a run against its settings, and each clinic's stated multiplier against it."""
    privacy = method.privacy
    both = method.gradients_are_noised and bool(drawn.release_noise)
    of_rows = privacy.smashed_noise_multiplier if both else privacy.noise_multiplier
    for field, values, given in (
        ("noise-multipliers", drawn.noise_multipliers, privacy.noise_multiplier),
        ("release-noise", drawn.release_noise, of_rows),
    ):
        for k, value in enumerate(values):
            if given is not None and not _close(value, given):
                yield f"plan.drawn.{field}.{k}: is {value:.6g}, but the settings ask for {given:.6g}"
    stated = drawn.noise_multipliers or drawn.release_noise
    for k, clinic in enumerate(plan["clinics"]):
        wanted = stated[k] if stated else None
        if clinic["noise_multiplier"] != wanted:
            yield f"plan.clinics.{k}.noise_multiplier: is {clinic['noise_multiplier']}, and plan.drawn has {wanted}"
