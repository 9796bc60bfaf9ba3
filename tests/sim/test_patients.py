"""Epsilon of a patient with several records against integration, closed forms and the general bound on groups."""

import math
from collections import Counter
from itertools import product

import dp_accounting as dp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, norm
from support import DP_SGD, plan_of, run_spec, write_csv

from sim.plan.statement import privacy_statement
from sim.privacy import patients
from sim.privacy.accounting import composed_epsilon, dp_sgd_event, epsilon, flatten
from sim.privacy.ledger import Ledger, Release
from sim.privacy.mixtures import replaced_mixture
from sim.privacy.patients import of_patient, patient_epsilon
from sim.privacy.statement_text import statement_text


def mechanisms(event: dp.DpEvent, way: str = "add-or-remove"):
    return {(way, atom): n for atom, n in flatten(event).items()}


def of(event: dp.DpEvent, most: int, delta: float, way: str = "add-or-remove") -> float:
    return composed_epsilon(of_patient(mechanisms(event, way), most), delta)


@pytest.mark.parametrize(("rate", "sigma", "most"), [(0.1, 1.0, 2), (0.3, 2.0, 4), (0.02, 0.8, 3)])
def test_one_step_against_integration(rate: float, sigma: float, most: int) -> None:
    """The hockey-stick divergence between noise around 0 and around a binomial number of records, both ways."""
    moves = np.arange(most + 1)
    likely = binom.pmf(moves, most, rate)

    def density(x: float) -> tuple[float, float]:
        return float(norm.pdf(x, 0, sigma)), float((likely * norm.pdf(x, moves, sigma)).sum())

    found = of(dp_sgd_event(rate, sigma, 1), most, 1e-3)
    low, high = -12 * sigma, most + 12 * sigma
    deltas = [
        quad(lambda x, i=i: max(density(x)[i] - math.exp(found) * density(x)[1 - i], 0.0), low, high, limit=2000)[0]
        for i in (0, 1)
    ]
    assert max(deltas) == pytest.approx(1e-3, rel=5e-3)


def test_one_record_is_the_records_epsilon_and_full_batches_are_gaussians() -> None:
    assert of(dp_sgd_event(0.1, 1.2, 50), 1, 1e-5) == epsilon(dp_sgd_event(0.1, 1.2, 50), 1e-5)
    for way in ("add-or-remove", "replace"):
        assert of(dp.GaussianDpEvent(6.0), 3, 1e-5, way) == pytest.approx(epsilon(dp.GaussianDpEvent(2.0), 1e-5))
    assert of(dp_sgd_event(0.999999, 6.0, 20), 3, 1e-5) == pytest.approx(
        epsilon(dp.GaussianDpEvent(2.0 / 20**0.5), 1e-5), rel=1e-3
    )
    assert of(dp.RandomizedResponseDpEvent(0.4, 2), 3, 0, "replace") == pytest.approx(3 * math.log(4))
    assert of(dp.LaplaceDpEvent(2.0), 3, 0, "replace") == pytest.approx(1.5)
    assert math.isinf(of(dp.NonPrivateDpEvent(), 2, 1e-5))


@pytest.mark.parametrize("most", [2, 3])
def test_lies_between_a_record_and_the_general_bound_on_groups(most: int) -> None:
    """Whoever is (e, d) for one is (m e, d (exp(m e) - 1) / (exp(e) - 1)) for m (Dwork & Roth 2014, theorem 2.2)."""
    event, delta = dp_sgd_event(0.05, 1.5, 100), 1e-5
    found = of(event, most, delta)
    general = math.inf
    for small in np.geomspace(1e-10, delta / 10, 8):
        one = epsilon(event, float(small))
        if small * math.expm1(most * one) / math.expm1(one) <= delta:
            general = min(general, most * one)
    assert math.isfinite(general)
    assert epsilon(event, delta) < of(event, most - 1, delta) * 1.0001 <= found < general


EVENTS = [dp_sgd_event(rate, sigma, steps) for rate, sigma, steps in [(0.1, 1.5, 40), (0.2, 2.0, 20), (0.05, 1, 60)]]


def ledger_of(events: list[dp.DpEvent], way: str = "add-or-remove") -> Ledger:
    return Ledger(
        Release(clinic=k, what="gradients", adversaries=("model-user",), event=event, adjacency=way)
        for k, event in enumerate(events)
    )


