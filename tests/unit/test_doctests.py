"""The examples in docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

import wscore

ROOT = Path(wscore.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    for path in ROOT.glob("**/*.py")
    if "\n    >>> " in path.read_text(encoding="utf-8")
)
#: Public names without an example: they need published models or a recorded zoo; tests/examples runs those.
WITHOUT = {name for name in wscore.HOMES if name.startswith("Published")} | {
    "WeightAutoencoder", "WeightEncoder", "Zoo", "nowcast", "record",
}  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_a_module(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed


def test_public_names_have_examples() -> None:
    documented = {name for name in wscore.HOMES if ">>> " in (getattr(wscore, name).__doc__ or "")}
    assert documented == set(wscore.HOMES) - WITHOUT


def test_there_are_many() -> None:
    finder = doctest.DocTestFinder()
    examples = [test for module in MODULES for test in finder.find(importlib.import_module(module)) if test.examples]
    assert len(examples) >= 25
