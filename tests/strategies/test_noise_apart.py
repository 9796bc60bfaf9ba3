"""No two runs share a draw, and within a run no two places do: what is left of every combination is full noise."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from support import plan_of, run_spec, with_noise_by, write_csv
from wire import record, with_record

from sim.data.facts import run_key
from sim.data.federation import load_federation
from sim.methods.job import Job
from sim.privacy.mechanisms.clinic_level import AdaptiveClip, adapted_clip, noised_mean
from sim.privacy.mechanisms.released import row_step
from sim.study.train import train_run

CLIP = 0.5
WIDE = {"hidden": [24, 20]}
OTHER = [3.0, -2.5, 4.0, -1.5]


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("apart") / "clinics.csv", [30, 30])


@pytest.fixture(scope="module")
def replaced(csv):
    return with_record(csv, run_spec(csv), 1, OTHER)


# Between runs


def of_rows(path, strategy="split", seed=5, noise=3.0, mechanism="smashed-noise", cut="vanilla"):
    privacy = {"mechanism": mechanism, "noise-multiplier": noise, "clip": CLIP, "delta": 1e-3, "labels": "public"}
    freeze = ["head"] if cut == "vanilla" else ["head", "tail"]
    return run_spec(path, strategy, cut, privacy, {**WIDE, "freeze": freeze}, seed=seed, rounds=1, batch_size=4)


def of_sums(path, strategy="fedavg", seed=5, noise=3.0):
    privacy = {"mechanism": "dp-sgd", "noise-multiplier": noise, "clip": CLIP, "delta": 1e-3}
    # All records in every batch, one step: the clean sums of two runs are the same.
    return run_spec(path, strategy, None, privacy, WIDE, seed=seed, rounds=1, batch_size=64, learning_rate=1e-2)


def of_updates(path, strategy="fedavg", seed=5, noise=3.0):
    privacy = {"mechanism": "clinic-level", "noise-multiplier": noise, "clip": CLIP, "delta": 1e-3}
    return run_spec(path, strategy, None, privacy, WIDE, seed=seed, rounds=1, batch_size=64)


def sent_rows(spec):
    """Return the first clinic's smashed rows as numbers."""
    run = record(*plan_of(spec))
    noise = spec.privacy.noise_multiplier
    step = row_step(noise * CLIP, CLIP) if noise else 1.0
    return np.concatenate([rows.ravel() * step for rows in run.rows_of("smashed", 0)])


def sent_sums(spec):
    """Return what a clinic's model says of its sum of gradients."""
    run = record(*plan_of(spec))
    initial = run.job.network.initial_parameters(spec.seed)
    [parts] = run.parts_of(0)
    moved = np.concatenate([(parts[name].astype(float) - initial[name][0].numpy()).ravel() for name in parts])
    return -moved / spec.train.learning_rate * run.job.sizes[0]


def moved_model(spec):
    """Return what the model says of the sum of updates."""
    run = record(*plan_of(spec))
    initial = run.job.network.initial_parameters(spec.seed)
    return np.concatenate(
        [(run.trained.parameters[name] - value).double().numpy().ravel() * 2 for name, value in initial.items()]
    )


FAMILIES = {
    "smashed rows": (of_rows, sent_rows, "splitfed-v1"),
    "rows released once": (lambda path, **more: of_rows(path, strategy="release-once", **more), sent_rows, None),
    "sums of gradients": (of_sums, sent_sums, "fedprox"),
    "sums of updates": (of_updates, moved_model, "fedprox"),
}


@pytest.fixture(params=FAMILIES)
def study(request, csv, replaced):
    """The runs of a study on one mechanism and how to read them, each with the run that has no noise."""
    spec_of, read, strategy = FAMILIES[request.param]
    runs = {
        "as it is": {},
        "another epsilon": {"noise": 1.7},
        "another seed": {"seed": 6},
        "a record replaced": {"path": replaced},
        **({"another strategy": {"strategy": strategy}} if strategy else {}),
    }
    return {
        name: (lambda n=None, how=how: spec_of(**{"path": csv, **how, **({} if n is None else {"noise": n})}))
        for name, how in runs.items()
    }, read


def correlations(found):
    """Return, by pair, the correlation of two runs' noise, in standard deviations of what independence gives."""
    return {
        (one, other): float(np.corrcoef(found[one], found[other])[0, 1]) * math.sqrt(len(found[one]))
        for one, other in combinations(found, 2)
    }


def noises(study):
    runs, read = study
    return {name: read(spec()) - read(spec(0.0)) for name, spec in runs.items()}


def test_no_two_runs_share_noise(study):
    found = noises(study)
    assert not {pair: z for pair, z in correlations(found).items() if abs(z) > 5}


