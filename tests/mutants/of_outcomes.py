"""Mutants of amounts and of times to an event."""

from .trial import Mutant

TIMES = "tests/sim/test_survival.py::"
AMOUNTS = "tests/sim/test_amounts.py::"

OUTCOMES = (
    Mutant(
        "time: the gradient counts intervals that were not reached",
        "sim/tensor/losses.py",
        "return sigmoid(outputs).sub_(seen).mul_(reached)",
        "return sigmoid(outputs).sub_(seen)",
        (f"{TIMES}test_the_loss_and_its_gradient_are_those_of_the_likelihood",),
    ),
    Mutant(
        "time: an event behind the horizon counts",
        "sim/inference/survival.py",
        "self.event & (self.time <= self.edges[-1])",
        "self.event",
        (f"{TIMES}test_concordance_is_that_of_a_loop_over_pairs",),
    ),
    Mutant(
        "time: who is censored survives the whole interval",
        "sim/data/labels.py",
        'np.searchsorted(middles, time, side="right")',
        'np.searchsorted(np.append(0.0, ends[:-1]), time, side="right")',
        (f"{TIMES}test_a_label_holds_interval_and_event",),
    ),
    Mutant(
        "time: squared errors are not weighted for censoring",
        "sim/inference/survival.py",
        "censoring = kaplan_meier(times.time, ~times.event)\n    return _integrated",
        "censoring = np.array([]), np.array([])\n    return _integrated",
        (f"{TIMES}test_weights_for_censoring_undo_it",),
    ),
    Mutant(
        "amount: deviations within clinics are from the mean of all",
        "sim/inference/amounts.py",
        "_share(rest, deviations(amount, clinic))",
        "_share(rest, amount - amount.mean())",
        (f"{AMOUNTS}test_clinics_that_are_told_by_their_means_have_no_r2_within",),
    ),
    Mutant(
        "amount: a label is planned as one byte",
        "sim/plan/counts.py",
        "return form_bytes(label_form(self.job))",
        "return 1",
        (f"{AMOUNTS}test_split_and_federated_learning_agree_and_labels_have_four_bytes",),
    ),
    Mutant(
        "the grade itself is not reached",
        "sim/tensor/losses.py",
        "(places <= grade).to",
        "(places < grade).to",
        ("tests/sim/test_grades.py::test_loss_gradient_and_probabilities_belong_together",),
    ),
    Mutant(
        "pairs of grades two apart are left out",
        "sim/inference/grades.py",
        "    for low, high in combinations(np.unique(grade).tolist(), 2):",
        "    for low, high in zip(*[(u := np.unique(grade).tolist())[:-1], u[1:]], strict=True):",
        ("tests/sim/test_grades.py::test_scores_are_those_by_hand_and_of_scikit_learn",),
    ),
    Mutant(
        "predicted times are rounded to 32 bits",
        "sim/tensor/scoring.py",
        "    kept_as = np.float64",
        "    kept_as = np.float32",
        ("tests/sim/test_survival.py::test_small_risks_that_are_nearly_the_same_are_ranked",),
    ),
)
