"""Epsilon against published values, other accountants and plain integration; calibrated noise on the safe side."""

import math
import re
import subprocess
import sys

import dp_accounting as dp
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from sim.privacy.accounting import compose, composed_epsilon, dp_sgd_event, epsilon, flatten
from sim.privacy.calibration import MAX_NOISE, MIN_NOISE, calibrate
from sim.privacy.mechanisms.label_rr import LabelRr

DELTA = 1e-4
few = settings(max_examples=10, deadline=None, derandomize=True)
rates = st.floats(0.03, 0.9)
noises = st.floats(0.6, 50)
steps = st.integers(1, 1500)


def fine_epsilon(rate: float, noise: float, count: int) -> float:
    """Return the library's own answer on a fixed grid, as fine as time allows."""
    accountant = PLDAccountant(value_discretization_interval=1e-4 if noise < 3 else 2e-5)
    return float(accountant.compose(dp_sgd_event(rate, noise, count)).get_epsilon(DELTA))


def test_subsampled_gaussian_reference() -> None:
    assert epsilon(dp_sgd_event(0.01, 1.0, 1000), 1e-5) == pytest.approx(1.828, abs=5e-4)
    assert epsilon(dp_sgd_event(0.01, 1.0, 1000), 1e-5, "rdp") == pytest.approx(2.101, abs=5e-4)


def test_gaussian_reference() -> None:
    assert epsilon(dp_sgd_event(1.0, 5.0, 20), 1e-5) == pytest.approx(3.8486, abs=5e-5)
    assert epsilon(dp_sgd_event(1.0, 5.0 / 2, 20), 1e-5) == pytest.approx(
        8.7208, abs=5e-5
    )  # replacement: sensitivity 2


@pytest.mark.parametrize(("target", "noise"), [(1, 7.46), (3, 2.78), (8, 1.20), (16, 0.69)])
def test_noise_for_a_single_release_of_sensitivity_two(target: float, noise: float) -> None:
    assert 2 * calibrate(target, 1e-5, 1.0, 1) == pytest.approx(noise, abs=0.01)


@pytest.mark.filterwarnings(
    "ignore:Optimal order is the largest alpha:UserWarning",  # Opacus, where little is lost: its orders end at 63
)
@pytest.mark.parametrize(
    ("rate", "noise", "count"),
    [  # every pair of rate and noise, and each with every count once
        *((0.01, 0.8, 1), (0.01, 1.5, 30), (0.01, 6.0, 200)),
        *((0.1, 0.8, 200), (0.1, 1.5, 1), (0.1, 6.0, 30)),
        *((0.6, 0.8, 30), (0.6, 1.5, 200), (0.6, 6.0, 1)),
    ],
)
def test_pld_lies_between_prv_and_rdp(rate: float, noise: float, count: int) -> None:
    from opacus.accountants import PRVAccountant, RDPAccountant

    ours = epsilon(dp_sgd_event(rate, noise, count), 1e-5)
    rdp, prv = RDPAccountant(), PRVAccountant()
    rdp.history, prv.history = [(noise, rate, count)], [(noise, rate, count)]
    assert ours <= rdp.get_epsilon(1e-5)
    error = 0.01  # PRV reports its estimate plus this
    upper = prv.get_epsilon(1e-5, eps_error=error, delta_error=1e-10)
    assert upper - error - 1e-3 <= ours <= upper


@given(rate=rates, noise=noises, count=steps)
@few
def test_renyi_is_looser_than_pld(rate: float, noise: float, count: int) -> None:
    event = dp_sgd_event(rate, noise, count)
    assert epsilon(event, DELTA) <= epsilon(event, DELTA, "rdp") * 1.001 + 1e-4


@pytest.mark.parametrize(
    ("rate", "noise", "count"), [(0.003, 0.4, 60), (0.03, 30, 1500), (0.6, 10, 1500), (0.2, 3, 300), (0.95, 100, 60)]
)
def test_coarse_grids_agree_with_the_finest(rate: float, noise: float, count: int) -> None:
    fine = fine_epsilon(rate, noise, count)
    assert fine - 1e-5 <= epsilon(dp_sgd_event(rate, noise, count), DELTA) <= fine * (1 + 1e-3) + 1e-4


