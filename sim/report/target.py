"""How long, and at what traffic, until a model is good enough."""

from __future__ import annotations

import pandas as pd

from sim.foundation.problems import ScenarioError
from sim.foundation.text import bytes_text, seconds_text, value_text
from sim.report.condition import parse_condition
from sim.report.study import StudyResults
from sim.report.summary import swept_keys


def first_rounds_at(study: StudyResults, target: str) -> pd.DataFrame:
    """Find the first round of each run after which a condition holds.

    The successful runs with `target_round`, `target_seconds` and `target_bytes`; NaN where it never holds.

    Raises ScenarioError if there is no such column, or it is no condition.

    Parameters
    ----------
    target : str
        A condition on columns of ``rounds.parquet``, such as ``auc>=0.8`` (held-out) or ``validation_auc>=0.8``.
    """
    if study.rounds.empty:
        raise ScenarioError(["--target: no run of the study has succeeded; run the study first"])
    numbers = study.rounds.select_dtypes("number")
    condition = parse_condition(target, list(numbers.columns), "--target")
    first = study.rounds[condition.holds(numbers)].groupby("run_id")[["round", "sim_seconds", "bytes"]].first()
    first.columns = pd.Index(["target_round", "target_seconds", "target_bytes"])
    return study.ok.merge(first, how="left", left_on="run_id", right_index=True)


def target_frame(study: StudyResults, target: str) -> pd.DataFrame:
    """Lay out time and traffic to a target as text, by method and swept values.

    Means over the runs that reach it, and how many do.
    """
    runs = first_rounds_at(study, target)
    keys = swept_keys(runs)
    rows = []
    for values, group in runs.groupby(["method_label", *keys], dropna=False, sort=False, observed=True):
        reached = group.dropna(subset="target_round")
        means = reached[["target_round", "target_seconds", "target_bytes"]].mean()
        some = len(reached) > 0
        rows.append(
            {
                "Method": values[0],
                **dict(zip(keys, map(value_text, values[1:]), strict=True)),
                "Reached by": f"{len(reached)} of {len(group)}",
                "Rounds": f"{means['target_round']:.3g}" if some else "–",
                "Time": seconds_text(means["target_seconds"]) if some else "–",
                "Traffic": bytes_text(means["target_bytes"]) if some else "–",
            }
        )
    return pd.DataFrame(rows)
