"""Audits against closed forms, against honest mechanisms, and against mechanisms that are broken on purpose."""

import math
from functools import partial

import dp_accounting as dp
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from support import plan_of, run_spec, write_csv

from sim.attacks.attack import Target
from sim.attacks.audit import audit
from sim.privacy.accounting import composed_epsilon
from sim.privacy.audited import Trials, audited, shaped_bound
from sim.privacy.mechanisms.dp_sgd import DpSgd
from sim.privacy.mechanisms.label_rr import LabelRr
from sim.privacy.mechanisms.smashed_noise import SmashedNoise
from sim.results.attack_log import read_attacks
from sim.results.attacks import attacks_table
from sim.study.attacking import train_further
from sim.study.auditing import Options

DELTA = 1e-5


def gaussian(sigma, times=1):
    return {("add-or-remove", dp.GaussianDpEvent(sigma)): times}


def gaussian_trials(rng, sigma, count, canaries=1):
    coins = rng.random((count, canaries)) < 0.5
    return Trials(scores=coins + sigma * rng.standard_normal((count, canaries)), included=coins)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_one_gaussian_release_is_audited_to_within_a_fifth_and_rarely_above(sigma):
    rng = np.random.default_rng(0)
    claim = composed_epsilon(gaussian(sigma), DELTA)
    bounds = np.array([audited(gaussian_trials(rng, sigma, 10_000), gaussian(sigma), DELTA).shaped for _ in range(24)])
    assert bounds.mean() > 0.8 * claim
    assert np.mean(bounds > claim) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 24)


def test_the_shaped_bound_of_a_gaussian_is_the_epsilon_of_gdp():
    correct, guesses = 7_000, 10_000
    least = 0.7 - 1.645 * math.sqrt(0.7 * 0.3 / guesses)  # Clopper and Pearson's bound is close to the normal one here
    mu = 2 * norm.ppf(least)
    one = shaped_bound(correct, guesses, gaussian(3.0), DELTA)
    assert one == pytest.approx(composed_epsilon(gaussian(1 / mu), DELTA), rel=0.01)
    assert shaped_bound(correct, guesses, gaussian(30.0, 100), DELTA) == pytest.approx(one), "only the shape counts"
    sampled = {("add-or-remove", dp.PoissonSampledDpEvent(0.999999, dp.GaussianDpEvent(3.0))): 1}
    assert shaped_bound(correct, guesses, sampled, DELTA) == pytest.approx(one, rel=0.02)


def test_more_right_guesses_show_more_and_chance_shows_nothing():
    assert shaped_bound(5_000, 10_000, gaussian(1.0), DELTA) == 0.0
    bounds = [shaped_bound(correct, 1000, gaussian(1.0), DELTA) for correct in (550, 700, 900, 1000)]
    assert bounds == sorted(bounds)
    assert bounds[0] > 0


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_randomised_response_is_audited_by_its_log_odds_without_assumptions(epsilon):
    rng = np.random.default_rng(1)
    mechanisms = {("replace", dp.RandomizedResponseDpEvent(2 / (math.exp(epsilon) + 1), 2)): 1}
    bounds = []
    for _ in range(20):
        coins = rng.random((20_000, 1)) < 0.5
        answers = np.where(rng.random((20_000, 1)) < math.exp(epsilon) / (1 + math.exp(epsilon)), coins, ~coins)
        found = audited(Trials(scores=answers.astype(float), included=coins), mechanisms, 0.0)
        assert math.isnan(found.shaped)
        bounds.append(found.epsilon)
    assert np.mean(bounds) > 0.8 * epsilon
    assert np.mean(np.array(bounds) > epsilon) <= 0.15


def test_a_canary_that_shows_nothing_is_left_out():
    rng = np.random.default_rng(2)
    told, blind = gaussian_trials(rng, 0.5, 2000), gaussian_trials(rng, 1e6, 2000, 3)
    both = Trials(
        scores=np.concatenate([told.scores, blind.scores], 1),
        included=np.concatenate([told.included, blind.included], 1),
    )
    alone, among = (audited(trials, gaussian(0.5), DELTA).epsilon for trials in (told, both))
    assert among == pytest.approx(alone, rel=0.05)


