"""What leaves the clinics, as bytes: every reply of a run, encoded and read back, with what a ledger says of it."""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from sim.data.federation import Federation, load_federation
from sim.flower.internals import KEY_NORM_BIT
from sim.flower.simulation import App, Through
from sim.methods.job import Job
from sim.plan.plan import Plan
from sim.privacy.accounting import flatten
from sim.scenario.spec import RunSpec
from sim.study.train import TrainedRun, train_run

ROWS = frozenset({"smashed", "labels", "tail-gradient", "norms", "records"})
"""Kinds of arrays with one row a record; all others have one entry a clinic."""
UN_NOISED = "un-noised"


@dataclass
class Reply:
    """One reply: its arrays by record and name, read back from their bytes, and its numbers."""

    what: str
    arrays: dict[tuple[str, str], np.ndarray]
    config: dict[str, Any]
    metrics: dict[str, Any]
    clinics: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    server_round: int = 0

    @property
    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.arrays}

    def lanes(self):
        """Yield clinic and lane."""
        yield from ((clinic, lane) for lane, clinic in enumerate(self.clinics))


def read_back(message: Message, what: str, server_round: int) -> Reply:
    """Encode every record of a message as a wire would, and read it again."""
    arrays, config, metrics = {}, {}, {}
    for kind, record in message.content.items():
        if isinstance(record, ArrayRecord):
            for name, array in record.items():
                value = np.load(io.BytesIO(array.data), allow_pickle=False)
                assert (value.shape, str(value.dtype)) == (tuple(array.shape), array.dtype), (kind, name)
                arrays[kind, name] = value
        elif isinstance(record, ConfigRecord):
            config |= {f"{kind}.{key}" if kind != "config" else key: value for key, value in record.items()}
        else:
            assert isinstance(record, MetricRecord), f"a record of another kind: {kind}"
            metrics |= dict(record.items())
    clinics = list(config.get("clinics", []))
    return Reply(what, arrays, config, metrics, clinics, list(config.get("rows", [])), server_round)


@dataclass
class Recorded:
    """A run, and all that left its clinics."""

    plan: Plan
    job: Job
    replies: list[Reply]
    trained: TrainedRun

    def rows_of(self, kind: str, clinic: int) -> list[np.ndarray]:
        """Return a clinic's real rows of a kind, one array a batch, in the order in which they left."""
        return [
            reply.arrays[kind, kind][lane, : reply.rows[lane]]
            for reply in self.replies
            if kind in reply.kinds
            for k, lane in reply.lanes()
            if k == clinic
        ]

    def parts_of(self, clinic: int, kind: str = "arrays") -> list[dict[str, np.ndarray]]:
        """Return what a clinic sent of its parameters, one dictionary a turn."""
        return [
            {name: value[lane] for (each, name), value in reply.arrays.items() if each == kind}
            for reply in self.replies
            if kind in reply.kinds
            for k, lane in reply.lanes()
            if k == clinic
        ]


def record(plan: Plan, federation: Federation, nodes: int = 1) -> Recorded:
    """Train a planned run and keep every reply."""
    replies: list[Reply] = []
    now = [0]

    def watching(app: App) -> App:
        def watched(message, context):
            reply = app(message, context)
            now[0] = message.content["config"].get("server-round", now[0]) if "config" in message.content else now[0]
            replies.append(read_back(reply, message.metadata.message_type, now[0]))
            return reply

        return watched

    trained = train_run(plan, federation, nodes, through=watching)
    return Recorded(plan, plan.job, replies, trained)


def travelling(every: int = 1) -> Through:
    """Let the node's state travel with every so many messages, so that what stands for it is built anew."""

    def through(app: App) -> App:
        messages = itertools.count()

        def travels(message, context):
            if away := next(messages) % every == 0:
                context.state = pickle.loads(pickle.dumps(context.state))  # noqa: S301 - our own bytes
            reply = app(message, context)
            if away:
                context.state = pickle.loads(pickle.dumps(context.state))  # noqa: S301
            return reply

        return travels

    return through


