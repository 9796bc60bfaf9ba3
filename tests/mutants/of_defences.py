"""Mutants of the defences without an epsilon."""

from .trial import Mutant

DEFENCES = "tests/strategies/test_defences.py::"
UPDATES = "tests/strategies/test_compressed_updates.py::"
HOSTILE = "tests/strategies/test_hostile_clinics.py::"
SPARSE = "tests/strategies/test_sparse_rows.py::"
EIGHT_BITS = "tests/strategies/test_smashed_dtype.py::"

UNPROMISED = (
    Mutant(
        "NoPeek is let pass under DP-SGD",
        "sim/plan/refusals.py",
        "train.nopeek\n        and privacy.noises_gradients",
        "False",
        (f"{DEFENCES}test_it_is_refused_where_it_can_do_nothing_or_breaks_a_guarantee",),
    ),
    Mutant(
        "padding counts in the distance correlation",
        "sim/tensor/nopeek.py",
        "+ overall) * pairs",
        "+ overall)",
        (f"{DEFENCES}test_value_and_gradient_are_those_of_all_pairs_and_padding_counts_for_nothing",),
    ),
    Mutant(
        "NoPeek pulls towards the records",
        "sim/tensor/trainer.py",
        "cotangent = cotangent + in_outputs",
        "cotangent = cotangent - in_outputs",
        (f"{DEFENCES}test_a_clinic_trains_with_the_distance_correlation_in_its_loss",),
    ),
    Mutant(
        "dropout behind the clip",
        "sim/methods/cutting.py",
        "longer = replace(parts[place], blocks=(*parts[place].blocks, block))",
        "longer = replace(parts[place], blocks=(*parts[place].blocks[:1], block, *parts[place].blocks[1:]))",
        (f"{DEFENCES}test_clipped_rows_keep_their_bound_behind_dropout",),
    ),
    Mutant(
        "the gradient comes back at other places than were sent",
        "sim/tensor/cut_rows.py",
        "places = self.places(rows) if at is None else at\n        values",
        "places = self.places(rows)\n        values",
        (f"{SPARSE}test_one_clinic_trains_as_a_loop_by_hand_and_is_scored_with_sparse_rows",),
    ),
    Mutant(
        "the body's outputs cross whole",
        "sim/methods/cutting.py",
        "for place in range(len(parts) - 1):",
        "for place in range(1):",
        (f"{SPARSE}test_one_clinic_trains_as_a_loop_by_hand_and_is_scored_with_sparse_rows",),
    ),
    Mutant(
        "noised rows are thinned out",
        "sim/plan/refusals.py",
        "train.smashed_top_k < 1\n        and on_rows(privacy) is not None",
        "False",
        (f"{SPARSE}test_noised_rows_cross_whole_and_it_is_said",),
    ),
    Mutant(
        "a block of 8 bits overflows",
        "sim/tensor/rows.py",
        "exponent - (fraction == 0.5).int()",
        "exponent - 1",
        (f"{EIGHT_BITS}test_what_crosses_in_8_bits_is_the_nearest_multiple_of_a_power_of_two_that_a_row_shares",),
    ),
    Mutant(
        "what is not finite crosses in 8 bits as a number",
        "sim/tensor/rows.py",
        ".masked_fill(exponent == NO_NUMBER, torch.nan)",
        "",
        (f"{EIGHT_BITS}test_the_largest_and_the_least_numbers_cross_in_8_bits_and_what_is_none_stays_none",),
    ),
    Mutant(
        "what compression leaves out is forgotten",
        "clients/updates.py",
        " + left[lanes]",
        "",
        (f"{UPDATES}test_federated_averaging_with_memory_is_that_of_the_paper",),
    ),
    Mutant(
        "a hostile clinic names a place of an update twice",
        "sim/methods/compression.py",
        "inside and bool((places.diff(dim=-1) > 0).all())",
        "inside",
        ("tests/strategies/test_hostile_replies.py::test_a_hostile_reply_ends_the_run",),
    ),
    Mutant(
        "a hostile clinic names a place of a row twice",
        "sim/methods/forms.py",
        "places_fault(places, math.prod(self.job.row_shapes[kind]))",
        '""',
        ("tests/strategies/test_hostile_replies.py::test_a_hostile_reply_ends_the_run",),
    ),
    Mutant(
        "flipped labels are the true ones",
        "sim/methods/node_group.py",
        "if k in flipped else y",
        "if False else y",
        (f"{HOSTILE}test_flipped_labels_are_those_of_records_with_the_other_class",),
    ),
    Mutant(
        "honest clinics send noisy rows too",
        "sim/methods/row_noise.py",
        "        if kind == ROW_NOISE:",
        "        if True:\n            strength = strength or 5.0",
        (f"{HOSTILE}test_noisy_rows_are_the_hostile_clinic_s_alone_and_as_noisy_as_stated",),
    ),
)
