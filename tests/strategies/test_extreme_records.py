"""A record of any size, in every mechanism: the run ends, all numbers are numbers, and it moves what one record may.

Records of 1e10 to 3e38 are clamped to a public bound and clipped. Networks with huge weights make gradients and rows
overflow besides: those count as zero. What leaves is held, with one key, against the run with an ordinary record.
"""

import math

import numpy as np
import pytest
import torch
from support import plan_of, run_spec, with_noise_by, write_csv
from torch import nn
from wire import record, with_record

from sim.data.federation import load_federation
from sim.models.clip import ClipRows

CLIP, CLINIC = 0.5, 1
HUGE, BEYOND = 1e15, 1e18
DP = {"mechanism": "dp-sgd", "noise-multiplier": 1.5, "clip": CLIP, "delta": 1e-3}
ROWS = {"noise-multiplier": 4.0, "clip": CLIP, "delta": 1e-3, "labels": "public"}
SIZES = [20, 14, 9]


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("extreme") / "clinics.csv", SIZES)


def extremes(csv):
    """Return the files in which one record is extreme, in several ways."""
    ways = [[1e10] * 4, [1e25, -1e25, 1e25, -1e25], [3e38, 3e38, -3e38, 3e38]]
    return [with_record(csv, run_spec(csv), CLINIC, way) for way in ways]


def scaled(layer, factor=HUGE):
    """Make a layer's weights huge, so that a clamped record's gradient overflows and an ordinary one's does not."""
    with torch.no_grad():
        layer.weight.mul_(factor)
    return layer


class Scale(nn.Module):
    """A parameter of a user's own: the forward pass takes one copy a record."""

    def __init__(self, width, factor=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), factor))

    def forward(self, x):
        return x * self.weight


def chain(width, *first, flat=None):
    behind = nn.Linear(width, 5) if flat is None else nn.Sequential(nn.Flatten(), nn.Linear(4 * width, 5))
    return lambda outputs: [
        ("first", nn.Sequential(*first, nn.ReLU())),
        ("second", nn.Sequential(behind, nn.ReLU())),
        ("output", nn.Linear(5, outputs)),
    ]