def again(recorded: Recorded, spec: RunSpec, nodes: int = 1) -> Recorded:
    """Train by the same plan, whose counts are public, on other records."""
    federation = load_federation(spec.data, spec.seed, spec.parties)
    plan = replace(recorded.plan, job=replace(recorded.job, facts=federation.facts))
    return record(plan, federation, nodes)


def listed(plan: Plan, clinic: int) -> dict[str, set[str]]:
    """Return what the ledger says the server gets of a clinic: kinds of release, and each one's mechanism."""
    found: dict[str, set[str]] = {}
    for release in plan.ledger.releases:
        if release.clinic == clinic and "server" in release.adversaries:
            found.setdefault(release.what, set()).add(UN_NOISED if release.reason else str(release.event))
    return found


def mechanisms_of(plan: Plan, clinic: int, what: str) -> list[float]:
    """Return the noise multipliers of what the server gets of a kind, without how often and how it was sampled."""
    found = {
        getattr(getattr(atom, "event", atom), "noise_multiplier", 0.0)
        for release in plan.ledger.releases
        if (release.clinic, release.what) == (clinic, what) and "server" in release.adversaries
        for atom in flatten(release.event)
    }
    return sorted(found)


def is_listed(plan: Plan, clinic: int, kind: str) -> bool:
    """Say whether the ledger lists a kind of array as something that the server gets of a clinic."""
    return not listed(plan, clinic).keys().isdisjoint(RELEASE_OF.get(kind, (kind,)))


def with_record(csv: Path, spec: RunSpec, clinic: int, values: Sequence[float]) -> Path:
    """Write the file again with a clinic's first training record replaced by one of the same label; return the copy."""
    train = load_federation(spec.data, spec.seed, spec.parties).train
    own = train.x[train.offsets[clinic]]
    header, *lines = csv.read_text(encoding="utf-8").splitlines()
    found = [i for i, line in enumerate(lines) if np.array_equal(np.array(line.split(",")[2:], np.float32), own)]
    assert len(found) == 1
    lines[found[0]] = ",".join([*lines[found[0]].split(",")[:2], *map(str, values)])
    path = csv.with_name(f"{csv.stem}-replaced-{clinic}-{values[0]}.csv")
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


RELEASE_OF = {"arrays": ("gradients", "update"), "optimizer": ("gradients", "update")}
"""Under which names the ledger lists a kind of array; any other kind under its own."""


def bytes_of(arrays: dict[tuple[str, str], np.ndarray], lane: int) -> dict[tuple[str, str], bytes]:
    return {key: value[lane].tobytes() for key, value in arrays.items()}


def initial_bytes(job: Job) -> dict[str, bytes]:
    return {name: value[0].numpy().tobytes() for name, value in job.network.initial_parameters(job.seed).items()}


def frozen_names(job: Job) -> set[str]:
    return {name for part in job.frozen for name in job.part(part).shapes()}


def unlisted(recorded: Recorded) -> list[str]:
    """Name every array that no ledger entry, public number or constant explains, and every malformed one."""
    wrong = []
    job, initial = recorded.job, initial_bytes(recorded.job)
    for reply in recorded.replies:
        if odd := [key for key in reply.config if key not in ("clinics", "rows") and not key.startswith("noised-")]:
            wrong.append(f"{reply.what}: config {odd}")
        for (kind, name), value in reply.arrays.items():
            if value.shape[0] != len(reply.clinics):
                wrong.append(f"{reply.what}: {kind} for other clinics than are named")
                continue
            if kind in ROWS:
                if value.shape[1] != max(reply.rows):
                    wrong.append(
                        f"{reply.what}: {kind} is {value.shape[1]} rows wide, the largest batch {max(reply.rows)}"
                    )
                for lane, rows in enumerate(reply.rows):
                    if value[lane, rows:].any():
                        wrong.append(f"{reply.what}: {kind} has padding that is not zero")
            for clinic, lane in reply.lanes():
                constant = value[lane].tobytes() == initial.get(name) if kind == "arrays" else not value[lane].any()
                if not is_listed(recorded.plan, clinic, kind):
                    public = kind == "labels" and job.spec.privacy.labels == "public"
                    if not public and not (kind in RELEASE_OF and constant):
                        wrong.append(f"{reply.what}: {kind} {name} of clinic {clinic} is no release")
                elif name in frozen_names(job) and not constant:
                    wrong.append(f"{reply.what}: {name} is frozen, and not what it was")
        wrong += [
            f"{reply.what}: {key} of clinic {k} is no release"
            for key in reply.metrics
            if key != "num-examples"
            for k in reply.clinics
            if not metric_is_listed(recorded.plan, k, key)
        ]
    return wrong