@pytest.mark.parametrize("mu", [1e-3, 0.1, 0.9, 4.0, 30.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5])
def test_gaussian_against_integration(mu: float, delta: float) -> None:
    eps = epsilon(dp.GaussianDpEvent(1 / mu), delta)

    def lost(x: float) -> float:
        return max(0.0, float(norm.pdf(x, mu)) - math.exp(eps) * float(norm.pdf(x)))

    start = eps / mu + mu / 2  # where the two densities, one times exp(eps), cross
    mass = quad(lost, start, max(start, mu) + 12, epsabs=1e-12)[0]
    assert mass == pytest.approx(delta, rel=1e-5) if eps > 0 else mass <= delta


@pytest.mark.parametrize(("rate", "noise", "delta"), [(0.01, 6.0, 1e-5), (0.1, 1.0, 1e-5), (0.6, 0.8, 1e-4)])
def test_sampled_step_against_integration(rate: float, noise: float, delta: float) -> None:
    def lost(eps: float) -> float:
        """Integrate one density minus exp(eps) times the other from where they cross, record removed and added."""
        right = noise**2 * math.log1p(math.expm1(eps) / rate) + 0.5
        removed = rate * norm.sf(right, 1, noise) + (1 - rate - math.exp(eps)) * norm.sf(right, 0, noise)
        if -math.expm1(-eps) >= rate:
            return float(removed)
        left = noise**2 * math.log1p(math.expm1(-eps) / rate) + 0.5
        added = norm.cdf(left, 0, noise) * (1 - math.exp(eps) * (1 - rate)) - math.exp(eps) * rate * norm.cdf(
            left, 1, noise
        )
        return float(max(removed, added))

    eps = epsilon(dp_sgd_event(rate, noise, 1), delta)
    assert lost(eps) <= delta < lost(eps - 1e-4)


def test_gaussian_against_pld_when_mixed_with_hardly_any_sampling() -> None:
    gaussians = dp.ComposedDpEvent([dp.SelfComposedDpEvent(dp.GaussianDpEvent(8.0), 9), dp.GaussianDpEvent(2.0)])
    exact = epsilon(gaussians, DELTA)
    assert exact == pytest.approx(PLDAccountant().compose(gaussians).get_epsilon(DELTA), abs=1e-4)
    mixed = dp.ComposedDpEvent([gaussians, dp_sgd_event(1e-4, 20.0, 1)])
    assert exact < epsilon(mixed, DELTA) == pytest.approx(exact, abs=1e-3)


def test_different_steps_compose_as_in_pld() -> None:
    both = dp.ComposedDpEvent([dp_sgd_event(0.1, 1.2, 50), dp_sgd_event(0.3, 2.5, 80)])
    assert epsilon(both, DELTA) == pytest.approx(PLDAccountant().compose(both).get_epsilon(DELTA), rel=1e-3)


@pytest.mark.parametrize(("rate", "noise", "count"), [(0.6, 0.5, 1500), (0.9, 0.01, 1500), (0.6, 1e-4, 1500)])
def test_hopeless_noise_is_finite_and_quick(rate: float, noise: float, count: int) -> None:
    assert 300 < epsilon(dp_sgd_event(rate, noise, count), DELTA) < math.inf


@given(rate=rates, noise=noises, count=steps, factor=st.floats(1.02, 5))
@few
def test_more_noise_means_less_epsilon(rate: float, noise: float, count: int, factor: float) -> None:
    more = epsilon(dp_sgd_event(rate, noise * factor, count), DELTA)
    less = epsilon(dp_sgd_event(rate, noise, count), DELTA)
    assert more < less or more == less == 0


@given(rate=rates, noise=noises, count=steps, factor=st.floats(1.05, 5))
@few
def test_more_steps_mean_more_epsilon(rate: float, noise: float, count: int, factor: float) -> None:
    more = epsilon(dp_sgd_event(rate, noise, math.ceil(count * factor)), DELTA)
    less = epsilon(dp_sgd_event(rate, noise, count), DELTA)
    assert more > less or more == less == 0


