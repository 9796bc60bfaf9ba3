"""What counts as false in studies in which there is nothing to find."""

import pytest

from benchmarks.nothing import judged

IDLE = "Local; FedAvg; FedProx; and 1 other are not shown to rank better than chance (within-clinic AUC of .5)."
WORSE = (
    "No better Brier score than that of each clinic's share of cases is shown for Local; FedAvg; FedProx; and 1 other."
)
TWINS = "FedAvg has the highest within-clinic AUC: .520±.060 (3 seeds). FedProx has the same on every seed."


@pytest.mark.parametrize(
    ("said", "of_twins", "expected"),
    [
        (f"{IDLE} {WORSE}", TWINS, [False, False, False, True]),
        (f"Split learning has the highest. It is better than Local. {IDLE} {WORSE}", TWINS, [True, False, False, True]),
        (f"Local and FedProx are better. {IDLE} {WORSE}", TWINS, [True, False, False, True]),
        (f"Local and FedAvg are not shown to rank better than chance. {WORSE}", TWINS, [False, True, False, True]),
        (IDLE, "About FedProx nothing can be concluded", [False, False, True, False]),
    ],
)
def test_what_is_said_of_nothing_is_false(said, of_twins, expected):
    assert judged(said, of_twins) == expected
