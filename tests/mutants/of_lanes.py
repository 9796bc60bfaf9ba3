"""Mutants of runs that share a program, and of turns without messages."""

from .trial import Mutant

LANES = "tests/sim/test_lanes_of_runs.py::"

SHARED = (
    Mutant(
        "products by whatever library is quicker",
        "sim/tensor/dense.py",
        "if worth and (not turned or _by_rows(x.mT)) and _alike(rows, inner, columns, x.dtype, turned=turned):",
        "if lanes >= _MANY:",
        ("tests/sim/test_lanes.py::test_a_lane_of_dense_layers_has_its_bits_beside_any_number_of_others",),
    ),
    Mutant(
        "lanes come back in another order than they were taken",
        "sim/tensor/trainer.py",
        "list(torch.split(value[place], sizes))",
        "list(torch.split(value, sizes))",
        (f"{LANES}test_runs_in_lockstep_are_bit_for_bit_what_they_are_alone",),
    ),
    Mutant(
        "a batch of another width is not apart",
        "sim/methods/feed.py",
        "for each in np.unique(widths).tolist():",
        "for each in np.unique(widths).tolist()[:1]:",
        (f"{LANES}test_batches_of_many_widths_round_as_they_do_alone",),
    ),
    Mutant(
        "the sigmoid's last values are left over",
        "sim/tensor/losses.py",
        "(0, -values % _VECTORS)",
        "(0, 0)",
        (f"{LANES}test_a_logistic_model_with_one_output_is_the_same_beside_others",),
    ),
    Mutant(
        "a turn without messages counts padding",
        "sim/flower/simulation.py",
        "drawn.rows[some].sum(0)",
        "drawn.rows[some].max(1, keepdims=True).repeat(len(clinics), 1).sum(0)",
        (f"{LANES}test_a_turn_without_messages_is_the_turn_with_them",),
    ),
    Mutant(
        "a turn without messages hides no protected row",
        "clients/session.py",
        "                count += torch.from_numpy(done)",
        "                pass",
        (f"{LANES}test_a_turn_without_messages_is_the_turn_with_them",),
    ),
    Mutant(
        "clinics may open a turn for a server far away",
        "clients/admission.py",
        "here.with_server or not isinstance(asked, Open)",
        "True",
        ("tests/clients/test_hostile_instructions.py::test_a_turn_without_messages_is_refused_elsewhere",),
    ),
)