@given(noise=noises, count=steps, delta=st.floats(1e-10, 0.5))
@few
def test_sampling_everything_is_the_limit_of_sampling(noise: float, count: int, delta: float) -> None:
    whole = epsilon(dp_sgd_event(1.0, noise, count), delta)
    assert epsilon(dp_sgd_event(0.999, noise, count), delta) == pytest.approx(whole, rel=0.01, abs=2e-3)


@given(target=st.floats(0.1, 20), rate=st.floats(0.03, 1.0), count=steps)
@few
def test_calibrated_noise_is_safe_and_tight(target: float, rate: float, count: int) -> None:
    noise = calibrate(target, DELTA, rate, count)
    assert epsilon(dp_sgd_event(rate, noise, count), DELTA) <= target
    assert epsilon(dp_sgd_event(rate, 0.99 * noise, count), DELTA) > target


@pytest.mark.parametrize(("target", "rate", "count"), [(0.1, 0.4, 1500), (1, 0.03, 60), (8, 0.1, 300), (20, 0.6, 60)])
def test_calibrated_noise_by_a_fixed_fine_grid(target: float, rate: float, count: int) -> None:
    assert 0.99 * target < fine_epsilon(rate, calibrate(target, DELTA, rate, count), count) <= target


def test_calibration_at_the_ends() -> None:
    assert calibrate(math.inf, DELTA, 0.1, 100) == 0
    assert calibrate(1.0, DELTA, 0.1, 0) == 0
    assert calibrate(1e6, DELTA, 0.5, 10) == MIN_NOISE


def test_calibration_remembers() -> None:
    calibrate(2.5, DELTA, 0.25, 40)
    before = calibrate.cache_info().hits
    calibrate(2.5, DELTA, 0.25, 40)
    assert calibrate.cache_info().hits == before + 1


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan])
def test_calibration_refuses_targets_that_are_not_positive(target: float) -> None:
    with pytest.raises(ValueError, match="target epsilon must be positive"):
        calibrate(target, DELTA, 0.1, 100)


def test_calibration_refuses_targets_out_of_reach() -> None:
    with pytest.raises(ValueError, match=re.escape(f"no noise multiplier up to {MAX_NOISE:g} reaches epsilon 1e-06")):
        calibrate(1e-6, 1e-12, 1.0, 1500)


def test_events_of_dp_sgd() -> None:
    step = dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(1.5))
    assert dp_sgd_event(0.1, 1.5, 20) == dp.SelfComposedDpEvent(step, 20)
    assert dp_sgd_event(1, 1.5, 20) == dp.SelfComposedDpEvent(dp.GaussianDpEvent(1.5), 20)
    assert isinstance(dp_sgd_event(0.1, 1.5, 0), dp.NoOpDpEvent)
    assert set(flatten(dp_sgd_event(0.1, 0.0, 20))) == {dp.NonPrivateDpEvent()}


@pytest.mark.parametrize(
    ("rate", "noise", "count"),
    [(0, 1, 1), (1.1, 1, 1), (math.nan, 1, 1), (0.1, -1, 1), (0.1, math.nan, 1), (0.1, 1, -1)],
)
def test_impossible_dp_sgd_is_refused(rate: float, noise: float, count: int) -> None:
    with pytest.raises(ValueError, match="must"):
        dp_sgd_event(rate, noise, count)


def test_half_a_step_is_refused() -> None:
    with pytest.raises(TypeError, match="integer"):
        dp_sgd_event(0.1, 1.0, 2.5)  # type: ignore[arg-type]


def test_flattening_forgets_nesting_and_order() -> None:
    a, b = dp.GaussianDpEvent(1.0), dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(2.0))
    nested = dp.SelfComposedDpEvent(dp.ComposedDpEvent([a, dp.SelfComposedDpEvent(b, 3), a, dp.NoOpDpEvent()]), 5)
    assert flatten(nested) == {a: 10, b: 15}
    assert compose(flatten(nested)) == compose({b: 15, a: 10})
    assert flatten(compose(flatten(nested))) == flatten(nested)


