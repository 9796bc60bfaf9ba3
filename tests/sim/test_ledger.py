"""The ledger: what each adversary sees composes, and planned and executed releases compare."""

import json
import math
import random
from dataclasses import replace

import dp_accounting as dp
import pytest
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.privacy.accounting import compose, dp_sgd_event, epsilon
from sim.privacy.ledger import ADVERSARIES, Adversary, Ledger, Release

DELTA = 1e-4
CLINICS = range(3)
some = settings(max_examples=50, deadline=None, derandomize=True)

events = st.one_of(
    st.just(dp.NonPrivateDpEvent()),
    st.just(dp.NoOpDpEvent()),
    st.builds(dp_sgd_event, st.sampled_from([0.1, 1 / 3, 1.0]), st.sampled_from([0.7, 1.1]), st.integers(0, 9)),
    st.builds(dp.GaussianDpEvent, st.floats(0.1, 1e300)),
    st.builds(dp.RandomizedResponseDpEvent, st.floats(0.1, 0.9), st.integers(2, 5)),
)
releases = st.builds(
    Release,
    clinic=st.sampled_from(CLINICS),
    what=st.sampled_from(["model", "smashed data", "labels"]),
    adversaries=st.lists(st.sampled_from(ADVERSARIES), max_size=3).map(tuple),
    event=events,
    adjacency=st.sampled_from(["add-or-remove", "replace"]),
    unit=st.sampled_from(["record", "clinic", "label"]),
    reason=st.sampled_from(["", "sent as it is"]),
)


def release(clinic: int = 0, rate: float = 0.1, noise: float = 1.5, count: int = 30, *who: Adversary) -> Release:
    return Release(
        clinic=clinic,
        what="model",
        adversaries=who or ("model-user", "peer-clinic"),
        event=dp_sgd_event(rate, noise, count),
    )


@some
@given(st.lists(releases, max_size=4), st.lists(releases, max_size=2))
def test_a_clinic_with_the_releases_of_another_is_as_if_they_were_its_own(first, later):
    """And what is released of one of them afterwards is no release of the other."""
    ledger = Ledger(replace(each, clinic=0) for each in first)
    ledger.add_alike(1, 0)
    for each in later:
        ledger.add(replace(each, clinic=1))
    assert ledger == Ledger(
        [replace(each, clinic=clinic) for clinic in (0, 1) for each in first]
        + [replace(each, clinic=1) for each in later]
    )


def test_epsilons_are_those_of_each_clinic():
    ledger = Ledger([release(0), release(2, 0.2)])
    ledger.add_alike(1, 0)
    expected = [ledger.epsilon("model-user", clinic, DELTA) for clinic in range(4)]
    assert ledger.epsilons("model-user", range(4), DELTA) == expected
    assert expected[0] == expected[1] < expected[2]
    assert expected[3] == 0
    with pytest.raises(ValueError, match="clinic 2 has releases of its own"):
        ledger.add_alike(2, 0)


# --- one epsilon per adversary ----------------------------------------------------------------------------------------


def test_epsilon_is_that_of_what_is_seen() -> None:
    ledger = Ledger([release()])
    for adversary in ("model-user", "peer-clinic"):
        assert ledger.epsilon(adversary, 0, DELTA) == epsilon(dp_sgd_event(0.1, 1.5, 30), DELTA)
    assert ledger.epsilon("model-user", 0, DELTA, "rdp") == epsilon(dp_sgd_event(0.1, 1.5, 30), DELTA, "rdp")


def test_nothing_seen_costs_nothing() -> None:
    ledger = Ledger([release()])
    assert not ledger.mechanisms("server", 0)
    assert ledger.epsilon("server", 0, DELTA) == ledger.epsilon("model-user", 1, DELTA) == 0


def test_un_noised_release_is_infinite_for_who_sees_it_and_nobody_else() -> None:
    ledger = Ledger([release(0), release(1)])
    before = {(a, k): ledger.epsilon(a, k, DELTA) for a in ADVERSARIES for k in CLINICS}
    ledger.add(Release(clinic=1, what="smashed data", adversaries=("server",), event=dp.NonPrivateDpEvent()))
    after = {(a, k): ledger.epsilon(a, k, DELTA) for a in ADVERSARIES for k in CLINICS}
    assert after.pop(("server", 1)) == math.inf
    assert after == {view: eps for view, eps in before.items() if view != ("server", 1)}


def test_un_noised_release_is_not_outweighed_by_noised_ones() -> None:
    ledger = Ledger(
        [
            release(),
            Release(clinic=0, what="labels", adversaries=("model-user",), event=dp.NonPrivateDpEvent()),
            release(),
        ]
    )
    assert ledger.epsilon("model-user", 0, DELTA) == math.inf
    assert ledger.epsilon("peer-clinic", 0, DELTA) < math.inf


