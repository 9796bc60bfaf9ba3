"""From counts to the ledger: the one path that the plan takes before a run and the audit of counts after it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sim.methods.job import Job
from sim.methods.messages import Kind
from sim.methods.parties import OF_THE_LABEL, Parties, releases_of_a_row, trained_apart
from sim.methods.sampling import Ints
from sim.privacy.accounting import compose, flatten
from sim.privacy.events import DpEvent, dp
from sim.privacy.ledger import ADVERSARIES, COLLUDING, EDGE, Adversary, Ledger, Release, Unit, adversaries_of
from sim.privacy.loss import Adjacency
from sim.privacy.mechanisms.mechanism import on_updates
from sim.privacy.preprocessing import exposed

Noised = Mapping[str, Ints | Sequence[int]]
"""By part or kind of rows, one number a clinic: how many of its batches were (or will be) clipped and noised."""


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What is drawn without regard to the data, ``[clinic]``."""

    rates: NDArray[np.float64]  # The probability with which a record joins a batch
    steps: Ints  # Training steps on the clinic's records of which anything leaves the clinic
    # How often the record that stands in most batches does so. The draws are public coins: given them, the rows of that
    # record are released exactly so often.
    exposures: Ints
    rounds: Ints  # Rounds in which the clinic's parts come back
    # Steps that are in the model, at most `steps`: those of a clinic that was lost before its copy was averaged are not
    released: Ints
    # [clinic, round] under secure aggregation: how many updates are in the sum that the clinic's is in; 0 if in none
    sums: Ints = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))

    def sums_of(self, clinic: int) -> dict[int, int]:
        """Return how often a clinic's update is in a sum of how many."""
        if not self.sums.size:
            return {}
        sizes, times = np.unique(self.sums[clinic], return_counts=True)
        return {int(size): int(count) for size, count in zip(sizes, times, strict=True) if size}


SECOND_CUT = "second-cut"
"""Rows that leave an edge server for the cloud."""
_MEND = {
    SECOND_CUT: "what the edge server makes of each record's row leaves it without noise",
    "gradients": "clinics train on their records without noise (add dp-sgd, or freeze their parts with model.freeze)",
    "labels": 'labels are sent as they are; state labels = "public" if they are',
    "norms": "norms of records' gradients are sent as they are, to clip them jointly",
    "cut-gradient": "each party gets gradients that the others' records and the labels have formed, without noise",
    "body-output": "the label's holder gets what the body makes of the others' records, without noise",
    "clip-factors": "each party is told by how much every patient's gradient is clipped",
    "records": "the records themselves are sent",
    "update": "the server is trusted with every clinic's update",
    "sum": "the sum of what clinics train has no noise",
    "metrics": "each clinic's exact training loss, and whether its update was clipped, go to Flower's strategy",
    "own parts": "the model holds the clinic's own parts, trained without noise",
}


def un_noised(ledger: Ledger, adversary: Adversary) -> list[str]:
    """Say in one phrase for each kind of release why an adversary's epsilon is infinite; empty where it is not."""
    seen = (release for release in ledger.releases if adversary in release.adversaries)
    return list(dict.fromkeys(release.reason for release in seen if release.reason))


def _release(
    clinic: int,
    what: str,
    adversaries: tuple[Adversary, ...],
    event: DpEvent,
    adjacency: Adjacency = "add-or-remove",
    unit: Unit = "record",
) -> Release:
    """Return a release which, if nothing protects it, says why."""
    bare = dp.NonPrivateDpEvent() in flatten(event)
    return Release(
        clinic=clinic,
        what=what,
        adversaries=adversaries,
        event=event,
        adjacency=adjacency,
        unit=unit,
        reason=_MEND.get(what, f"{what} rows leave without noise") if bare else "",
    )


def of_one_patient(sampled: Sampled, parties: Parties) -> Sampled:
    """Return what is drawn of a patient's record, the same at all parties of the region: as often as its label is."""
    columns = {name: getattr(sampled, name) for name in ("rates", "steps", "exposures", "rounds", "released")}
    return replace(sampled, **{name: values[list(parties.of_regions)] for name, values in columns.items()})


def to_be_noised(job: Job, sampled: Sampled) -> dict[str, Ints]:
    """Return, by part or kind of rows, ``[clinic]``: how many batches must be noised for all to be so.

    What crosses once is one batch; what a round of clinic-level privacy releases counts rounds.
    """
    names = (*(job.trained_parts if job.dp is not None else ()), *job.protected_rows)
    once, everyone = np.minimum(sampled.steps, 1), np.arange(len(sampled.steps))
    found = {name: once if name in job.protocol.once_up else sampled.steps for name in names}
    if job.parties is not None:  # of the label's holders alone
        own = ("tail", *OF_THE_LABEL)
        there = job.parties.at_holders(everyone)
        found |= {name: steps * there for name, steps in found.items() if name in own}
    of_rounds = job.round_releases if job.spec.privacy.unit == "clinic" else ()
    return found | dict.fromkeys(of_rounds, sampled.rounds)


