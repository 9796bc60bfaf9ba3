"""Mutants of how noise is keyed, drawn, scaled and put on a grid."""

from .trial import Mutant

APART = "tests/strategies/test_noise_apart.py::"
WIRE = "tests/strategies/test_wire.py::"
EACH = f"{WIRE}test_each_byte_is_listed_or_public_or_constant"
ATTACK = "tests/strategies/test_float_attack.py::"
EXTREME = "tests/strategies/test_extreme_records.py::"
MISTAKES = "tests/strategies/test_privacy_mistakes.py::"
MEASURED = (f"{MISTAKES}test_what_is_measured_is_what_the_ledger_claims",)
RUNS = (f"{APART}test_no_two_runs_share_noise",)
SECRETS = (f"{APART}test_no_two_runs_share_answers_or_secret_batches",)
KEY = (f"{APART}test_the_key_is_of_settings_and_records_and_no_digest_of_the_settings_gives_it",)
PLACES = (f"{APART}test_kinds_clinics_rounds_and_steps_have_noise_of_their_own",)
PARTS = (f"{APART}test_parts_clinics_rounds_and_steps_have_noise_of_their_own",)
COLUMNS = (f"{APART}test_columns_and_rows_have_noise_of_their_own",)
COUNT = (f"{APART}test_the_count_within_the_clip_has_noise_apart_from_the_update",)
SERVER_GRID = (f"{ATTACK}test_what_the_server_noises_lies_on_a_public_grid_too",)
ROWS_ALONE = (f"{EACH}[smashed-noise-splitfed-v1-u-shaped-two nodes, frozen ends, public labels]",)
SUMS = (f"{EACH}[dp-sgd-splitfed-v1-u-shaped-one node, batches of 4]",)
CLINIC = "tests/strategies/test_clinic_level.py::"
MECHANISMS = "sim/privacy/mechanisms"
ROW_NOISE, CLIPPING = "sim/methods/row_noise.py", "sim/tensor/clipping.py"
ROWS_NOISED, SMASHED, LAPLACE = f"{MECHANISMS}/noises.py", f"{MECHANISMS}/smashed_noise.py", f"{MECHANISMS}/laplace.py"
GRADIENTS, LEVEL = f"{MECHANISMS}/dp_sgd.py", f"{MECHANISMS}/clinic_level.py"
NORMAL = "random.standard_normal(shape)"
PHILOX = "= [0, step, server_round, clinic]"

