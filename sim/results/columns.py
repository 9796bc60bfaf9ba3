"""The columns of a study's table."""

from typing import Final

COLUMNS: Final = (
    "run_id", "study", "strategy", "cut", "seed", "status", "rounds",
    "auc", "balanced_accuracy", "accuracy", "loss", "calibration_error",
    "worst_clinic_auc", "worst_clinic", "majority_accuracy",
    "best_round", "best_auc", "best_balanced_accuracy", "best_accuracy", "best_loss", "best_calibration_error",
    "mean_participants", "lost_clinic_rounds",
    "sim_seconds", "bytes_up", "bytes_down", "clinic_flops", "server_flops", "peak_clinic_bytes",
    "clinic_joules", "idle_share", "server_busy_share",
    "unit", "mechanism", "adjacency", "delta", "epsilon_model_user", "epsilon_peer", "epsilon_server",
    "epsilon_model_user_replace", "epsilon_peer_replace", "epsilon_server_replace", "epsilon_label",
    "membership_auc", "smashed_reconstruction_r2", "wall_seconds", "error",
)  # fmt: skip
"""The columns of ``runs.parquet``; swept keys stand behind them."""
TEXT_COLUMNS: Final = frozenset(
    {"run_id", "study", "strategy", "cut", "status", "worst_clinic", "unit", "mechanism", "adjacency", "error"}
)
WHOLE_COLUMNS: Final = frozenset({"seed", "rounds"})
NOISE_KEYS: Final = ("privacy.epsilon", "privacy.noise-multiplier")
"""Swept keys that only change how much noise is added: a curve runs along them."""
