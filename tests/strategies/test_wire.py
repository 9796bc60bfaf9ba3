"""Everything that leaves the clinics, as bytes: a release that the ledger lists, a public number or a constant.

Every reply of a run is encoded and read back, whatever it holds and whether or not the meter counts it. What the ledger
does not list must stay the same, byte for byte, when one record is replaced; what it lists as noised must have that
noise in every number, over all that one record can move.
"""

import math

import numpy as np
import pytest
import torch
from support import plan_of, run_spec, with_sums_seen_by
from test_mechanism_grid import MECHANISMS, METHODS, refusals
from torch import nn
from wire import (
    ROWS,
    again,
    differences,
    mechanisms_of,
    record,
    unlisted,
    with_record,
)

from sim.privacy.mechanisms.released import row_step, sum_step
from sim.scenario.study import ClinicGroup

LOUD, RATE, CLIP = 20.0, 1e-3, 0.7
CHANGED = 1
"""The clinic whose first training record is replaced."""
SIZES = (30, 18, 9)
ENDS = {"vanilla": ["head"], "u-shaped": ["head", "tail"]}
VARIANTS = {
    "one node, batches of 4": {"nodes": 1, "batch_size": 4},
    "two nodes, frozen ends, public labels": {"nodes": 2, "batch_size": 2, "frozen": True, "labels": "public"},
    "a node a clinic, batches of 8, joint": {"nodes": 3, "batch_size": 8, "joint": True},
    "one clinic alone": {"nodes": 1, "batch_size": 2, "alone": True},
}
CASES = [
    pytest.param(mechanism, *method, variant, id=f"{mechanism}-{'-'.join(filter(None, method))}-{variant}")
    for i, mechanism in enumerate(MECHANISMS)
    for j, method in enumerate(METHODS)
    for k, (variant, how) in enumerate(VARIANTS.items())
    if not list(refusals(mechanism, *method)) and not (how.get("alone") and mechanism == "clinic-level")
    # Half of the variants each, so that every one meets every mechanism and every method.
    if (i + j + k) % 2 or (how.get("joint") and "dp-sgd" in mechanism and "u-shaped" in method)
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Clinics of unequal size, or one alone, with and without one record replaced by one of the same label."""
    folder = tmp_path_factory.mktemp("wire")
    found = {}
    for alone, sizes in ((False, SIZES), (True, SIZES[:1])):
        rng = np.random.default_rng(len(sizes))
        rows = [
            f"k{k},c{i % 2},{','.join(f'{v + k:.6f}' for v in rng.normal(size=4))}"
            for k in range(len(sizes))
            for i in range(sizes[k])
        ]
        path = folder / f"{len(sizes)}.csv"
        path.write_text("\n".join(["clinic,label,x0,x1,x2,x3", *rows]) + "\n", encoding="utf-8")
        found[alone] = path, with_record(path, run_spec(path), 0 if alone else CHANGED, [3.0, -2.5, 4.0, -1.5])
    return found


def specs(files, mechanism, strategy, cut, *, alone=False, frozen=False, joint=False, labels="private", **train):
    """Return the same run on the records, on those with one replaced, and on the records without noise."""
    privacy = {"mechanism": mechanism, "delta": 1e-3, **MECHANISMS[mechanism]}
    if "label-rr" not in mechanism:
        privacy |= {"labels": labels}
    if mechanism != "none":
        privacy |= {"clip": CLIP}
    if joint and "dp-sgd" in mechanism and cut:
        privacy |= {"clipping": "joint"}
    model = {"freeze": ENDS[cut]} if frozen and cut else None

    def spec(path, loud):
        noise = {key: loud for key in privacy if key.endswith("noise-multiplier")}
        return run_spec(path, strategy, cut, {**privacy, **noise}, model, rounds=1, learning_rate=RATE, **train)

    base, replaced = files[alone]
    return spec(base, LOUD), spec(replaced, LOUD), spec(base, 0.0)


@pytest.mark.parametrize(("mechanism", "strategy", "cut", "variant"), CASES)
def test_each_byte_is_listed_or_public_or_constant(files, one_key, mechanism, strategy, cut, variant):
    how = dict(VARIANTS[variant])
    nodes = how.pop("nodes")
    spec, other, quiet = specs(files, mechanism, strategy, cut, **how)
    run = record(*plan_of(spec), nodes)
    assert not unlisted(run)
    changed = again(run, other, nodes)
    assert not unlisted(changed)
    assert not differences(run, changed, 0 if how.get("alone") else CHANGED)
    if not noisy(run):
        return
    clean = record(*plan_of(quiet), nodes)
    found = {}
    for clinic in range(len(run.job.sizes)):
        for what, noise, deviation in noise_of(run, clean, clinic):
            found.setdefault(what, []).append(noise / deviation)
    for what, noises in found.items():
        noise = np.concatenate(noises)
        # 5 standard deviations of the sample's own deviation, and 2 % for what trains on noised gradients
        assert np.std(noise) == pytest.approx(1, rel=5 / math.sqrt(2 * noise.size) + 0.02), what
        bare = np.mean(np.abs(noise) < 1e-3)
        assert bare < 0.01 + 2 / noise.size, f"{what}: {bare:.1%} of the numbers have no noise"


def noisy(run):
    return run.job.dp is not None or run.job.rows is not None


def noise_of(run, clean, clinic):
    """Yield what has noise, the noise that is on it and the deviation that the ledger says."""
    job, plan = run.job, run.plan
    for kind in job.rows.clip if job.rows is not None else ():
        rows, bare = run.rows_of(kind, clinic), clean.rows_of(kind, clinic)
        assert all(own.dtype == np.int16 for own in rows)
        clip = job.rows.clip[kind]
        scale = LOUD * clip
        noise = [own * row_step(scale, clip) - plain for own, plain in zip(rows, bare, strict=True)]
        values = np.concatenate([each.ravel() for each in noise])
        # The event's multiplier counts in how far two clipped rows of this head can lie apart.
        negative = any((plain < 0).any() for plain in bare)
        apart = (2 if negative or kind == "tail-gradient" or job.rows.mechanism.norm == 1 else 2**0.5) * clip
        [multiplier] = mechanisms_of(plan, clinic, kind)
        deviation = multiplier * apart * (2**0.5 if job.rows.mechanism.norm == 1 else 1)
        yield kind, values, deviation
    if job.dp is None or not run.parts_of(clinic):
        return
    halved = 2 if job.rows is not None and not job.joint else 1  # a replaced record moves a sum by 2 C
    [multiplier] = mechanisms_of(plan, clinic, "gradients")
    size = min(job.sampling.batch_size, job.sizes[clinic])
    steps = job.steps(clinic)
    for name, noise in turns(run, clean, clinic).items():
        if name not in {n for part in job.frozen for n in job.part(part).shapes()}:
            yield name.split(".")[0], noise.ravel() / RATE, multiplier * halved * CLIP * math.sqrt(steps) / size


def turns(run, clean, clinic):
    """Return the noise of a clinic's one turn by parameter: what it sent over what it got, less the same without."""
    sent = []
    for one in (run, clean):
        lanes = [(k, reply, lane) for reply in one.replies if "arrays" in reply.kinds for k, lane in reply.lanes()]
        before = {name: v[0].numpy() for name, v in one.job.network.initial_parameters(one.job.seed).items()}
        for k, reply, lane in lanes:
            own = {name: value[lane].astype(float) for (kind, name), value in reply.arrays.items() if kind == "arrays"}
            if k == clinic:
                sent.append({name: value - before[name] for name, value in own.items()})
                break
            if one.job.protocol.movement == "handed-on":
                before = own
    noised, plain = sent
    return {name: noised[name] - plain[name] for name in noised}


# What the grid above does not reach


def with_tanh(input_shape, outputs):
    """Return a network whose head's rows may be negative, and whose tail trains behind a body of its own."""
    return [
        ("first", nn.Sequential(nn.Linear(*input_shape, 6), nn.Tanh())),
        ("second", nn.Sequential(nn.Linear(6, 5), nn.ReLU())),
        ("output", nn.Linear(5, outputs)),
    ]


def with_batch_norm(input_shape, outputs):
    """Return a network with running statistics in every part."""
    return [
        ("first", nn.Sequential(nn.Linear(*input_shape, 6), nn.BatchNorm1d(6), nn.ReLU())),
        ("second", nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU())),
        ("output", nn.Linear(5, outputs)),
    ]


