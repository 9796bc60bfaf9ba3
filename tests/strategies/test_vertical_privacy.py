"""What parties, server and model users learn of a patient in vertical split learning."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from support import DP_SGD, JOINT, distance, plan_of, write_csv
from torch.func import grad, vmap
from torch.nn import functional
from vertical import PARTIES, Twin, batches, spec_of
from wire import again, differences, record, unlisted, with_record

from sim.attacks.reconstruction import rows_at_the_cut
from sim.foundation.problems import ScenarioError
from sim.plan.statement import privacy_statement
from sim.privacy.mechanisms.released import row_step
from sim.privacy.statement_text import statement_text
from sim.privacy.study_ledger import StudyRun, compose_study
from sim.study.train import train_run

COLUMNS = [[0, 1], [2], [3, 4]]
CUTS = pytest.mark.parametrize("cut", ["vanilla", "u-shaped"])
ENDS = {"vanilla": ["head"], "u-shaped": ["head", "tail"]}


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("vertical") / "patients.csv", sizes=[50], features=5)


def tensors(federation):
    return torch.tensor(federation.train.x), torch.tensor(federation.train.y)


def noised_rows(csv, cut, privacy, *, freeze=True, **train):
    """Return a run whose rows leave noised, its parts at the parties frozen or not."""
    model = {"name": "mlp", "hidden": [3, 4], "cut": [1, -1] if cut == "u-shaped" else 1}
    model |= {"freeze": ENDS[cut]} if freeze else {}
    settings = {"mechanism": "smashed-noise", "clip": 0.7, "delta": 1e-3, **privacy}
    return spec_of(csv, cut=cut, privacy=settings, model=model, train=train)


def gaussian_epsilon(mu, delta):
    """Return the epsilon of a Gaussian mechanism of sensitivity over noise mu (Balle & Wang 2018, theorem 8)."""

    def left(epsilon):
        return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - delta

    return brentq(left, 0, 200)


# Privacy


@CUTS
@pytest.mark.parametrize("clipping", ["per-part", "joint"])
def test_gradients_of_a_patient_are_clipped_over_all_parties(csv, cut, clipping):
    quiet = {**DP_SGD, "noise-multiplier": 0.0, "clip": 0.05, "clipping": clipping}
    spec = spec_of(csv, cut=cut, privacy=quiet)
    plan, federation = plan_of(spec)
    twin = Twin(COLUMNS, plan.job.network.initial_parameters(spec.seed))
    x, y = tensors(federation)

    def loss(parameters, row, label):
        logits = twin.forward(row[None], parameters)
        return functional.binary_cross_entropy_with_logits(logits, label[None].float())

    heads = [[(0, k), (1, k)] for k in range(3)]
    server = (
        [[(2, None), (3, None)], [(4, None), (5, None)]] if cut == "u-shaped" else [[(i, None) for i in (2, 3, 4, 5)]]
    )
    parts = [*heads, *server]

    def piece(g, i, k):  # of a party's rows of the first layer
        return g[i] if k is None else g[i][:, 3 * k : 3 * k + 3]

    sampled = list(batches(spec, len(y), plan.job.key))
    for rows in sampled:
        with torch.no_grad():
            g = vmap(grad(loss), (None, 0, 0))(tuple(twin.parameters), x[rows], y[rows]) if len(rows) else None
            if g is None:
                continue
            squares = [sum(piece(g, i, k).flatten(1).square().sum(1) for i, k in part) for part in parts]
            limit = 0.05 if clipping == "joint" else 0.05 / math.sqrt(len(parts))
            if clipping == "joint":
                squares = [sum(squares)] * len(parts)
            for part, square in zip(parts, squares, strict=True):
                factor = (limit / square.sqrt()).clamp(max=1)
                for i, k in part:
                    own = piece(g, i, k)
                    own *= factor.view(-1, *[1] * (own.dim() - 1))
            for value, each in zip(twin.parameters, g, strict=True):
                value -= 0.1 * each.sum(0) / 8
    trained = train_run(plan, federation)
    assert distance(trained.parameters, twin.by_name()) < 1e-5


def test_every_part_of_every_party_has_noise_of_its_own(csv):
    """One step: the noise that is on the parameters is that of the claim, and no two heads share a draw."""
    train = {"rounds": 1, "batch-size": 40, "learning-rate": 1.0}
    model = {"name": "mlp", "hidden": [400, 4], "cut": 1}
    loud, quiet = (
        train_run(*plan_of(spec_of(csv, privacy={**JOINT, "noise-multiplier": s}, train=train, model=model)))
        for s in (20.0, 0.0)
    )
    noise = {n: (loud.parameters[n] - quiet.parameters[n]).flatten() * 40 for n in loud.parameters}
    for name, found in noise.items():
        if found.numel() > 300:
            assert float(found.std()) == pytest.approx(20.0 * 0.5, rel=0.15), name
    biases = torch.stack([noise[f"heads.{k}.hidden1.0.bias"] for k in range(3)])
    assert (torch.corrcoef(biases) - torch.eye(3)).abs().max() < 0.2


# Rows that leave noised


@CUTS
def test_a_patients_rows_at_all_parties_are_one_release(csv, cut):
    """Three parties, three rounds: mu^2 = 3 (3 * 2 C^2 + tail's 4 C^2) / (sigma C)^2; heads end in rectifiers."""
    plan, _ = plan_of(noised_rows(csv, cut, {"noise-multiplier": 4.0, "labels": "public"}))
    squares = 3 * 2 + (4 if cut == "u-shaped" else 0)
    expected = gaussian_epsilon(math.sqrt(3 * squares) / 4.0, 1e-3)
    for clinic in plan.clinics:
        for adversary in ("server", "peer-clinic", "model-user"):
            assert clinic.epsilon[adversary] == pytest.approx(expected, rel=1e-3)


@CUTS
def test_a_target_is_met_over_all_parties(csv, cut):
    plan, _ = plan_of(noised_rows(csv, cut, {"epsilon": 8.0, "labels": "public"}))
    assert plan.clinics[0].epsilon["server"] == pytest.approx(8.0, rel=1e-3)
    squares = 3 * 2 + (4 if cut == "u-shaped" else 0)
    mu = math.sqrt(3 * squares) / plan.release_noise[0]
    assert gaussian_epsilon(mu, 1e-3) == pytest.approx(8.0, rel=1e-3)


def test_labels_as_they_are_expose_a_patient_to_every_party(csv):
    plan, _ = plan_of(noised_rows(csv, "vanilla", {"noise-multiplier": 4.0}))
    assert set(plan.clinics[0].epsilon.values()) == {math.inf}
    assert {"labels"} == {release.what for release in plan.ledger.releases if release.reason}


def test_randomised_labels_and_noised_rows_bound_everybody(csv):
    privacy = {"mechanism": "smashed-noise+label-rr", "noise-multiplier": 4.0, "label-epsilon": 2.0}
    plan, federation = plan_of(noised_rows(csv, "vanilla", privacy))
    rows = gaussian_epsilon(math.sqrt(3 * 3 * 2) / 4.0, 1e-3)
    assert rows < plan.clinics[0].epsilon["server"] < rows + 2.0 + 1e-6
    sent = record(plan, federation).rows_of("labels", 1)
    assert 0 < np.mean(np.concatenate(sent[:5]) != record_labels(plan, federation)) < 0.4


def record_labels(plan, federation):
    index = plan.job.batches(1, [1]).index[:, 0]
    return federation.train.y[index[index >= 0]]


def test_trained_heads_need_noise_in_their_gradients_too(csv):
    """A head that trains on raw records tells of others in every row; with dp-sgd all parts are counted together."""
    plan, _ = plan_of(noised_rows(csv, "u-shaped", {"noise-multiplier": 4.0}, freeze=False))
    assert plan.clinics[0].epsilon["server"] == math.inf
    both = {"mechanism": "dp-sgd+smashed-noise", "noise-multiplier": 9.0, "smashed-noise-multiplier": 4.0}
    plan, _ = plan_of(noised_rows(csv, "u-shaped", {**both, "clip": 1.0}, freeze=False))
    exposures = int(plan.sampled.exposures[0])
    mu = math.sqrt(exposures * (3 * 2 / 16 + 4 / 16 + 4 / 81))
    for adversary in ("server", "peer-clinic"):
        assert plan.clinics[0].epsilon[adversary] == pytest.approx(gaussian_epsilon(mu, 1e-3), rel=1e-3)
    assert plan.clinics[0].epsilon["model-user"] < 1


@CUTS
def test_every_row_of_every_party_is_clipped_and_noised(csv, one_key, cut):
    loud, quiet = (noised_rows(csv, cut, {"noise-multiplier": s, "labels": "public"}, rounds=1) for s in (20.0, 0.0))
    run, clean = (record(*plan_of(spec)) for spec in (loud, quiet))
    assert not unlisted(run)
    noise = {}
    for party in range(3):
        bare = clean.rows_of("smashed", party)
        assert max(float(np.linalg.norm(rows, axis=-1).max()) for rows in bare) <= 0.7 + 1e-6
        sent = run.rows_of("smashed", party)
        assert all(rows.dtype == np.int16 for rows in sent)
        scale = row_step(20.0 * 0.7, 0.7)
        noise[party] = np.concatenate([(s * scale - b).ravel() for s, b in zip(sent, bare, strict=True)])
        assert noise[party].std() == pytest.approx(14.0, rel=5 / math.sqrt(2 * noise[party].size) + 0.02)
    together = np.corrcoef(np.stack(list(noise.values())))
    assert np.abs(together - np.eye(3)).max() < 0.35


@CUTS
def test_a_replaced_patient_moves_only_what_is_listed(csv, one_key, cut):
    spec = noised_rows(csv, cut, {"noise-multiplier": 5.0, "labels": "public"}, rounds=1)
    run = record(*plan_of(spec), 3)
    replaced = with_record(csv, spec, 0, [3.0, -2.5, 4.0, -1.5, 2.0])
    changed = again(run, spec.model_copy(update={"data": spec.data.model_copy(update={"path": replaced})}), 3)
    assert not unlisted(changed)
    assert not differences(run, changed, 0)


def test_frozen_heads_do_not_train(csv):
    spec = noised_rows(csv, "vanilla", {"noise-multiplier": 1.0, "labels": "public"})
    plan, federation = plan_of(spec)
    start, trained = plan.job.network.initial_parameters(spec.seed), train_run(plan, federation).parameters
    moved = {name for name in start if not torch.equal(start[name], trained[name])}
    assert moved == {"hidden2.0.weight", "hidden2.0.bias", "output.weight", "output.bias"}


def test_no_target_against_the_server_without_noise_on_what_it_gets(csv):
    with pytest.raises(ScenarioError, match="no noise on rows reaches 8 against the server"):
        plan_of(noised_rows(csv, "vanilla", {"epsilon": 8.0}, freeze=False))


def test_a_patient_is_as_exposed_as_where_training_is_most(csv):
    """Who is seldom there spends no less and is noised no less: the record is the patient's, at all parties."""
    parties = [{**PARTIES[0], "availability": 0.4}, *PARTIES[1:]]
    target = {"mechanism": "dp-sgd", "epsilon": 4.0, "clip": 0.5, "delta": 1e-3}
    always, seldom = (
        plan_of(spec_of(csv, parties=each, privacy=target, train={"rounds": 6}))[0] for each in (PARTIES, parties)
    )
    assert seldom.clinics[0].rounds < always.clinics[0].rounds
    assert seldom.noise_multipliers == always.noise_multipliers
    assert len({clinic.epsilon["model-user"] for clinic in seldom.clinics}) == 1
    assert seldom.clinics[0].epsilon == always.clinics[0].epsilon


def test_the_statement_says_what_finding_shared_patients_tells_whom(csv):
    """Of three lists that all have encrypted the server sees all that are equal, not only those on all three."""

    def told(strategy, parties):
        plan, _ = plan_of(spec_of(csv, strategy, parties=parties))
        rows = {row["what"]: row["note"] for row in privacy_statement(plan, {}, finished=False)["outside"]}
        return rows["who is a patient"], "predictions" in rows

    some = [{**party, "share": 0.8} for party in PARTIES]
    two = [some[1], {**some[0], "columns": ["x0", "x1", "x3", "x4"]}]
    three, predicts = told("vertical", some)
    assert "the server how many any of them share" in three
    assert predicts
    assert "the server how many" not in told("vertical", two)[0]
    alone, predicts = told("vertical-alone", some)
    assert ("private set intersection" in alone, predicts) == (False, False)


def test_labels_are_randomised_for_all_but_who_has_them(csv):
    privacy = {"mechanism": "smashed-noise+label-rr", "noise-multiplier": 4.0, "label-epsilon": 2.0}
    plan, _ = plan_of(noised_rows(csv, "vanilla", privacy))
    statement = privacy_statement(plan, {}, finished=False)
    assert "against everyone but laboratory, which has them" in str(statement["outside"])
    assert "against everyone but the party that has it" in statement_text(statement)


def test_parties_get_gradients_in_every_step(csv):
    plan, _ = plan_of(spec_of(csv, cut="u-shaped"))
    statement = privacy_statement(plan, {}, finished=False)
    [peer] = [row for row in statement["adversaries"] if row["adversary"] == "peer-clinic"]
    assert {row["what"] for row in peer["sees"]} == {"cut-gradient", "body-output"}
    steps = 3 * math.ceil(40 / 8)
    assert all((row["times"], row["counted-in"]) == ([steps, steps], "training steps") for row in peer["sees"])


@pytest.mark.parametrize("how", ["sum", "mean"])
def test_the_server_rebuilds_records_from_the_rows_of_each_party(csv, how):
    """It gets them before it adds them up, so that their sum tells less than it has."""
    model = {"name": "mlp", "hidden": [3, 4], "cut": 1}
    plan, federation = plan_of(spec_of(csv, options={"join": how}, model=model))
    start = plan.job.network.initial_parameters(plan.spec.seed)
    index = np.arange(20)
    seen = rows_at_the_cut(plan.job, start, federation.train, index, plan.sampled.exposures)
    x = torch.tensor(federation.train.x[index])
    by_party = [
        functional.relu(
            functional.linear(x[:, own], start[f"heads.{k}.hidden1.0.weight"][0], start[f"heads.{k}.hidden1.0.bias"][0])
        )
        for k, own in enumerate(COLUMNS)
    ]
    np.testing.assert_allclose(seen, torch.cat(by_party, 1).numpy(), atol=1e-6)


def test_runs_of_single_parties_compose_to_what_a_patient_at_both_gives(csv):
    """Each trains on one party's columns; the patient is the same, and whoever has both models sees both."""
    privacy = {"mechanism": "dp-sgd", "noise-multiplier": 3.0, "clip": 0.5, "delta": 1e-3}
    plans = [
        plan_of(spec_of(csv, "vertical-alone", options={"party": party}, privacy=privacy, train={"batch-size": 40}))[0]
        for party in ("doctor", "laboratory")
    ]
    runs = [
        StudyRun(
            row={**plan.columns(), "status": "ok"},
            releases=plan.ledger.to_json(),
            clinics=tuple(clinic.name for clinic in plan.clinics),
            population="",
            placement="the same",
            shared=True,
        )
        for plan in plans
    ]
    [found] = [each for each in compose_study(runs).compositions if each.adversary == "model-user"]
    assert all(plan.sampled.rates.max() == 1 for plan in plans)
    assert found.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(2 * 3) / 3.0, 1e-3), rel=5e-3)