def network(kind, beyond):
    """Return a factory; ``beyond`` puts a second huge layer behind the first: a clamped record's rows are infinite."""

    def blocks(input_shape, outputs):
        if kind == "dense":
            more = [nn.ReLU(), scaled(nn.Linear(6, 6), BEYOND)] if beyond else []
            return chain(6, scaled(nn.Linear(*input_shape, 6)), *more)(outputs)
        if kind == "copies":
            return chain(6, scaled(nn.Linear(*input_shape, 6)), Scale(6, BEYOND if beyond else 1.0))(outputs)
        channels, kernel = (2, 1) if kind == "gradients" else (8, 3)
        convolution = scaled(nn.Conv2d(1, channels, kernel, padding=kernel // 2))
        more = [nn.ReLU(), scaled(nn.Conv2d(channels, channels, kernel, padding=kernel // 2), BEYOND)] if beyond else []
        return chain(channels, nn.Unflatten(1, (1, 2, 2)), convolution, *more, flat=True)(outputs)

    return blocks


HUGE_GRADIENTS = ["dense", "gradients", "products", "copies"]
"""By how per-sample gradients are formed: of dense layers, of convolutions in both ways, of copied parameters."""
INFINITE_ROWS = [f"{kind}_beyond" for kind in HUGE_GRADIENTS]
dense, gradients, products, copies = (network(kind, False) for kind in HUGE_GRADIENTS)
dense_beyond, gradients_beyond, products_beyond, copies_beyond = (network(kind, True) for kind in HUGE_GRADIENTS)
METHODS = {
    "fedavg": ("fedavg", None, {}),
    "splitfed-v1, vanilla": ("splitfed-v1", "vanilla", {}),
    "split, u-shaped": ("split", "u-shaped", {}),
    "splitfed-v1, u-shaped, joint": ("splitfed-v1", "u-shaped", {"clipping": "joint"}),
}


def assert_finite(run):
    for reply in run.replies:
        for key, value in reply.arrays.items():
            # The norm of a gradient that counts as zero is infinite, of a record that the ledger says is not hidden.
            assert np.isfinite(value).all() or (key[0] == "norms" and not np.isnan(value).any()), key
    for name, value in run.trained.parameters.items():
        assert value.isfinite().all(), name
    assert len(run.trained.evaluations) == run.plan.rounds + 1


def sums(spec):
    """Train one round; return the run and its noised sums of gradients by part, clinic and step, times the batch."""
    found = {}

    def watched(original, sums, std, normaliser, key, purpose, clinics, server_round, step):
        original(sums, std, normaliser, key, purpose, clinics, server_round, step)
        for lane, clinic in enumerate(clinics):
            own = torch.cat([value[lane].flatten() for value in sums]).double()
            found[purpose.removeprefix("noise."), clinic, server_round, step] = (own * normaliser[lane]).numpy()

    plan, federation = plan_of(spec)
    return record(with_noise_by(plan, watched), federation), found


@pytest.mark.parametrize(
    ("network", "method"),
    [
        *((None, method) for method in METHODS),
        *((network, "fedavg") for network in (*HUGE_GRADIENTS, *INFINITE_ROWS)),
        *((network, "splitfed-v1, u-shaped, joint") for network in (*HUGE_GRADIENTS, *INFINITE_ROWS)),
        *((network, "splitfed-v1, vanilla") for network in HUGE_GRADIENTS),
        *((network, "split, u-shaped") for network in INFINITE_ROWS),
    ],
)
def test_dp_sgd_is_moved_by_no_more_than_one_clipped_gradient(csv, one_key, network, method):
    strategy, cut, more = METHODS[method]

    def spec(path, **train):
        model = {"name": "factory", "factory": f"{__name__}:{network}"} if network else None
        return run_spec(path, strategy, cut, DP | more, model, **{"rounds": 1, "batch_size": 64, **train})

    _, ordinary = sums(spec(csv))
    first = None
    for path in extremes(csv):
        run, found = sums(spec(path))
        assert_finite(run)
        clip = CLIP if run.job.joint else run.job.dp.part_clip
        for key, value in found.items():
            # The extreme record's contribution and the ordinary one's, each within the clip; behind the first of
            # several clinics in a row the model itself is another.
            if key[1] == CLINIC:
                assert np.linalg.norm(value - ordinary[key]) <= 2 * clip * (1 + 1e-3), key
            elif strategy != "split":
                np.testing.assert_array_equal(value, ordinary[key], err_msg=str(key))
        first = found if first is None else first
        assert found.keys() == ordinary.keys()
    longer, _ = sums(spec(path, rounds=3, batch_size=4))
    assert_finite(longer)


@pytest.mark.parametrize("network", HUGE_GRADIENTS)
def test_a_gradient_that_overflows_counts_as_zero(csv, one_key, network):
    """Whatever it overflows from: the sums are the same, and within one clip of those with the record."""
    model = {"name": "factory", "factory": f"{__name__}:{network}"}
    found = []
    # The very same magnitudes behind the clamp, of other signs: two records that share nothing but that they overflow.
    for values in ([3e38, 3e38, -3e38, 3e38], [-1e30, 2e20, 1e30, -1e10], None):
        path = csv if values is None else with_record(csv, run_spec(csv), CLINIC, values)
        found.append(sums(run_spec(path, "fedavg", None, DP, model, rounds=1, batch_size=64))[1])
    key = ("model", CLINIC, 1, 0)
    np.testing.assert_array_equal(found[0][key], found[1][key])
    assert np.linalg.norm(found[0][key] - found[2][key]) <= CLIP * (1 + 1e-3)


@pytest.mark.parametrize("network", [None, "dense", "dense_beyond", "copies_beyond"])
@pytest.mark.parametrize("mechanism", ["smashed-noise", "laplace"])
@pytest.mark.parametrize(
    ("strategy", "cut"), [("splitfed-v1", "vanilla"), ("splitfed-v1", "u-shaped"), ("release-once", "vanilla")]
)
def test_rows_move_by_twice_the_clip_and_no_other_row_does(csv, one_key, mechanism, strategy, cut, network):

    def rows(path):
        model = {"name": "factory", "factory": f"{__name__}:{network}"} if network else {}
        model |= {"freeze": ["head"] if cut == "vanilla" else ["head", "tail"]}
        spec = run_spec(
            path, strategy, cut, {"mechanism": mechanism, **ROWS, "tail-clip": 0.01}, model, rounds=1, batch_size=64
        )
        run = record(*plan_of(spec))
        assert_finite(run)
        return run

    ordinary = rows(csv)
    for path in extremes(csv):
        run = rows(path)
        for kind, clip in run.job.rows.clip.items():
            for clinic in range(len(SIZES)):
                [own], [plain] = run.rows_of(kind, clinic), ordinary.rows_of(kind, clinic)
                away = (own.astype(float) - plain) * run.job.rows.grid_step(kind, clinic)
                norms = np.linalg.norm(away, 1 if mechanism == "laplace" else 2, axis=1)
                assert np.count_nonzero(norms) <= (clinic == CLINIC)
                assert norms.max() <= 2 * clip + run.job.rows.grid_step(kind, clinic) * own.shape[1]


@pytest.mark.parametrize("network", [None, "dense", "dense_beyond"])
@pytest.mark.parametrize("mechanism", ["smashed-noise", "laplace"])
def test_what_lies_under_the_noise_is_within_the_clip(csv, mechanism, network):
    """Seen without noise: every record's own row and its own tail gradient, which leaves as its share of a mean."""
    model = {"name": "factory", "factory": f"{__name__}:{network}"} if network else {}
    quiet = {"mechanism": mechanism, **ROWS, "tail-clip": 0.01, "noise-multiplier": 0}
    for path in (csv, *extremes(csv)):
        spec = run_spec(
            path, "splitfed-v1", "u-shaped", quiet, {**model, "freeze": ["head", "tail"]}, rounds=1, batch_size=64
        )
        run = record(*plan_of(spec))
        for kind, clip in (("smashed", CLIP), ("tail-gradient", 0.01)):
            for clinic in range(len(SIZES)):
                [rows] = run.rows_of(kind, clinic)
                own = rows * (len(rows) if kind == "tail-gradient" else 1)
                assert np.linalg.norm(own, 1 if mechanism == "laplace" else 2, axis=1).max() <= clip * (1 + 1e-5)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 3e38])
def test_a_row_whose_norm_is_no_number_is_zero(order, value):
    rows = torch.tensor([[1.0, 2.0], [value, value], [value, 0.0]])
    clipped = ClipRows(1.0, order)(rows)
    assert clipped.isfinite().all()
    assert clipped[0].norm(order) == pytest.approx(1)
    assert not clipped[1].any()


@pytest.mark.parametrize(
    ("strategy", "cut"), [("fedavg", None), ("splitfed-v1", "vanilla"), ("splitfed-v1", "u-shaped")]
)
@pytest.mark.parametrize(("network", "rate"), [(None, 0.1), ("dense", 1e6)], ids=["ordinary", "diverging"])
def test_clinic_level_is_moved_by_no_more_than_twice_the_clip(csv, one_key, network, rate, strategy, cut):
    """A clinic whose records are extreme, also where its own model then leaves every range."""
    privacy = {"mechanism": "clinic-level", "noise-multiplier": 1.5, "clip": CLIP, "delta": 1e-3}
    model = {"name": "factory", "factory": f"{__name__}:{network}"} if network else None
    models = []
    for path in (csv, *extremes(csv)):
        spec = run_spec(path, strategy, cut, privacy, model, rounds=1, learning_rate=rate, local_epochs=4)
        trained = record(*plan_of(spec)).trained
        models.append(torch.cat([value.flatten() for value in trained.parameters.values()]).double())
        assert models[-1].isfinite().all()
        assert len(trained.evaluations) == 2
    for other in models[1:]:
        assert float((other - models[0]).norm()) * len(SIZES) <= 2 * CLIP * (1 + 1e-3)


def test_without_a_mechanism_an_extreme_record_is_clamped(csv):
    for path in extremes(csv):
        run = record(*plan_of(run_spec(path, "centralised", rounds=1, learning_rate=1e-8)))
        [sent] = run.rows_of("records", CLINIC)
        assert np.abs(sent).max() == 1e6


@pytest.mark.parametrize("scaling", ["public", "per-clinic", "pooled"])
def test_scaled_records_are_within_public_bounds(csv, scaling):
    for path in extremes(csv):
        spec = run_spec(path)
        federation = load_federation(
            spec.data.model_copy(update={"scaling": scaling, "ranges": {f"x{i}": (-3.0, 3.0) for i in range(4)}}),
            spec.seed,
        )
        assert np.isfinite(federation.train.x).all()
        assert np.abs(federation.train.x).max() <= (1 if scaling == "public" else 1e6)
