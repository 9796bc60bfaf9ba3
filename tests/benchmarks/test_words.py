"""What a report says of made-up studies with known truth; the whole measurement is ``python -m benchmarks.words``."""

from dataclasses import replace

import pytest

from benchmarks.words import BETTER, LABELS, LAW, TRAP, conclusions, faults, gaps, judged, study_of, told

STUDIES = 15


@pytest.mark.slow
def test_words_are_right_and_complete():
    found = [judged(LAW, seed) for seed in range(STUDIES)]
    assert sum(bool(wrong) for wrong, _ in found) == 0
    assert sum(bool(lacking) for _, lacking in found) <= 1


def test_where_little_can_be_shown_nothing_false_is_said():
    small = replace(LAW, seeds=5, patients=740, clinics=4, apart=0.4, noise=0.004)
    found = [judged(small, seed) for seed in range(STUDIES)]
    assert sum(bool(wrong) for wrong, _ in found) <= 1
    assert sum(bool(lacking) for _, lacking in found) > STUDIES / 2


def test_faults_and_gaps_are_seen():
    said = told(
        f"{LABELS[TRAP]} has the highest within-clinic AUC: .9. It is better than the other 4 (the nearest: a)."
    )
    assert len(faults(said)) == 3
    assert len(gaps(said, LABELS[BETTER])) == 5


@pytest.mark.parametrize(
    ("tuned", "words"), [({}, "No method was tuned"), ({"tuned.x": 1.0}, "Every method was tuned")]
)
def test_what_was_tuned_is_said(tuned, words):
    level, scope = conclusions(study_of(replace(LAW, patients=200), 0, **tuned))[-1]
    assert level == ""
    assert words in scope
