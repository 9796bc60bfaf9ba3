"""The workplace of a node: its group's records, and the job as Flower's context states it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from flwr.app import Context, UserConfig

from sim.data.federation import Federation, load_federation
from sim.foundation.problems import ScenarioError
from sim.methods.attendance import Attendance
from sim.methods.job import Job
from sim.methods.node_group import NodeGroup, node_groups_of
from sim.plan.plan import make_plan
from sim.scenario import load_scenario
from sim.scenario.spec import RunSpec, expand


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
def _node_group(
    spec_json: str, noise_json: str, attendance_json: str, digest: str, partition: int, partitions: int
) -> tuple[Job, NodeGroup]:
    job, federation = _job(spec_json, noise_json, attendance_json, digest)
    return job, NodeGroup.build(job, federation.train, node_groups_of(len(job.sizes), partitions)[partition])


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


def workplace_of(context: Context) -> tuple[Job, NodeGroup]:
    """Return the job and the group of the node that a context belongs to."""
    node = context.node_config
    return _node_group(*stated_run(context.run_config), int(node["partition-id"]), int(node["num-partitions"]))
