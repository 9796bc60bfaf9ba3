"""Attacks by reconstruction against what they must find, and must not."""

import zipfile

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from support import NO_PRIVACY, plan_of, run_spec, write_csv
from torch.nn import functional

from sim.attacks.attack import Exhibit, Target, attack_of
from sim.attacks.decoder import decoded, inverse
from sim.attacks.fsha import Clinic, label_gap, share_flagged
from sim.attacks.gradient_inversion import best_fit, from_linear_layer
from sim.attacks.observation import Observation
from sim.attacks.reconstruction import rows_at_the_cut
from sim.foundation.problems import ScenarioError
from sim.results.attack_log import read_attacks
from sim.results.attacks import EXHIBITS, read_exhibit
from sim.scenario import parse_scenario
from sim.scenario.spec import expand
from sim.scenario.study import AttackTable
from sim.study.attacking import attack_study, train_further
from sim.study.engines import InProcess
from sim.study.runner import Progress, execute
from sim.study.train import train_run

SILENT = Progress(lambda to_do, done, seconds: None, lambda row, seconds: None)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Four hundred 8x8 images of four clinics."""
    found = load_digits()
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    clinic = np.array([f"k{k % 4}" for k in range(400)])
    np.savez(path, x=found.images[:400].astype(np.uint8), y=(found.target[:400] > 4).astype(np.int64), clinic=clinic)
    return path


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("attacks") / "clinics.csv", sizes=(200, 300, 100))


def digits_spec(path, strategy="split", cut="vanilla", at=1, privacy=NO_PRIVACY, model=None, **train):
    table = {"rounds": 2, "batch-size": 16, "learning-rate": 0.05}
    mapping = {
        "name": "digits",
        "seeds": [3],
        "data": {"source": "npz", "path": str(path), "x": "x", "label": "y", "clinic": "clinic", "range": [0, 16]},
        "model": {"name": "cnn", "cut": [at, -1] if cut == "u-shaped" else at, **(model or {})},
        "train": table | {key.replace("_", "-"): value for key, value in train.items()},
        "privacy": privacy,
        "evaluation": {"reference": False},
        "strategies": [{"name": strategy} | ({"cut": cut} if cut else {})],
    }
    [spec] = expand(parse_scenario(mapping, path.parent))
    return spec


def attacked(spec, name, **options):
    """Train a run, carry the attack out, and return findings by measure, and the exhibit."""
    plan, federation = plan_of(spec)
    attack = attack_of(name)
    assert attack.applies(plan.job)
    target = Target(
        plan=plan,
        federation=federation,
        model=train_run(plan, federation).parameters,
        options={**attack.options, **options},
        train=lambda federations, observers=(): train_further(plan, attack.adversary, federations, observers),
    )
    found = list(attack.carry_out(target))
    exhibits = [each for each in found if isinstance(each, Exhibit)]
    return {each.measure: each for each in found if not isinstance(each, Exhibit)}, exhibits


def noised(epsilon):
    return {"mechanism": "smashed-noise", "epsilon": epsilon, "clip": 2.0, "delta": 1e-3, "labels": "public"}


# Decoder


def test_the_decoder_rebuilds_digits_at_a_shallow_cut(digits):
    found, [exhibit] = attacked(digits_spec(digits), "decoder", pictures=5)
    assert found["ssim"].value > 0.9
    assert found["ssim"].chance < 0.6
    assert found["r2"].value > 0.75
    assert found["identified_share"].value > 0.9
    assert exhibit.originals.shape == exhibit.rebuilt.shape == (5, 1, 8, 8)
    assert np.square(exhibit.originals - exhibit.rebuilt).mean() < 0.3 * exhibit.originals.var()


def test_the_decoder_rebuilds_tables_and_what_it_finds_has_the_same_bits_again(csv):
    spec = run_spec(csv, "splitfed-v3", "u-shaped", model={"hidden": [12, 5]})
    (found, _), (again, _) = (attacked(spec, "decoder") for _ in range(2))
    assert found["r2"].value > 0.8
    assert found == again


def test_a_value_that_hardly_varies_among_known_rows_does_not_lead_the_decoder_astray():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    rows = np.concatenate([x @ rng.normal(size=(4, 6)), np.zeros((300, 1))], axis=1)
    rows[0, -1], rows[200:, -1] = 1e-3, 1.0  # nearly silent among the known two hundred
    rebuilt = decoded(rows[:200], x[:200], rows[200:], (7,), 300, 0)
    assert 1 - np.square(x[200:] - rebuilt).sum() / np.square(x[200:] - x[200:].mean(0)).sum() > 0.8


def test_the_decoder_finds_nothing_behind_much_noise(digits):
    found, _ = attacked(digits_spec(digits, model={"freeze": ["head"]}, privacy=noised(0.1)), "decoder")
    for each in found.values():
        assert each.low <= each.chance <= each.high
    assert abs(found["r2"].value) < 0.05


# Exhibits


def test_pictures_are_kept_where_they_are_asked_for_and_read_without_unpickling(csv, tmp_path):
    plan, federation = plan_of(run_spec(csv, "split", "vanilla", rounds=1))
    study = tmp_path / plan.spec.study
    execute(plan, study, {})
    for pictures in (0, 7):
        options = {"records": 20, "steps": 20, "pictures": pictures}
        attack_study([plan], [AttackTable(name="decoder", options=options)], tmp_path, InProcess(), SILENT)
    without, with_pictures = read_attacks(study)
    assert read_exhibit(study, without) is None
    originals, rebuilt = read_exhibit(study, with_pictures)
    assert originals.shape == rebuilt.shape == (7, 4)
    rows = {tuple(row) for row in federation.train.x.tolist()}
    assert all(tuple(row) in rows for row in originals.tolist())
    path = study / EXHIBITS / f"{with_pictures}.npz"
    good = np.zeros((2, 4), np.float32)
    bad = [
        {"originals": good, "rebuilt": np.zeros((3, 4), np.float32)},
        {"originals": good, "rebuilt": good.astype(np.float64)},
        {"originals": good, "rebuilt": np.full((2, 4), np.nan, np.float32)},
        {"originals": good, "rebuilt": np.array([{}, {}], dtype=object)},
        {"originals": good},
    ]
    for arrays in bad:
        np.savez(path, **arrays)
        with pytest.raises(ScenarioError, match="remove it and run again"):
            read_exhibit(study, with_pictures)
    np.savez_compressed(path, originals=good, rebuilt=good)
    with pytest.raises(ScenarioError, match="no archive of plain numbers"):
        read_exhibit(study, with_pictures)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("originals.npy", "rebuilt.npy"):
            with archive.open(name, "w") as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 4)}
                np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ScenarioError, match="no archive of plain numbers"):
        read_exhibit(study, with_pictures)


# Gradient inversion


PERCEPTRON = {"name": "mlp", "hidden": [64, 16], "cut": 1}


def small_clinics(path, sizes):
    """Digits at clinics of these sizes."""
    found, n = load_digits(), sum(sizes)
    clinic = np.repeat([f"k{k}" for k in range(len(sizes))], sizes)
    np.savez(path, x=found.images[:n].astype(np.uint8), y=(found.target[:n] > 4).astype(np.int64), clinic=clinic)
    return path


def overheard(spec, name, **options):
    """Train a run before an attack's eyes, and return findings by measure, and the exhibit."""
    plan, federation = plan_of(spec)
    observation = Observation([attack_of(name)], plan, federation, [options])
    trained = train_run(plan, federation, models=observation.round, overheard=observation.message)
    [(_, observer)] = observation.at_work
    found = list(observer.findings(trained.parameters))
    exhibits = [each for each in found if isinstance(each, Exhibit)]
    return {each.measure: each for each in found if not isinstance(each, Exhibit)}, exhibits


