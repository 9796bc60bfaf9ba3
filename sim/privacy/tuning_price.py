"""What a choice of settings on the records costs: its trials composed with the run, or had their number been random.

A run's epsilon is stated as if its settings had been chosen on public records. Here its trials are counted too, each a
training with noise of its own on the records that it trained on:

- composed: everything that all trials and the run release. That is what whoever sees the trials' messages has seen, and
  a bound for who sees the run alone.
- drawn [1]_: for who sees the run alone, had the number of trials been drawn from a geometric distribution with that
  mean, and each trial's settings at random among those that were tried (theorem 2, truncated negative binomial with
  eta = 1); then composed with the run.

Both are about records that the trials trained on. The exact scores of validation records decide too, without noise.

References
----------
.. [1] Papernot & Steinke, "Hyperparameter tuning with Renyi differential privacy", ICLR 2022.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sim.foundation.lazy import Lazy
from sim.privacy.accounting import Mechanisms, compose, under_one_adjacency
from sim.privacy.largest import largest_epsilon
from sim.privacy.ledger import ADVERSARIES, Adversary, Ledger, Unit
from sim.privacy.remembered import remembered

if TYPE_CHECKING:
    from dp_accounting import DpEvent

dp: Any = Lazy("dp_accounting")

_ORDERS: Final = (*range(2, 65), *range(72, 257, 8), 512, 1024)
_GEOMETRIC: Final = 1.0


def tuning_price(
    run: Ledger, trials: Sequence[tuple[Ledger, int]], clinics: int, delta: float, unit: Unit
) -> list[dict[str, Any]]:
    """Return a row an adversary: ``adversary``, and the largest ``composed`` and ``drawn`` epsilon over the clinics.

    Parameters
    ----------
    run : Ledger
        Of the run with the settings that were chosen.
    trials : sequence of (Ledger, int)
        The different ledgers of trials, and how many trials have each.
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
            "composed": _composed(run, trials, adversary, clinics, delta, unit),
            "drawn": _drawn(run, trials, adversary, clinics, delta, unit) if adversary == "model-user" else None,
        }
        for adversary in ADVERSARIES
    ]


def _composed(
    run: Ledger, trials: Sequence[tuple[Ledger, int]], adversary: Adversary, clinics: int, delta: float, unit: Unit
) -> float | None:
    try:
        return largest_epsilon(with_trials(run, trials, adversary, range(clinics), unit), delta)
    except ValueError:
        return None


def with_trials(
    run: Ledger, trials: Sequence[tuple[Ledger, int]], adversary: Adversary, clinics: Iterable[int], unit: Unit
) -> list[Mechanisms]:
    """Return what an adversary sees of each clinic of a run and of its trials; clinics that are alike count once."""
    wholes: dict[frozenset[Any], Mechanisms] = {}
    for clinic in clinics:
        whole = Counter(run.mechanisms(adversary, clinic, unit))
        for ledger, times in trials:
            for mechanism, count in ledger.mechanisms(adversary, clinic, unit).items():
                whole[mechanism] += count * times
        wholes[frozenset(whole.items())] = whole
    return list(wholes.values())


def _drawn(
    run: Ledger, trials: Sequence[tuple[Ledger, int]], adversary: Adversary, clinics: int, delta: float, unit: Unit
) -> float | None:
    """Return None unless all trials are alike, more than one, and Renyi DP takes every mechanism."""
    if len(trials) != 1 or trials[0][1] < 2 or not delta:
        return None
    [(ledger, times)] = trials
    largest = 0.0
    for clinic in range(clinics):
        views = [_of_renyi(each.mechanisms(adversary, clinic, unit)) for each in (ledger, run)]
        if views[0] is None or views[1] is None:
            return None
        largest = max(largest, _best_of_a_drawn_number(compose(views[0]), compose(views[1]), times, delta))
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


def price_of(record_trials: Sequence[tuple[str, int]], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what ``run.json`` keeps of a run's tuning: how many trials, their ledgers in JSON, and the price."""
    return {
        "trials": sum(times for _, times in record_trials),
        "ledgers": [{"releases": releases, "times": times} for releases, times in record_trials],
        "price": [dict(row) for row in rows],
    }


def trials_of(kept: Mapping[str, Any] | None) -> list[tuple[Ledger, int]]:
    """Return the ledgers of trials, and how many have each, from what :func:`price_of` keeps; none without tuning."""
    return [(Ledger.from_json(each["releases"]), each["times"]) for each in (kept or {"ledgers": ()})["ledgers"]]
