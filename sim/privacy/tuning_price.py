"""What a choice of settings on the records costs: its trials composed with the run, or had their number been random.

A run's epsilon is stated as if its settings had been chosen on public records. Here its trials are counted too, each a
training with noise of its own on the records that it trained on:

- composed: everything that all trials and the run release. That is what whoever sees the trials' messages has seen, and
  a bound for who sees the run alone. Where settings differ in what a run with them releases, the trials decide which of
  these is made, and composition holds for those that are fixed beforehand: a run with each of them counts [2]_.
- drawn [1]_: for who sees the run alone, had the number of trials been drawn from a geometric distribution with that
  mean, and each trial's settings at random among those that were tried (theorem 2, truncated negative binomial with
  eta = 1); then composed with the run.

Both are about records that the trials trained on. The exact scores of validation records decide too, without noise.

References
----------
.. [1] Papernot & Steinke, "Hyperparameter tuning with Renyi differential privacy", ICLR 2022.
.. [2] Rogers et al., "Privacy odometers and filters: pay-as-you-go composition", NeurIPS 2016.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sim.foundation.lazy import Lazy
from sim.privacy.accounting import Mechanisms, compose, under_one_adjacency
from sim.privacy.largest import largest_epsilon
from sim.privacy.ledger import ADVERSARIES, Adversary, Ledger, Unit
from sim.privacy.loss import Adjacency
from sim.privacy.remembered import remembered

if TYPE_CHECKING:
    from dp_accounting import DpEvent

dp: Any = Lazy("dp_accounting")

_ORDERS: Final = (*range(2, 65), *range(72, 257, 8), 512, 1024)
_GEOMETRIC: Final = 1.0


Trials: TypeAlias = "Sequence[tuple[Ledger, int]]"
"""The different ledgers of trials, and how many trials have each."""


def tuning_price(
    runs: Sequence[Ledger], trials: Trials, clinics: int, delta: float, unit: Unit
) -> list[dict[str, Any]]:
    """Return a row an adversary: ``adversary``, and the largest ``composed`` and ``drawn`` epsilon over the clinics.

    Parameters
    ----------
    runs : sequence of Ledger
        The different ledgers of a run with each of the settings that might have been chosen.
    trials : sequence of (Ledger, int)
    clinics : int
    delta : float
        The run's.
    unit : {"record", "clinic"}

    Returns
    -------
    list of dict
        None stands for what is not computed.
    """
    return [
        {
            "adversary": adversary,
            "composed": _composed(runs, trials, adversary, clinics, delta, unit),
            "drawn": _drawn(runs, trials, adversary, clinics, delta, unit) if adversary == "model-user" else None,
        }
        for adversary in ADVERSARIES
    ]


def _composed(
    runs: Sequence[Ledger], trials: Trials, adversary: Adversary, clinics: int, delta: float, unit: Unit
) -> float | None:
    try:
        return largest_epsilon(with_trials(runs, trials, adversary, range(clinics), unit), delta)
    except ValueError:
        return None


def any_of(views: Iterable[Mechanisms]) -> Counter[tuple[Adjacency, DpEvent]]:
    """Return mechanisms that tell no less than any of several: together all that are in no other one."""
    different = [Counter(dict(view)) for view in {frozenset(view.items()) for view in views}]
    return sum((view for view in different if not any(view < other for other in different)), Counter())


def with_trials(
    runs: Sequence[Ledger], trials: Trials, adversary: Adversary, clinics: Iterable[int], unit: Unit
) -> list[Mechanisms]:
    """Return what an adversary sees of each clinic of a run and of its trials; clinics that are alike count once."""
    wholes: dict[frozenset[Any], Mechanisms] = {}
    for clinic in clinics:
        whole = any_of([run.mechanisms(adversary, clinic, unit) for run in runs])
        for ledger, times in trials:
            for mechanism, count in ledger.mechanisms(adversary, clinic, unit).items():
                whole[mechanism] += count * times
        wholes[frozenset(whole.items())] = whole
    return list(wholes.values())


def _drawn(
    runs: Sequence[Ledger], trials: Trials, adversary: Adversary, clinics: int, delta: float, unit: Unit
) -> float | None:
    """Return None unless all trials are alike, more than one, and Renyi DP takes every mechanism."""
    if len(trials) != 1 or trials[0][1] < 2 or not delta:
        return None
    [(ledger, times)] = trials
    largest = 0.0
    for clinic in range(clinics):
        one = _of_renyi(ledger.mechanisms(adversary, clinic, unit))
        run = _of_renyi(any_of([each.mechanisms(adversary, clinic, unit) for each in runs]))
        if one is None or run is None:
            return None
        largest = max(largest, _best_of_a_drawn_number(compose(one), compose(run), times, delta))
    return largest


def _of_renyi(mechanisms: Mechanisms) -> Counter[DpEvent] | None:
    """Return the atoms of which dp-accounting's Renyi divergence holds under the adjacency that they are stated for."""
    atoms, adjacency = under_one_adjacency(mechanisms)
    known = (dp.GaussianDpEvent,) if adjacency == "replace" else (dp.GaussianDpEvent, dp.PoissonSampledDpEvent)
    return Counter(atoms) if all(isinstance(atom, known) for atom in atoms) else None


@remembered
def _best_of_a_drawn_number(trial: DpEvent, run: DpEvent, mean: int, delta: float) -> float:
    chosen = dp.dp_event.RepeatAndSelectDpEvent(trial, float(mean), _GEOMETRIC)
    accountant = dp.rdp.RdpAccountant(_ORDERS)
    found = float(accountant.compose(chosen).compose(run).get_epsilon(delta))
    return math.inf if math.isnan(found) else found


def price_of(
    record_trials: Sequence[tuple[str, int]], others: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what ``run.json`` keeps of a run's tuning, ledgers in JSON.

    How many trials, their ledgers and those of the runs that might have been made instead, and the price.
    """
    return {
        "trials": sum(times for _, times in record_trials),
        "ledgers": [{"releases": releases, "times": times} for releases, times in record_trials],
        "not-made": list(others),
        "price": [dict(row) for row in rows],
    }


def told_of(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the statement tells of what :func:`price_of` keeps."""
    return {"trials": kept["trials"], "runs": 1 + len(kept["not-made"]), "price": kept["price"]}


def tuning_of(kept: Mapping[str, Any]) -> tuple[list[Ledger], list[tuple[Ledger, int]]]:
    """Return the ledgers of runs that were not made, and the trials, from what :func:`price_of` keeps."""
    trials = [(Ledger.from_json(each["releases"]), each["times"]) for each in kept["ledgers"]]
    return [Ledger.from_json(releases) for releases in kept["not-made"]], trials
