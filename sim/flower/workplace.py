"""The workplaces of a run's nodes in one process, their memory, and the run that a Flower app's config states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict, UserConfig
from torch import Tensor

from sim.data.at_clinics import load_records
from sim.data.federation import Federation, Records
from sim.data.folds import runs_of
from sim.flower.internals import filled, held
from sim.flower.wire import array_record, tensors_in
from sim.foundation.problems import ScenarioError, show
from sim.methods.forms import Forms
from sim.methods.job import Job
from sim.methods.node_group import NodeGroup, node_groups_of
from sim.methods.workplace import Kept, Numbers, Workplace
from sim.models import Parameters
from sim.plan.plan import Plan, make_plan
from sim.scenario import load_scenario
from sim.tensor.program import Alone, Program


class ContextMemory:
    """The memory of a node; see :class:`sim.methods.workplace.Memory`.

    Parameters
    ----------
    state : flwr.app.RecordDict
        The context's.
    """

    def __init__(self, state: RecordDict) -> None:
        self._state = held(state)

    def is_of(self, state: RecordDict) -> bool:
        """Whether this is the memory in that state."""
        return self._state is held(state)

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def tensors(self, name: str) -> Parameters:
        """Return the tensors kept under a name."""
        record = self._state[name]
        if not isinstance(record, ArrayRecord):
            raise TypeError(f"the state {name!r} is damaged")
        return tensors_in(record)

    def keep_tensors(self, name: str, values: Mapping[str, Tensor]) -> None:
        """Keep tensors by reference."""
        self._state[name] = array_record(values)

    def numbers(self, name: str) -> Numbers:
        """Return the very numbers kept under a name."""
        record = self._state[name]
        if not isinstance(record, ConfigRecord):
            raise TypeError(f"the state {name!r} is damaged")
        return held(record)

    def keep_numbers(self, name: str, values: Numbers) -> Numbers:
        """Keep numbers, and return those that are kept."""
        self._state[name] = filled(ConfigRecord(), values)
        return self.numbers(name)

    def forget(self, name: str) -> None:
        """Forget what is kept under a name, if anything is."""
        self._state.pop(name, None)


class Workplaces:
    """The workplaces of a run, each made when the first message for its node arrives.

    Parameters
    ----------
    job : Job
    train : Records
        Of all clinics.
    program : Program, optional
        Does what the clinics train.
    with_server : bool
        Whether the server is in this process, and does a turn's batches without messages.
    groups : sequence of sequence of int, optional
        The clinics of each node; without it they are shared out evenly.
    """

    def __init__(
        self,
        job: Job,
        train: Records,
        program: Program | None = None,
        *,
        with_server: bool = False,
        groups: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self._groups = groups
        self._job, self._train = job, train
        self._program, self._with_server = program or Alone(), with_server
        self._forms = Forms(job)
        self._made: dict[int, Workplace] = {}
        self._memories: dict[int, ContextMemory] = {}

    def __call__(self, context: Context) -> Workplace:
        """Return the workplace of the node that a context belongs to; ``ScenarioError`` if it does not say which."""
        here = self._made.get(context.node_id)
        if here is not None and self._memories[context.node_id].is_of(context.state):
            return here
        memory = self._memories[context.node_id] = ContextMemory(context.state)
        if here is None:
            part, parts = (context.node_config.get(key) for key in ("partition-id", "num-partitions"))
            if type(part) is not int or type(parts) is not int or not 0 <= part < parts:
                fault = "the node's config must give partition-id, a number from 0, and num-partitions, above it"
                raise ScenarioError([fault])
            clinics = list((self._groups or node_groups_of(len(self._job.sizes), parts))[part])
            group = NodeGroup.build(self._job, self._train, clinics)
            here = Workplace(
                job=self._job,
                forms=self._forms,
                group=group,
                program=self._program,
                with_server=self._with_server,
                memory=memory,
            )
        # Otherwise the node's state has travelled, and come back.
        here = self._made[context.node_id] = replace(here, memory=memory)
        return here

    def at_clinics(self, contexts: Iterable[Context], read: Callable[[Workplace], Kept]) -> list[Kept]:
        """Read what no message holds at the clinics of some nodes; for the simulator alone."""
        return [read(self(context)) for context in contexts]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What an app's config states, as in ``[tool.flwr.app.config]``.

    Attributes
    ----------
    scenario : Path
        A file; a path that is not absolute begins at the app's folder, wherever its bundle is unpacked.
    run : int
        Counted from 0.
    out : Path or None
        Where the server writes the model, as safetensors.
    wait : float
        Seconds that the server waits for the nodes to come, and for an answer.
    """

    scenario: Path
    run: int
    out: Path | None
    wait: float

    @classmethod
    def of(cls, config: UserConfig) -> RunConfig:
        """Read an app's config.

        Raises
        ------
        ScenarioError
            Names everything that is wrong with it.
        """
        scenario, run, out, wait = (config.get(key) for key in ("scenario", "run", "out", "wait-seconds"))
        problems = []
        app = Path(__file__).resolve().parents[2]
        if not isinstance(scenario, str) or not scenario:
            problems.append(f"scenario: {show(scenario)} is not a path; write one in quotes")
        elif not (app / scenario).is_file():
            where = "on this party's disk" if Path(scenario).is_absolute() else "in the app's bundle"
            bundled = [f'"scenarios/{path.name}"' for path in sorted((app / "scenarios").glob("*.toml"))]
            mend = f"give {', '.join(bundled)} or " if bundled else "give "
            problems.append(
                f"scenario: {show(scenario)} is no file {where}; {mend}an absolute path that all parties have"
            )
        if type(run) is not int or run < 0:
            problems.append(f"run: {show(run)} is not a run's number; give 0 or more")
        if not isinstance(out, str):
            problems.append(f"out: {show(out)} is not a path; write one in quotes")
        if type(wait) not in (int, float) or not 0 < float(wait or 0) < math.inf:
            problems.append(f"wait-seconds: {show(wait)} is not a time; give a number greater than 0, such as 600")
        if problems:
            raise ScenarioError(f"run config: {line}" for line in problems)
        return cls(
            scenario=app / str(scenario), run=int(run or 0), out=Path(str(out)) if out else None, wait=float(wait or 0)
        )


@lru_cache(maxsize=1)
def stated_run(config: RunConfig) -> tuple[Plan, Federation, Workplaces]:
    """Return the run that an app's config states.

    Every party of a replay plans it anew from the scenario, and reads all records.

    Raises
    ------
    ScenarioError
        If the scenario has a problem or no such run.
    """
    scenario, number = config.scenario, config.run
    specs = runs_of(load_scenario(scenario))
    if number >= len(specs):
        raise ScenarioError(
            f"run config: run: there is no run {number}; {scenario.name} has {len(specs)}, counted from 0"
        )
    federation = load_records(specs[number].data, specs[number].clinics, specs[number].seed, specs[number].parties)
    plan = make_plan(specs[number], federation.facts)
    if plan.job.edges is not None:
        raise ScenarioError(
            f"run config: run: run {number}, {specs[number].strategy.name}, has edge servers, which are simulated "
            "in one process alone; take suture run"
        )
    return plan, federation, Workplaces(plan.job, federation.train)


def workplace_of(context: Context) -> Workplace:
    """Return the workplace of the node that a context belongs to, in the run that its config states."""
    return stated_run(RunConfig.of(context.run_config))[2](context)