def build_ledger(
    job: Job, sampled: Sampled, noised: Noised | None = None, clinics: Sequence[int] | None = None
) -> Ledger:
    """Write down every release of every clinic, or of those given.

    A step of which a part was not ``noised`` (all that must be, if not given) is un-noised, and so is a kind of rows of
    which a batch was not.
    """
    ledger = Ledger()
    enter = _updates if job.spec.privacy.unit == "clinic" else _releases
    enter = _through_edges if job.edges is not None else _sums if job.shares_noise else enter
    noise = (*(() if job.dp is None else (job.dp.noise_std,)), *(() if job.rows is None else (job.rows.multipliers,)))
    all_of_it = to_be_noised(job, sampled)
    given = all_of_it if noised is None else noised
    done = {name: np.equal(given[name], due) for name, due in all_of_it.items() if name in given}
    if job.parties is not None and job.parties.heads:
        sampled = of_one_patient(sampled, job.parties)
        done = {name: np.full_like(of_all, of_all.all()) for name, of_all in done.items()}
    told_apart_by = (sampled.rates, sampled.steps, sampled.exposures, sampled.rounds, sampled.released, *noise)
    chosen = np.arange(len(sampled.steps)) if clinics is None else np.array(clinics)
    chosen = chosen[sampled.steps[chosen] > 0]
    columns = [np.asarray(values)[chosen].tolist() for values in (*told_apart_by, *done.values())]
    columns.append([tuple(sampled.sums_of(clinic).items()) for clinic in chosen.tolist()])
    first: dict[tuple[object, ...], int] = {}
    for clinic, key in zip(chosen.tolist(), zip(*columns, strict=True), strict=True):
        alike = first.setdefault(key, clinic)
        if alike != clinic:
            ledger.add_alike(clinic, alike)
            continue
        complete = frozenset(name for name, of_all in done.items() if of_all[clinic])
        found = list(_passed_on(job, enter(job, sampled, clinic, complete)))
        seeing = {a for release in found if flatten(release.event) for a in release.adversaries}
        for release in (*found, *_preprocessing(job, clinic, seeing)):
            ledger.add(_with_colluders(job, release))
    if sampled.steps.any():
        everyone = range(len(sampled.steps)) if clinics is None else clinics
        idle = [k for k in everyone if not sampled.steps[k]]
        for release in _preprocessing(job, idle[0], frozenset()) if idle else ():
            ledger.add(_with_colluders(job, release))
        for clinic in idle[1:]:
            ledger.add_alike(clinic, idle[0])
    return ledger


def _preprocessing(job: Job, clinic: int, seeing: Set[Adversary]) -> Iterator[Release]:
    """Write down the statistics that features were made with.

    Those of one clinic are seen by who sees anything of it; those of all clinics by all who see what any clinic trains,
    and by the clinics, whose own features are made with them.
    """
    for used in exposed(job.facts.non_private, getattr(job.spec.data, "scaling", None)):
        audience = seeing | {*job.protocol.sees_model, "peer-clinic"} if used.of_all else seeing
        if audience:
            adversaries = tuple(a for a in (*ADVERSARIES, *EDGE) if a in audience)
            event = dp.NonPrivateDpEvent()
            yield Release(
                clinic=clinic,
                what="preprocessing",
                adversaries=adversaries,
                event=event,
                adjacency="add-or-remove",
                unit=used.unit,
                reason=used.reason,
            )


def _updates(job: Job, sampled: Sampled, clinic: int, done: frozenset[str]) -> list[Release]:
    """Write down what leaves under clinic-level privacy: the server is trusted, and sees all of it without noise."""
    rounds, mechanism = int(sampled.rounds[clinic]), on_updates(job.spec.privacy)
    complete = mechanism is not None and set(job.round_releases) <= done
    event = mechanism.event(job.update_noise or 0.0, rounds) if mechanism and complete else dp.NonPrivateDpEvent()
    outside = tuple(a for a in job.protocol.sees_model if a != "server")
    found = [_release(clinic, "update", outside, event, "add-or-remove", "clinic")] if rounds else []
    for kind in ("update", *job.protocol.sees_raw.get("server", ())):
        found.append(_release(clinic, kind, ("server",), dp.NonPrivateDpEvent(), "add-or-remove", "clinic"))
    if job.protocol.movement == "own":  # whoever uses a clinic's model has that clinic's own parts
        found.append(_release(clinic, "own parts", ("model-user",), dp.NonPrivateDpEvent(), "add-or-remove", "clinic"))
    return found