# ----- through the program -----

ROWS = {"mechanism": "smashed-noise", "epsilon": 4.0, "delta": 1e-3, "labels": "public"}
RUNS = {
    "rows": ("splitfed-v1", "vanilla", ROWS, {"freeze": ["head"]}),
    "rows of both ends": ("splitfed-v1", "u-shaped", ROWS | {"labels": "private"}, {"freeze": ["head", "tail"]}),
    "rows released once": ("release-once", "vanilla", ROWS, {}),
    "clinic-level": ("fedavg", None, {"mechanism": "clinic-level", "epsilon": 4.0, "delta": 1e-3}, {}),
    "clinic-level, summed securely": (
        "fedavg",
        None,
        {"mechanism": "clinic-level", "epsilon": 4.0, "delta": 1e-3, "secure-aggregation": True},
        {},
    ),
    "labels": ("splitfed-v1", "vanilla", {"mechanism": "label-rr", "epsilon": 1.0, "delta": 1e-3}, {}),
    "laplace": ("release-once", "vanilla", ROWS | {"mechanism": "laplace", "epsilon": 1.0}, {}),
}
RELEASES = pytest.mark.parametrize("run", RUNS)


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("audit") / "clinics.csv", sizes=(40, 60, 30))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Records with so many features that each clinic has room for eight canaries."""
    return write_csv(tmp_path_factory.mktemp("audit") / "wide.csv", sizes=(40, 60, 30), features=24)


def audit_of(plan, federation, trainings, **how):
    torch.set_num_threads(1)
    target = Target(
        plan=plan, federation=federation, model={}, options={}, train=partial(train_further, plan, "server")
    )
    return list(audit(target, trainings, how.pop("kind", "crafted"), **how))


def tightest(findings, adversary="server"):
    """Return the share of a claim that is audited."""
    own = [f for f in findings if f.adversary == adversary and not f.measure.endswith("free_epsilon") and f.bound > 0]
    return max(finding.value / finding.bound for finding in own)


def dp_sgd(epsilon, **more):
    return {"mechanism": "dp-sgd", "epsilon": epsilon, "delta": 1e-3, "clip": 1.0, **more}


@pytest.mark.slow
@RELEASES
def test_a_release_that_is_drawn_by_itself_is_audited_to_within_a_fifth(csv, run):
    strategy, cut, privacy, model = RUNS[run]
    trainings = 600 if run == "labels" else 200  # which say less each, and take less
    found = audit_of(*plan_of(run_spec(csv, strategy, cut, privacy, model, rounds=2)), trainings)
    share = tightest(found, "model-user" if "clinic" in run else "server")
    assert 0.8 <= share <= 1.0


SECURE = {"mechanism": "clinic-level", "epsilon": 4.0, "delta": 1e-3, "secure-aggregation": True}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["as they do", "with the noise of all"])
def test_colluding_clinics_know_their_noise_and_are_audited_so(csv, monkeypatch, how):
    """Of three parts of the noise one that colludes leaves two: the claim against it, by which they are set."""
    if how == "with the noise of all":
        monkeypatch.setattr("sim.attacks.audit_releases.own_noise", lambda job, server_round, clinic, size: 0)
    spec = run_spec(csv, "fedavg", None, SECURE | {"colluding-clinics": 1}, rounds=2)
    found = audit_of(*plan_of(spec), 200)
    claims = {f.adversary: f.bound for f in found if f.measure == "epsilon"}
    assert claims["server-and-peers"] == claims["peers"] == pytest.approx(4.0, rel=1e-3)
    assert claims["server"] < claims["peers"]
    share = tightest(found, "server-and-peers")
    assert 0.85 <= share <= 1.0 if how == "as they do" else share < 0.8
    assert tightest(found, "server") <= 1.0


def test_one_step_of_dp_sgd_is_audited_to_within_a_fifth(wide):
    spec = run_spec(wide, "fedavg", None, dp_sgd(4.0), rounds=1, batch_size=500, learning_rate=0.01)
    found = audit_of(*plan_of(spec), 150)
    assert 0.8 <= tightest(found) <= 1.0
    assert 0.2 < tightest(found, "model-user") <= 1.0, "noise of the other clinics hides it further"


def test_noise_that_clinics_share_hides_a_record_from_the_server_as_claimed_and_no_more(wide):
    privacy = dp_sgd(4.0, **{"secure-aggregation": True})
    spec = run_spec(wide, "fedavg", None, privacy, rounds=1, batch_size=500, learning_rate=0.01)
    found = audit_of(*plan_of(spec), 100)
    assert 0.5 < tightest(found) <= 1.0
    assert tightest(found) == tightest(found, "model-user"), "the server sees the sum alone"


@pytest.mark.parametrize("kind", ["ordinary", "mislabelled"])
def test_a_clinics_own_records_show_less_than_crafted_ones(wide, kind):
    plan, federation = plan_of(run_spec(wide, "fedavg", None, dp_sgd(8.0), rounds=1, batch_size=500))
    own, made = (tightest(audit_of(plan, federation, 40, kind=each)) for each in (kind, "crafted"))
    assert 0 <= own < made <= 1.0


def test_one_run_bounds_too_and_less(wide):
    plan, federation = plan_of(run_spec(wide, "fedavg", None, dp_sgd(60.0), rounds=1, batch_size=500))
    found = audit_of(plan, federation, 90, one_run=True)
    assert 0 < tightest(found) < 1.0


@pytest.mark.slow
def test_the_same_run_is_audited_to_the_same_bits(wide):
    plan, federation = plan_of(run_spec(wide, "fedavg", None, dp_sgd(8.0), rounds=1))
    assert audit_of(plan, federation, 40) == audit_of(plan, federation, 40)


# ----- broken on purpose -----


def noise_of_half(monkeypatch):
    original = DpSgd.add_noise

    def half(self, sums, std, *others):
        original(self, sums, [s / 2 for s in std], *others)

    monkeypatch.setattr(DpSgd, "add_noise", half)


def test_half_the_noise_of_dp_sgd_is_found(wide, monkeypatch):
    noise_of_half(monkeypatch)
    spec = run_spec(wide, "fedavg", None, dp_sgd(4.0), rounds=1, batch_size=500, learning_rate=0.01)
    found = audit_of(*plan_of(spec), 80)
    assert tightest(found) > 1.001


def test_gradients_that_are_not_clipped_are_found(wide, monkeypatch):
    monkeypatch.setattr("sim.tensor.clipping._at_most_one", lambda factors: torch.where(factors >= 0, 1.0, 0.0))
    found = audit_of(*plan_of(run_spec(wide, "fedavg", None, dp_sgd(4.0), rounds=1, batch_size=500)), 40)
    assert tightest(found) > 1.001


@pytest.mark.parametrize("run", ["rows", "rows released once"])
@pytest.mark.parametrize("mistake", ["half the noise", "no clip"])
def test_broken_noise_on_rows_is_found(csv, monkeypatch, run, mistake):
    strategy, cut, privacy, model = RUNS[run]
    if mistake == "no clip":
        monkeypatch.setattr("sim.models.clip.ClipRows.over", lambda self, x, leading: x)
    else:
        draw = SmashedNoise.draw
        monkeypatch.setattr(SmashedNoise, "draw", lambda self, random, shape: draw(self, random, shape) / 2)
    found = audit_of(*plan_of(run_spec(csv, strategy, cut, privacy, model, rounds=2)), 40)
    assert tightest(found) > 1.001


def test_labels_that_keep_the_truth_too_often_are_found(csv, monkeypatch):
    answers = LabelRr.answers
    monkeypatch.setattr(LabelRr, "answers", lambda self, y, uniform, *more: answers(self, y, uniform / 2, *more))
    strategy, cut, privacy, model = RUNS["labels"]
    assert tightest(audit_of(*plan_of(run_spec(csv, strategy, cut, privacy, model)), 150)) > 1.001


@pytest.mark.parametrize("mistake", ["half the noise", "no clip"])
def test_broken_sums_of_updates_are_found(csv, monkeypatch, mistake):
    from sim.privacy.mechanisms.clinic_level import noised_mean

    def broken(updates, norms, clinics, clip, noise, key, server_round):
        if mistake == "no clip":
            norms = torch.minimum(norms, torch.tensor(clip))
        else:
            noise = noise / 2
        return noised_mean(updates, norms, clinics, clip, noise, key, server_round)

    monkeypatch.setattr("sim.methods.averaging.noised_mean", broken)
    strategy, cut, privacy, model = RUNS["clinic-level"]
    found = audit_of(*plan_of(run_spec(csv, strategy, cut, privacy, model, rounds=2)), 40)
    assert tightest(found, "model-user") > 1.001


# ----- the command -----

SCENARIO = """
name = "small"
seeds = [5]
[data]
source = "csv"
path = "clinics.csv"
label = "label"
clinic = "clinic"
scaling = "none"
[model]
name = "mlp"
hidden = [6]
[train]
rounds = 1
batch-size = 500
learning-rate = 0.01
[privacy]
mechanism = "dp-sgd"
epsilon = 4
delta = 1e-3
[evaluation]
reference = false
[[strategies]]
name = "fedavg"
"""


@pytest.fixture
def study(wide, tmp_path, suture, no_vega, no_pictures):
    (tmp_path / "clinics.csv").write_bytes(wide.read_bytes())
    (tmp_path / "small.toml").write_text(SCENARIO, encoding="utf-8")
    code, _, err = suture("run", "small.toml", "--jobs", 1)
    assert code == 0, err
    return tmp_path / "results" / "small"


def test_the_command_prints_bounds_keeps_them_and_ends_well(study, suture):
    code, out, err = suture("audit", study, "--canaries", 60, "--jobs", 1)
    assert code == 0, err
    assert "of 4" in out
    table = pd.read_parquet(study / "runs.parquet")
    bound = table["epsilon_audited_server"].item()
    assert 0 < bound <= table["epsilon_server"].item()
    rows = attacks_table(study).query("attack == 'audit' and measure == 'epsilon'")
    assert dict(zip(rows["adversary"], rows["value"], strict=True))["server"] == bound
    lines = (study / "attacks.jsonl").read_bytes()
    assert suture("audit", study, "--canaries", 60, "--jobs", 1)[0] == 0
    assert (study / "attacks.jsonl").read_bytes() == lines, "what has been audited is not audited again"
    assert suture("run", "small.toml", "--jobs", 1)[0] == 0
    assert pd.read_parquet(study / "runs.parquet")["epsilon_audited_server"].item() == bound
    code, _, err = suture("verify", study)
    assert code == 0, err


def test_a_bound_above_a_claim_is_an_error_here_and_to_verify(study, suture, monkeypatch):
    noise_of_half(monkeypatch)
    code, out, _ = suture("audit", study, "--canaries", 200, "--jobs", 1)
    assert code == 1, out
    assert "server: epsilon is at least" in out
    assert "above the claimed 4" in out
    code, _, err = suture("verify", study)
    assert code == 1
    assert "epsilon_audited_server: refutes epsilon_server" in err


def test_quick_runs_are_trained_more_often(csv):
    chosen = Options(canaries=None, kind="crafted", one_run=False)
    quick, slow = (plan_of(run_spec(csv, "fedavg", None, dp_sgd(4.0), rounds=rounds))[0] for rounds in (1, 40))
    assert 100 <= chosen.trainings(slow) < chosen.trainings(quick) <= 3000
    assert Options(canaries=50, kind="crafted", one_run=False).trainings(quick) == 50


def test_an_audit_that_fails_is_told_and_made_again(study, suture, monkeypatch):
    def failing(*arguments, **options):
        raise RuntimeError("no audit today")

    with monkeypatch.context() as patched:
        patched.setattr("sim.study.auditing.audit", failing)
        code, out, _ = suture("audit", study, "--canaries", 60, "--jobs", 1)
    assert code == 1
    assert "RuntimeError" in out
    assert suture("audit", study, "--canaries", 60, "--jobs", 1)[0] == 0
    assert [row["status"] for row in read_attacks(study).values()] == ["ok"]


def test_a_folder_that_is_no_studys_is_told_in_one_line(tmp_path, suture):
    code, _, err = suture("audit", tmp_path)
    assert code == 2
    assert err.splitlines()[-1].endswith("has no study.json; give a study's folder, OUT/<study>")
