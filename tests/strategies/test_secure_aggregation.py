"""Secure aggregation: the server sees sums alone, whose noise the clinics share, and what it is worth against whom."""

import math
from dataclasses import replace

import dp_accounting as dp
import numpy as np
import pytest
import torch
from support import NO_PRIVACY, bitwise, distance, plan_of, run_spec, train_spec, write_csv

import clients.updates
from sim.foundation.problems import ScenarioError
from sim.methods import secure_sum
from sim.methods.messages import Kind, Train, UnseenError
from sim.methods.secure_sum import added, masked_sum, part_noise, step_of
from sim.privacy.accounting import epsilon
from sim.privacy.secure_aggregation import SecureAggregation
from sim.scenario.study import ClinicGroup, Server
from sim.study.train import PlanMismatchError, train_run

CLINIC = {"mechanism": "clinic-level", "noise-multiplier": 1.5, "clip": 0.3, "delta": 1e-3}
SECURE = {**CLINIC, "secure-aggregation": True}
ALONE = {"mechanism": "none", "secure-aggregation": True}


@pytest.fixture
def csv(tmp_path):
    return write_csv(tmp_path / "clinics.csv")


def gaussians(noise, rounds, delta=1e-3):
    return epsilon(dp.SelfComposedDpEvent(dp.GaussianDpEvent(noise), rounds), delta)


def epsilons(csv, privacy, strategy="fedavg", **train):
    plan, federation = plan_of(run_spec(csv, strategy, None, privacy, **train))
    train_run(plan, federation)  # holds bytes, noised steps and executed releases against the plan
    return {a: plan.clinics[0].epsilon[a] for a in plan.adversaries}


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_the_server_sees_a_gaussian_and_a_clinic_knows_its_own_part_of_it(csv, strategy):
    found = epsilons(csv, SECURE, strategy)
    assert found["server"] == found["model-user"] == pytest.approx(gaussians(1.5, 3), rel=1e-9)
    assert found["peer-clinic"] == pytest.approx(gaussians(1.5 * math.sqrt(3 / 4), 3), rel=1e-9)


@pytest.mark.parametrize("colluding", [1, 2, 3])
def test_what_colluding_clinics_add_is_worth_nothing_against_them(csv, colluding):
    found = epsilons(csv, {**SECURE, "colluding-clinics": colluding})
    left = 4 - colluding
    assert found["peers"] == found["server-and-peers"] == pytest.approx(gaussians(1.5, 3), rel=1e-9)
    assert found["server"] == pytest.approx(gaussians(1.5 * math.sqrt(4 / left), 3), rel=1e-9)
    assert found["peer-clinic"] == pytest.approx(gaussians(1.5 * math.sqrt(3 / left), 3), rel=1e-9)


def test_all_others_in_collusion_leave_each_clinic_its_own_noise(csv):
    plan, _ = plan_of(run_spec(csv, privacy={**SECURE, "colluding-clinics": 3}))
    assert plan.job.secure.parts == 1
    assert part_noise(plan.job) == pytest.approx(1.5 * 0.3)


def test_one_clinic_is_the_local_case(tmp_path):
    one = write_csv(tmp_path / "one.csv", sizes=(40,))
    found = epsilons(one, {**SECURE, "delta": 1e-3})
    assert list(found.values()) == pytest.approx([gaussians(1.5, 3)] * 3, rel=1e-9)


@pytest.mark.parametrize(("colluding", "against"), [(0, "server"), (2, "server-and-peers")])
def test_a_target_is_met_against_the_server_and_who_is_with_it(csv, colluding, against):
    target = {key: value for key, value in SECURE.items() if key != "noise-multiplier"} | {"epsilon": 4.0}
    found = epsilons(csv, {**target, "colluding-clinics": colluding}, rounds=5)
    assert 3.99 < found[against] <= 4.0


