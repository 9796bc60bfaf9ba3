"""Rows released once: what crosses, what it is worth, and what the server makes of it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from support import bitwise, distance, plan_of, run_spec, train_spec, with_codes_by, with_rows_seen_by, write_csv

from sim.data.federation import load_federation
from sim.foundation.problems import ScenarioError
from sim.methods.job import Job
from sim.plan.plan import make_plan
from sim.privacy.accounting import epsilon
from sim.scenario import parse_scenario
from sim.scenario.spec import expand
from sim.study.train import train_run
from sim.tensor.evaluation import Evaluator

ONCE = {"mechanism": "smashed-noise", "noise-multiplier": 2.0, "clip": 0.7, "delta": 1e-3, "labels": "public"}
PLAIN = {**ONCE, "noise-multiplier": 0, "clip": math.inf}


@pytest.fixture
def csv(tmp_path):
    return write_csv(tmp_path / "clinics.csv")


def once(csv, privacy=ONCE, **more):
    return run_spec(csv, "release-once", "vanilla", privacy, **more)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_without_noise_one_clinic_trains_as_split_learning_over_a_frozen_head(tmp_path, optimizer):
    csv = write_csv(tmp_path / "alone.csv", [61])
    settings = {"optimizer": optimizer, "learning_rate": 0.05, "local_epochs": 2, "rounds": 3}
    relay = train_spec(run_spec(csv, "split", "vanilla", model={"freeze": ["head"]}, **settings))
    released = train_spec(once(csv, PLAIN, **settings))
    assert distance(released.parameters, relay.parameters) < 1e-5  # rows computed together round otherwise
    assert released.evaluations[-1].pooled == pytest.approx(relay.evaluations[-1].pooled, abs=1e-5)


def test_the_server_trains_on_the_noised_rows_of_all_clinics(csv):
    """The body of another run whose clinics send those very rows, un-noised, is the same."""
    plan, federation = plan_of(once(csv))
    sent = []

    def kept(original, *arguments):
        sent.append(original(*arguments))
        return sent[-1]

    trained = train_run(with_codes_by(plan, kept), federation)
    assert len(sent) == 1  # three rounds, one release
    same = with_codes_by(plan, lambda original, *arguments: sent[0])
    assert bitwise(train_run(same, federation).parameters, trained.parameters)
    nothing = with_codes_by(plan, lambda original, *arguments: np.zeros_like(sent[0]))
    assert distance(train_run(nothing, federation).parameters, trained.parameters) > 1e-2
    assert distance(train_run(plan, federation, node_groups=3).parameters, trained.parameters) < 1e-5
    job = plan.job
    initial = job.network.initial_parameters(plan.spec.seed)
    assert all(torch.equal(trained.parameters[n], initial[n]) for n in job.part("head").shapes())
    assert not any(torch.equal(trained.parameters[n], initial[n]) for n in job.part("body").shapes())


@pytest.mark.parametrize("rounds", [1, 5])
def test_rounds_cost_neither_traffic_nor_privacy_nor_work_at_the_clinic(csv, rounds):
    import dp_accounting as dp

    plan, federation = plan_of(once(csv, rounds=rounds, participation=0.5))
    meter = train_run(plan, federation).meter  # holds itself against the plan
    sizes = np.diff(federation.train.offsets)
    counted = {key: value.tolist() for key, value in meter.traffic.items()}
    assert counted == {
        ("down", "model"): [(4 * 6 + 6) * 4] * 4,
        ("down", "headers"): [512] * 4,
        ("up", "smashed"): (sizes * 6 * 2).tolist(),
        ("up", "labels"): sizes.tolist(),
        ("up", "headers"): [512] * 4,
    }
    expected = epsilon(dp.GaussianDpEvent(2.0 / math.sqrt(2)), 1e-3)  # rows after a rectifier
    for clinic in plan.clinics:
        assert clinic.epsilon == pytest.approx(dict.fromkeys(clinic.epsilon, expected), rel=1e-9)
    assert plan.clinic_flops == int(sizes.sum()) * 2 * 4 * 6
    assert plan.server_flops == rounds * int(sizes.sum()) * 2 * (6 * 5 * 2 + 5 * 3)  # no gradient in the rows
    assert [seconds > plan.round_seconds[-1] for seconds in plan.round_seconds[:-1]] == [True, *[False] * (rounds - 2)][
        : rounds - 1
    ]


def test_a_target_is_met_with_one_release_and_randomised_labels_are_paid_for(csv):
    target = {key: value for key, value in ONCE.items() if key != "noise-multiplier"} | {"epsilon": 3.0}
    plan, federation = plan_of(once(csv, target))
    train_run(plan, federation)
    assert [clinic.epsilon["server"] for clinic in plan.clinics] == pytest.approx([3.0] * 4, rel=1e-3)
    both = {**target, "mechanism": "smashed-noise+label-rr", "label-epsilon": 1.0}
    del both["labels"]
    plan, federation = plan_of(once(csv, both))
    train_run(plan, federation)
    assert plan.columns()["epsilon_label"] == pytest.approx(1.0)
    for clinic in plan.clinics:
        assert 2.0 < clinic.epsilon["server"] <= 3.0
        assert len(set(clinic.epsilon.values())) == 1


def test_labels_sent_as_they_are_count_unless_public(csv):
    private = {key: value for key, value in ONCE.items() if key != "labels"}
    assert set(plan_of(once(csv, private))[0].clinics[0].epsilon.values()) == {math.inf}


def test_rows_are_clipped_first_and_noise_has_the_stated_size(tmp_path):
    csv = write_csv(tmp_path / "many.csv", [900, 600])
    seen = []
    plan, federation = plan_of(once(csv))
    train_run(with_rows_seen_by(plan, lambda kind, clinic, moment, *rows: seen.append(rows)), federation)
    noise = [after - before for before, after in seen]
    assert max(float(before.norm(dim=1).max()) for before, _ in seen) == pytest.approx(0.7, rel=1e-5)
    for values in noise:
        assert values.std() == pytest.approx(2.0 * 0.7, rel=0.06)
        assert abs(values.mean()) < 0.1
    short = min(len(values) for values in noise)
    assert abs(np.corrcoef(noise[0][:short].flatten(), noise[1][:short].flatten())[0, 1]) < 0.06


@pytest.mark.parametrize(
    ("cut", "privacy", "more", "line"),
    [
        ("u-shaped", {}, {}, r"strategies\.0\.cut: "),
        ("vanilla", {"mechanism": "dp-sgd"}, {}, r"privacy\.mechanism: under release-once .* drop dp-sgd"),
        ("vanilla", {"mechanism": "clinic-level"}, {}, r"privacy\.mechanism: clinic-level noises a sum of updates"),
        ("vanilla", {"delta": 0.1}, {}, r"privacy\.delta: 0\.1 is not below 1 / "),
        ("vanilla", {}, {"public-head": "head.bin"}, r"model\.public-head: .* is no source"),
        ("vanilla", {}, {"public-head": "pca:x.npz"}, r"model\.components: is missing"),
        ("vanilla", {}, {"components": 3}, r"model\.components: has no effect"),
        ("vanilla", {}, {"public-head": "absent.safetensors"}, r"model\.public-head: .*does not exist"),
        (
            "vanilla",
            {},
            {"public-head": "pca:absent.npz", "components": 2},
            r"model\.public-head: .*does not exist",
        ),
    ],
)
def test_bad_settings_are_refused_in_one_line(csv, cut, privacy, more, line):
    with pytest.raises(ScenarioError, match=line) as error:
        plan_of(run_spec(csv, "release-once", cut, ONCE | privacy, model=more))
    assert len(error.value.problems) == 1


# Public heads


def test_a_head_of_principal_components_is_scikit_learns(csv, tmp_path):
    public = np.random.default_rng(0).normal(size=(50, 4)) @ np.diag([3.0, 2.0, 1.0, 0.5]) + 1.0
    np.savez(tmp_path / "public.npz", x=public)
    model = {"public-head": "pca:public.npz", "components": 2}
    spec = once(csv, PLAIN, model=model)
    plan, federation = plan_of(spec)
    job = Job.build(spec, federation.facts)
    parameters = job.network.initial_parameters(spec.seed)
    x = torch.tensor(federation.train.x)
    rows = x @ parameters["pca.1.weight"][0].T + parameters["pca.1.bias"][0]
    expected = PCA(2).fit(public).transform(federation.train.x)
    assert np.abs(rows.numpy()) == pytest.approx(np.abs(expected), abs=1e-4)
    assert [part.name for part in job.parts] == ["head", "body"]
    assert next(iter(job.part("body").shapes().values())) == (6, 2)
    assert torch.equal(train_run(plan, federation).parameters["pca.1.weight"], parameters["pca.1.weight"])
    run_id = spec.run_id
    np.savez(tmp_path / "public.npz", x=public[:40])
    assert spec.run_id != run_id
    np.savez(tmp_path / "public.npz", x=public[:, :3])
    with pytest.raises(ScenarioError, match=r"model: .*give finite numbers of shape \[record, 4\]"):
        plan_of(once(csv, PLAIN, model=model))


def test_a_head_from_a_file_is_used_by_every_strategy_that_freezes_it(csv, tmp_path):
    values = {"hidden1.0.weight": torch.randn(6, 4), "hidden1.0.bias": torch.zeros(1, 6)}
    names = list(Job.build(once(csv), load_federation(once(csv).data, 5).facts).part("head").shapes())
    values = dict(zip(names, values.values(), strict=True))
    save_file(values, tmp_path / "head.safetensors")
    given = {"public-head": "head.safetensors"}
    for method, model in (("release-once", given), ("split", {**given, "freeze": ["head"]})):
        trained = train_spec(run_spec(csv, method, "vanilla", ONCE, model=model)).parameters
        assert all(torch.equal(trained[name], values[name].reshape(trained[name].shape)) for name in names)
    with pytest.raises(ScenarioError, match=r"model\.public-head: split has no frozen head"):
        plan_of(run_spec(csv, "split", "vanilla", ONCE, model=given))
    save_file({names[0]: torch.zeros(5, 4)}, tmp_path / "head.safetensors")
    with pytest.raises(ScenarioError, match=r"model\.public-head: .*of shape \[6, 4\], and holds \[5, 4\]"):
        plan_of(once(csv, model=given))


# Utility


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A sixth of scikit-learn's digits as public records, the others at five clinics."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    public, private = order[:297], order[297:]
    np.savez(folder / "public.npz", x=images[public].reshape(-1, 1, 8, 8) / 16)
    np.savez(folder / "digits.npz", x=images[private].reshape(-1, 1, 8, 8).astype(np.float32), y=labels[private])
    return folder


def accuracy(folder: Path, method: str, target: float) -> float:
    """Return the mean over eight seeds.

    Three optimiser settings and two clips, the public rows' median norm being one, were tried on held-out records.
    """
    public = np.load(folder / "public.npz")["x"].reshape(297, 64)
    clip = float(np.median(np.linalg.norm(PCA(16).fit_transform(public), axis=1)))
    scenario = parse_scenario(
        {
            "name": "digits",
            "seeds": list(range(8)),
            "data": {
                **{"source": "npz", "path": "digits.npz", "x": "x", "label": "y", "range": [0, 16]},
                **{"split": "iid", "clinics": 5, "test-share": 0.25},
            },
            "model": {"name": "logistic", "freeze": ["head"], "public-head": "pca:public.npz", "components": 16},
            "train": {"rounds": 30, "batch-size": 32, "learning-rate": 0.01},
            "privacy": {
                "mechanism": "smashed-noise",
                "epsilon": target,
                "delta": 1e-3,
                "clip": clip,
                "labels": "public",
            },
            "evaluation": {"reference": False},
            "strategies": [{"name": method}],
        },
        folder,
    )
    found = []
    for spec in expand(scenario):
        federation = load_federation(spec.data, spec.seed)
        plan = make_plan(spec, federation.facts)
        model = train_run(plan, federation).parameters
        found.append(Evaluator(Job.build(spec, federation.facts).network, federation.test).evaluate(model))
    return float(np.mean([evaluation.pooled["accuracy"] for evaluation in found]))


@pytest.mark.slow
@pytest.mark.parametrize(("target", "expected"), [(3.0, 0.395), (8.0, 0.786), (16.0, 0.879)])
def test_utility_on_digits_is_that_of_an_independent_implementation(digits, target, expected):
    """At epsilon 3 seeds differ by .08, and the mean over 48 of them is .35; at 8 that over 32 is .72."""
    assert accuracy(digits, "release-once", target) == pytest.approx(expected, abs=0.06 if target == 16.0 else 0.12)


@pytest.mark.slow
def test_a_release_in_every_epoch_leaves_little(digits):
    """Thirty releases share the target; the independent implementation had .10 to .16."""
    assert accuracy(digits, "split", 8.0) < 0.3
