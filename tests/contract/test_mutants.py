"""The table of mutants keeps up with the code."""

import pytest

from tests.contract.imports import ROOT
from tests.mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.right[:40]}")
def test_the_right_line_occurs_once_and_its_tests_exist(mutant: Mutant) -> None:
    text = (ROOT / "wscore" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.right) == 1
    assert mutant.wrong != mutant.right
    assert (ROOT / "tests" / mutant.tests).is_file()