def test_drop_outs_add_no_noise_and_what_is_left_is_counted_round_by_round(csv):
    plan, _ = plan_of(run_spec(csv, privacy={**SECURE, "tolerated-drop-outs": 1}, rounds=1))
    assert plan.job.secure.parts == 3
    found = plan.job.secure.multipliers(1.5, {4: 2, 3: 5}, 0)
    assert list(found) == pytest.approx([1.5, 1.5 * math.sqrt(4 / 3)])
    assert list(found.values()) == [5, 2]
    assert list(plan.job.secure.multipliers(1.5, {3: 5}, 1)) == pytest.approx([1.5 * math.sqrt(2 / 3)])


def losing(csv, privacy, rounds=8):
    spec = run_spec(csv, privacy=privacy, rounds=rounds)
    [group] = spec.clinics
    return spec.model_copy(update={"clinics": (group.model_copy(update={"drop_out": 0.3}),)})


def test_a_round_with_too_few_updates_opens_no_sum(csv):
    plan, federation = plan_of(losing(csv, {**SECURE, "tolerated-drop-outs": 1}))
    models = []
    train_run(plan, federation, models=lambda server_round, model: models.append(model))
    assert 0 in plan.returned
    assert plan.note.startswith("fewer than 3 updates arrive in")
    assert {3, 4} & set(plan.returned)
    assert not {1, 2} & set(plan.returned)
    for r, back in enumerate(plan.returned, 1):
        assert bitwise(models[r], models[r - 1]) == (back == 0)
    for k, clinic in enumerate(plan.clinics):
        sums = [back for r, back in enumerate(plan.returned, 1) if back and plan.job.attendance(r).returns(k)]
        seen = dp.ComposedDpEvent([dp.GaussianDpEvent(1.5 * math.sqrt(back / 3)) for back in sums])
        assert clinic.epsilon["server"] == pytest.approx(epsilon(seen, 1e-3), rel=1e-9)


def test_a_target_holds_with_the_noise_that_was_really_there(csv):
    target = {key: value for key, value in SECURE.items() if key != "noise-multiplier"} | {"epsilon": 4.0}
    plan, _ = plan_of(losing(csv, {**target, "tolerated-drop-outs": 2, "colluding-clinics": 1}))
    assert 3.99 < max(clinic.epsilon["server-and-peers"] for clinic in plan.clinics) <= 4.0


def test_who_holds_the_shares_of_enough_clinics_is_left_with_one_part():
    tolerant = SecureAggregation(clinics=10, invited=10, colluding=6, tolerated=5)
    assert tolerant.honest(10, 6) == 1
    assert SecureAggregation(clinics=10, invited=10, colluding=4, tolerated=5).honest(10, 4) == 6


@pytest.mark.parametrize("groups", [1, 3])
def test_the_sum_without_noise_is_federated_averaging(csv, groups):
    plain = train_spec(run_spec(csv, privacy=NO_PRIVACY)).parameters
    assert distance(train_spec(run_spec(csv, privacy=ALONE), groups).parameters, plain) < 2e-6


def test_clipped_updates_without_noise_are_the_mean_that_a_trusted_server_makes(csv):
    silent = {**CLINIC, "noise-multiplier": 0}
    trusted = train_spec(run_spec(csv, privacy=silent)).parameters
    assert (
        distance(train_spec(run_spec(csv, privacy={**silent, "secure-aggregation": True})).parameters, trusted) < 1e-5
    )


def test_any_grouping_of_the_clinics_makes_the_same_bits(csv):
    one, three = (train_spec(run_spec(csv, privacy=SECURE), groups).parameters for groups in (1, 3))
    assert bitwise(one, three)


def updates_that_cross(csv, groups):
    """Return every array that reaches the server, and each clinic's update on the grid as it is before masks."""
    plan, federation = plan_of(run_spec(csv, privacy=SECURE, rounds=2))
    arrived = []
    train_run(plan, federation, groups, overheard=lambda instruction, reply: arrived.append((plan.job, reply)))
    return [(job, reply) for job, reply in arrived if reply.clinics and (reply.parts or reply.payload)]