def test_the_move_of_a_linear_layer_gives_back_a_single_record_exactly():
    rng = np.random.default_rng(5)
    known, x = rng.normal(size=(20, 6)), torch.from_numpy(rng.normal(size=6))
    weight, bias = (torch.from_numpy(rng.normal(size=shape)).requires_grad_() for shape in ((9, 6), 9))
    loss = functional.softplus(torch.relu(weight @ x + bias).square().sum() - 2)
    moved = [-0.1 * gradient.numpy() for gradient in torch.autograd.grad(loss, [weight, bias])]
    found = from_linear_layer(*moved, known)
    assert found == pytest.approx(x.numpy()[None], abs=1e-12)


@pytest.mark.parametrize(("sizes", "accuracy"), [((2, 2, 60), 1e-5), ((3, 6, 60), 1e-4)])
def test_an_update_gives_back_the_records_of_small_clinics_exactly(tmp_path, sizes, accuracy):
    """Single records, and two and four of them, up to the rounding of parameters to single precision."""
    path = small_clinics(tmp_path / "digits.npz", sizes)
    spec = digits_spec(path, "fedavg", None, model=PERCEPTRON)
    found, [exhibit] = overheard(spec, "gradient-inversion", clinics=2, pictures=9)
    assert len(exhibit.originals) == sum(sorted(plan_of(spec)[0].job.sizes)[:2])
    assert np.abs(exhibit.originals - exhibit.rebuilt).max() < accuracy
    assert found["identified_share"].value == 1
    assert found["psnr"].value > 90


