"""Mutants of what bounds one record's and one clinic's contribution, whatever its values."""

from .of_noise import CLINIC, CLIPPING, EXTREME, MEASURED, ROW_NOISE, SERVER_GRID
from .trial import Mutant

OVERFLOW = (f"{EXTREME}test_dp_sgd_is_moved_by_no_more_than_one_clipped_gradient",)
ROWS_MOVE = (f"{EXTREME}test_rows_move_by_twice_the_clip_and_no_other_row_does",)
JOINT = ("tests/strategies/test_joint_clipping.py::test_each_record_is_clipped_as_in_a_network_in_one_piece",)
UNDER = (f"{EXTREME}test_what_lies_under_the_noise_is_within_the_clip",)
DIVERGED = (f"{EXTREME}test_clinic_level_is_moved_by_no_more_than_twice_the_clip",)
FACTORS = "factors = (clip / norms).clamp(max=1.0)"

CLIPS = (
    Mutant(
        "no clip in a dense part",
        "sim/tensor/dense.py",
        "sums(clip_factors(squared, clip, normaliser))",
        "sums(torch.ones_like(squared))",
        MEASURED,
    ),
    Mutant(
        "no clip in any other part",
        "sim/tensor/passes.py",
        "sums(clip_factors(squared, clip, normaliser))",
        "sums(torch.ones_like(squared))",
        OVERFLOW,
    ),
    Mutant(
        "clip after noise",
        "sim/tensor/trainer.py",
        "        self.noised_steps[:at_work] += 1",
        "        norms = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()\n"
        "        for g in grads:\n"
        "            scale = (lanes[0].clip / norms / self._tensor(normaliser)).clamp(max=1.0)\n"
        "            g *= scale.view(-1, *[1] * (g.dim() - 1))\n"
        "        self.noised_steps[:at_work] += 1",
        MEASURED,
    ),
    Mutant(
        "each part at the full clip",
        "sim/privacy/mechanisms/dp_sgd.py",
        "privacy.clip if joint else privacy.clip / parts**0.5",
        "privacy.clip",
        MEASURED,
    ),
    Mutant(
        "norms without the biases",
        "sim/tensor/dense.py",
        "(a.square().sum(-1) + 1)",
        "a.square().sum(-1)",
        ("tests/sim/test_clipping.py::test_clipped_sums_equal_opacus",),
    ),
    Mutant(
        "a convolution's norms without the biases",
        CLIPPING,
        "squared = squared + bias_each.square().sum(-1)",
        "squared = squared + 0",
        ("tests/sim/test_lanes.py::test_clipped_gradients_of_any_module_equal_a_loop_over_records",),
    ),
    Mutant(
        "joint clipping forgets the clinic's norms",
        "sim/methods/turn.py",
        "squared = squared + padded(self._exchange.ask(held).payload[Kind.NORMS], width)",
        "self._exchange.ask(held)",
        ("tests/sim/test_lanes_of_runs.py::test_a_turn_without_messages_is_the_turn_with_them",),
    ),
    Mutant(
        "joint clipping without messages forgets the clinic's norms",
        "sim/methods/turn_training.py",
        "joint_factors(at_server + at_clinic,",
        "joint_factors(at_server + 0 * at_clinic.nan_to_num(0, 0, 0),",
        JOINT,
    ),
    Mutant(
        "the clip does not know the batch",
        CLIPPING,
        "_at_most_one((squared.sqrt() * normaliser[:, None]).reciprocal() * clip)",
        "_at_most_one(squared.sqrt().reciprocal() * clip)",
        MEASURED,
    ),
    Mutant(
        "a gradient that is no number counts",
        CLIPPING,
        "torch.where(factors >= 0, factors.clamp(max=1.0), 0.0)",
        "factors.clamp(max=1.0)",
        OVERFLOW,
    ),
    Mutant("zero times infinity", CLIPPING, "    if not dropped.any():", "    if True:", OVERFLOW),
    Mutant(
        "smashed rows not clipped",
        "sim/methods/cutting.py",
        'math.isfinite(rows.clip["smashed"])',
        "False",
        ROWS_MOVE,
    ),
    Mutant(
        "tail gradients not clipped",
        ROW_NOISE,
        "own = ClipRows(job.rows.clip[kind], job.rows.mechanism.norm).over(own, 2)",
        "own = own + 0",
        UNDER,
    ),
    Mutant(
        "tail gradients clipped as shares of a mean",
        ROW_NOISE,
        "own = ClipRows(job.rows.clip[kind], job.rows.mechanism.norm).over(own, 2)",
        "own = ClipRows(job.rows.clip[kind], job.rows.mechanism.norm).over(rows, 2) * _by_lane(normaliser, rows)",
        UNDER,
    ),
    Mutant(
        "Laplace rows clipped by the other norm",
        "sim/privacy/mechanisms/laplace.py",
        "    norm = 1\n",
        "    norm = 2\n",
        ROWS_MOVE,
    ),
    Mutant(
        "a row that is no number is not zero",
        "sim/models/clip.py",
        "flat, size = torch.where(finite, flat, 0.0), torch.where(finite, size, 0.0)",
        "flat, size = flat + 0, size + 0",
        (f"{EXTREME}test_a_row_whose_norm_is_no_number_is_zero",),
    ),
    Mutant(
        "records not clamped",
        "sim/data/federation.py",
        "np.clip(x.astype(np.float32, copy=False), -LARGEST, LARGEST), {}",
        "x.astype(np.float32, copy=False), {}",
        (f"{EXTREME}test_without_a_mechanism_an_extreme_record_is_clamped",),
    ),
    Mutant(
        "records not clamped to their ranges",
        "sim/data/federation.py",
        "np.clip(x[start:stop].astype(np.float64, copy=False), low, high)",
        "x[start:stop].astype(np.float64, copy=False)",
        (f"{EXTREME}test_scaled_records_are_within_public_bounds",),
    ),
    Mutant(
        "standardised records not clamped",
        "sim/data/federation.py",
        "np.clip((x[start:stop] - own.mean(axis=0)) / deviation, -LARGEST, LARGEST)",
        "(x[start:stop] - own.mean(axis=0)) / deviation * 1e7",
        (f"{EXTREME}test_scaled_records_are_within_public_bounds",),
    ),
    Mutant(
        "an update that is no number counts",
        "sim/privacy/mechanisms/clinic_level.py",
        "torch.where(finite.view(by_clinic), update * factors.view(by_clinic), 0.0)",
        "update * factors.view(by_clinic)",
        DIVERGED,
    ),
    Mutant(
        "a clinic that diverges ends the run",
        "sim/methods/replies.py",
        'may_diverge = forms.job.spec.privacy.unit == "clinic"',
        "may_diverge = False",
        DIVERGED,
    ),
    Mutant(
        "rows that are no numbers end the run",
        "sim/methods/forms.py",
        "if not job.shielded or not rows.is_floating_point():",
        "if True:",
        (*OVERFLOW, *DIVERGED),
    ),
    Mutant(
        "updates not clipped",
        "sim/privacy/mechanisms/clinic_level.py",
        "factors = (clip / norms).clamp(max=1.0)",
        "factors = torch.ones_like(norms)",
        (f"{CLINIC}test_one_clinic_moves_the_sum_by_the_clip_at_most_whatever_its_records",),
    ),
    Mutant(
        "clinics of unequal weight in a noised sum",
        "sim/privacy/mechanisms/clinic_level.py",
        "factors = (clip / norms).clamp(max=1.0)",
        "factors = (clip / norms).clamp(max=1.0) * torch.arange(1.0, len(norms) + 1)",
        (f"{CLINIC}test_one_clinic_moves_the_sum_by_the_clip_at_most_whatever_its_records",),
    ),
    Mutant(
        "the noised sum over those who came back",
        "sim/privacy/mechanisms/clinic_level.py",
        "mean[name] = total / clinics",
        "mean[name] = total / len(norms)",
        SERVER_GRID,
    ),
    Mutant(
        "the adaptive clip's sign",
        "sim/privacy/mechanisms/clinic_level.py",
        "math.exp(min(max(-adaptive.rate",
        "math.exp(min(max(adaptive.rate",
        (f"{CLINIC}test_a_step_of_the_clip_by_hand",),
    ),
)
