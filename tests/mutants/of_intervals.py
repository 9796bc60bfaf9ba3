"""Mutants of intervals and of what is said of differences."""

from .trial import Mutant

OF = "tests/sim/test_inference.py::"

INTERVALS = (
    Mutant(
        "seeds count as new patients",
        "sim/inference/evidence.py",
        "explained = alone / count - (patients * count**2 - alone) / (count * (count - 1))",
        "patients, explained = alone / count**2, alone / count",
        (f"{OF}test_splitting_the_same_patients_again_adds_little",),
    ),
    Mutant(
        "records of a patient count as patients",
        "sim/inference/evidence.py",
        "patient = patient if same_patients else patient * len(seeds) + seed",
        "patient = np.arange(len(patient))",
        (f"{OF}test_splitting_the_same_patients_again_adds_little",),
    ),
    Mutant(
        "a variance of few patients is not unbiased",
        "sim/inference/scores.py",
        "factor = np.where(several, np.sqrt(patients / (patients - 1.0))[cell], 1.0)",
        "factor = np.ones(len(cell))",
        (f"{OF}test_the_variance_of_an_auc_and_of_a_difference_is_delongs",),
    ),
    Mutant(
        "pairs are tested one by one",
        "sim/inference/differences.py",
        "level = shared_level(covariance, contrasts) * len(contrasts) / pairs",
        "level = LEVEL",
        (f"{OF}test_all_pairs_hold_together_as_tukeys_do",),
    ),
    Mutant(
        "no conclusion is called equal",
        "sim/inference/differences.py",
        "if abs(mean) + half_width <= margin:",
        "if abs(mean) <= margin:",
        (f"{OF}test_three_verdicts",),
    ),
    Mutant(
        "seeds that share patients are taken for independent",
        "sim/inference/evidence.py",
        "weight=1 / count + self.ratio,",
        "weight=1 / count,",
        (f"{OF}test_without_predictions_an_interval_is_nadeau_and_bengios",),
    ),
    Mutant(
        "clinics that were held out do not vary",
        "sim/inference/hospitals.py",
        "proposed = max(0.0, between + step)",
        "proposed = 0.0",
        (f"{OF}test_random_effects_are_those_published_for_the_vaccine_trials",),
    ),
    Mutant(
        "a baseline is called the best",
        "sim/report/compare.py",
        "chosen = joined if len(joined) else scored",
        "chosen = scored",
        ("tests/sim/test_compare.py::test_baselines_are_compared_with_and_never_called_the_best",),
    ),
)
