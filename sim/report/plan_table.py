"""The table of what a study will cost, of plain values: it is made without pandas, which takes long to load."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from rich.table import Table

from sim.foundation.text import bytes_text, epsilon_text, seconds_text, value_text
from sim.methods.labels import known_method, method_labels, reading_order
from sim.privacy.ledger import COLUMN_OF, REPLACE_COLUMN_OF
from sim.report.adversaries import ADVERSARIES, BETWEEN_PARTIES, EDGE_SERVER
from sim.report.terminal import SHOWN_AS, table_of
from sim.results.columns import is_tuned

_CAPTION = (
    "Planned, before any training. Time and traffic of a whole run over all clinics, for the first seed. "
    "ε is the largest over clinics; ∞ means no guarantee against that adversary."
)
Run = Mapping[str, Any]


def plan_table(plans: Sequence[Run]) -> Table:
    """Build the table that tells what a study will cost; it fits 120 columns.

    One row for each method and combination of swept values; time, traffic and noise of the first seed.

    Parameters
    ----------
    plans : sequence of mapping
        One object a run, as `suture plan --json` prints them.
    """
    adjacencies = {run["adjacency"] for run in plans} - {None, ""}
    replaced = {COLUMN_OF[who]: other for who, other in REPLACE_COLUMN_OF.items() if any(other in run for run in plans)}
    if "replace-one" not in adjacencies:
        replaced = {}
    parties = any(known is not None and known.layouts == ("vertical",) for known in _methods(plans))
    adversaries = ADVERSARIES | (BETWEEN_PARTIES if parties else {})
    adversaries |= {
        column: name
        for column, name in EDGE_SERVER.items()
        if any(not math.isnan(_epsilon(run, replaced.get(column, column))) for run in plans)
    }
    keys, labels = _swept(plans), any(run["epsilon_label"] is not None for run in plans)
    rows = []
    for (method, *values), group in _in_reading_order(plans, keys).items():
        run = group[0]
        noise = [clinic["noise_multiplier"] for clinic in run["clinics"] if clinic["noise_multiplier"] is not None]
        rows.append(
            {
                "Method": str(method),
                **{SHOWN_AS.get(key, key): value_text(value) for key, value in zip(keys, values, strict=True)},
                "Runs": str(len(group)),
                "Noise σ by clinic": "–".join(dict.fromkeys(f"{value:.3g}" for value in (min(noise), max(noise))))
                if noise
                else "–",
                **{
                    f"ε {name.lower()}": epsilon_text(_epsilon(run, replaced.get(column, column)))
                    for column, name in adversaries.items()
                },
                **({"ε label": epsilon_text(_epsilon(run, "epsilon_label"))} if labels else {}),
                "Time": seconds_text(run["sim_seconds"]),
                "Sent up": bytes_text(run["bytes_up"]),
                "Sent down": bytes_text(run["bytes_down"]),
                "Clinic GFLOP": f"{run['clinic_flops'] / 1e9:.3g}",
                "Server GFLOP": f"{run['server_flops'] / 1e9:.3g}",
            }
        )
    caption = _CAPTION.replace("clinics", "parties") if parties else _CAPTION
    if adjacencies:
        caption += f" All ε are for {'replace-one' if 'replace-one' in adjacencies else 'zero-out'}."
    studies = ", ".join(dict.fromkeys(run["study"] for run in plans))
    return table_of(list(rows[0]), [tuple(row.values()) for row in rows], studies, caption)


def _methods(plans: Sequence[Run]) -> list[Any]:
    return [known_method(name) for name in dict.fromkeys(run["method"] for run in plans)]


def _epsilon(run: Run, column: str) -> float:
    value = run.get(column)
    return math.nan if value is None else float(value)


def _value(run: Run, key: str) -> Hashable:
    """Return a setting as it can be grouped; None where a run has none."""
    value = run.get(key)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _swept(plans: Sequence[Run]) -> list[str]:
    """List the swept keys that take more than one value."""
    names = dict.fromkeys(name for run in plans for name in run if "." in name and not is_tuned(name))
    return [name for name in names if len({_value(run, name) for run in plans}) > 1]


def _in_reading_order(plans: Sequence[Run], keys: Sequence[str]) -> dict[tuple[Hashable, ...], list[Run]]:
    """Return the runs by method and swept values, as :func:`sim.report.summary.in_reading_order` has them."""
    labels = method_labels((run["strategy"] for run in plans), (run["cut"] for run in plans))
    numbers = {key: all(isinstance(_value(run, key), int | float | None) for run in plans) for key in keys}

    def place(key: str, run: Run) -> tuple[bool, Any]:
        value = _value(run, key)
        if not numbers[key]:
            return False, "nan" if value is None else str(value)
        return value is None, value or 0

    def order(named: tuple[str, Run]) -> tuple[Any, ...]:
        label, run = named
        return reading_order(run["method"], run["cut"]), label, *(place(key, run) for key in keys), run["seed"]

    groups: dict[tuple[Hashable, ...], list[Run]] = {}
    for label, run in sorted(zip(labels, plans, strict=True), key=order):
        groups.setdefault((label, *(_value(run, key) for key in keys)), []).append(run)
    return groups
