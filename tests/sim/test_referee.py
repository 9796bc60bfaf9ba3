"""What a referee would ask: one class only, and still improving."""

import numpy as np
import pandas as pd
import pytest

from sim.report.cautions import remarks

RUNS = pd.DataFrame(
    {
        "run_id": ["a0", "a1", "b0", "b1", "p0"],
        "method": ["fedavg", "fedavg", "split", "split", "prevalence"],
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


def test_of_grades_it_is_the_same_grade():
    one = predictions(a0=ONE, a1=ONE)
    assert "predicts the same grade for" in " ".join(remarks(RUNS.assign(ordinal_auc=0.5), one, rounds()))


def test_a_method_that_was_still_improving_is_named():
    losses = rounds(a0=SETTLED, a1=SETTLED, b0=FALLING, b1=FALLING, p0=[0.69, 0.6])
    [said] = remarks(RUNS, pd.DataFrame(), losses)
    assert said.startswith("Relay was still improving when training ended (")
    assert "the mean loss was .060 lower than in the fifth before" in said


def test_the_validation_records_decide_where_there_are_some():
    losses = rounds(a0=FALLING, a1=FALLING).assign(validation_loss=np.tile(SETTLED, 2))
    assert list(remarks(RUNS, pd.DataFrame(), losses)) == []


@pytest.mark.parametrize(
    "losses", [np.where(np.arange(21) % 5 == 0, FALLING, np.nan), FALLING[:8], FALLING[:1], np.full(21, np.nan)]
)
def test_few_rounds_that_were_judged_say_nothing(losses):
    assert list(remarks(RUNS, pd.DataFrame(), rounds(a0=losses))) == []


def settled(seed, methods=12, seeds=5):
    """Courses that fall, then wander around where they have settled, as under noisy gradients."""
    rng = np.random.default_rng(seed)
    names = [f"m{method}-{run}" for method in range(methods) for run in range(seeds)]
    noise = np.zeros((len(names), 31))
    for step in range(1, 31):
        noise[:, step] = 0.8 * noise[:, step - 1] + 0.02 * rng.standard_normal(len(names))
    table = rounds(**dict(zip(names, 0.5 + 0.2 * np.exp(-np.arange(31) / 3) + noise, strict=True)))
    series = [name.partition("-")[0] for name in names]
    return pd.DataFrame({"run_id": names, "method": "fedavg", "series": series}), table


@pytest.mark.slow
def test_methods_that_wander_are_not_said_to_improve():
    wrong = sum(bool(list(remarks(runs, pd.DataFrame(), table))) for runs, table in map(settled, range(100)))
    assert wrong <= 5


def test_methods_that_improve_through_noise_are_named():
    runs, table = settled(0, methods=2)
    falling = table["run_id"].str.startswith("m1")
    table["loss"] -= np.where(falling, 0.01 * table["round"], 0.0)
    [said] = remarks(runs, pd.DataFrame(), table)
    assert said.startswith("m1 was still improving")


def test_runs_that_chose_other_numbers_of_rounds_are_not_mixed():
    """Runs of 35 and of 40 rounds have settled, at different losses: no course falls at its end."""
    short, long = 0.9 - 0.3 * (1 - 0.5 ** np.arange(36)), 0.7 - 0.3 * (1 - 0.5 ** np.arange(41))
    assert list(remarks(RUNS, pd.DataFrame(), rounds(a0=short, a1=long, b0=short, b1=long))) == []


def test_one_run_must_end_below_all_that_went_before():
    wandering = FALLING + np.where(np.arange(21) == 18, 0.1, 0.0)
    assert list(remarks(RUNS, pd.DataFrame(), rounds(a0=wandering))) == []
    assert len(list(remarks(RUNS, pd.DataFrame(), rounds(a0=FALLING)))) == 1