def test_nothing_that_the_server_receives_is_of_one_clinic(csv, monkeypatch):
    own = []

    def spied(job, server_round, clinics, before, trained):
        for lane, k in enumerate(clinics):
            alone = {name: value[lane : lane + 1] for name, value in trained.items()}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(secure_sum, "_masks", lambda job, server_round, clinics, numbers: 0)
                own.append(masked_sum(job, server_round, [k], before, alone))
        return masked_sum(job, server_round, clinics, before, trained)

    monkeypatch.setattr(clients.updates, "masked_sum", spied)
    for groups in (1, 4):
        own.clear()
        for _, reply in updates_that_cross(csv, groups):
            assert set(reply.parts) == {Kind.MASKED}
            assert not reply.payload
            for mine in own:
                assert not any(torch.equal(reply.parts[Kind.MASKED][name], mine[name]) for name in mine)
        assert len(own) == 8


def test_without_masks_a_node_of_one_clinic_would_hand_over_its_update(csv, monkeypatch):
    monkeypatch.setattr(secure_sum, "_masks", lambda job, server_round, clinics, numbers: 0)
    with pytest.raises(AssertionError):
        test_nothing_that_the_server_receives_is_of_one_clinic(csv, monkeypatch)


def test_parts_add_up_to_the_noise_that_is_counted_and_masks_to_nothing(csv):
    plan, _ = plan_of(run_spec(csv, privacy=SECURE, model={"hidden": [400, 40]}))
    job = plan.job
    begun = job.network.initial_parameters(job.seed)
    still = {name: value.expand(4, *value.shape[1:]) for name, value in begun.items()}
    total = masked_sum(job, 1, [3, 2, 1, 0], begun, still)
    apart = [masked_sum(job, 1, [k], begun, {name: value[:1] for name, value in still.items()}) for k in range(4)]
    draws = np.concatenate([value.flatten().numpy() for value in total.values()]) * step_of(job)
    assert draws.std() == pytest.approx(1.5 * 0.3, rel=0.02)
    assert all(torch.equal(added([one[name] for one in apart]), total[name]) for name in total)
    masked = np.concatenate([value.flatten().numpy() for value in apart[0].values()])
    assert masked.astype(float).std() == pytest.approx(2**32 / math.sqrt(12), rel=0.02)


def test_a_clinics_noise_is_in_the_sum_however_large_its_parameters_are(tmp_path):
    """Of a large clinic's weighted parameters, beyond what the grid holds, as of a small one's: neither is cut off."""
    path = write_csv(tmp_path / "unequal.csv", sizes=(20, 200))
    step = {"mechanism": "dp-sgd", "noise-multiplier": 1.5, "clip": 0.5, "delta": 1e-3, "secure-aggregation": True}
    plan, _ = plan_of(run_spec(path, privacy=step, rounds=1, batch_size=256))
    job = plan.job
    assert job.shares_noise
    begun = job.network.initial_parameters(job.seed)
    same = {name: torch.full((2, *value.shape[1:]), 300.0) for name, value in begun.items()}
    noised = {name: value + torch.tensor([0.0, 1.0]).view(2, *[1] * (value.dim() - 1)) for name, value in same.items()}
    sums = [masked_sum(job, 1, [0, 1], begun, trained) for trained in (same, noised)]
    share = job.sizes[1] / sum(job.sizes)
    for name in begun:
        moved = added([sums[1][name], -sums[0][name]]).double() * step_of(job)
        assert torch.allclose(moved, torch.full_like(moved, share), atol=1e-6)


def test_the_noise_of_others_hides_no_record_from_a_server_that_lies(csv):
    """Beside parameters that it makes up one clinic's noise may be rounded away, where another's record is not."""
    step = {"mechanism": "dp-sgd", "noise-multiplier": 1.5, "clip": 0.5, "delta": 1e-3, "secure-aggregation": True}
    curious, active = (
        plan_of(run_spec(csv, privacy={**step, "trust": trust}, rounds=1, batch_size=64))[0].job
        for trust in ("curious", "active")
    )
    assert curious.shares_noise
    assert not active.shares_noise
    assert active.with_noise([1.5] * 4).dp.noise_std == (0.75,) * 4


