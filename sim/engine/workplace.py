"""The workplace of a node: its cohort's records, and the job as Flower's context states it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import torch
from flwr.app import Context, UserConfig
from numpy.typing import NDArray
from torch import Tensor

from sim.attendance import Attendance
from sim.data import Federation, Records, load_federation
from sim.engine.label_noise import randomised
from sim.job import Job
from sim.plan.plan import make_plan
from sim.problems import ScenarioError
from sim.scenario import load_scenario
from sim.spec import RunSpec, expand


@dataclass(frozen=True)
class Cohort:
    """The training records that one node holds, for all its clinics, in one flat tensor.

    Attributes
    ----------
    clinics : tuple of int
        In lane order.
    x : Tensor
        ``[record, *feature]``
    y : Tensor
        ``[record]``
    first : ndarray
        By clinic, where its records begin; -1 for clinics of other cohorts.
    """

    clinics: tuple[int, ...]
    x: Tensor
    y: Tensor
    first: NDArray[np.int64]

    @classmethod
    def build(cls, job: Job, train: Records, clinics: Sequence[int]) -> Cohort:
        """Take the clinics' records out of the federation, their labels randomised if they are to leave so."""
        ordered = job.in_lane_order(clinics)
        rows = [slice(int(train.offsets[k]), int(train.offsets[k + 1])) for k in ordered]
        labels = [train.y[r] for r in rows]
        if job.labels is not None:
            labels = [randomised(y, job.labels, job.key, k) for k, y in zip(ordered, labels, strict=True)]
        first = np.full(len(job.sizes), -1)
        first[ordered] = np.cumsum([0, *(r.stop - r.start for r in rows[:-1])])
        return cls(
            tuple(ordered),
            torch.from_numpy(np.concatenate([train.x[r] for r in rows])),
            torch.from_numpy(np.concatenate(labels)),
            first,
        )

    def batch(self, clinics: list[int], index: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Gather one step's records.

        Parameters
        ----------
        clinics : list of int
            The clinic of each lane.
        index : ndarray
            ``[lane, batch]`` positions within each clinic's records; negative ones are padding.

        Returns
        -------
        x : Tensor
            ``[lane, batch, *feature]``; padding is 0, and no copy of a record, whose values could then reach others
            through it.
        y : Tensor
            ``[lane, batch]``, likewise.
        """
        padding = index < 0
        flat = torch.from_numpy((np.where(padding, 0, index) + self.first[clinics][:, None]).ravel())
        x, y = self.x.index_select(0, flat), self.y.index_select(0, flat)
        if padding.any():
            empty = torch.from_numpy(padding.ravel())
            x[empty], y[empty] = 0, 0
        return x.view(*index.shape, *self.x.shape[1:]), y.view(index.shape)


def cohorts_of(clinics: int, nodes: int) -> list[list[int]]:
    """Share clinics out to nodes in contiguous groups of nearly equal size."""
    return [group.tolist() for group in np.array_split(np.arange(clinics), nodes)]


def run_config(
    spec: RunSpec,
    noise_multipliers: Sequence[float],
    release_noise: Sequence[float] = (),
    attended: Mapping[int, Attendance] = MappingProxyType({}),
    digest: str | None = None,
) -> UserConfig:
    """Write what every party must know into Flower's run config, which holds scalars only."""
    return {
        "run-spec": spec.model_dump_json(by_alias=True),
        "noise-multipliers": json.dumps([list(noise_multipliers), list(release_noise)]),
        "attendance": json.dumps({r: attendance.plain() for r, attendance in attended.items()}),
        "run-digest": spec.digest if digest is None else digest,
    }


@lru_cache(maxsize=8)
def _job(spec_json: str, noise_json: str, attendance_json: str, digest: str) -> tuple[Job, Federation]:
    """Derive a run's job once for all its parties here; its digest makes a changed file another run."""
    spec = RunSpec.model_validate_json(spec_json)
    federation = load_federation(spec.data, spec.seed)
    noise_multipliers, release_noise = json.loads(noise_json)
    attended = {
        int(server_round): Attendance.of(*stated) for server_round, stated in json.loads(attendance_json).items()
    }
    return Job.build(spec, federation, noise_multipliers, release_noise, attended, digest), federation


@lru_cache(maxsize=64)
def _cohort(
    spec_json: str, noise_json: str, attendance_json: str, digest: str, partition: int, partitions: int
) -> tuple[Job, Cohort]:
    job, federation = _job(spec_json, noise_json, attendance_json, digest)
    return job, Cohort.build(job, federation.train, cohorts_of(len(job.sizes), partitions)[partition])


def stated_run(config: UserConfig) -> tuple[str, str, str, str]:
    """Return the run, its noise multipliers, its attendance and its digest as a run config states them.

    Parameters
    ----------
    config : dict
        Either what ``run_config`` writes, or ``scenario`` (a file) and ``run`` (which of its runs, counted from 0), as
        a person would write them for ``flwr run``.

    Returns
    -------
    (str, str, str, str)
        The first three as JSON.

    Raises
    ------
    ScenarioError
        If the scenario has a problem or no such run.
    """
    if "run-spec" in config:
        return _stated(config)
    return _planned(str(config["scenario"]), int(config.get("run", 0)))


@lru_cache(maxsize=8)
def _planned(scenario: str, run: int) -> tuple[str, str, str, str]:
    specs = expand(load_scenario(scenario))
    if not 0 <= run < len(specs):
        raise ScenarioError([f"{scenario}: there is no run {run}; it has {len(specs)}, counted from 0"])
    plan = make_plan(specs[run], load_federation(specs[run].data, specs[run].seed))
    executed = plan.spec.train.model_copy(update={"rounds": plan.rounds})
    spec = plan.spec.model_copy(update={"train": executed})
    return _stated(run_config(spec, plan.noise_multipliers, plan.release_noise, plan.attended, plan.spec.digest))


def _stated(config: UserConfig) -> tuple[str, str, str, str]:
    run, noise, attendance, digest = (
        str(config[key]) for key in ("run-spec", "noise-multipliers", "attendance", "run-digest")
    )
    return run, noise, attendance, digest


def job_of(config: UserConfig) -> Job:
    """Return the job stated in a run config."""
    return _job(*stated_run(config))[0]


def federation_of(config: UserConfig) -> Federation:
    """Return the federation that a run config's job was derived from."""
    return _job(*stated_run(config))[1]


def workplace_of(context: Context) -> tuple[Job, Cohort]:
    """Return the job and the cohort of the node that a context belongs to."""
    node = context.node_config
    return _cohort(*stated_run(context.run_config), int(node["partition-id"]), int(node["num-partitions"]))
