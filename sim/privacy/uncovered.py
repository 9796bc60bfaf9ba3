"""What a run's folder holds that depends on records and that no epsilon covers, by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sim.scenario.spec import RunSpec

_HELD_OUT: Final = "held-out records, exact; a record held out here may be a training record of another seed's run"
_UN_NOISED: Final = f"training records, by models trained on them without noise; {_HELD_OUT}"
_SCORES: Final = (
    "within_clinic_auc", "auc", "balanced_accuracy", "accuracy", "loss", "brier", "auprc", "calibration_error",
    "calibration_intercept", "calibration_slope", "sensitivity", "net_benefit", "worst_clinic_auc", "pairs",
    "within_clinic_ordinal_auc", "ordinal_auc", "ranked_probability", "quadratic_kappa", "worst_clinic_ordinal_auc",
    "within_clinic_concordance", "concordance", "uno_concordance", "integrated_brier", "horizon_calibration",
    "worst_clinic_concordance", "within_clinic_r2", "r2", "mae", "decile_error", "worst_clinic_r2",
)  # fmt: skip
_EVERYWHERE: Final = (
    "run.json, rounds.parquet, clinics.parquet, the run's log, runs.parquet, report.html and its figures"
)


def not_covered(spec: RunSpec, *, personal: bool = False) -> list[dict[str, Any]]:
    """List what a finished run publishes of its records besides what is noised and what attacks find.

    ``personal`` says whether scores are of models that clinics have trained further, without noise.

    ``what``; ``where`` it stands; ``of`` which records it is a statistic; ``columns``, the patterns of the names under
    which it stands there.
    """
    return [
        {"what": what, "where": where, "of": of, "columns": list(columns)}
        for what, where, of, columns in _rows(spec, _UN_NOISED if personal else _HELD_OUT)
    ]


def publishes_class_counts(spec: RunSpec) -> bool:
    """Whether the numbers of each clinic's records of each class are written: only where nothing is noised.

    With them one label follows from all the others.
    """
    return spec.privacy.mechanism == "none"


def _rows(spec: RunSpec, held_out: str) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    yield "held-out metrics, after each round and by clinic", _EVERYWHERE, held_out, _SCORES
    yield "name of the clinic with the lowest score", _EVERYWHERE, held_out, ("worst_clinic",)
    yield (
        "prediction and class, amount or time of every held-out record",
        "predictions.parquet",
        held_out,
        ("label", "probability_*", "time", "event", "survival_*", "amount", "predicted"),
    )
    yield (
        "which record trains and which is held out",
        "split.parquet",
        "none of a record's values, but membership itself",
        ("part",),
    )
    if spec.parties:
        yield "score where a party is missing at prediction", "clinics.parquet", held_out, ("absent_*",)
    if spec.evaluation.groups:
        yield (
            "held-out metrics and numbers of records by group of patients",
            "groups.parquet, report.html",
            f"training records, exact numbers; {held_out}",
            (*_SCORES, "records", "training_records"),
        )
    if spec.data.validation_share:
        yield (
            "validation metrics, the round that they chose and its metrics",
            "run.json, rounds.parquet, runs.parquet; the choice also in model_best.safetensors",
            "validation records, exact, and held-out records",
            ("validation_*", "best_*"),
        )
    if spec.tuned:
        yield (
            "settings that trials chose, and each trial's score",
            "runs.parquet, run.json, report.html and its figures; the scores in trials.parquet and the trials' log",
            "validation records, exact; every epsilon is stated as if the settings had been chosen on public records",
            ("tuned.*", "score"),
        )
    yield (
        "share of the majority class",
        "run.json, runs.parquet, figures",
        "labels of training and of held-out records, exact",
        ("majority_accuracy",),
    )
    if publishes_class_counts(spec):
        yield (
            "numbers of records by clinic and class",
            "clinics.parquet, report.html",
            "all labels, exact",
            ("class *",),
        )
    if spec.privacy.noises_gradients and spec.strategy.cut is not None:
        yield (
            "traffic and time of a method that cuts the network",
            "every table and log with bytes, seconds, energy or shares of time of such a run",
            "sizes of the Poisson batches that were drawn: no record's values, but who knows a batch's size knows more "
            "than the accounting assumes (one step of epsilon 1: 1.05 with 1,000 records, 1.3 with 10)",
            (
                *("bytes*", "peak_*", "up *", "down *", "*seconds", "clinic_flops", "server_flops", "edge_*", "flops"),
                *("*joules", "idle_share", "server_busy_share"),
            ),
        )
    if getattr(spec.data, "patient", None) is not None:
        yield (
            f"the largest number of {'regions' if spec.parties else 'clinics'} that train on one patient",
            "privacy.md, run.json",
            "training records, exact",
            ("max-clinics",),
        )
    yield (
        "the run's id and the data file's digest",
        "names of folders, every table, run.json and the logs",
        "all records: the id is a digest of the settings and of the data file, so that a guess of the whole file can "
        "be checked, one unknown record too",
        ("run_id", "run", "data-sha256"),
    )
    yield (
        "seconds on the clock, and whether and why a run failed",
        "run.json, runs.parquet, the run's log",
        "training records, as far as computing with them takes longer or fails",
        ("wall_seconds", "status", "error"),
    )