def test_under_secure_aggregation_only_the_update_of_all_clinics_together_is_inverted(tmp_path):
    """Two small clinics' sum still gives the records away; a large one beside them hides them."""
    secure = {"mechanism": "none", "secure-aggregation": True}
    (_, [exhibit]), (many, _) = (
        overheard(
            digits_spec(small_clinics(tmp_path / name, sizes), "fedavg", None, model=PERCEPTRON, privacy=secure),
            "gradient-inversion",
            pictures=9,
        )
        for name, sizes in (("few.npz", (3, 6)), ("many.npz", (3, 6, 150)))
    )
    assert len(exhibit.originals) == 6
    errors = np.abs(exhibit.originals - exhibit.rebuilt).max((1, 2, 3))
    assert (errors < 2e-3).mean() >= 0.5, errors
    assert many["r2"].value < 0.3


def test_many_local_steps_mix_the_records(tmp_path):
    path = small_clinics(tmp_path / "digits.npz", (100, 100))
    found, _ = overheard(digits_spec(path, "fedavg", None, model=PERCEPTRON, local_epochs=3), "gradient-inversion")
    assert found["r2"].value < 0.3


def test_where_the_first_layer_is_no_linear_one_a_single_record_is_found_by_optimisation(tmp_path):
    path = small_clinics(tmp_path / "digits.npz", (2, 2, 60))
    wide = {"name": "cnn", "channels": [32], "hidden": [64], "cut": 1}
    spec = digits_spec(path, "fedavg", None, model=wide, rounds=1)
    assert plan_of(spec)[0].job.sizes[:2] == (1, 1)
    (found, _), (again, _) = (overheard(spec, "gradient-inversion", clinics=2, steps=150) for _ in range(2))
    assert found["ssim"].value > 0.95
    assert found["r2"].value > 0.95
    assert found == again


def test_noise_in_the_update_leaves_no_more_than_chance(tmp_path):
    path = small_clinics(tmp_path / "digits.npz", (3, 6, 60))
    privacy = {"mechanism": "dp-sgd", "epsilon": 0.1, "clip": 1.0, "delta": 1e-3}
    found, _ = overheard(
        digits_spec(path, "fedavg", None, model=PERCEPTRON, privacy=privacy), "gradient-inversion", clinics=2
    )
    assert found["r2"].value <= max(found["r2"].chance, 0.1)
    assert found["psnr"].value < found["psnr"].chance + 1


