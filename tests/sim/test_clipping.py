from collections import OrderedDict
from itertools import product

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from scipy import stats
from support import DP_SGD, plan_of, run_spec
from torch import nn
from torch.nn import functional

from sim.foundation.normals import fill_normals
from sim.methods.trainer import trainer_for
from sim.models import Block, Network
from sim.privacy.mechanisms.dp_sgd import DpSgd
from sim.tensor.losses import CROSS_ENTROPY
from sim.tensor.passes import pass_of

ROWS = (6, 4, 1)
NORMALISER = (4, 4, 3)  # the expected batch, not the drawn one
INPUTS, WIDTH = 5, 6
CUTS = {"whole": (), "vanilla": (1,), "u-shaped": (1, 2)}
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}


class Lanes:
    """Three networks with ragged batches: plain modules, and the same stacked."""

    def __init__(self, outputs, dtype, activation=nn.ReLU, bias=True):
        torch.manual_seed(outputs)
        self.modules = [
            nn.Sequential(
                OrderedDict(
                    a=nn.Sequential(nn.Linear(INPUTS, 7, bias=bias), activation()),
                    b=nn.Sequential(nn.Linear(7, 6), activation()),
                    c=nn.Linear(6, outputs),
                )
            ).to(dtype)
            for _ in ROWS
        ]
        blocks = tuple(Block(name, child) for name, child in self.modules[0].named_children())
        self.network = Network(blocks=blocks, input_shape=(INPUTS,), outputs=outputs)
        self.parameters = {
            name: torch.stack([m.get_parameter(name).detach() for m in self.modules])
            for name, _ in self.modules[0].named_parameters()
        }
        self.x = 2 * torch.randn(len(ROWS), WIDTH, INPUTS, dtype=dtype)
        self.y = torch.randint(max(2, outputs), (len(ROWS), WIDTH))
        inside = torch.arange(WIDTH) < torch.tensor(ROWS)[:, None]
        self.normaliser = torch.tensor(NORMALISER, dtype=dtype)
        self.weights = inside / self.normaliser[:, None]

    def parts(self, cut):
        return (
            (self.network.whole,) if not CUTS[cut] else self.network.split(cut, CUTS[cut] if cut == "u-shaped" else 1)
        )

    def clipped(self, cut, clip):
        """Return the clipped gradients by the code under test, part after part as the cut has it."""
        passes = [(part, pass_of(part)) for part in self.parts(cut)]
        value = self.x
        for position, (part, one) in enumerate(passes):
            value = one.forward(part.select(self.parameters), value, want_input_gradient=position > 0).detach()
        passes[-1][1].loss(CROSS_ENTROPY, self.y, self.weights)
        found, cotangent = {}, None
        for part, one in reversed(passes):
            grads, cotangent = one.backward(cotangent, clip, self.normaliser)
            found |= dict(zip(part.shapes(), grads, strict=True))
        return found

    def per_sample(self, lane):
        """Return Opacus's per-sample gradients of the unsplit network, without padding."""
        wrapped = GradSampleModule(self.modules[lane], loss_reduction="sum")
        x = self.x[lane, : ROWS[lane]].clone().requires_grad_()  # its hooks want an input with a gradient
        logits, y = wrapped(x), self.y[lane, : ROWS[lane]]
        if logits.shape[1] == 1:
            loss = functional.binary_cross_entropy_with_logits(logits[:, 0], y.to(logits.dtype), reduction="sum")
        else:
            loss = functional.cross_entropy(logits, y, reduction="sum")
        loss.backward()
        found = {name.removeprefix("_module."): p.grad_sample.detach() for name, p in wrapped.named_parameters()}
        wrapped.to_standard_module()
        return found

    def expected(self, cut, lane, clip):
        """Clip Opacus's per-sample gradients by hand, part by part, and sum them."""
        samples, result = self.per_sample(lane), {}
        for part in self.parts(cut):
            own = [samples[name] for name in part.shapes()]
            norms = torch.cat([g.flatten(1) for g in own], 1).norm(dim=1)
            factors = torch.where(norms > clip, clip / norms, torch.ones_like(norms))
            for name, g in zip(part.shapes(), own, strict=True):
                result[name] = torch.einsum("n,n...->...", factors, g) / NORMALISER[lane]
        return result


