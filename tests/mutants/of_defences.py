"""Mutants of the defences without an epsilon."""

from .trial import Mutant

DEFENCES = "tests/strategies/test_defences.py::"
UPDATES = "tests/strategies/test_compressed_updates.py::"
EIGHT_BITS = "tests/strategies/test_smashed_dtype.py::"

UNPROMISED = (
    Mutant(
        "NoPeek is let pass under DP-SGD",
        "sim/plan/refusals.py",
        'if spec.privacy.noises_gradients:\n        return [\n            f"{key} the distance',
        'if False:\n        return [\n            f"{key} the distance',
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
        'head = Part("head", (*parts[0].blocks, block))',
        'head = Part("head", (*parts[0].blocks[:1], block, *parts[0].blocks[1:]))',
        (f"{DEFENCES}test_clipped_rows_keep_their_bound_behind_dropout",),
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
        "clients/compressing.py",
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
)
