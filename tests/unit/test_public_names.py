"""Public names are there when asked for, and cost nothing before."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import wscore

HEAVY = {"torch", "numpy", "pandas", "mlflow", "matplotlib", "sklearn", "datasets", "huggingface_hub"}


@pytest.mark.parametrize("name", sorted(wscore.HOMES))
def test_a_public_name_is_that_of_its_module(name: str) -> None:
    assert getattr(wscore, name) is getattr(import_module(wscore.HOMES[name]), name)
    assert name in dir(wscore)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(wscore.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == wscore.HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Zooo'.*Zoo"):
        wscore.Zooo  # noqa: B018


def test_the_package_alone_loads_nothing_heavy() -> None:
    code = "import sys, wscore; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(result.stdout.split()) & HEAVY


def test_a_former_name_still_works_and_says_so() -> None:
    with pytest.warns(DeprecationWarning, match="wscore.accelerate is called wscore.nowcast now"):
        assert wscore.accelerate is wscore.nowcast
