"""What a referee would ask: one class only, and still improving."""

import numpy as np
import pandas as pd
import pytest

from sim.report.referee import remarks

RUNS = pd.DataFrame(
    {
        "run_id": ["a0", "a1", "b0", "b1", "p0"],
        "strategy": ["fedavg", "fedavg", "split", "split", "prevalence"],
        "series": ["FedAvg", "FedAvg", "Relay", "Relay", "Prevalence alone"],
    }
)


def predictions(**positive):
    parts = [
        pd.DataFrame({"run_id": run, "probability_0": 1 - np.array(p), "probability_1": p})
        for run, p in positive.items()
    ]
    return pd.concat(parts)


def rounds(**losses):
    parts = [pd.DataFrame({"run_id": run, "round": range(len(loss)), "loss": loss}) for run, loss in losses.items()]
    return pd.concat(parts) if parts else pd.DataFrame()


BOTH, ONE = [0.2, 0.7, 0.4], [0.6, 0.7, 0.9]
SETTLED = 0.4 + 0.3 * 0.5 ** np.arange(21)
FALLING = np.linspace(0.7, 0.4, 21)


@pytest.mark.parametrize(
    ("p", "said"),
    [
        ({"a0": ONE, "a1": ONE, "b0": BOTH, "b1": BOTH, "p0": ONE}, True),
        ({"a0": ONE, "a1": BOTH, "b0": BOTH, "b1": BOTH, "p0": ONE}, False),
    ],
)
def test_a_method_that_predicts_one_class_in_most_runs_is_named(p, said):
    expected = ["FedAvg predicts the same class for every held-out record in most runs."] if said else []
    assert list(remarks(RUNS, predictions(**p), rounds())) == expected


def test_a_method_that_was_still_improving_is_named():
    losses = rounds(a0=SETTLED, a1=SETTLED, b0=FALLING, b1=FALLING, p0=[0.69, 0.6])
    [said] = remarks(RUNS, pd.DataFrame(), losses)
    assert said.startswith("Relay was still improving when training ended (")
    assert "fell by .060" in said


def test_the_validation_records_decide_where_there_are_some():
    losses = rounds(a0=FALLING, a1=FALLING).assign(validation_loss=np.tile(SETTLED, 2))
    assert list(remarks(RUNS, pd.DataFrame(), losses)) == []


@pytest.mark.parametrize("losses", [np.where(np.arange(21) % 5 == 0, FALLING, np.nan), FALLING[:8]])
def test_few_rounds_that_were_judged_say_nothing(losses):
    assert list(remarks(RUNS, pd.DataFrame(), rounds(a0=losses))) == []
