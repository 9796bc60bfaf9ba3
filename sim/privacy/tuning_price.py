"""What a choice of settings on the records costs: its trials composed with the run, or had their number been random.

A run's epsilon is stated as if its settings had been chosen on public records. Here its trials are counted too, each a
training with noise of its own on the records that it trained on:

- composed: everything that all trials and the run release. That is what whoever sees the trials' messages has seen, and
  a bound for who sees the run alone. Where settings differ in what a run with them releases, the trials decide which of
  these is made, and composition holds for those that are fixed beforehand: a run with each of them counts [2]_.
- drawn [1]_: for who sees the run alone, had the number of trials been drawn from a geometric distribution with that
  mean m, and each trial's settings at random among those that were tried (theorem 2, truncated negative binomial with
  eta = 1 and gamma = 1 / m). With r(a) the Renyi divergence of order a of one trial, the best one's is at most
  ``r(a) + log(m) / (a - 1) + 2 min_b((1 - 1 / b) r(b) + log(m) / b)``; that of the run is added. Of trials, or runs,
  that release different things the largest at each order is taken: what is drawn, or chosen, is one of them.

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
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.privacy.accounting import Mechanisms, compose, largest_epsilon, under_one_adjacency
from sim.privacy.events import DpEvent, dp
from sim.privacy.ledger import ADVERSARIES, Adversary, Ledger, Unit
from sim.privacy.loss import Adjacency
from sim.privacy.remembered import remembered

_ORDERS: Final = (*range(2, 65), *range(72, 257, 8), 512, 1024)


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


def _any_of(views: Iterable[Mechanisms]) -> Counter[tuple[Adjacency, DpEvent]]:
    """Return mechanisms that tell no less than any of several: together all that are in no other one."""
    different = [Counter(dict(view)) for view in {frozenset(view.items()) for view in views}]
    return sum((view for view in different if not any(view < other for other in different)), Counter())


def with_trials(
    runs: Sequence[Ledger], trials: Trials, adversary: Adversary, clinics: Iterable[int], unit: Unit
) -> list[Mechanisms]:
    """Return what an adversary sees of each clinic of a run and of its trials; clinics that are alike count once."""
    wholes: dict[frozenset[Any], Mechanisms] = {}
    for clinic in clinics:
        whole = _any_of([run.mechanisms(adversary, clinic, unit) for run in runs])
        for ledger, times in trials:
            for mechanism, count in ledger.mechanisms(adversary, clinic, unit).items():
                whole[mechanism] += count * times
        wholes[frozenset(whole.items())] = whole
    return list(wholes.values())


def _drawn(
    runs: Sequence[Ledger], trials: Trials, adversary: Adversary, clinics: int, delta: float, unit: Unit
) -> float | None:
    """Return None unless there is more than one trial, and Renyi DP takes every mechanism."""
    mean = sum(times for _, times in trials)
    if mean < 2 or not delta:
        return None
    different: dict[Any, None] = {}
    for clinic in range(clinics):
        one = [_of_renyi(ledger.mechanisms(adversary, clinic, unit)) for ledger, _ in trials]
        run = [_of_renyi(ledger.mechanisms(adversary, clinic, unit)) for ledger in runs]
        if None in one or None in run:
            return None
        different[tuple(one), tuple(run)] = None
    return max((_best_of_a_drawn_number(one, run, mean, delta) for one, run in different), default=0.0)


def _of_renyi(mechanisms: Mechanisms) -> DpEvent | None:
    """Return an event of which dp-accounting's Renyi divergence holds under the adjacency that it is stated for."""
    atoms, adjacency = under_one_adjacency(mechanisms)
    known = (dp.GaussianDpEvent,) if adjacency == "replace" else (dp.GaussianDpEvent, dp.PoissonSampledDpEvent)
    return compose(atoms) if all(isinstance(atom, known) for atom in atoms) else None


@remembered
def _best_of_a_drawn_number(trials: tuple[DpEvent, ...], runs: tuple[DpEvent, ...], mean: int, delta: float) -> float:
    one, run = _curve(trials), _curve(runs)
    orders = np.array(_ORDERS, dtype=np.float64)
    chosen = one + math.log(mean) / (orders - 1) + 2 * ((1 - 1 / orders) * one + math.log(mean) / orders).min()
    found, _ = dp.rdp.compute_epsilon(orders, chosen + run, delta)
    return math.inf if math.isnan(found) else float(found)


def _curve(events: Iterable[DpEvent]) -> NDArray[np.float64]:
    """Return the largest Renyi divergence of several events at each order."""
    curves = [np.asarray(dp.rdp.RdpAccountant(_ORDERS).compose(event).rdp, dtype=np.float64) for event in events]
    return np.asarray(np.max(curves, axis=0), dtype=np.float64)


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