def test_runs_of_one_key_would_share_it(one_key, study):
    """The same runs where all have one key: every pair is told."""
    found = correlations(noises(study))
    assert all(abs(z) > 20 for z in found.values())


def test_two_epsilons_do_not_cancel(study):
    runs, read = study
    strong, weak = 3.0, 1.7
    clean = read(runs["as it is"](0.0))
    first, second = read(runs["as it is"]()), read(runs["another epsilon"]())
    left = (strong * second - weak * first) / (strong - weak) - clean
    predicted = math.sqrt(2) * strong * weak / (strong - weak) * CLIP
    assert np.std(left) == pytest.approx(predicted, rel=5 / math.sqrt(2 * len(left)))


def test_a_record_replaced_does_not_show_in_the_difference_of_two_runs(study):
    runs, read = study
    before, after = (read(runs[name]()) for name in ("as it is", "a record replaced"))
    plain = [read(runs[name](0.0)) for name in ("as it is", "a record replaced")]
    left = (after - before) - (plain[1] - plain[0])
    assert np.std(left) == pytest.approx(math.sqrt(2) * 3.0 * CLIP, rel=5 / math.sqrt(2 * len(left)))
    assert np.count_nonzero(left) > 0.99 * len(left)


def test_the_key_is_of_settings_and_records_and_no_digest_of_the_settings_gives_it(csv, replaced):
    """Every record counts, held-out ones too, and so does each of its values and its label."""
    spec = run_spec(csv)
    federation = load_federation(spec.data, spec.seed)
    keys = {
        run_key("a", federation.facts),
        run_key("b", federation.facts),
        run_key("a", load_federation(run_spec(replaced).data, 5).facts),
    }
    for part in ("train", "test"):
        records = getattr(federation, part)
        for change in ({"x": records.x + np.float32(1e-6)}, {"y": 1 - records.y}):
            keys.add(run_key("a", replace(federation, **{part: replace(records, **change)}).facts))
    assert len(keys) == 7
    assert spec.digest not in keys


def test_flowers_own_noise_is_the_runs(csv):
    """Two multipliers on one seed, where nothing else differs: the models differ by both noises, not by one scaled."""
    models = []
    for noise in (3.0, 2.0):
        inner = {"strategy": "flwr.serverapp.strategy.FedAvg", "noise-multiplier": noise, "num-sampled-clients": 2}
        name = "flwr.serverapp.strategy.DifferentialPrivacyServerSideFixedClipping"
        spec = run_spec(csv, name, None, model=WIDE, options={**inner, "clipping-norm": CLIP}, rounds=1)
        models.append(moved_model(spec))
    deviation = CLIP * math.hypot(3.0, 2.0)
    assert np.std(models[0] - models[1]) == pytest.approx(deviation, rel=5 / math.sqrt(2 * len(models[0])))


LABELS = {"mechanism": "label-rr", "label-epsilon": 1.0, "delta": 1e-3}


def test_no_two_runs_share_answers_or_secret_batches(tmp_path):
    """Which labels are answered falsely, and who stands in a batch, is drawn anew in every run."""
    csv = write_csv(tmp_path / "large.csv", [1500])
    other = with_record(csv, run_spec(csv), 0, OTHER)
    lies, members = {}, {}
    for name, path, seed, epsilon, sigma in (
        ("as it is", csv, 5, 1.0, 3.0),
        ("another epsilon", csv, 5, 1.1, 2.0),
        ("another seed", csv, 6, 1.0, 3.0),
        ("a record replaced", other, 5, 1.0, 3.0),
    ):
        spec = run_spec(path, "centralised", None, {**LABELS, "label-epsilon": epsilon}, seed=seed, rounds=1)
        run = record(*plan_of(spec))
        [answers] = run.rows_of("labels", 0)
        false = answers != load_federation(spec.data, seed).train.y
        keep = math.exp(epsilon) / (math.exp(epsilon) + 1)
        assert abs(false.mean() - (1 - keep)) < 5 * math.sqrt(keep * (1 - keep) / len(false))
        lies[name] = false.astype(float)
        privacy = {"mechanism": "dp-sgd", "noise-multiplier": sigma, "delta": 1e-5}
        spec = run_spec(path, "fedavg", None, privacy, seed=seed, batch_size=300)
        federation = load_federation(spec.data, seed)
        batches = Job.build(spec, federation.facts).with_noise([sigma]).batches(1, [0])
        joined = np.zeros((len(batches.rows), len(federation.train.y)))
        for step, index in enumerate(batches.index[:, 0]):
            joined[step, index[index >= 0]] = 1
        members[name] = joined.ravel()
    # Held-out records depend on the seed: position by position the runs of two seeds are of different records.
    for found in (lies, members):
        assert not {pair: z for pair, z in correlations(found).items() if abs(z) > 5}