def factory(name):
    return {"name": "factory", "factory": f"{__name__}:{name}"}


@pytest.mark.parametrize("strategy", ["split", "release-once"])
def test_rows_that_may_be_negative_have_the_noise_of_twice_the_clip(files, one_key, strategy):
    def spec(loud):
        privacy = {"mechanism": "smashed-noise", "delta": 1e-3, "noise-multiplier": loud, "clip": CLIP} | {
            "labels": "public"
        }
        model = {**factory("with_tanh"), "freeze": ["head"]}
        return run_spec(files[False][0], strategy, "vanilla", privacy, model, rounds=1, batch_size=2)

    run, clean = (record(*plan_of(spec(loud))) for loud in (LOUD, 0.0))
    assert all((rows < 0).any() for rows in clean.rows_of("smashed", 0))
    noise = np.concatenate([n / deviation for clinic in range(3) for _, n, deviation in noise_of(run, clean, clinic)])
    assert np.std(noise) == pytest.approx(1, rel=5 / math.sqrt(2 * noise.size))


@pytest.mark.parametrize("kept", ["local", "average"])
@pytest.mark.parametrize(
    ("strategy", "cut"),
    [
        ("fedavg", None),
        ("local", None),
        *((s, c) for s in ("split", "splitfed-v1", "splitfed-v2", "splitfed-v3") for c in ENDS),
    ],
    ids=str,
)
def test_running_statistics_that_are_the_clinics_own_are_in_no_message(files, one_key, strategy, cut, kept):
    model = {**factory("with_batch_norm"), "batch-norm": kept}
    run = record(*plan_of(run_spec(files[False][0], strategy, cut, model=model, rounds=2, batch_size=16)), 2)
    assert not unlisted(run)
    sent = {name for reply in run.replies for kind, name in reply.arrays if kind == "arrays"}
    assert bool({name for name in sent if "running" in name}) == (kept == "average" and run.job.protocol.crosses)
    owned = {name for name in run.job.apart if "running" in name} if kept == "local" else set()
    assert not sent & owned


