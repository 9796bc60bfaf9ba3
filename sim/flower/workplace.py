"""The workplaces of a run's nodes in one process, and the run that a Flower app's config states."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from flwr.app import Context, UserConfig

from sim.data.federation import Federation, Records, load_federation
from sim.flower.memory import ContextMemory
from sim.foundation.problems import ScenarioError
from sim.methods.forms import Forms
from sim.methods.job import Job
from sim.methods.node_group import NodeGroup, node_groups_of
from sim.methods.workplace import Workplace
from sim.plan.plan import Plan, make_plan
from sim.scenario import load_scenario
from sim.scenario.spec import expand


class Workplaces:
    """The workplaces of a run, each made when the first message for its node arrives.

    Parameters
    ----------
    job : Job
    train : Records
        Of all clinics.
    """

    def __init__(self, job: Job, train: Records) -> None:
        self._job, self._train = job, train
        self._forms = Forms(job)
        self._made: dict[int, Workplace] = {}
        self._memories: dict[int, ContextMemory] = {}

    def __call__(self, context: Context) -> Workplace:
        """Return the workplace of the node that a context belongs to."""
        here = self._made.get(context.node_id)
        if here is not None and self._memories[context.node_id].is_of(context.state):
            return here
        memory = self._memories[context.node_id] = ContextMemory(context.state)
        if here is None:
            node = context.node_config
            partition, partitions = int(node["partition-id"]), int(node["num-partitions"])
            clinics = node_groups_of(len(self._job.sizes), partitions)[partition]
            group = NodeGroup.build(self._job, self._train, clinics)
            here = Workplace(job=self._job, forms=self._forms, group=group, memory=memory)
        # Otherwise the node's state has travelled, and come back.
        here = self._made[context.node_id] = replace(here, memory=memory)
        return here


@lru_cache(maxsize=1)
def _run(scenario: str, number: int) -> tuple[Plan, Federation, Workplaces]:
    specs = expand(load_scenario(scenario))
    if not 0 <= number < len(specs):
        raise ScenarioError([f"{scenario}: there is no run {number}; it has {len(specs)}, counted from 0"])
    federation = load_federation(specs[number].data, specs[number].seed)
    plan = make_plan(specs[number], federation.facts)
    return plan, federation, Workplaces(plan.job, federation.train)


def stated_run(config: UserConfig) -> tuple[Plan, Federation, Workplaces]:
    """Return the run that an app's config states: ``scenario``, a file, and ``run``, counted from 0.

    Every party of a replay plans it anew from the scenario, and reads all records.

    Raises
    ------
    ScenarioError
        If the scenario has a problem or no such run.
    """
    return _run(str(config["scenario"]), int(config.get("run", 0)))


def workplace_of(context: Context) -> Workplace:
    """Return the workplace of the node that a context belongs to, in the run that its config states."""
    return stated_run(context.run_config)[2](context)