def test_candidates_are_matched_with_records_at_the_least_distance_in_all():
    originals = np.array([[0.0], [1.0], [5.0]])
    fitted = best_fit(originals, np.array([[0.9], [0.8]]), np.array([7.0]))
    assert fitted.tolist() == [[0.8], [0.9], [7.0]]


# UnSplit


@pytest.mark.parametrize(("strategy", "least"), [("splitfed-v1", 0.99), ("splitfed-v3", 0.7)])
def test_rows_of_a_wide_layer_give_back_tables_without_records_of_the_attackers_own(csv, strategy, least):
    """V1's head passes the server, of V3's it has a clone alone; four columns behind 32 units are determined."""
    spec = run_spec(csv, strategy, "vanilla", model={"hidden": [32, 5]}, rounds=6)
    (found, _), (again, _) = (attacked(spec, "unsplit") for _ in range(2))
    assert found["r2"].value > least
    assert found["identified_share"].value > 0.5
    assert found == again


def test_digits_are_named_from_rows_though_the_head_never_passed_the_server(digits):
    found, [exhibit] = attacked(digits_spec(digits, "splitfed-v3", model=PERCEPTRON), "unsplit", pictures=4)
    assert found["identified_share"].value > 0.7
    assert found["ssim"].value > found["ssim"].chance + 0.1
    assert exhibit.rebuilt.shape == (4, 1, 8, 8)


def test_a_head_that_never_passed_the_server_is_not_used(csv, monkeypatch):
    """With the rows held fast, V1's head decides what is found, and those of V3's clinics do not."""
    differs = []
    for strategy in ("splitfed-v1", "splitfed-v3"):
        plan, federation = plan_of(run_spec(csv, strategy, "vanilla", model={"hidden": [32, 5]}, rounds=1))
        model = train_run(plan, federation).parameters
        rows = rows_at_the_cut(plan.job, model, federation.train, np.arange(30), plan.sampled.exposures)
        monkeypatch.setattr("sim.attacks.unsplit.rows_at_the_cut", lambda *_, rows=rows: rows)
        attack = attack_of("unsplit")
        options = {**attack.options, "records": 30, "steps": 40}
        monkeypatch.setattr("sim.attacks.unsplit.drawn", lambda *_: np.arange(30))
        other = {name: value + 0.5 for name, value in model.items()}
        found = [
            list(attack.carry_out(Target(plan=plan, federation=federation, model=m, options=options, train=None)))
            for m in (model, other)
        ]
        differs.append(found[0] != found[1])
    assert differs == [True, False]


def test_rows_of_much_noise_name_nobody(digits):
    privacy = noised(0.1)
    found, _ = attacked(digits_spec(digits, model={**PERCEPTRON, "freeze": ["head"]}, privacy=privacy), "unsplit")
    assert found["r2"].value < found["r2"].chance
    assert found["identified_share"].low <= found["identified_share"].chance <= found["identified_share"].high


# Feature-space hijacking


@pytest.mark.slow
def test_a_server_that_returns_its_own_gradients_reads_digits_and_is_noticed(digits):
    """Noticed in every round, without a false alarm in honest training on the same batches."""
    spec = digits_spec(digits, "splitfed-v1", "u-shaped", rounds=10)
    (found, [exhibit]), (again, _) = (attacked(spec, "fsha", pictures=3) for _ in range(2))
    assert found["r2"].value > 0.8
    assert found["ssim"].value > 0.9
    assert found["identified_share"].value > 0.9
    assert (found["detected_rate"].value, found["detected_rate"].chance) == (1, 0)
    assert exhibit.originals.shape == exhibit.rebuilt.shape == (3, 1, 8, 8)
    assert found == again


