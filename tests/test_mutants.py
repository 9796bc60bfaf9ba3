"""No mutant of the list survives (make long); that each still fits the code is told at once."""

import pytest
from mutants.listed import MUTANTS
from mutants.trial import ROOT, copied_tree, tried


def test_at_least_sixty_are_listed_and_each_fits_the_code() -> None:
    assert len(MUTANTS) >= 60
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        text = (ROOT / mutant.file).read_text(encoding="utf-8")
        assert mutant.mutated(text) != text
        for test in mutant.tests:
            path, _, name = test.partition("::")
            assert f"def {name.split('[')[0]}(" in (ROOT / path).read_text(encoding="utf-8"), test


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_is_noticed(mutant, tmp_path) -> None:
    with copied_tree(tmp_path) as tree:
        assert tried(tree, mutant) == "killed"