def brute_force(events: list[dp.DpEvent], most: int, delta: float, stays: int, way: str = "add-or-remove") -> float:
    """Give each record to a clinic, in every way, and count every patient who is seen at `stays` clinics at most."""
    found = []
    for clinics in {tuple(sorted(given)) for given in product(range(len(events)), repeat=most)}:
        if len(set(clinics)) <= stays:
            patient: Counter = Counter()
            for clinic in set(clinics):
                patient.update(of_patient(mechanisms(events[clinic], way), clinics.count(clinic)))
            found.append(composed_epsilon(patient, delta))
    return max(found)


STILL = [dp.GaussianDpEvent(6.0), dp.GaussianDpEvent(4.0), dp.GaussianDpEvent(4.0), dp.GaussianDpEvent(9.0)]
APART = [dp_sgd_event(0.05, 1.0, 100)] * 2 + [dp_sgd_event(0.1, 2.0, 30)]


@pytest.mark.parametrize(
    ("events", "most", "stays", "way"),
    [
        (EVENTS, 2, 1, "add-or-remove"),
        (EVENTS, 2, 2, "add-or-remove"),
        (EVENTS[:2], 3, 2, "add-or-remove"),
        (APART, 2, 2, "add-or-remove"),
        (STILL, 4, 3, "replace"),
        (STILL, 2, 9, "replace"),
        ([dp.RandomizedResponseDpEvent(0.5, 2), dp.RandomizedResponseDpEvent(0.8, 2)], 3, 2, "replace"),
    ],
)
def test_over_every_choice_of_clinics_by_brute_force(events: list[dp.DpEvent], most: int, stays: int, way: str) -> None:
    found = patient_epsilon(ledger_of(events, way), "model-user", len(events), most, 1e-4, stays=stays)
    assert found == pytest.approx(brute_force(events, most, 1e-4, stays, way), rel=1e-9)


def test_of_unsampled_noise_only_the_sharing_out_matters() -> None:
    """Pure epsilons of labels add up however they are shared out; two clinics of two records make 2 sqrt(2) / s."""
    labels = ledger_of([dp.RandomizedResponseDpEvent(0.5, 2)] * 3, "replace")
    assert patient_epsilon(labels, "model-user", 3, 2, 0.0, stays=2) == pytest.approx(2 * math.log(3))
    still = ledger_of([dp.GaussianDpEvent(4.0)] * 2, "replace")
    for stays in (1, 2):  # four records at one clinic move it by four
        assert patient_epsilon(still, "model-user", 2, 4, 1e-4, stays=stays) == epsilon(dp.GaussianDpEvent(1.0), 1e-4)


def test_ways_to_share_out_are_each_once() -> None:
    """Against every assignment of records to clinics that are told apart."""
    alike, most, c = [2, 1, 3], 5, 3
    kind_of = [0, 0, 1, 2, 2, 2]
    expected = {
        tuple(sorted((kind_of[clinic], given.count(clinic)) for clinic in set(given)))
        for given in product(range(6), repeat=most)
        if len(set(given)) == c
    }
    found = list(patients._shared_out(alike, most, c))
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_of_many_choices_the_bound_is_no_less_than_any() -> None:
    """Of so many different clinics, the bound is a clinic with the highest rate, least noise and most steps."""
    count = patients.EXACT_COMBINATIONS + 1
    events = [dp_sgd_event(0.05 + 0.002 * k, 3.0 + 0.01 * ((7 * k) % count), 8 + k % 3) for k in range(count)]
    ledger, strongest = ledger_of(events), dp_sgd_event(0.05 + 0.002 * (count - 1), 3.0, 10)
    bound = of(strongest, 2, 1e-4)
    assert patient_epsilon(ledger, "model-user", count, 2, 1e-4) == bound
    assert bound > max(of(event, 2, 1e-4) for event in events[::20])
    apart = composed_epsilon(Counter(mechanisms(events[-1])) + Counter(mechanisms(events[-2])), 1e-4)
    assert patient_epsilon(ledger, "model-user", count, 2, 1e-4, stays=2) >= max(bound, apart)


def test_records_at_several_clinics_compose() -> None:
    """One record at each of two clinics with the same noise is twice the steps of one record."""
    short, long = dp_sgd_event(0.9, 3.0, 10), dp_sgd_event(0.1, 1.5, 40)
    ledger = ledger_of([long, long, short])
    apart, together = epsilon(dp_sgd_event(0.1, 1.5, 80), 1e-4), of(long, 2, 1e-4)
    found = patient_epsilon(ledger, "model-user", 3, 2, 1e-4, stays=2)
    assert found >= max(apart, together)
    assert found == pytest.approx(brute_force([long, long, short], 2, 1e-4, 2))