@pytest.mark.parametrize("colluding", [0, 1, 2, 3])
def test_what_colluders_cannot_take_off_a_sum_is_the_noise_that_is_counted(csv, colluding, monkeypatch):
    plan, _ = plan_of(run_spec(csv, privacy={**SECURE, "colluding-clinics": colluding}, model={"hidden": [400, 40]}))
    job, secure = plan.job, plan.job.secure
    begun = job.network.initial_parameters(job.seed)
    monkeypatch.setattr(secure_sum, "_masks", lambda job, server_round, clinics, numbers: np.zeros(numbers, np.int64))
    parts = [masked_sum(job, 1, [k], begun, begun) for k in range(4)]
    total = {name: added([part[name] for part in parts]) for name in begun}
    known = {name: added([part[name] for part in parts[:colluding]]) if colluding else 0 for name in begun}
    left = np.concatenate([(total[name] - known[name]).flatten().numpy() for name in begun]) * step_of(job)
    [counted] = secure.multipliers(1.5, {4: 1}, colluding)
    assert left.std() / job.spec.privacy.clip == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("update", [0.0, 0.01, 50.0, math.nan])
def test_no_update_is_longer_than_the_clip_on_the_grid(csv, update):
    plan, _ = plan_of(run_spec(csv, privacy={**SECURE, "noise-multiplier": 0}))
    begun = plan.job.network.initial_parameters(plan.job.seed)
    trained = {name: (value + update).expand(4, *value.shape[1:]).clone() for name, value in begun.items()}
    total = masked_sum(plan.job, 1, [3, 2, 1, 0], begun, trained)
    codes = np.concatenate([value.flatten().numpy().astype(float) for value in total.values()])
    norm = float(np.linalg.norm(codes)) * step_of(plan.job) / 4
    expected = 0.0 if math.isnan(update) else min(0.3, update * math.sqrt(len(codes)))
    assert norm <= 0.3
    assert norm == pytest.approx(expected, abs=1e-5)


def test_a_clinic_that_adds_no_noise_is_caught(csv, monkeypatch):
    def silent(*arguments):
        reply = clients.whole.train(*arguments)
        return replace(reply, noised={"update": [0] * len(reply.clinics)})

    import clients.handlers

    monkeypatch.setitem(clients.handlers.HANDLERS, Train, silent)
    plan, federation = plan_of(run_spec(csv, privacy=SECURE))
    with pytest.raises((PlanMismatchError, RuntimeError), match="noised steps of 'update'"):
        train_run(plan, federation)


def test_keys_shares_and_masked_updates_by_hand(tmp_path):
    three = write_csv(tmp_path / "three.csv", sizes=(10, 10, 10))
    plan, _ = plan_of(run_spec(three, privacy=SECURE, rounds=2))
    # A round, each clinic with both others as neighbours: two keys of 32 bytes, a share of the key's secret and of the
    # mask's seed (32 each, encrypted: 28 more) for each neighbour, one share of each neighbour to open the sum.
    up = (512 + 64) + (512 + 2 * 92) + (512 + 2 * 32)
    down = (512 + 2 * 64) + (512 + 2 * 92) + (512 + 1)
    assert plan.traffic["up", "secure-aggregation"].tolist() == [2 * up] * 3
    assert plan.traffic["down", "secure-aggregation"].tolist() == [2 * down] * 3
    assert plan.traffic["up", "masked-update"].tolist() == [2 * 4 * 71] * 3  # 4 x 6 + 6, 6 x 5 + 5, 5 + 1 parameters
    assert ("up", "model") not in plan.traffic
    active, _ = plan_of(run_spec(three, privacy={**SECURE, "trust": "active"}, rounds=1))
    assert active.traffic["up", "secure-aggregation"].tolist() == [up + 512 + 64] * 3
    assert active.traffic["down", "secure-aggregation"].tolist() == [down + 512 + 2 * 64] * 3