def _sums(job: Job, sampled: Sampled, clinic: int, done: frozenset[str]) -> list[Release]:
    """Write down the sums that a clinic's update is in: one Gaussian each, of the noise that an adversary cannot know.

    A clinic knows its own part, colluding ones those of each other.
    """
    secure, privacy, sums = job.secure, job.spec.privacy, sampled.sums_of(clinic)
    if secure is None or not sums:
        return []
    sigma = (job.update_noise or 0.0) if job.dp is None else job.dp.noise_std[clinic] * secure.parts**0.5 / privacy.clip
    complete = sigma > 0 and set(to_be_noised(job, sampled)) <= done
    colluders = dict[Adversary, int](dict.fromkeys(COLLUDING, secure.colluding)) | {"peer-clinic": 1}
    audiences: dict[tuple[tuple[float, int], ...], list[Adversary]] = {}
    for adversary in adversaries_of(privacy.colluding_clinics):
        seen = secure.multipliers(sigma, sums, colluders.get(adversary, 0)) if complete else {0.0: sum(sums.values())}
        audiences.setdefault(tuple(seen.items()), []).append(adversary)
    found = []
    for multipliers, seeing in audiences.items():
        noised = {dp.GaussianDpEvent(noise): times for noise, times in multipliers}
        event = compose(noised) if complete else dp.NonPrivateDpEvent()
        found.append(_release(clinic, "sum", tuple(seeing), event, "add-or-remove", privacy.unit))
    return found


def _passed_on(job: Job, releases: Iterable[Release]) -> Iterator[Release]:
    """Let an active server pass on what it sees, in place of what it is to make of it.

    A clinic's own parts, and the model of one that trains alone, do not come by way of the server. Sums are counted
    with what a lying server cannot keep from them, whoever sees them.
    """
    lying = job.spec.privacy.trust == "active" and not job.method.alone and not job.shares_noise
    for release in releases:
        if not lying or release.what == "own parts":
            yield release
        elif "server" in release.adversaries:
            yield replace(release, adversaries=ADVERSARIES)


def _with_colluders(job: Job, release: Release) -> Release:
    """Let colluding clinics see what one sees, and what the server sees where they are with it.

    All that clinics receive comes from the server, which has seen what it is made of.
    """
    if not job.spec.privacy.colluding_clinics or (release.what == "sum" and job.shares_noise):
        return release
    seen, together = release.adversaries, list[Adversary]()
    if "peer-clinic" in seen:
        together.append("peers")
    if "server" in seen or ("peer-clinic" in seen and release.what == "preprocessing"):
        together.append("server-and-peers")
    return replace(release, adversaries=(*seen, *together))


def _audiences(
    adversaries: tuple[Adversary, ...], steps: int, released: int, of_all: Collection[Adversary]
) -> list[tuple[tuple[Adversary, ...], int]]:
    """Say who sees how many steps: those who get rows all of which anything leaves, the others those in the model."""
    if released == steps:
        return [(adversaries, steps)]
    others: tuple[Adversary, ...] = tuple(a for a in adversaries if a not in of_all)
    servers: tuple[Adversary, ...] = tuple(a for a in adversaries if a in of_all)
    return [(audience, count) for audience, count in ((others, released), (servers, steps)) if audience and count]