METRICS = {"train_loss": "metrics", KEY_NORM_BIT: "metrics"}
"""Under which name the ledger lists a number that a reply holds, if it is none of public ones."""


def metric_is_listed(plan: Plan, clinic: int, key: str) -> bool:
    """Say whether the ledger lists a number; the bit of a clip may follow from parameters that are noised already."""
    known = listed(plan, clinic)
    noised = "dp-sgd" in plan.spec.privacy.mechanisms and UN_NOISED not in known.get("gradients", {UN_NOISED})
    return METRICS.get(key) in known or (key == KEY_NORM_BIT and noised)


PARALLEL = {"fedavg", "fedprox", "splitfed-v1", "splitfed-v3", "local", "centralised"}


def differences(run: Recorded, changed: Recorded, clinic: int) -> list[str]:
    """Name what differs that must not, where one record of a clinic has been replaced by one of the same label."""
    wrong = []
    job = run.job
    parallel = job.spec.strategy.name in PARALLEL or job.method.imported or job.method.pooled
    first: dict[str, bool] = {}
    assert len(run.replies) == len(changed.replies)
    for one, other in zip(run.replies, changed.replies, strict=True):
        if (one.what, one.clinics, one.rows, one.config) != (other.what, other.clinics, other.rows, other.config):
            wrong.append(f"{one.what}: config")
        if one.arrays.keys() != other.arrays.keys():
            wrong.append(f"{one.what}: arrays")
            continue
        for key in one.metrics:
            if one.metrics[key] != other.metrics[key] and not metric_is_listed(run.plan, clinic, key):
                wrong.append(f"{one.what}: {key}")
        for k, lane in one.lanes():
            ours, theirs = bytes_of(one.arrays, lane), bytes_of(other.arrays, lane)
            for kind, name in ours:
                if ours[kind, name] == theirs[kind, name]:
                    continue
                if parallel and k != clinic:
                    wrong.append(f"{one.what}: {kind} {name} of another clinic")
                if not is_listed(run.plan, k, kind):
                    wrong.append(f"{one.what}: {kind} {name} is not listed and tells which record it was")
            if k == clinic and parallel and not job.joint:
                for kind in {kind for kind, _ in one.arrays} & ROWS:
                    rows, moved = (x.arrays[kind, kind][lane].astype(float) for x in (one, other))
                    apart = [i for i in range(len(rows)) if (rows[i] != moved[i]).any()]
                    begun = first.setdefault(kind, False)
                    first[kind] = True
                    fixed = kind != "tail-gradient" and set(job.protocol.clinic_parts) <= job.frozen
                    if (not begun or fixed) and len(apart) > 1:
                        wrong.append(f"{one.what}: {len(apart)} rows of {kind} differ, and one record does")
                    if not begun and job.on_grid(kind):
                        clip, step = job.rows.clip[kind], job.rows.grid_step(kind, clinic)
                        for i in apart:
                            away = np.linalg.norm((rows[i] - moved[i]).ravel() * step, job.rows.mechanism.norm)
                            if away > 2 * clip + step * rows[i].size:
                                wrong.append(f"{one.what}: a row of {kind} moves by {away:.3g}, the clip is {clip:g}")
    return wrong