NON_PRIVATE = dp.NonPrivateDpEvent()


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize(
    "event",
    [
        NON_PRIVATE,
        dp.GaussianDpEvent(0.0),
        dp_sgd_event(0.1, 0.0, 5),
        dp.PoissonSampledDpEvent(0.5, NON_PRIVATE),
        dp.ComposedDpEvent([dp_sgd_event(0.1, 1.0, 5), dp.SelfComposedDpEvent(dp.ComposedDpEvent([NON_PRIVATE]), 2)]),
    ],
)
def test_anything_un_noised_is_infinite(event: dp.DpEvent, accountant: str) -> None:
    assert epsilon(event, DELTA, accountant) == math.inf  # type: ignore[arg-type]


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize(
    "event",
    [
        dp.NoOpDpEvent(),
        dp.ComposedDpEvent([]),
        dp.SelfComposedDpEvent(NON_PRIVATE, 0),
        dp.GaussianDpEvent(math.inf),
        dp.PoissonSampledDpEvent(0.0, dp.GaussianDpEvent(1.0)),
    ],
)
def test_nothing_released_costs_nothing(event: dp.DpEvent, accountant: str) -> None:
    assert epsilon(event, DELTA, accountant) == 0  # type: ignore[arg-type]
    assert flatten(event) == {}


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize(
    "event",
    [
        dp.RandomizedResponseDpEvent(0.5, 2),
        dp.SelfComposedDpEvent(dp.RandomizedResponseDpEvent(0.5, 2), 10),
        dp.UnsupportedDpEvent(),
        dp.PoissonSampledDpEvent(0.1, dp.LaplaceDpEvent(1.0)),
    ],
)
def test_what_would_be_accounted_wrongly_is_refused(event: dp.DpEvent, accountant: str) -> None:
    with pytest.raises(ValueError, match="no accountant here takes"):
        epsilon(event, DELTA, accountant)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "event",
    [
        dp.SelfComposedDpEvent(NON_PRIVATE, -1),
        dp.PoissonSampledDpEvent(1.5, NON_PRIVATE),
        dp.PoissonSampledDpEvent(0.1, dp.SelfComposedDpEvent(dp.GaussianDpEvent(1.0), 2)),
    ],
)
def test_impossible_events_are_refused(event: dp.DpEvent) -> None:
    with pytest.raises(ValueError, match=r"cannot be applied|must lie in|only one mechanism"):
        epsilon(event, DELTA)


def test_at_delta_zero_pure_epsilons_add_up_and_gaussians_have_none() -> None:
    pure = [dp.LaplaceDpEvent(2.0), dp.LaplaceDpEvent(2.0), dp.RandomizedResponseDpEvent(0.5, 2)]
    together = dp.ComposedDpEvent(pure)
    assert epsilon(together, 0.0, adjacency="replace") == pytest.approx(1 + math.log(3), rel=1e-12)
    assert epsilon(together, 1e-5, adjacency="replace") < 1 + math.log(3)
    assert epsilon(dp.ComposedDpEvent([*pure, dp.GaussianDpEvent(9.0)]), 0.0, adjacency="replace") == math.inf


@pytest.mark.parametrize("delta", [0.0, 1e-13, 1.0, math.nan])
def test_delta_out_of_range_is_refused(delta: float) -> None:
    if delta != 0:
        with pytest.raises(ValueError, match="delta must lie in"):
            epsilon(dp_sgd_event(0.1, 1.0, 5), delta)
    with pytest.raises(ValueError, match="delta must lie in"):
        calibrate(1.0, delta, 0.1, 5)


def test_unknown_accountant_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of pld, rdp"):
        epsilon(dp_sgd_event(0.1, 1.0, 5), DELTA, "gdp")  # type: ignore[arg-type]


def test_importing_is_light() -> None:
    heavy = {"dp_accounting", "scipy", "torch", "flwr"}
    code = f"import sys, sim.privacy.ledger; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- replacement, Laplace noise, randomised response ------------------------------------------------------------------


def test_gaussian_under_replacement() -> None:
    event = dp.SelfComposedDpEvent(dp.GaussianDpEvent(5 / 2), 20)  # sensitivity 2 C
    assert epsilon(event, 1e-5, adjacency="replace") == pytest.approx(8.7208, abs=5e-5)


