"""What the plan says will cross is what crosses, and both are what the formulas of the literature say."""

import dataclasses

import numpy as np
import pytest
from support import BUILT_IN, DP_SGD, NO_PRIVACY, plan_of, run_spec, write_csv

from sim.data.facts import run_key
from sim.data.federation import load_federation
from sim.foundation.problems import ScenarioError
from sim.foundation.rng import stream
from sim.methods.sampling import participants
from sim.plan.plan import make_plan
from sim.study.train import PlanMismatchError, train_run

PRIVACY = pytest.mark.parametrize("privacy", [NO_PRIVACY, DP_SGD], ids=["plain", "dp-sgd"])
STRATEGIES = pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
FLOAT, HEADER = 4, 512
FEATURES, HIDDEN = 4, (6, 5)
BLOCK_PARAMETERS = [FEATURES * 6 + 6, 6 * 5 + 5, 5 * 1 + 1]


class Formulas:
    """Thapa et al. 2022, table 1, clinic by clinic, with real counts; the network is 4-6-5-1, cut after 6 (and 5)."""

    def __init__(self, spec, sizes, key=""):
        self.spec, self.sizes, self.key, self.dp = spec, sizes, key, spec.privacy.mechanism == "dp-sgd"
        self.rounds = range(1, spec.train.rounds + 1)

    def joined(self, k):
        """Return the rounds in which clinic k takes part."""
        everyone = self.spec.strategy.name in ("local", "centralised")
        share = 1.0 if everyone else self.spec.train.participation
        return [r for r in self.rounds if k in participants(self.spec.seed, r, len(self.sizes), share)]

    def steps(self, k):
        """Return the batches of clinic k in a round."""
        size = sum(self.sizes) if self.spec.strategy.name == "centralised" else self.sizes[k]
        return self.spec.train.local_epochs * -(-size // self.spec.train.batch_size)

    def rows(self, k):
        """Return the records that stand in clinic k's batches over the whole run."""
        n, train = self.sizes[k], self.spec.train
        if not self.dp:
            return n * train.local_epochs * len(self.joined(k))
        rate = min(1, train.batch_size / n)
        draws = (stream(self.key, "batches", k, r).random((self.steps(k), n)) for r in self.joined(k))
        return sum(int((draw < rate).sum()) for draw in draws)

    def traffic(self, k):
        """Return bytes up and down by kind."""
        strategy, cut = self.spec.strategy.name, self.spec.strategy.cut
        rounds, n = len(self.joined(k)), self.rows(k)
        batches = self.steps(k) * rounds
        head, body, tail = BLOCK_PARAMETERS
        q1, q2 = HIDDEN[0] * FLOAT, HIDDEN[1] * FLOAT
        if strategy == "local":
            return {}, {}
        if strategy == "centralised":
            return {"records": self.sizes[k] * FEATURES * FLOAT, "labels": self.sizes[k], "headers": HEADER}, {}
        if strategy == "fedavg":
            both = {"model": (head + body + tail) * FLOAT * rounds, "headers": HEADER * rounds}
            return both, both
        if cut == "vanilla":
            model, headers = head * FLOAT * rounds, HEADER * (batches + rounds)
            return (
                {"model": model, "smashed": n * q1, "labels": n, "headers": headers},
                {"model": model, "cut-gradient": n * q1, "headers": headers},
            )
        model, headers = (head + tail) * FLOAT * rounds, HEADER * (2 * batches + rounds)
        return (
            {"model": model, "smashed": n * q1, "tail-gradient": n * q2, "headers": headers},
            {"model": model, "cut-gradient": n * q1, "body-output": n * q2, "headers": headers},
        )


def by_kind(traffic, direction, k):
    return {kind: int(sizes[k]) for (way, kind), sizes in traffic.items() if way == direction and sizes[k]}


def without_zeros(kinds):
    return {kind: size for kind, size in kinds.items() if size}


@pytest.mark.parametrize("train", [{"batch_size": 8}, {"batch_size": 1}, {"batch_size": 30, "local_epochs": 2}])
@PRIVACY
@STRATEGIES
def test_planned_and_counted_bytes_and_noise_are_what_the_formulas_say(ragged, strategy, cut, privacy, train):
    spec = run_spec(ragged, strategy, cut, privacy, participation=0.5, rounds=4, **train)
    plan, federation = plan_of(spec)
    meter = train_run(plan, federation).meter  # holds itself against the plan
    sizes = [int(n) for n in np.diff(federation.train.offsets)]
    assert min(sizes) < 8 < max(sizes)
    formulas = Formulas(spec, sizes, run_key(spec.digest, federation.facts))
    for k in range(len(sizes)):
        up, down = formulas.traffic(k)
        assert by_kind(meter.traffic, "up", k) == without_zeros(up)
        assert by_kind(meter.traffic, "down", k) == without_zeros(down)
        assert (plan.clinics[k].bytes_up, plan.clinics[k].bytes_down) == (sum(up.values()), sum(down.values()))
        assert plan.clinics[k].steps == formulas.steps(k) * len(formulas.joined(k))
    assert plan.columns()["bytes_up"] == sum(sum(formulas.traffic(k)[0].values()) for k in range(len(sizes)))
    parts = {"vanilla": {"head", "body"}, "u-shaped": {"head", "body", "tail"}, None: {"model"}}[cut]
    noised = {part: steps.tolist() for part, steps in meter.noised_steps.items() if steps.any()}
    expected = [formulas.steps(k) * len(formulas.joined(k)) for k in range(len(sizes))]
    assert noised == (dict.fromkeys(parts, expected) if formulas.dp else {})


def test_some_clinic_misses_a_round_in_the_test_above(ragged):
    spec = run_spec(ragged, participation=0.5, rounds=4)
    assert {len(Formulas(spec, [1] * 4).joined(k)) for k in range(4)} - {0, 4}


@PRIVACY
@STRATEGIES
def test_three_classes_send_one_byte_a_label_and_as_many_outputs_as_classes(tmp_path, strategy, cut, privacy):
    csv = write_csv(tmp_path / "three.csv", [30, 20], classes=3)
    spec = run_spec(csv, strategy, cut, privacy)
    plan, federation = plan_of(spec)
    traffic = train_run(plan, federation).meter.traffic
    if strategy == "fedavg":
        per_round = (sum(BLOCK_PARAMETERS[:2]) + 5 * 3 + 3) * FLOAT
        assert traffic["up", "model"].tolist() == [3 * per_round] * 2
    if ("up", "labels") in traffic:
        rows = traffic["up", "smashed"] // (6 * FLOAT) if cut else np.diff(federation.train.offsets)
        np.testing.assert_array_equal(traffic["up", "labels"], rows)


def test_an_imported_strategy_is_planned_too(ragged):
    spec = run_spec(ragged, "flwr.serverapp.strategy.FedAdam", privacy=DP_SGD)
    plan, federation = plan_of(spec)
    traffic = train_run(plan, federation).meter.traffic
    assert {key: sizes.tolist() for key, sizes in traffic.items()} == {
        (way, kind): [3 * size] * 4
        for way in ("up", "down")
        for kind, size in {"model": sum(BLOCK_PARAMETERS) * FLOAT, "headers": HEADER}.items()
    }


@pytest.mark.parametrize(
    "setting", [{"participation": 0.5}, {"options": {"fraction_train": 0.5, "min_train_nodes": 1}}]
)
def test_an_imported_strategy_with_some_clinics_is_refused_before_training_or_planned_right(ragged, setting):
    try:
        plan, federation = plan_of(run_spec(ragged, "flwr.serverapp.strategy.FedAvg", **setting))
    except ScenarioError:
        return
    train_run(plan, federation)


# A plan that says something else is refused


@STRATEGIES
def test_one_byte_more_or_less_is_refused(ragged, strategy, cut):
    plan, federation = plan_of(run_spec(ragged, strategy, cut, rounds=1))
    for key in plan.traffic or {("up", "model"): np.zeros(4, dtype=np.int64)}:
        for change in (1, -1):
            sizes = plan.traffic.get(key, np.zeros(4, dtype=np.int64)).copy()
            sizes[2] += change
            tampered = dataclasses.replace(plan, traffic={**plan.traffic, key: sizes})
            with pytest.raises(PlanMismatchError, match=f"bytes {key[0]}, {key[1]}: planned"):
                train_run(tampered, federation)


@STRATEGIES
def test_a_kind_that_was_not_planned_is_refused(ragged, strategy, cut):
    plan, federation = plan_of(run_spec(ragged, strategy, cut, rounds=1))
    for key in plan.traffic:
        tampered = dataclasses.replace(plan, traffic={k: v for k, v in plan.traffic.items() if k != key})
        with pytest.raises(PlanMismatchError, match=f"bytes {key[0]}, {key[1]}: planned"):
            train_run(tampered, federation)


@STRATEGIES
def test_one_noised_step_more_or_less_is_refused(ragged, strategy, cut):
    plan, federation = plan_of(run_spec(ragged, strategy, cut, DP_SGD, rounds=1))
    for part, steps in plan.noised_steps.items():
        for change in (1, -1):
            tampered = dataclasses.replace(
                plan, noised_steps={**plan.noised_steps, part: (steps[0] + change, *steps[1:])}
            )
            with pytest.raises(PlanMismatchError, match=f"noised steps, {part}: planned"):
                train_run(tampered, federation)


@STRATEGIES
def test_a_ledger_of_other_releases_is_refused(ragged, strategy, cut):
    """The ledger of more noise, of one round less, or of no privacy is not this run's."""
    plan, federation = plan_of(run_spec(ragged, strategy, cut, DP_SGD, rounds=2))
    for other in (
        run_spec(ragged, strategy, cut, {**DP_SGD, "noise-multiplier": 9.0}, rounds=2),
        run_spec(ragged, strategy, cut, DP_SGD, rounds=1),
        run_spec(ragged, strategy, cut, NO_PRIVACY, rounds=2),
    ):
        tampered = dataclasses.replace(plan, ledger=plan_of(other)[0].ledger)
        with pytest.raises(PlanMismatchError, match="releases"):
            train_run(tampered, federation)


def test_a_plan_for_other_records_is_refused(tmp_path):
    """Planned with five records less than the clinics hold; noise would be keyed by records that are not there."""
    csv = write_csv(tmp_path / "clinics.csv", [40, 20])
    smaller = write_csv(tmp_path / "smaller.csv", [35, 20])
    spec = run_spec(csv, "splitfed-v1", "vanilla")
    plan = make_plan(spec, load_federation(run_spec(smaller).data, spec.seed).facts)
    with pytest.raises(PlanMismatchError, match="other records"):
        train_run(plan, load_federation(spec.data, spec.seed))


# A strategy that forgets something is caught


@pytest.mark.parametrize(
    ("strategy", "cut", "part"),
    [("centralised", None, "model"), ("splitfed-v1", "vanilla", "body"), ("split", "u-shaped", "body")],
)
def test_a_method_that_noises_one_step_less_at_the_server_is_caught(ragged, strategy, cut, part):
    """A clinic that does so says so in its reply, and tests of hostile replies hold these against the plan."""
    plan, federation = plan_of(run_spec(ragged, strategy, cut, DP_SGD, rounds=1))
    method = plan.job.method

    def forgets(exchange, state):
        state = method.round(exchange, state)
        exchange.noised[part][0] -= 1
        return state

    other = dataclasses.replace(plan.job, method=dataclasses.replace(method, round=forgets))
    with pytest.raises(PlanMismatchError, match=f"noised steps, {part}: .*releases"):
        train_run(dataclasses.replace(plan, job=other), federation)