def _through_edges(job: Job, sampled: Sampled, clinic: int, done: frozenset[str]) -> list[Release]:
    """Write down what edge servers and cloud see of a clinic, and what becomes of it.

    Rows that are noised at the clinic are so for both: what the cloud gets is made of them. Those that are noised at
    the edge server are so for the cloud and all behind it. What stands in front of the noise must tell nothing of
    records besides: it is frozen, or its gradients are noised.
    """
    protocol, privacy, clipped = job.protocol, job.spec.privacy, job.dp
    exposures, steps = int(sampled.exposures[clinic]), int(sampled.steps[clinic])
    getting: tuple[Adversary, ...] = tuple(protocol.sees_raw)
    rows = tuple(kind for kind in protocol.sees_raw["edge"] if kind != Kind.LABELS)
    at_edge = privacy.rows_noised_at == "edge"
    noised = job.rows is not None and set(rows) <= done
    behind: tuple[Adversary, ...] = () if not noised else ("server",) if at_edge else getting
    in_front = protocol.clinic_parts + (protocol.edge_parts if at_edge else ())
    only_rows = noised and clipped is None and all(part in job.frozen for part in in_front)
    found = []
    if not only_rows:
        sigma = 0.0
        if clipped is not None and set(job.trained_parts) <= done:
            apart = trained_apart(job.parts, job.frozen, job.parties)
            sigma = clipped.mechanism.noise_of_a_step(clipped.part_clip, clipped.noise_std[clinic], apart)
        outside = tuple(a for a in protocol.sees_model if a not in behind)
        for seeing, count in _audiences(outside, steps, int(sampled.released[clinic]), getting):
            event = clipped.mechanism.event(sampled.rates[clinic], sigma, count) if clipped else dp.NonPrivateDpEvent()
            found.append(_release(clinic, "gradients", seeing, event))
        if behind:
            known = clipped.mechanism.in_known_batches(sigma, exposures) if clipped else dp.NonPrivateDpEvent()
            found.append(_release(clinic, "gradients", behind, known, "replace"))
    everyone = protocol.sees_model if only_rows else getting
    sent_on = {Kind.SMASHED: SECOND_CUT}
    for kind in rows:
        bare = tuple(a for a in getting if a not in behind)
        told: list[tuple[str, tuple[Adversary, ...]]] = [(kind, tuple(a for a in bare if a == "edge"))]
        told.append((sent_on.get(kind, kind), tuple(a for a in bare if a == "server")))
        found += [_release(clinic, what, seeing, dp.NonPrivateDpEvent()) for what, seeing in told if seeing]
        if job.rows is not None and noised:
            event = job.rows.mechanism.event(job.rows.multipliers[clinic] / job.rows.reach[kind], exposures)
            seeing = tuple(a for a in (everyone if only_rows else behind) if not (at_edge and a == "edge"))
            found.append(_release(clinic, sent_on.get(kind, kind) if at_edge else kind, seeing, event, "replace"))
    if Kind.LABELS not in protocol.sees_raw["edge"]:
        return found
    if job.labels is not None and Kind.LABELS in done:
        answers = job.labels.mechanism.event(job.labels.uniform, job.labels.classes)
        found.append(_release(clinic, Kind.LABELS, everyone, answers, "replace", "label"))
    elif privacy.labels != "public":
        found.append(_release(clinic, Kind.LABELS, everyone, dp.NonPrivateDpEvent()))
    return found


def _releases(job: Job, sampled: Sampled, clinic: int, done: frozenset[str]) -> list[Release]:
    protocol, privacy, clipped = job.protocol, job.spec.privacy, job.dp
    exposures = int(sampled.exposures[clinic])
    found = []
    raw_rows = protocol.sees_raw.get("server", ())
    noised = {kind for kind in raw_rows if kind in job.protected_rows and kind in done}
    behind_noise = job.rows is not None and set(raw_rows) - {"labels"} <= noised
    public_ends = all(part in job.frozen for part in protocol.clinic_parts)
    only_rows = behind_noise and public_ends and clipped is None
    if not only_rows:
        sigma = 0.0
        if clipped is not None and set(job.trained_parts) <= done:
            apart = 1 if job.joint else trained_apart(job.parts, job.frozen, job.parties)
            sigma = clipped.mechanism.noise_of_a_step(clipped.part_clip, clipped.noise_std[clinic], apart)
        outside = tuple(a for a in protocol.sees_model if not (behind_noise and a == "server"))
        for seeing, steps in _audiences(outside, int(sampled.steps[clinic]), int(sampled.released[clinic]), {"server"}):
            event = clipped.mechanism.event(sampled.rates[clinic], sigma, steps) if clipped else dp.NonPrivateDpEvent()
            found.append(_release(clinic, "gradients", seeing, event))
        if behind_noise:
            # Who sees the rows sees who is in a batch: no amplification, and a replaced record moves a sum by 2 C.
            known = clipped.mechanism.in_known_batches(sigma, exposures) if clipped else dp.NonPrivateDpEvent()
            knowing: tuple[Adversary, ...] = ("server",) if job.parties is None else ("peer-clinic", "server")
            found.append(_release(clinic, "gradients", knowing, known, "replace"))
    for adversary, kinds in protocol.sees_raw.items():
        audience: tuple[Adversary, ...] = ADVERSARIES if only_rows else (adversary,)
        if behind_noise and job.parties is not None:
            # What parties get is made of what the server has: of noised rows, and of labels as they are sent.
            if adversary == "peer-clinic":
                continue
            audience = audience if only_rows else ("peer-clinic", "server")
        for kind in kinds:
            if job.labels is not None and kind == "labels" and kind in noised:
                answers = job.labels.mechanism.event(job.labels.uniform, job.labels.classes)
                found.append(_release(clinic, kind, audience, answers, "replace", "label"))
            elif job.rows is not None and kind in noised:
                times = exposures * releases_of_a_row(job.parties, kind)
                rows = job.rows.mechanism.event(job.rows.multipliers[clinic] / job.rows.reach[kind], times)
                found.append(_release(clinic, kind, audience, rows, "replace"))
            elif kind != "labels" or privacy.labels != "public":
                found.append(_release(clinic, kind, audience, dp.NonPrivateDpEvent()))
    if job.method.imported and clipped is None:
        found.append(_release(clinic, "metrics", ("server",), dp.NonPrivateDpEvent()))
    return found