def test_equal_releases_compose_to_their_sum() -> None:
    ledger = Ledger(
        [
            release(count=30),
            Release(clinic=0, what="update", adversaries=("model-user",), event=dp_sgd_event(0.1, 1.5, 12)),
        ]
    )
    assert ledger.epsilon("model-user", 0, DELTA) == epsilon(dp_sgd_event(0.1, 1.5, 42), DELTA)
    assert ledger.epsilon("peer-clinic", 0, DELTA) == epsilon(dp_sgd_event(0.1, 1.5, 30), DELTA)


def test_different_releases_cost_more_than_each() -> None:
    one, two = release(rate=0.1, noise=1.5), release(rate=1.0, noise=6.0, count=2)
    both = Ledger([one, two]).epsilon("model-user", 0, DELTA)
    assert both > max(Ledger([one]).epsilon("model-user", 0, DELTA), Ledger([two]).epsilon("model-user", 0, DELTA))
    assert both == epsilon(dp.ComposedDpEvent([one.event, two.event]), DELTA)


def test_worst_is_the_least_protected_clinic() -> None:
    ledger = Ledger([release(0, noise=1.5), release(1, noise=0.9), release(2, noise=3.0)])
    assert ledger.worst("model-user", DELTA, CLINICS) == ledger.epsilon("model-user", 1, DELTA)
    assert ledger.worst("model-user", DELTA, [0, 2]) == ledger.epsilon("model-user", 0, DELTA)
    assert ledger.worst("model-user", DELTA, []) == 0


def test_unknown_adversary_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown adversary sever"):
        Release(clinic=0, what="model", adversaries=("sever",), event=dp.NoOpDpEvent())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown adversary sever"):
        Ledger().epsilon("sever", 0, DELTA)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", [{"adjacency": "swap"}, {"unit": "patient"}])
def test_unknown_adjacency_or_unit_is_refused(how: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"unknown {next(iter(how))}"):
        Release(clinic=0, what="model", adversaries=("server",), event=dp.NoOpDpEvent(), **how)  # type: ignore[arg-type]


# --- planned against executed -----------------------------------------------------------------------------------------


@given(planned=st.lists(releases, max_size=6), chance=st.randoms(use_true_random=False))
@some
def test_planned_equals_executed_in_any_order_and_cut(planned: list[Release], chance: random.Random) -> None:
    executed = []
    for entry in planned:
        cut = isinstance(entry.event, dp.SelfComposedDpEvent)
        parts = [entry.event.event] * entry.event.count if cut else [entry.event]
        executed += [replace(entry, adversaries=entry.adversaries[::-1], event=part) for part in parts]
    chance.shuffle(executed)
    assert Ledger(executed) == Ledger(planned)
    assert Ledger(executed).releases == Ledger(planned).releases


def test_audience_may_be_entered_at_once_or_one_by_one() -> None:
    event = dp_sgd_event(0.1, 1.5, 30)
    apart = [
        Release(clinic=0, what="model", adversaries=(adversary,), event=event)
        for adversary in ("peer-clinic", "model-user")
    ]
    assert Ledger(apart) == Ledger([release()])
    assert Ledger([Release(clinic=0, what="model", adversaries=("server", "server"), event=event)]) == Ledger(
        [Release(clinic=0, what="model", adversaries=("server",), event=event)]
    )


def test_releasing_nothing_is_no_release() -> None:
    assert (
        Ledger([release(count=0), Release(clinic=0, what="model", adversaries=(), event=dp.NonPrivateDpEvent())])
        == Ledger()
    )


@pytest.mark.parametrize(
    "other",
    [
        [release(count=29)],
        [release(count=31)],
        [release(noise=1.5000001)],
        [release(rate=0.2)],
        [release(1)],
        [release(0, 0.1, 1.5, 30, "model-user")],
        [release(0, 0.1, 1.5, 30, "model-user", "server")],
        [release(), release(1)],
        [Release(clinic=0, what="head", adversaries=("model-user", "peer-clinic"), event=dp_sgd_event(0.1, 1.5, 30))],
        [replace(release(), adjacency="replace")],
        [replace(release(), unit="clinic")],
        [replace(release(), reason="noised gradients")],
        [release(), Release(clinic=0, what="model", adversaries=("server",), event=dp.NonPrivateDpEvent())],
        [],
    ],
)
def test_any_difference_is_seen(other: list[Release]) -> None:
    assert Ledger([release()]) != Ledger(other)


def test_ledger_is_no_other_thing() -> None:
    assert Ledger() != []


def test_releases_are_one_a_kind() -> None:
    ledger = Ledger([release(1), release(0, count=2), release(1, count=12)])
    assert ledger.releases == (release(0, count=2), release(1, count=42))