KEYS = (
    Mutant(
        "noise is keyed by the seed",
        "sim/methods/job.py",
        "run_key(spec.digest, facts),",
        'f"seed-{spec.seed}",',
        RUNS,
    ),
    Mutant(
        "the key is the published digest",
        "sim/data/facts.py",
        'f"{digest}/{facts.fingerprint}"',
        'f"{digest}"',
        KEY,
    ),
    Mutant(
        "the key leaves out the settings",
        "sim/data/facts.py",
        'f"{digest}/{facts.fingerprint}"',
        'f"{facts.fingerprint}"',
        KEY,
    ),
    Mutant(
        "the key leaves out features",
        "sim/data/federation.py",
        "for array in (part.x, part.y, part.offsets, part.measured):",
        "for array in (part.y, part.offsets, part.measured):",
        KEY,
    ),
    Mutant(
        "the run's id leaves out the data",
        "sim/scenario/spec.py",
        'content["data"]["path"] = data_sha256',
        'content["data"]["path"] = ""',
        ("tests/sim/test_spec.py::test_run_id_follows_the_bytes_of_a_data_file_and_not_its_place",),
    ),
    Mutant(
        "secret batches are keyed by the seed",
        "sim/methods/job.py",
        "return self.key if self.sampling.poisson else self.seed",
        "return self.seed",
        SECRETS,
    ),
    Mutant(
        "answers are keyed by the seed",
        "sim/methods/node_group.py",
        "answers(y, of.uniform, of.classes, job.key, k)",
        "answers(y, of.uniform, of.classes, str(job.seed), k)",
        SECRETS,
    ),
    Mutant(
        "updates' noise is keyed by the seed",
        "sim/methods/averaging.py",
        "state.clip, multiplier, job.key, server_round)",
        "state.clip, multiplier, str(job.seed), server_round)",
        RUNS,
    ),
    Mutant(
        "rows' noise is keyed by the seed",
        "sim/methods/row_noise.py",
        ".numpy(), kind, job.key,",
        ".numpy(), kind, str(job.seed),",
        RUNS,
    ),
    Mutant(
        "gradients' noise is keyed by the seed",
        "sim/tensor/trainer.py",
        "[lane.key for lane in lanes]",
        "[str(lane.seed) for lane in lanes]",
        RUNS,
    ),
    Mutant(
        "Flower's noise is keyed by the seed",
        "sim/flower/imported.py",
        "seeded_globals(self._job.key, server_round)",
        "seeded_globals(self._job.seed, server_round)",
        (f"{APART}test_flowers_own_noise_is_the_runs",),
    ),
    Mutant("steps share noise", "sim/foundation/rng.py", PHILOX, "= [0, 0, server_round, clinic]", PLACES),
    Mutant("rounds share noise", "sim/foundation/rng.py", PHILOX, "= [0, step, 0, clinic]", PLACES),
    Mutant("clinics share noise", "sim/foundation/rng.py", PHILOX, "= [0, step, server_round, 0]", PLACES),
    Mutant("purposes share noise", "sim/foundation/rng.py", 'f"{key}/{purpose}"', 'f"{key}"', PARTS),
    Mutant(
        "parts share noise",
        "sim/tensor/trainer.py",
        'noise, autocast, f"noise.{part.name}"',
        'noise, autocast, "noise.part"',
        PARTS,
    ),
    Mutant("smashed rows and tail gradients share noise", ROWS_NOISED, 'f"noise.{kind}"', '"noise.rows"', PLACES),
    Mutant("the count shares noise with the update", LEVEL, '"noise.clip-count"', '"noise.update"', COUNT),
)
NORMALS, OF_NORMALS = "sim/foundation/normals.py", "tests/sim/test_normals.py::"
AHEAD = "sim/foundation/ahead.py"
CURVE = (f"{OF_NORMALS}test_draws_are_normal_in_every_part_of_the_curve",)
DRAWS = (
    Mutant("steps share gradients' noise", NORMALS, "int(step) << 40", "0", PARTS),
    Mutant("rounds share gradients' noise", NORMALS, "np.uint32(int(server_round))", "np.uint32(1)", PARTS),
    Mutant(
        "clinics share gradients' noise",
        NORMALS,
        "dtype=np.uint32).astype",
        "dtype=np.uint32).clip(9, 9).astype",
        PARTS,
    ),
    Mutant("normal draws keep points above the curve", NORMALS, "np.where(below, point, other)", "point", CURVE),
    Mutant("normal draws have no tail", NORMALS, "point[tail] = np.copysign(beyond, point[tail])", "", CURVE),
    Mutant(
        "normal draws' point and layer share bits",
        NORMALS,
        "np.bitwise_and(signed, LAYERS - 1",
        "np.bitwise_and(signed >> 11, LAYERS - 1",
        (f"{OF_NORMALS}test_every_draw_is_that_of_a_ziggurat_one_number_at_a_time",),
    ),
    Mutant(
        "what was drawn ahead stands for other draws",
        AHEAD,
        "self._drawing[0][0] != draws",
        "self._drawing[0][0].purpose != draws.purpose",
        ("tests/sim/test_ahead.py::test_draws_come_as_they_are_asked_for_whatever_was_announced",),
    ),
    Mutant(
        "draws are taken before they are made",
        AHEAD,
        "        made.result()\n",
        "",
        ("tests/sim/test_ahead.py::test_what_goes_wrong_while_drawing_ends_the_run",),
    ),
    Mutant(
        "one draw for all columns of a row",
        SMASHED,
        "random.standard_normal(shape)",
        "np.repeat(random.standard_normal((*shape[:-1], 1)), shape[-1], -1)",
        COLUMNS,
    ),
    Mutant(
        "one draw for all rows of a batch",
        SMASHED,
        "random.standard_normal(shape)",
        "np.repeat(random.standard_normal((1, *shape[1:])), shape[0], 0)",
        COLUMNS,
    ),
    Mutant(
        "one draw for a whole sum",
        GRADIENTS,
        "noised *= scale\n",
        "noised *= scale\n        noised[:] = noised[:, :1]\n",
        PARTS,
    ),
    Mutant(
        "noise on the first row alone",
        ROWS_NOISED,
        "drawn *= self.scale(kind, clinic)",
        "drawn *= self.scale(kind, clinic)\n            drawn[1:] = 0",
        ROWS_ALONE,
    ),
    Mutant(
        "noise on rows of half the size",
        ROWS_NOISED,
        "drawn *= self.scale(kind, clinic)",
        "drawn *= self.scale(kind, clinic) / 2",
        ROWS_ALONE,
    ),
    Mutant(
        "Laplace noise is Gaussian",
        LAPLACE,
        "random.laplace(size=shape)",
        "random.standard_normal(shape)",
        (
            "tests/strategies/test_laplace.py::test_rows_lie_within_the_l1_norm_and_the_noise_is_laplace_of_the_stated_scale",
        ),
    ),
    Mutant(
        "rows leave without noise",
        "sim/methods/job.py",
        "return self.rows is not None and kind in self.rows.clip and not self.rows.silent",
        "return False",
        ROWS_ALONE,
    ),
    Mutant(
        "tail gradients leave without noise",
        "sim/methods/job.py",
        "return self.rows is not None and kind in self.rows.clip and",
        'return self.rows is not None and kind == "smashed" and',
        ROWS_ALONE,
    ),
    Mutant(
        "noise in the first lane alone",
        GRADIENTS,
        "noisy = np.flatnonzero(std)",
        "noisy = np.flatnonzero(std)[:1]",
        SUMS,
    ),
    Mutant(
        "noise off for one part",
        "sim/tensor/trainer.py",
        "std, keys = [lane.noise_std for lane in lanes]",
        'std, keys = [lane.noise_std * (self.part.name != "tail") for lane in lanes]',
        SUMS,
    ),
    Mutant(
        "noise off in one layer",
        GRADIENTS,
        "        for value, piece in zip(sums, pieces, strict=True):\n            own_shape",
        "        for value, piece in list(zip(sums, pieces, strict=True))[1:]:\n            own_shape",
        SUMS,
    ),
    Mutant(
        "noise divided by the batch twice",
        GRADIENTS,
        "noised *= scale\n",
        "noised *= scale / np.asarray(normaliser)[noisy][:, None]\n",
        SUMS,
    ),
    Mutant("noise on updates missing", LEVEL, "if noise and clip:", "if False:", SERVER_GRID),
    Mutant("noise on the count missing", LEVEL, "    if noised:\n", "    if False:\n", COUNT),
    Mutant(
        "noise on updates not raised for the count",
        "sim/methods/averaging.py",
        "multiplier = adaptive.update_noise(multiplier)",
        "multiplier = float(multiplier)",
        (f"{CLINIC}test_the_noise_on_updates_is_raised_and_follows_the_clip",),
    ),
)
GRIDS = (
    Mutant(
        "rows on a grid that a record decides",
        ROWS_NOISED,
        "as_codes(drawn + rows[lane, :size], self.grid_step(kind, clinic))",
        "as_codes(drawn + rows[lane, :size], self.grid_step(kind, clinic) * (1 + np.abs(rows[lane]).max()))",
        ROWS_ALONE,
    ),
    Mutant(
        "noised sums off the grid",
        GRADIENTS,
        "        on_grid(noised, scale)\n",
        "",
        (f"{WIRE}test_noised_sums_lie_on_the_public_grid_before_the_optimizer_sees_them",),
    ),
    Mutant(
        "noised updates off the grid",
        LEVEL,
        "torch.from_numpy(on_grid(noised, scale))",
        "torch.from_numpy(noised)",
        SERVER_GRID,
    ),
    Mutant(
        "the noised count off the grid",
        LEVEL,
        "float(on_grid(drawn + centred, adaptive.count_noise)[0])",
        "float((drawn + centred)[0])",
        SERVER_GRID,
    ),
    Mutant(
        "a grid as coarse as the noise",
        "sim/privacy/mechanisms/released.py",
        "ROW_BITS, SUM_BITS = 10, 16",
        "ROW_BITS, SUM_BITS = 10, 2",
        (f"{WIRE}test_noised_sums_lie_on_the_public_grid_before_the_optimizer_sees_them",),
    ),
)