def test_a_clinic_that_is_lost_sends_keys_and_shares_and_nothing_more(csv):
    plan, federation = plan_of(losing(csv, {**SECURE, "tolerated-drop-outs": 3}))
    train_run(plan, federation)  # holds every byte against what crossed
    before, after = (512 + 64) + (512 + 3 * 92), 512 + 3 * 32
    heard, opened = (512 + 3 * 64) + (512 + 3 * 92), 512 + 1
    masks = 0
    for k, clinic in enumerate(plan.clinics):
        back = clinic.rounds - clinic.lost_rounds
        assert plan.traffic["up", "secure-aggregation"][k] == before * clinic.rounds + after * back
        assert plan.traffic["down", "secure-aggregation"][k] == heard * clinic.rounds + opened * back
        assert plan.traffic["up", "masked-update"][k] == 4 * 71 * back
        masks += back + 3 * clinic.lost_rounds  # the server takes off one, or one with each neighbour
    averaged = 2 * 71 * sum(clinic.rounds - clinic.lost_rounds for clinic in plan.clinics)
    assert plan.server_flops == masks * 71 * 10 + averaged


def test_a_budget_ends_the_run_by_what_the_server_and_its_clinics_learn(csv):
    privacy = {**SECURE, "colluding-clinics": 1, "stop-at-epsilon": 4.0}
    plan, _ = plan_of(run_spec(csv, privacy=privacy, rounds=20))
    spent = [gaussians(1.5, rounds) for rounds in (plan.rounds, plan.rounds + 1)]
    assert spent[0] <= 4.0 < spent[1]


def test_seconds_of_a_round_by_hand(tmp_path):
    three = write_csv(tmp_path / "three.csv", sizes=(10, 10, 10))
    # A byte and an operation a second; of clinic 2 a quarter of that. Each message waits for the slowest of the last.
    groups = tuple(
        ClinicGroup(sites=sites, uplink=rate, downlink=rate, latency="1 s", compute=compute)
        for sites, rate, compute in ((("k0", "k1"), "8 bit/s", "4 FLOP/s"), (("k2",), "2 bit/s", "1 FLOP/s"))
    )
    server = Server(compute="1 FLOP/s")

    def seconds(privacy):
        spec = run_spec(three, privacy=privacy, rounds=1)
        return plan_of(spec.model_copy(update={"clinics": groups, "server": server}))[0].round_seconds[0]

    messages = [64, 2 * 64, 2 * 92, 2 * 92, 1, 2 * 32]
    masks = 3 * 71 * 10  # a clinic's own mask, and one with each neighbour
    extra = sum(1 + 4 * (512 + size) for size in messages) + masks + masks  # at the slowest clinic, and at the server
    assert seconds(SECURE) - seconds(CLINIC) == pytest.approx(extra)


def test_a_strategy_that_looks_at_single_clinics_is_told_that_it_cannot(csv):
    def looks(exchange, state):
        asked = Train(clinics=exchange.participants, server_round=exchange.server_round, model=state.model)
        return replace(
            state, model={name: value.median(0, True)[0] for name, value in exchange.ask(asked).model.items()}
        )

    plan, federation = plan_of(run_spec(csv, privacy=SECURE))
    plan = replace(plan, job=replace(plan.job, method=replace(plan.job.method, round=looks)))
    with pytest.raises(UnseenError, match="looks at what single clinics trained"):
        train_run(plan, federation)


@pytest.mark.parametrize(
    ("strategy", "cut", "change", "line"),
    [
        ("local", None, {}, "under local nothing that clinics send is averaged"),
        ("flwr.serverapp.strategy.FedAdam", None, {}, "is handed every clinic's update, not their sum"),
        ("splitfed-v1", "vanilla", {}, "the server trains a body a clinic, and sees each"),
        ("fedavg", None, {"adaptive-quantile": 0.5}, "goes with a fixed clip"),
        ("fedavg", None, {"tolerated-drop-outs": 4}, "a round has 4 clinics; give fewer"),
        ("fedavg", None, {"colluding-clinics": 4}, "4 of 4 clinics; give at most 3"),
        ("fedavg", None, {"secure-aggregation": False, "tolerated-drop-outs": 1}, "has no effect without secure-agg"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(csv, strategy, cut, change, line):
    privacy = {**(NO_PRIVACY if strategy in ("local", "flwr.serverapp.strategy.FedAdam") else CLINIC)}
    with pytest.raises(ScenarioError, match=line) as told:
        plan_of(run_spec(csv, strategy, cut, {**privacy, "secure-aggregation": True, **change}))
    assert len(told.value.problems) == 1
