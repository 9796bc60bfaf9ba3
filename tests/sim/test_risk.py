"""Bounds on membership inference against closed forms."""

import math

import dp_accounting as dp
import pytest
from scipy.stats import norm

from sim.privacy.accounting import dp_sgd_event, flatten
from sim.privacy.risk import FALSE_POSITIVE_RATES, membership_risk


def of(event: dp.DpEvent, way: str = "add-or-remove"):
    return membership_risk({(way, atom): n for atom, n in flatten(event).items()}, 1.0)


def test_reference_of_dp_sgd() -> None:
    assert of(dp_sgd_event(0.01, 1.0, 1000)).advantage == pytest.approx(0.161, abs=5e-4)


@pytest.mark.parametrize("mu", [0.1, 1.0, 3.0])
def test_gaussian_by_its_closed_form_and_by_the_grid(mu: float) -> None:
    exact = of(dp.GaussianDpEvent(1 / mu))
    assert exact.advantage == pytest.approx(2 * norm.cdf(mu / 2) - 1)
    assert exact.true_positive_rates == pytest.approx(norm.cdf(norm.ppf(FALSE_POSITIVE_RATES) + mu))
    grid = of(dp.ComposedDpEvent([dp.GaussianDpEvent(1 / mu), dp_sgd_event(1e-6, 50.0, 1)]))
    assert grid.advantage == pytest.approx(exact.advantage, abs=2e-3)
    assert grid.true_positive_rates == pytest.approx(exact.true_positive_rates, abs=2e-3)


def test_randomised_response_is_true_or_not() -> None:
    risk = of(dp.RandomizedResponseDpEvent(0.5, 2), "replace")
    assert risk.advantage == pytest.approx(0.5, abs=1e-3)
    assert risk.true_positive_rates == pytest.approx([3 * rate for rate in FALSE_POSITIVE_RATES], rel=2e-2)


def test_nothing_and_everything_released() -> None:
    assert of(dp.NoOpDpEvent()).true_positive_rates == FALSE_POSITIVE_RATES
    everything = membership_risk({("replace", dp.NonPrivateDpEvent()): 1}, math.inf)
    assert everything.advantage == everything.true_positive_rates[0] == 1