@pytest.mark.parametrize(
    ("strategy", "cut"), [("local", None), ("splitfed-v3", "vanilla"), ("splitfed-v3", "u-shaped")]
)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_what_a_clinic_keeps_is_in_no_message(files, one_key, strategy, cut, optimizer):
    spec, other = (run_spec(p, strategy, cut, optimizer=optimizer, rounds=3, batch_size=2) for p in files[False])
    run = record(*plan_of(spec), 3)
    assert not {"arrays", "optimizer"} & {kind for reply in run.replies for kind in reply.kinds}
    if strategy == "local":
        changed = again(run, other, 3)
        assert [vars(reply) for reply in run.replies] == [vars(reply) for reply in changed.replies]
        before, after = run.trained.parameters, changed.trained.parameters
        moved = [k for k in range(3) if any((before[n][k] != after[n][k]).any() for n in before)]
        assert moved == [CHANGED]  # the models did train on it


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_optimizers_state_that_is_handed_on_is_noised_like_the_parts(files, one_key, optimizer, frozen):
    privacy = {"mechanism": "dp-sgd", "noise-multiplier": LOUD, "delta": 1e-3, "clip": CLIP, "labels": "public"}
    model = {"freeze": ["tail"]} if frozen else None
    specs = [
        run_spec(
            path,
            "split",
            "u-shaped",
            {**privacy, "noise-multiplier": loud},
            model,
            rounds=1,
            batch_size=2,
            optimizer=optimizer,
        )
        for path, loud in zip((*files[False], files[False][0]), (LOUD, LOUD, 0.0), strict=True)
    ]
    run = record(*plan_of(specs[0]))
    assert not unlisted(run)
    assert not differences(run, again(run, specs[1]), CHANGED)
    clean = record(*plan_of(specs[2]))
    for clinic in range(3):
        [state], [plain] = run.parts_of(clinic, "optimizer"), clean.parts_of(clinic, "optimizer")
        for name, value in state.items():
            if name.startswith("tail") and frozen:
                assert not value.any()
            elif not name.endswith("steps"):
                assert np.mean(value == plain[name]) < 0.02, name


CLIENT_SIDE = {"strategy": "flwr.serverapp.strategy.FedAvg", "noise-multiplier": 0.3, "num-sampled-clients": 3}
WRAPPED = {
    "FedAvg": {},
    "QFedAvg": {"client-learning-rate": 0.1, "q": 0.5},
    "DifferentialPrivacyServerSideFixedClipping": {**CLIENT_SIDE, "clipping-norm": 0.02},
    "DifferentialPrivacyClientSideFixedClipping": {**CLIENT_SIDE, "clipping-norm": 0.02},
    "DifferentialPrivacyClientSideAdaptiveClipping": {
        **CLIENT_SIDE,
        "initial-clipping-norm": 0.02,
        "clipped-count-stddev": 1.0,
    },
}