# Within a run


def far(one, other):
    """Say whether two sets of draws are correlated, as far as the shorter one goes."""
    size = min(one.size, other.size)
    return abs(np.corrcoef(one.ravel()[:size], other.ravel()[:size])[0, 1]) * math.sqrt(size) > 5


@pytest.fixture(scope="module")
def row_noise(csv):
    """Noise by kind, clinic, round and step, ``[row, column]``; the rows under it are nothing beside it."""
    privacy = {"mechanism": "smashed-noise", "noise-multiplier": 1000.0, "delta": 1e-3, "labels": "public"}
    model = {**WIDE, "freeze": ["head", "tail"]}
    spec = run_spec(csv, "splitfed-v1", "u-shaped", privacy, model, rounds=8, batch_size=8)
    run = record(*plan_of(spec))
    found, steps = {}, {}
    for reply in run.replies:
        for kind in ("smashed", "tail-gradient"):
            if kind in reply.kinds:
                for clinic, lane in reply.lanes():
                    step = steps[kind, clinic, reply.server_round] = (
                        steps.get((kind, clinic, reply.server_round), -1) + 1
                    )
                    values = reply.arrays[kind, kind][lane, : reply.rows[lane]]
                    found[kind, clinic, reply.server_round, step] = values / values.std()
    return found


@pytest.mark.parametrize("kind", ["smashed", "tail-gradient"])
def test_columns_and_rows_have_noise_of_their_own(row_noise, kind):
    noise = np.concatenate([value for key, value in row_noise.items() if key[0] == kind])
    for values in (
        noise,
        np.stack([value[:2].ravel() for key, value in row_noise.items() if key[0] == kind and len(value) > 1]),
    ):
        apart = np.corrcoef(values.T) - np.eye(values.shape[1])
        assert np.abs(apart).max() * math.sqrt(len(values)) < 5.5


def test_kinds_clinics_rounds_and_steps_have_noise_of_their_own(row_noise):
    """Any two places, whatever differs between them: kind, clinic, round or step."""
    assert len(row_noise) == 2 * 2 * 8 * 3
    assert not [pair for pair in combinations(row_noise, 2) if far(row_noise[pair[0]], row_noise[pair[1]])]


@pytest.mark.parametrize(
    ("strategy", "cut"),
    [("fedavg", None), ("splitfed-v1", "u-shaped"), ("splitfed-v3", "vanilla"), ("split", "u-shaped")],
)
def test_parts_clinics_rounds_and_steps_have_noise_of_their_own(csv, strategy, cut):
    found = {}

    def watched(original, sums, std, normaliser, key, purpose, clinics, server_round, step):
        original(sums, std, normaliser, key, purpose, clinics, server_round, step)
        for lane, clinic in enumerate(clinics):
            found[purpose, clinic, server_round, step] = np.concatenate([value[lane].numpy().ravel() for value in sums])

    privacy = {"mechanism": "dp-sgd", "noise-multiplier": 1000.0, "delta": 1e-3}
    plan, federation = plan_of(run_spec(csv, strategy, cut, privacy, WIDE, rounds=4, batch_size=8, learning_rate=1e-9))
    train_run(with_noise_by(plan, watched), federation)
    assert len(found) == {None: 1, "vanilla": 2, "u-shaped": 3}[cut] * 2 * 4 * 3
    assert not [pair for pair in combinations(found, 2) if far(found[pair[0]], found[pair[1]])]
    for sums in found.values():  # and none within one sum, from entry to entry
        assert not far(sums[1:], sums[:-1])
        assert len(np.unique(sums)) > 0.9 * len(sums)


def test_the_count_within_the_clip_has_noise_apart_from_the_update(csv):
    """Over rounds: the count's noise, read off the clip's change, against every entry of the update's."""
    spec = run_spec(csv, privacy={"mechanism": "none"})
    federation = load_federation(spec.data, spec.seed)
    job = Job.build(spec, federation.facts)
    adaptive = AdaptiveClip(quantile=0.5, rate=1.0, count_noise=2.0)
    rounds = 2000
    counts, updates = np.zeros(rounds), np.zeros((rounds, 8))
    for r in range(rounds):
        norms = torch.full((4,), 2.0)
        counts[r] = -math.log(adapted_clip(1.0, norms, 4, adaptive, True, job.key, r))
        updates[r] = noised_mean({"a": torch.zeros(4, 8)}, norms, 4, 1.0, 1.0, job.key, r)["a"][0].numpy()
    assert np.std(counts * 4) == pytest.approx(2.0, rel=5 / math.sqrt(2 * rounds))
    every = np.corrcoef(np.column_stack([counts, updates]).T) - np.eye(9)
    assert np.abs(every).max() * math.sqrt(rounds) < 5
