"""Mutants of who trains and who is held out."""

from .trial import Mutant

HELD_OUT = "tests/sim/test_held_out_clinics.py::"
STRANGERS = (f"{HELD_OUT}test_no_value_of_a_held_out_clinic_moves_the_model",)

SPLITS = (
    Mutant(
        "a held-out patient trains elsewhere",
        "sim/data/federation.py",
        "records = held_out | ~split.of_same_patients(table, held_out)",
        "records = held_out | ~held_out",
        (f"{HELD_OUT}test_no_record_of_a_held_out_patient_trains",),
    ),
    Mutant(
        "pooled statistics see held-out clinics",
        "sim/data/federation.py",
        "own = x[start:stop][train[start:stop]]",
        "own = x[start:stop]",
        STRANGERS,
    ),
    Mutant(
        "a stranger is told the last clinic's probabilities",
        "sim/tensor/evaluation.py",
        "total = sum(self._scorer.predicted(self._logits(one, self._x)) for one in each)",
        "*_, total = (models * self._scorer.predicted(self._logits(one, self._x)) for one in each)",
        (f"{HELD_OUT}test_a_stranger_is_predicted_by_the_mean_of_the_clinics_models",),
    ),
    Mutant(
        "a clinic's line depends on who takes part",
        "sim/plan/plan.py",
        "assign_resources(groups_at(spec, facts), facts.everyone, spec.seed, set(facts.names))",
        "assign_resources(groups_at(spec, facts), facts.names, spec.seed, set(facts.names))",
        (f"{HELD_OUT}test_a_clinic_has_the_same_line_whoever_takes_part",),
    ),
    Mutant(
        "levels of held-out records alone count",
        "sim/data/federation.py",
        "if not untrained:",
        "if untrained:",
        ("tests/sim/test_data_as_they_are.py::test_a_level_that_no_training_record_has_is_as_if_not_stated",),
    ),
    Mutant(
        "clinics of just enough records are left out",
        "sim/data/split.py",
        "large = sizes >= (spec.min_records or 0)",
        "large = sizes > (spec.min_records or 0)",
        ("tests/sim/test_clinics_in_use.py::test_clinics_with_fewer_records_are_left_out_and_counted",),
    ),
)