@pytest.mark.parametrize("noise", [0.0, LOUD])
@pytest.mark.parametrize("name", WRAPPED)
def test_what_flowers_strategies_are_told_is_listed(files, one_key, name, noise):
    if name == "QFedAvg" and noise:
        return  # refused
    privacy = {"mechanism": "dp-sgd", "noise-multiplier": LOUD, "delta": 1e-3} if noise else None
    spec, other = (
        run_spec(
            path,
            f"flwr.serverapp.strategy.{name}",
            None,
            privacy or {"mechanism": "none"},
            options=WRAPPED[name],
            rounds=2,
        )
        for path in files[False]
    )
    run = record(*plan_of(spec))
    assert not unlisted(run)
    told = {key for reply in run.replies for key in reply.metrics}
    assert ("train_loss" in told) == (not noise)
    assert (len(told) == 3 - bool(noise)) == ("ClientSide" in name)
    changed = again(run, other)
    if not noise:
        losses = [
            [reply.metrics["train_loss"] for reply in r.replies if "train_loss" in reply.metrics]
            for r in (run, changed)
        ]
        assert losses[0] != losses[1]  # it does tell, and the ledger says so


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize(
    ("strategy", "cut"), [("splitfed-v1", "vanilla"), ("split", "u-shaped"), ("splitfed-v3", "vanilla")]
)
def test_an_empty_batch_sends_no_row(files, strategy, cut, nodes):
    mechanism = "dp-sgd+smashed-noise"
    privacy = {"mechanism": mechanism, "delta": 1e-3, **MECHANISMS[mechanism], "labels": "public"}
    run = record(*plan_of(run_spec(files[False][0], strategy, cut, privacy, rounds=6, batch_size=1)), nodes)
    assert not unlisted(run)
    batches = [(reply, lane) for reply in run.replies if "smashed" in reply.kinds for _, lane in reply.lanes()]
    empty = [reply.arrays["smashed", "smashed"][lane] for reply, lane in batches if not reply.rows[lane]]
    assert len(empty) > 20
    assert not any(rows.any() for rows in empty)
    alone = [reply for reply, _ in batches if not any(reply.rows)]
    assert alone
    assert all(value.shape[1] == 0 for reply in alone for (kind, _), value in reply.arrays.items() if kind in ROWS)


@pytest.mark.parametrize(
    ("strategy", "cut", "clipping"),
    [("fedavg", None, "per-part"), ("splitfed-v1", "u-shaped", "per-part"), ("split", "vanilla", "joint")],
)
def test_noised_sums_lie_on_the_public_grid_before_the_optimizer_sees_them(files, strategy, cut, clipping):
    privacy = {"mechanism": "dp-sgd", "noise-multiplier": 3.0, "delta": 1e-3, "clip": CLIP, "clipping": clipping}
    seen = []
    plan, federation = plan_of(run_spec(files[False][0], strategy, cut, privacy, rounds=1, batch_size=2))
    watched = with_sums_seen_by(plan, lambda part, clinic, sums: seen.append((clinic, sums.double())))
    run = record(watched, federation)
    assert seen
    for clinic, sums in seen:
        steps = sums / sum_step(3.0 * CLIP / min(2, run.job.sizes[clinic]))
        assert torch.equal(steps, steps.round())
        assert steps.abs().max() > 1000  # a grid that is fine beside the noise


@pytest.mark.parametrize("participation", [1.0, 0.5])
def test_exposures_are_those_of_the_record_that_stands_in_most_batches(files, participation):
    mechanism = "dp-sgd+smashed-noise"
    privacy = {"mechanism": mechanism, "delta": 1e-3, **MECHANISMS[mechanism], "labels": "public"}
    plan, _federation = plan_of(
        run_spec(
            files[False][0], "splitfed-v1", "vanilla", privacy, rounds=12, batch_size=2, participation=participation
        )
    )
    job = plan.job
    for clinic, size in enumerate(job.sizes):
        stood = np.zeros(size, dtype=int)
        for server_round in range(1, 13):
            if clinic in job.participants(server_round):
                index = job.batches(server_round, [clinic]).index
                stood += np.bincount(index[index >= 0], minlength=size)
        assert plan.sampled.exposures[clinic] == stood.max() > stood.mean()


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("mechanism", ["none", "dp-sgd+smashed-noise"])
@pytest.mark.parametrize(
    ("strategy", "cut"), [("fedavg", None), *((s, c) for s in ("split", "splitfed-v1", "splitfed-v2") for c in ENDS)]
)
def test_a_lost_clinics_parts_are_in_no_message(files, strategy, cut, mechanism, nodes):
    if cut is None and "smashed" in mechanism:
        mechanism = "dp-sgd"
    privacy = {"mechanism": mechanism, "delta": 1e-3, **MECHANISMS[mechanism]}
    spec = run_spec(files[False][0], strategy, cut, privacy, rounds=6, batch_size=2)
    shaky = ClinicGroup.model_validate({"profile": "hospital", "drop-out": 0.4})
    run = record(*plan_of(spec.model_copy(update={"clinics": (shaky,)})), nodes)
    assert not unlisted(run)
    sent = {(reply.server_round, k) for reply in run.replies if "arrays" in reply.kinds for k in reply.clinics}
    lost = {(r, k) for r in range(1, 7) for k in run.job.lost(r)}
    assert lost
    assert sent
    assert not sent & lost