def test_a_patient_seen_at_two_clinics_is_counted_at_both(tmp_path) -> None:
    csv = write_csv(tmp_path / "clinics.csv", sizes=(40, 60))
    lines = csv.read_text(encoding="utf-8").splitlines()
    rows = [f"{line},p{i % 40}" for i, line in enumerate(lines[1:])]  # the first 40 come back at the second clinic
    csv.write_text("\n".join([f"{lines[0]},who", *rows]) + "\n", encoding="utf-8")
    spec = run_spec(csv, privacy=DP_SGD)
    features = tuple(name for name in spec.data.features if name != "who")
    data = spec.data.model_copy(update={"features": features, "patient": "who", "max_records_per_patient": 2})
    plan, federation = plan_of(spec.model_copy(update={"data": data}))
    assert federation.clinics_of_a_patient == 2
    stated = privacy_statement(plan, {}, finished=True)["patients"]
    assert stated["max-clinics"] == 2
    each = [plan.ledger.mechanisms("server", clinic) for clinic in (0, 1)]
    both = {atom: each[0].get(atom, 0) + each[1].get(atom, 0) for atom in {*each[0], *each[1]}}
    assert stated["epsilon"]["server"] >= composed_epsilon(both, 1e-3)


def test_the_statement_counts_patients_where_their_records_are_bounded(tmp_path) -> None:
    csv = write_csv(tmp_path / "clinics.csv", sizes=(40, 60))
    lines = csv.read_text(encoding="utf-8").splitlines()
    rows = [f"{line},p{i // 2}" for i, line in enumerate(lines[1:])]
    csv.write_text("\n".join([f"{lines[0]},who", *rows]) + "\n", encoding="utf-8")
    spec = run_spec(csv, privacy=DP_SGD)
    features = [name for name in spec.data.features if name != "who"]
    plain = spec.data.model_copy(update={"features": tuple(features), "patient": "who"})
    bounded = plain.model_copy(update={"max_records_per_patient": 2})
    found = {}
    for name, data in (("plain", plain), ("bounded", bounded)):
        found[name] = privacy_statement(plan_of(spec.model_copy(update={"data": data}))[0], {}, finished=True)
    assert found["plain"]["patients"] is None
    assert "state data.patient and data.max-records-per-patient" in statement_text(found["plain"])
    plan, _ = plan_of(spec.model_copy(update={"data": bounded}))
    stated = found["bounded"]["patients"]
    expected = max(of(dp_sgd_event(c.sample_rate, 0.8, c.steps), 2, 1e-3) for c in plan.clinics)
    assert stated["max-records"] == 2
    assert stated["epsilon"]["server"] == pytest.approx(expected)
    assert expected > plan.columns()["epsilon_server"]
    assert "**a patient with up to 2 records**" in statement_text(found["bounded"])


def replaced_delta(rate: float, sigma: float, most: int, steps: int, loss: float) -> float:
    """Return delta of steps under replacement, by sums over a fine grid and no library: P^k against Q^k.

    A step's privacy losses are spread over a grid of their own, rounded to the nearest, and convolved directly.
    """
    moves = np.arange(most + 1)
    likely = binom.pmf(moves, most, rate)
    x = np.linspace(-most - 9 * sigma, most + 9 * sigma, 400_001)
    p, q = ((likely[:, None] * norm.pdf(x, sign * moves[:, None], sigma)).sum(axis=0) for sign in (1, -1))
    weight = p / p.sum()
    grid = 5e-3
    cell = np.rint(np.log(p / q) / grid).astype(int)
    low = cell.min()
    one = np.bincount(cell - low, weights=weight)
    whole = one
    for _ in range(steps - 1):
        whole = np.convolve(whole, one)
    losses = (np.arange(len(whole)) + steps * low) * grid
    return float((whole * np.maximum(-np.expm1(loss - losses), 0.0)).sum())


@pytest.mark.parametrize(("rate", "sigma", "most", "steps"), [(0.1, 1.0, 2, 1), (0.2, 1.5, 3, 4), (0.05, 0.8, 2, 3)])
def test_a_replaced_patient_against_direct_sums(rate: float, sigma: float, most: int, steps: int) -> None:
    """With labels that say nothing, the statement is one about replacement: of a mixture against its mirror image."""
    released = {("add-or-remove", atom): n for atom, n in flatten(dp_sgd_event(rate, sigma, steps)).items()}
    told = {("replace", dp.RandomizedResponseDpEvent(1 - 1e-12, 2)): 1}
    found = composed_epsilon(of_patient(released | told, most), 1e-3)
    assert replaced_delta(rate, sigma, most, steps, found) == pytest.approx(1e-3, rel=2e-2)
    assert found > composed_epsilon(of_patient(released, most), 1e-3)


