"""The columns of a study's table."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final

from sim.privacy.ledger import COLUMN_OF, Adversary
from sim.scenario.spec import TUNED

COLUMNS: Final = (
    "run_id", "study", "strategy", "method", "cut", "seed", "held_out", "status", "rounds",
    "within_clinic_auc", "auc", "balanced_accuracy", "accuracy", "loss", "brier", "auprc",
    "calibration_error", "calibration_intercept", "calibration_slope", "sensitivity", "net_benefit",
    "worst_clinic_auc", "worst_clinic", "majority_accuracy",
    "best_round", "best_within_clinic_auc", "best_auc", "best_balanced_accuracy", "best_accuracy", "best_loss",
    "best_brier", "best_calibration_error",
    "mean_participants", "lost_clinic_rounds",
    "sim_seconds", "bytes_up", "bytes_down", "clinic_flops", "server_flops", "peak_clinic_bytes",
    "clinic_joules", "idle_share", "server_busy_share",
    "unit", "mechanism", "adjacency", "delta", "epsilon_model_user", "epsilon_peer", "epsilon_server",
    "epsilon_peers", "epsilon_server_and_peers",
    "epsilon_model_user_replace", "epsilon_peer_replace", "epsilon_server_replace",
    "epsilon_peers_replace", "epsilon_server_and_peers_replace", "epsilon_label",
    "epsilon_audited_model_user", "epsilon_audited_peer", "epsilon_audited_server",
    "epsilon_audited_peers", "epsilon_audited_server_and_peers",
    "wall_seconds", "error",
)  # fmt: skip
"""The columns of ``runs.parquet``; what attacks measured stands before the last two, swept and tuned keys behind."""
OUTCOME_COLUMNS: Final = (
    *("within_clinic_ordinal_auc", "ordinal_auc", "ranked_probability", "quadratic_kappa", "worst_clinic_ordinal_auc"),
    *("best_within_clinic_ordinal_auc", "best_ordinal_auc", "best_ranked_probability", "best_quadratic_kappa"),
    *("within_clinic_concordance", "concordance", "uno_concordance", "integrated_brier", "horizon_calibration"),
    *("within_clinic_r2", "r2", "mae", "decile_error", "worst_clinic_concordance", "worst_clinic_r2"),
    *("best_within_clinic_concordance", "best_concordance", "best_uno_concordance", "best_integrated_brier"),
    *("best_horizon_calibration", "best_within_clinic_r2", "best_r2", "best_mae", "best_decile_error"),
)
"""Columns of grades, times and amounts, which stand in front of the worst clinic's where a run has them."""
EDGE_COLUMNS: Final = (
    *("edge_bytes_up", "edge_bytes_down", "edge_flops", "peak_edge_bytes", "epsilon_edge", "epsilon_edge_replace"),
)
"""Columns of edge servers, which stand behind those of privacy where a study has any."""
EVERY_COLUMN: Final = (*COLUMNS, *OUTCOME_COLUMNS, *EDGE_COLUMNS)
_HEADLINE_COLUMNS: Final = (
    frozenset({"within_clinic_ordinal_auc", "ordinal_auc", "worst_clinic_ordinal_auc", "ranked_probability"}),
    frozenset({"within_clinic_concordance", "concordance", "worst_clinic_concordance", "integrated_brier"}),
    frozenset({"within_clinic_r2", "r2", "worst_clinic_r2", "mae"}),
)
"""Columns of grades, of times, and of amounts, that a table has all of if it has one."""
_KNOWN: Final = frozenset(EVERY_COLUMN)
AUDITED_COLUMN_OF: Final[Mapping[Adversary, str]] = {
    who: column.replace("epsilon", "epsilon_audited") for who, column in COLUMN_OF.items() if who != "edge"
}
"""The columns of what audits show of the epsilon against each adversary, at least."""
TEXT_COLUMNS: Final = frozenset(
    {
        *("run_id", "study", "strategy", "method", "cut", "held_out", "status", "worst_clinic"),
        *("unit", "mechanism", "adjacency", "error"),
    }
)
WHOLE_COLUMNS: Final = frozenset({"seed", "rounds"})
NOISE_KEYS: Final = ("privacy.epsilon", "privacy.noise-multiplier")
"""Swept keys that only change how much noise is added: a curve runs along them."""
UNITS: Final = {
    "auc": (0.0, 1.0), "accuracy": (0.0, 1.0), "rate": (0.0, 1.0), "advantage": (-1.0, 1.0), "r2": (-math.inf, 1.0),
    "error": (0.0, math.inf), "records": (0.0, math.inf), "tpr": (0.0, 1.0), "share": (0.0, 1.0),
    "correlation": (-1.0, 1.0), "ssim": (-1.0, 1.0), "psnr": (-math.inf, math.inf), "epsilon": (0.0, math.inf),
}  # fmt: skip
"""What attacks measure, by the last word of the measure's or the column's name: least and largest value."""
_MEASURE: Final = re.compile(rf"(?:[a-z][a-z0-9_]{{0,63}}_)?({'|'.join(UNITS)})")


def unit_of(name: str) -> str | None:
    """Return the unit in which a measure's or a column's name ends; None if it ends in no unit."""
    match = _MEASURE.fullmatch(name)
    return match[1] if match else None


def in_range(measure: str, value: float) -> bool:
    """Whether a measure can have a value; one that ends in no unit has none."""
    least, most = UNITS.get(unit_of(measure) or "", (math.inf, -math.inf))
    return least <= value <= most


def is_measured(column: str) -> bool:
    """Whether a column of the table holds what an attack measured."""
    return column not in _KNOWN and unit_of(column) is not None and not is_tuned(column)


def is_tuned(column: str) -> bool:
    """Whether a column of the table holds what tuning chose for a key."""
    return column.startswith(TUNED)


def is_swept(column: str) -> bool:
    """Whether a column of the table holds a swept key."""
    return column not in _KNOWN and unit_of(column) is None and not is_tuned(column)


def is_setting(column: str) -> bool:
    """Whether a column of the table holds a swept or a tuned key."""
    return is_swept(column) or is_tuned(column)


def in_order(columns: Iterable[str]) -> list[str]:
    """Return the table's columns and those that stand beside them, in their order."""
    columns = set(columns)
    for of_kind in (*_HEADLINE_COLUMNS, frozenset(EDGE_COLUMNS)):
        columns |= of_kind if columns & of_kind else set()
    others, end, place = sorted(columns - _KNOWN), COLUMNS.index("wall_seconds"), COLUMNS.index("worst_clinic_auc")
    kinds = {kind: filter(kind, others) for kind in (is_measured, is_swept, is_tuned)}
    of_outcome = filter(columns.__contains__, OUTCOME_COLUMNS)
    return [
        *COLUMNS[:place],
        *of_outcome,
        *COLUMNS[place:end],
        *filter(columns.__contains__, EDGE_COLUMNS),
        *kinds[is_measured],
        *COLUMNS[end:],
        *kinds[is_swept],
        *kinds[is_tuned],
    ]