# --- JSON -------------------------------------------------------------------------------------------------------------


@given(entries=st.lists(releases, max_size=6))
@some
def test_json_round_trip(entries: list[Release]) -> None:
    ledger = Ledger(entries)
    again = Ledger.from_json(ledger.to_json())
    assert again == ledger
    assert again.releases == ledger.releases
    assert again.to_json() == ledger.to_json()


def test_json_names_events_and_writes_infinity_as_a_string() -> None:
    event = RepeatAndSelectDpEvent(dp.GaussianDpEvent(2.0), 3.0, math.inf)
    ledger = Ledger(
        [Release(clinic=0, what="model", adversaries=("server",), event=compose({event: 2, dp.NonPrivateDpEvent(): 1}))]
    )
    text = ledger.to_json()
    assert "Infinity" not in text
    inner = {"class": "GaussianDpEvent", "noise_multiplier": 2.0}
    repeated = {"class": "RepeatAndSelectDpEvent", "event": inner, "mean": 3.0, "shape": "inf"}
    twice = {"class": "SelfComposedDpEvent", "event": repeated, "count": 2}
    composed = {"class": "ComposedDpEvent", "events": [{"class": "NonPrivateDpEvent"}, twice]}
    how = {"adjacency": "add-or-remove", "unit": "record", "reason": ""}
    assert json.loads(text) == [{"clinic": 0, "what": "model", "adversaries": ["server"], "event": composed, **how}]
    assert Ledger.from_json(text) == ledger


@pytest.mark.parametrize(
    ("event", "complaint"),
    [
        ('{"class": "Popen", "module_name": "subprocess", "args": ["true"]}', "'Popen' is not an event"),
        ('{"class": "importlib"}', "'importlib' is not an event"),
        ('{"class": "GaussianDpEvent"}', "this is no ledger"),
        ('{"noise_multiplier": 1.0}', "this is no ledger"),
        ('{"class": "GaussianDpEvent", "noise_multiplier": "much"}', "could not convert"),
        ('{"class": "GaussianDpEvent", "noise_multiplier": -1.0}', "must be a number >= 0"),
        ("{", "Expecting"),
    ],
)
def test_json_that_is_no_ledger_is_refused(event: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Ledger.from_json(
            f'[{{"clinic": 0, "what": "model", "adversaries": ["server"], "event": {event}, '
            '"adjacency": "replace", "unit": "record", "reason": ""}]'
        )


# --- units ------------------------------------------------------------------------------------------------------------


def test_clinic_level_covers_each_record_at_twice_the_sensitivity() -> None:
    rounds = dp.SelfComposedDpEvent(dp.GaussianDpEvent(4.0), 10)
    ledger = Ledger([Release(clinic=0, what="update", adversaries=("server",), event=rounds, unit="clinic")])
    assert ledger.epsilon("server", 0, DELTA, unit="clinic") == epsilon(rounds, DELTA)
    halves = dp.SelfComposedDpEvent(dp.GaussianDpEvent(2.0), 10)
    assert ledger.epsilon("server", 0, DELTA) == epsilon(halves, DELTA)
    ledger.add(Release(clinic=0, what="gradients", adversaries=("server",), event=dp_sgd_event(0.1, 1.5, 30)))
    assert ledger.epsilon("server", 0, DELTA, unit="clinic") == math.inf
    together = dp.ComposedDpEvent([halves, dp_sgd_event(0.1, 1.5, 30)])
    assert ledger.epsilon("server", 0, DELTA) == epsilon(together, DELTA)


def test_randomised_labels_protect_labels_not_records() -> None:
    answer = dp.RandomizedResponseDpEvent(0.5, 2)
    ledger = Ledger(
        [Release(clinic=0, what="labels", adversaries=("server",), event=answer, adjacency="replace", unit="label")]
    )
    assert ledger.epsilon("server", 0, DELTA, unit="label") == pytest.approx(math.log(3))
    ledger.add(
        Release(
            clinic=0,
            what="smashed",
            adversaries=("server",),
            event=dp.NonPrivateDpEvent(),
            adjacency="replace",
            reason="sent as it is",
        )
    )
    assert ledger.epsilon("server", 0, DELTA, unit="label") == pytest.approx(math.log(3))
    assert ledger.epsilon("server", 0, DELTA) == math.inf


def test_rows_and_gradients_compose_under_replacement() -> None:
    ledger = Ledger([release(0, 0.1, 1.5, 30, "server")])
    alone = ledger.epsilon("server", 0, DELTA)
    ledger.add(
        Release(clinic=0, what="smashed", adversaries=("server",), event=dp.GaussianDpEvent(1e6), adjacency="replace")
    )
    assert ledger.epsilon("server", 0, DELTA) > 1.3 * alone