@pytest.mark.slow
@pytest.mark.parametrize("clipping", ["per-part", "joint"])
def test_hijacking_gains_less_from_a_head_under_dp_sgd_and_nothing_behind_much_noise(digits, clipping):
    dp = {"mechanism": "dp-sgd", "epsilon": 1.0, "clip": 1.0, "delta": 1e-3, "clipping": clipping}
    found, _ = attacked(digits_spec(digits, privacy=dp, rounds=10), "fsha")
    assert 0 < found["r2"].value < 0.75
    rows = {"mechanism": "smashed-noise", "noise-multiplier": 30.0, "clip": 2.0, "delta": 1e-3, "labels": "public"}
    found, _ = attacked(digits_spec(digits, privacy=rows, rounds=5), "fsha", steps=20)
    assert found["r2"].value < 0.05
    assert found["identified_share"].low <= found["identified_share"].chance <= found["identified_share"].high


def test_the_hijacker_has_rows_as_they_leave_the_clinic(digits):
    """Clipped to 2 and noised by 30 times as much a value."""
    rows = {"mechanism": "smashed-noise", "noise-multiplier": 30.0, "clip": 2.0, "delta": 1e-3, "labels": "public"}
    for privacy, scale in ((NO_PRIVACY, None), (rows, 60.0)):
        plan, federation = plan_of(digits_spec(digits, privacy=privacy))
        clinic = Clinic(plan.job, federation.train, 0)
        moment, batch = next(clinic.batches(1))
        sent = clinic.sent(batch, moment)[0, : batch.rows[0]]
        bare = clinic.head.forward(batch.x)[0, : batch.rows[0]]
        if scale is None:
            assert torch.equal(sent, bare)
        else:
            assert (sent - bare).std() == pytest.approx(scale, rel=0.1)
            assert bare.flatten(1).norm(dim=1).max() <= 2.0001


@pytest.mark.parametrize(
    ("strategy", "cut", "model"),
    [
        ("release-once", "vanilla", {}),
        ("split", "vanilla", {"freeze": ["head"]}),
        ("fedavg", None, {}),
        ("centralised", None, {}),
    ],
)
def test_where_no_gradient_returns_to_a_head_that_trains_nothing_is_hijacked(csv, strategy, cut, model):
    assert not attack_of("fsha").applies(plan_of(run_spec(csv, strategy, cut, model=model))[0].job)


def test_gradients_of_one_label_are_alike_in_honest_training_and_the_gap_is_as_computed_by_hand():
    gradient = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, -1.0], [-1.0, 0.0]])
    assert label_gap(gradient, torch.tensor([0, 0, 1, 1])) == pytest.approx((1 + 0) / 2 - (0 - 1 + 0 - 1) / 4)
    assert np.isnan(label_gap(gradient, torch.tensor([1, 1, 1, 1])))
    assert share_flagged([[0.5, np.nan], [0.05, 0.1], [0.0, 0.3], [np.nan]]) == pytest.approx(1 / 3)


# Shapes


@pytest.mark.parametrize(
    ("rows", "record"),
    [((5,), (7,)), ((3, 31), (1, 63)), ((4, 4, 5), (3, 15, 11)), ((16,), (1, 8, 8)), ((2, 8, 8), (1, 8, 8))],
)
def test_a_decoder_leads_from_any_row_to_any_record_and_says_nothing_at_first(rows, record):
    rebuilt = inverse(rows, record)(torch.ones(6, *rows))
    assert rebuilt.shape == (6, *record)
    assert not rebuilt.any()


def test_signals_are_rebuilt_by_their_course(tmp_path):
    rng = np.random.default_rng(8)
    phase, rate = rng.uniform(0, 6, size=(2, 240, 1))
    x = np.sin((1 + rate) * np.arange(48) / 8 + phase)
    path = tmp_path / "signals.npz"
    np.savez(path, x=x, y=(rate[:, 0] > 3).astype(np.int64), clinic=np.repeat(["k0", "k1"], 120))
    spec = digits_spec(path, model={"name": "cnn1d"}, rounds=1)
    found, [exhibit] = attacked(spec, "decoder", pictures=2)
    assert found["correlation"].value > 0.9 > 0.5 > abs(found["correlation"].chance)
    assert exhibit.rebuilt.shape == (2, 1, 48)