@pytest.mark.parametrize(("rate", "noise", "count"), [(0.01, 1.0, 1000), (0.2, 2.0, 50)])
def test_mixed_adjacency_becomes_replacement_as_in_the_library(rate: float, noise: float, count: int) -> None:
    step, rows = dp_sgd_event(rate, noise, count), dp.GaussianDpEvent(6.0)  # rows of norm C, noised by 6 C
    library = PLDAccountant(dp.NeighboringRelation.REPLACE_ONE, 1e-4).compose(dp.ComposedDpEvent([step, rows]))
    atoms = {("add-or-remove", a): n for a, n in flatten(step).items()} | {("replace", dp.GaussianDpEvent(3.0)): 1}
    ours = composed_epsilon(atoms, 1e-5)  # type: ignore[arg-type]
    assert ours == pytest.approx(library.get_epsilon(1e-5), rel=2e-3)
    assert ours > epsilon(step, 1e-5)


def test_laplace_is_pure_and_composition_adds() -> None:
    assert epsilon(dp.LaplaceDpEvent(2.0), 1e-5) == 0.5
    many = epsilon(dp.SelfComposedDpEvent(dp.LaplaceDpEvent(4.0), 12), 1e-12)
    assert 2.9 < many <= 3.0
    assert epsilon(dp.SelfComposedDpEvent(dp.LaplaceDpEvent(4.0), 12), 1e-5) < many
    both = {("add-or-remove", dp.LaplaceDpEvent(1.0)): 1, ("replace", dp.LaplaceDpEvent(0.5)): 1}
    assert composed_epsilon(both, 1e-12) == pytest.approx(4.0, rel=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [2, 5, 200])
@pytest.mark.parametrize("target", [0.1, 1.0, 8.0])
def test_randomised_response_keeps_the_label_with_the_stated_probability(classes: int, target: float) -> None:
    event = dp.RandomizedResponseDpEvent(LabelRr().uniform(target, classes), classes)
    keep = 1 - event.noise_parameter + event.noise_parameter / classes
    assert keep == pytest.approx(math.exp(target) / (math.exp(target) + classes - 1))
    assert epsilon(event, 1e-5, adjacency="replace") == pytest.approx(target)


def test_randomised_response_composes() -> None:
    event = dp.RandomizedResponseDpEvent(LabelRr().uniform(0.5, 2), 2)
    ten = epsilon(dp.SelfComposedDpEvent(event, 10), 1e-6, adjacency="replace")
    # Of ten answers k are true: the loss is (2 k - 10) / 2, and delta at 4 is that of ten true answers.
    keep = math.exp(0.5) / (1 + math.exp(0.5))
    assert keep**10 * -math.expm1(ten - 5) == pytest.approx(1e-6, rel=1e-2)
    library = PLDAccountant(dp.NeighboringRelation.REPLACE_ONE).compose(event, 10).get_epsilon(1e-6)
    assert library == pytest.approx(0.5, abs=1e-3)  # what the library alone would have said


def test_renyi_refuses_what_it_would_misjudge() -> None:
    for event in (dp_sgd_event(0.1, 1.0, 5), dp.LaplaceDpEvent(1.0), dp.RandomizedResponseDpEvent(0.5, 2)):
        with pytest.raises(ValueError, match="use pld"):
            epsilon(event, 1e-5, "rdp", "replace")
    # It knows no replacement; unsampled noise over sensitivity needs none.
    exact = epsilon(dp.GaussianDpEvent(2.5), 1e-5, adjacency="replace")
    assert exact <= epsilon(dp.GaussianDpEvent(2.5), 1e-5, "rdp", "replace")


@pytest.mark.parametrize(("delta", "least", "most"), [(1e-12, 7.79, 8.7), (1e-11, 7.13, 7.25), (1e-10, 6.47, 6.52)])
def test_a_delta_that_a_transform_cannot_tell_is_not_understated(delta, least, most):
    """Convolving 20,000 steps by direct sums of positive terms, on ever finer grids, comes to 7.80, 7.14 and 6.48."""
    assert least <= epsilon(dp_sgd_event(1e-3, 0.6, 20_000), delta) <= most