# With ReLU the passes are written out by hand, with tanh autograd makes them.
PASSES = pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("outputs", [1, 3], ids=["binary", "softmax"])
@pytest.mark.parametrize("clip", [0.05, 0.6, 1.4, 1e9])
@pytest.mark.parametrize("cut", CUTS)
@PASSES
def test_clipped_sums_equal_opacus(activation, cut, clip, outputs, dtype):
    """Split, the cut gradient must arrive unclipped, or the head's and body's per-sample norms would be wrong."""
    lanes = Lanes(outputs, dtype, activation)
    found = lanes.clipped(cut, clip)
    assert found.keys() == lanes.parameters.keys()
    for lane in range(len(ROWS)):
        for name, expected in lanes.expected(cut, lane, clip).items():
            scale = max(float(expected.abs().max()), 0.1 * min(clip, 1))
            torch.testing.assert_close(found[name][lane], expected, rtol=0, atol=TOLERANCE[dtype] * scale)


def test_a_layer_without_bias_counts_only_its_weights():
    lanes = Lanes(1, torch.float64, bias=False)
    found = lanes.clipped("whole", 0.5)
    for name, expected in lanes.expected("whole", 0, 0.5).items():
        torch.testing.assert_close(found[name][0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cut", CUTS)
@PASSES
def test_each_records_contribution_to_a_part_is_bounded_by_the_clip(activation, cut):
    lanes = Lanes(3, torch.float64, activation)
    clip = 0.7
    everyone = lanes.clipped(cut, clip)
    norms = []
    for record in range(ROWS[0]):
        lanes.weights[0] = 1 / NORMALISER[0]
        lanes.weights[0, ROWS[0] :] = 0
        lanes.weights[0, record] = 0
        without = lanes.clipped(cut, clip)
        for part in lanes.parts(cut):
            change = torch.cat([(everyone[n][0] - without[n][0]).flatten() for n in part.shapes()]) * NORMALISER[0]
            norms.append(float(change.norm()))
    assert max(norms) <= clip * (1 + 1e-9)
    assert sum(abs(norm - clip) < 1e-9 for norm in norms) >= 1


@pytest.mark.parametrize("clip", [float("inf"), 1e30])
@PASSES
def test_no_clip_is_the_plain_gradient(activation, clip):
    lanes = Lanes(3, torch.float64, activation)
    for cut in CUTS:
        found = lanes.clipped(cut, clip)
        for lane, module in enumerate(lanes.modules):
            module.zero_grad()
            logits = module(lanes.x[lane, : ROWS[lane]])
            functional.cross_entropy(logits, lanes.y[lane, : ROWS[lane]], reduction="sum").backward()
            for name, value in found.items():
                expected = module.get_parameter(name).grad / NORMALISER[lane]
                torch.testing.assert_close(value[lane], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("clip", [0.05, float("inf")])
@PASSES
def test_padding_does_not_count_whatever_it_holds(activation, clip):
    lanes = Lanes(3, torch.float64, activation)
    before = lanes.clipped("u-shaped", clip)
    outside = lanes.weights == 0
    lanes.x[outside] = 1e3 * torch.randn(int(outside.sum()), INPUTS, dtype=torch.float64)
    lanes.y[outside] = 0
    after = lanes.clipped("u-shaped", clip)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-13)


@PASSES
def test_an_empty_batch_gives_zero_and_no_nan(activation):
    lanes = Lanes(1, torch.float32, activation)
    lanes.weights[:] = 0
    for clip in (1.0, float("inf")):
        assert all(not value.any() for value in lanes.clipped("u-shaped", clip).values())


@PASSES
def test_the_cut_gradient_is_not_clipped(activation):
    lanes = Lanes(1, torch.float64, activation)
    body = lanes.network.split("vanilla", 1)[1]
    smashed = torch.randn(len(ROWS), WIDTH, 7, dtype=torch.float64)
    one = pass_of(body)
    one.forward(body.select(lanes.parameters), smashed, want_input_gradient=True)
    one.loss(CROSS_ENTROPY, lanes.y, lanes.weights)
    _, found = one.backward(None, 1e-3, lanes.normaliser)
    for lane, module in enumerate(lanes.modules):
        own = smashed[lane, : ROWS[lane]].clone().requires_grad_()
        logits, y = module[1:](own), lanes.y[lane, : ROWS[lane]].double()
        functional.binary_cross_entropy_with_logits(logits[:, 0], y, reduction="sum").backward()
        torch.testing.assert_close(found[lane, : ROWS[lane]], own.grad / NORMALISER[lane], rtol=0, atol=1e-15)


def noise(clinics=(0,), server_round=1, step=0, purpose="noise.head", std=1.0, normaliser=1.0, seed=0, size=40):
    """Return what is added to zeros, ``[lane, size]``."""
    sums = [torch.zeros(len(clinics), size - 4).double(), torch.zeros(len(clinics), 2, 2).double()]
    spread = [std] * len(clinics), [normaliser] * len(clinics)
    DpSgd().add_noise(sums, *spread, seed, purpose, list(clinics), server_round, step)
    return torch.cat([value.flatten(1) for value in sums], 1).numpy()


@pytest.mark.parametrize(("sigma_c", "normaliser"), [(1.0, 1), (0.4, 16), (3.0, 5)])
def test_noise_is_gaussian_with_sigma_c_over_the_normaliser(sigma_c, normaliser):
    drawn = noise(range(20), std=sigma_c, normaliser=normaliser, size=5000).flatten()
    scale = sigma_c / normaliser
    assert abs(drawn.mean()) < 5 * scale / drawn.size**0.5
    assert drawn.std() == pytest.approx(scale, rel=5 / (2 * drawn.size) ** 0.5)
    assert stats.kstest(drawn / scale, "norm").pvalue > 1e-3


def test_noise_is_added_to_what_is_there_each_lane_with_its_own_scale_and_grid():
    """Scales of 1/8 and 1/4 have steps of 2^-19 and 2^-18: what is noised lies on a multiple, the nearest one."""
    sums = [torch.full((2, 3), 10.0), torch.full((2, 1), -5.0)]
    DpSgd().add_noise(sums, [0.5, 2.0], [4, 8], "key", "noise.body", [3, 1], 2, 6)
    drawn = np.empty((2, 4))
    fill_normals(drawn, ["key"] * 2, "noise.body", [3, 1], 2, 6)
    for lane, scale in enumerate([0.125, 0.25]):
        exact = np.array([10, 10, 10, -5]) + scale * drawn[lane]
        noised = torch.cat([sums[0][lane], sums[1][lane]]).double().numpy()
        step = scale * 2.0**-16
        assert (noised % step == 0).all()
        assert np.abs(noised - exact).max() <= step / 2


def test_no_noise_changes_no_bit():
    sums = torch.randn(3, 4)
    before = sums.clone()
    DpSgd().add_noise([sums], [0.0] * 3, [4, 4, 2], 0, "noise.model", [0, 1, 2], 1, 0)
    assert torch.equal(sums, before)


def test_a_clinics_noise_does_not_depend_on_the_others_in_the_call():
    together = noise([4, 0, 2, 7])
    for lane, clinic in enumerate([4, 0, 2, 7]):
        np.testing.assert_array_equal(noise([clinic])[0], together[lane])


def test_no_two_parts_steps_rounds_clinics_or_seeds_share_noise():
    drawn = [
        noise([clinic], server_round, step, purpose, seed=seed)[0]
        for clinic, server_round, step, purpose, seed in product(
            (0, 1), (1, 2), (0, 1), ("noise.head", "noise.body", "noise.tail"), (0, 1)
        )
    ]
    values = np.concatenate(drawn)
    assert len(np.unique(values)) > 0.99 * len(values)
    correlation = np.corrcoef(drawn) - np.eye(len(drawn))
    assert np.abs(correlation).max() < 5 / len(drawn[0]) ** 0.5


PARTS = [("fedavg", None, 1), ("splitfed-v1", "vanilla", 2), ("splitfed-v1", "u-shaped", 3)]


@pytest.mark.parametrize(("strategy", "cut", "parts"), PARTS)
@pytest.mark.parametrize(("sigma", "clip"), [(0.8, 0.5), (3.0, 1.0)])
def test_parts_share_the_clip_and_the_noise_is_worth_sigma(ragged, strategy, cut, parts, sigma, clip):
    spec = run_spec(ragged, strategy, cut, {**DP_SGD, "noise-multiplier": sigma, "clip": clip})
    plan, _federation = plan_of(spec)
    job = plan.job
    assert len(job.parts) == parts
    assert job.dp.part_clip == pytest.approx(clip / parts**0.5, rel=1e-15)
    assert job.dp.noise_std == pytest.approx([sigma * clip] * 4, rel=1e-15)
    # One record moves the joint vector of all parts by at most the clip.
    assert (parts * job.dp.part_clip**2) ** 0.5 == pytest.approx(clip, rel=1e-12)
    assert DpSgd().noise_of_a_step(job.dp.part_clip, job.dp.noise_std[0], parts) == pytest.approx(sigma, rel=1e-12)


def test_effective_noise_multiplier_by_hand():
    assert DpSgd().noise_of_a_step(1.0, 2.0, 1) == pytest.approx(2.0)
    assert DpSgd().noise_of_a_step(1.0, 2.0, 4) == pytest.approx(1.0), "every part at the full clip halves the noise"
    assert DpSgd().noise_of_a_step(0.5, 2.0, 4) == pytest.approx(2.0)
    assert DpSgd().noise_of_a_step(float("inf"), 0.0, 3) == 0.0


@pytest.mark.parametrize(("strategy", "cut", "parts"), PARTS)
def test_a_training_step_clips_to_the_parts_share_and_noises_the_sum(ragged, strategy, cut, parts):
    """With a learning rate of 1, the step taken by each part is its clipped, noised gradient."""
    sigma, clip = 0.8, 1e-3
    spec = run_spec(ragged, strategy, cut, {**DP_SGD, "noise-multiplier": sigma, "clip": clip}, learning_rate=1.0)
    plan, _federation = plan_of(spec)
    job = plan.job
    for part in job.parts:
        torch.manual_seed(0)
        width = part.shapes()[next(iter(part.shapes()))][1]
        before = {name: torch.randn(1, *shape) for name, shape in part.shapes().items()}
        trainer = trainer_for(job, part, [2], {name: value.clone() for name, value in before.items()})
        outputs = trainer.forward(torch.randn(1, 1, width))
        trainer.backward(5, 3, np.array([8]), torch.ones_like(outputs))
        drawn = np.empty((1, part.parameter_count()))
        fill_normals(drawn, [job.key], f"noise.{part.name}", [2], 5, 3)
        moved = torch.cat([(before[n] - trainer.parameters[n]).flatten() for n in part.shapes()]).double()
        clipped = moved * 8 - torch.from_numpy(drawn[0]) * sigma * clip
        assert float(clipped.norm()) == pytest.approx(clip / parts**0.5, rel=1e-2)
        assert trainer.noised_steps.tolist() == [1]
