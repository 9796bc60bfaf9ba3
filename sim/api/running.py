"""A study from its scenario to its finished runs, for ``suture run`` and for Python alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any, Final

from rich.console import Console

from sim.api.preparing import Prepared, prepare
from sim.api.progress import SILENT, notebook_progress, shown_progress
from sim.api.study import Study
from sim.data.folds import runs_of
from sim.foundation.lazy import left_out
from sim.foundation.problems import ScenarioError, show
from sim.plan.plan import Plan
from sim.results.store import writing_to
from sim.scenario import Scenario, load_scenario, parse_scenario
from sim.scenario.data import DataFile
from sim.scenario.in_memory import InMemory, in_memory
from sim.scenario.overrides import Override
from sim.study.attacking import attack_study
from sim.study.engines import Engine, InProcess, Workers
from sim.study.runner import Chosen, Progress, run_study
from sim.study.tuning import tuned

DATA_FOLDER: Final = "data"
"""Of a study's: what it was given in memory."""


_STUDY = RLock()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let one thread after another carry out a study: generators of draws, which stay, serve one at a time."""
    with _STUDY:
        yield


@_one_at_a_time()
@left_out()
def run(
    scenario: Scenario | Mapping[str, Any] | Path | str,
    out: Path | str = "results",
    jobs: int = 1,
    *,
    data: object = None,
    set: Mapping[str, object] | None = None,
    only: Sequence[str] | str = (),
    fail_fast: bool = False,
    progress: bool = True,
) -> Study:
    """Run a study; finished runs in the results folder are not repeated.

    Studies that several threads run come one after another.

    Parameters
    ----------
    scenario : Scenario, dict or path
        A scenario, the tables of one, or the file that holds one.
    out : path
        The results folder.
    jobs : int
        Number of worker processes; a script that asks for several guards its main part by
        ``if __name__ == "__main__":``.
    data : DataFrame, dict of arrays or dict of torch Datasets, optional
        Records that take the place of the scenario's source, see :func:`sim.scenario.in_memory.in_memory`. They are
        written into the study's folder.
    set : dict of str to value, optional
        Dotted keys of the scenario and their values, such as ``{"train.rounds": 5}``. A key that is set is no longer
        swept or tuned.
    only : str or sequence of str
        Names of the strategies to run; all if empty.
    fail_fast : bool
        Whether to stop at the first failed run.
    progress : bool
        Whether to show how far it is, in a notebook or on standard error.

    Returns
    -------
    Study
        Also where runs failed; see its ``ok``.

    Raises
    ------
    ScenarioError
        With every problem of the scenario and the data, a line each.
    """
    names = (only,) if isinstance(only, str) else tuple(only)
    whole = _scenario(scenario, in_memory(data) if data is not None else None, set or {}, names, Path(out))
    prepared = prepare(whole, names)
    console = Console(stderr=True)
    showing = notebook_progress() if console.is_jupyter else shown_progress(console)
    with showing if progress else nullcontext(SILENT) as shown:
        done = carry_out(prepared, Path(out), engine_of(jobs), shown, fail_fast=fail_fast)
    return Study(Path(out) / whole.name, plans=done.plans, notes=prepared.notes)


def engine_of(jobs: int) -> Engine:
    """Return worker processes, or this one where they would be one."""
    return Workers(jobs) if jobs > 1 else InProcess()


@dataclass(frozen=True)
class Done:
    """What came of a study."""

    plans: list[Plan]  # The runs that were asked for, with their tuned settings
    attacked: bool  # Whether all attacks ended well


def carry_out(prepared: Prepared, out: Path, engine: Engine, progress: Progress, *, fail_fast: bool = False) -> Done:
    """Tune, train and attack what is not finished yet; the table of runs stands in the study's folder."""
    whole, plans = prepared.whole, prepared.plans
    ids = [spec.run_id for spec in runs_of(whole)]
    tuning: dict[str, Chosen] = {}
    if whole.tune is not None:
        plans, ids, tuning = tuned(whole, plans, prepared.trials, out, engine, progress)
    run_study(plans, ids, out, engine, progress, fail_fast, tuning=tuning)
    return Done(plans, attack_study(plans, whole.attacks, out, engine, progress))


def _scenario(
    given: Scenario | Mapping[str, Any] | Path | str,
    data: InMemory | None,
    settings: Mapping[str, object],
    only: Sequence[str],
    out: Path,
) -> Scenario:
    """Check a scenario with what is set, and keep its data in its folder where they are in memory."""
    overrides: list[Override] = [(f"data.{key}", value) for key, value in data.settings.items()] if data else []
    overrides += [("data.path", data.name)] if data else []
    if wrong := [key for key in settings if not isinstance(key, str)]:
        raise ScenarioError(f"set: {show(str(wrong[0]))} is no text; give dotted keys such as train.rounds")
    overrides += [(key, _as_written(value)) for key, value in settings.items()]
    if isinstance(given, Path | str):
        read = partial(load_scenario, given, overrides)
    else:
        dumped = given.model_dump(mode="json", exclude_unset=True) if isinstance(given, Scenario) else given
        tables: Mapping[str, Any] = {key: _as_written(value) for key, value in dumped.items()}
        read = partial(parse_scenario, tables, Path.cwd(), overrides)
    if only:
        read(only)  # says what is not there
    checked = read()
    if data is None or not isinstance(checked.data, DataFile):
        return checked
    with writing_to(out / checked.name):
        path = data.keep(out / checked.name / DATA_FOLDER)
    return checked.model_copy(update={"data": checked.data.model_copy(update={"path": path})})


def _as_written(value: object) -> object:
    """Return a value as a scenario file would hold it."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    if isinstance(value, tuple | list):
        return [_as_written(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _as_written(each) for key, each in value.items()}
    return str(value) if isinstance(value, Path) else value