def test_no_pair_of_patients_is_told_apart_better() -> None:
    """Against records that move the sum anywhere within their clip, in the plane, at every order."""
    rng = np.random.default_rng(1)
    moves, likely, sigma = np.array([0.0, 1.0, 2.0]), np.array([0.5, 0.3, 0.2]), 1.1
    loss = replaced_mixture(sigma, moves, likely, 1e-3)
    axis = np.linspace(-9, 9, 451)
    plane = np.stack(np.meshgrid(axis, axis), axis=-1)
    for _ in range(12):
        way = rng.normal(size=(2, 3, 2))
        ends = way / np.linalg.norm(way, axis=-1, keepdims=True) * moves[:, None] * rng.choice([1, 0.6], (2, 3, 1))
        p, q = (
            sum(
                weight * np.exp(-((plane - end) ** 2).sum(axis=-1) / (2 * sigma**2))
                for weight, end in zip(likely, side, strict=True)
            )
            for side in ends
        )
        for eps in (-1.0, 0.0, 0.5, 2.0):
            told = float(np.maximum(p - math.exp(eps) * q, 0).sum() / p.sum())
            assert told <= float(loss.get_delta_for_epsilon(eps)) + 1e-6


def test_one_record_under_replacement_is_the_librarys() -> None:
    from dp_accounting.pld import privacy_loss_distribution as library

    way = dp.NeighboringRelation.REPLACE_ONE
    theirs = library.from_gaussian_mechanism(
        1.3, value_discretization_interval=1e-3, sampling_prob=0.2, neighboring_relation=way
    ).self_compose(20)
    ours = replaced_mixture(1.3, (0, 1), (0.8, 0.2), 1e-3).self_compose(20)
    assert ours.get_epsilon_for_delta(1e-5) == pytest.approx(theirs.get_epsilon_for_delta(1e-5), rel=1e-6)


def test_dp_sgd_with_randomised_labels_states_patients(suture, tmp_path) -> None:
    """Labels and batches both count: more than either alone, and labels for each of the patient's records."""
    csv = write_csv(tmp_path / "clinics.csv", sizes=(40, 60))
    lines = csv.read_text(encoding="utf-8").splitlines()
    rows = [f"{line},p{i // 2}" for i, line in enumerate(lines[1:])]
    csv.write_text("\n".join([f"{lines[0]},who", *rows]) + "\n", encoding="utf-8")
    both = {"mechanism": "dp-sgd+smashed-noise+label-rr", "noise-multiplier": 1.5, "delta": 1e-3}
    both |= {"smashed-noise-multiplier": 4.0, "label-epsilon": 0.5}
    spec = run_spec(csv, "split", "vanilla", both)
    features = tuple(name for name in spec.data.features if name != "who")
    data = spec.data.model_copy(update={"features": features, "patient": "who", "max_records_per_patient": 2})
    plan, _federation = plan_of(spec.model_copy(update={"data": data}))
    stated = privacy_statement(plan, {}, finished=True)["patients"]["epsilon"]
    assert plan.columns()["epsilon_server"] < stated["server"] < math.inf
    table = {
        "source": "csv", "path": str(csv), "label": "label", "clinic": "clinic", "patient": "who",
        "max-records-per-patient": 2, "scaling": "none",
    }  # fmt: skip
    scenario = tmp_path / "both.toml"
    scenario.write_text(
        f"""
name = "both"
seeds = [0]
[data]
{chr(10).join(f"{key} = {value!r}" for key, value in table.items())}
[model]
name = "mlp"
hidden = [4]
[evaluation]
reference = false
[train]
rounds = 2
batch-size = 8
learning-rate = 0.1
[privacy]
mechanism = ["dp-sgd", "label-rr"]
noise-multiplier = 1.0
label-epsilon = 1.0
delta = 1e-3
[[strategies]]
name = "split"
""",
        encoding="utf-8",
    )
    code, _, err = suture("run", scenario, "--out", tmp_path / "out", "--jobs", 1)
    assert (code, "Traceback" in err) == (0, False), err
    [statement] = (tmp_path / "out" / "both").glob("*/privacy.md")
    assert "**a patient with up to 2 records**" in statement.read_text(encoding="utf-8")


def test_a_patients_answers_add_up() -> None:
    """Randomised response is pure: three answers of one patient cost three times one."""
    answers = dp.RandomizedResponseDpEvent(2 / (math.e + 1), 2)
    ledger = Ledger(
        [Release(clinic=0, what="labels", adversaries=("server",), event=answers, adjacency="replace", unit="label")]
    )
    assert patient_epsilon(ledger, "server", 1, 3, 0.0) == pytest.approx(3, rel=1e-6)
