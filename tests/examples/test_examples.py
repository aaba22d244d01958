"""The examples run from top to bottom, and print what they promise."""

import json
import re
import runpy
from pathlib import Path

import matplotlib as mpl
import pytest

from tests.contract.imports import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:unlike the networks")]  # examples say so themselves
PRINTED = {
    "compress": (r"\d+ weights, \d+ bytes", r"accuracy \[0\.\d+, 0\.\d+\]", r"agreement [01]\.\d{3}"),
    "predict_accuracy": (
        r"run-\d+-\d: predicted -?\d\.\d{3} (\[.+, .+\]|unlike the training networks), true 0\.\d{3}",
    ),
    "forecast": (r"seed-1: 1 steps ahead, skill -?\d+\.\d{3}",),
}


def test_every_script_is_tested() -> None:
    assert {path.stem for path in ROOT.glob("examples/*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_a_script_prints_its_result(name: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    runpy.run_path(str(ROOT / f"examples/{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for pattern in PRINTED[name]:
        assert re.search(pattern, printed), printed


def test_the_notebook_runs(workplace: Path) -> None:
    cells = json.loads((ROOT / "examples/explore_zoo.ipynb").read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells), "clear the outputs"
    mpl.use("Agg")
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "explore_zoo.ipynb", "exec"), names)
    mpl.pyplot.close("all")
    distances = names["distances"]
    assert distances[0] == 0.0
    assert (distances[1:] > 0).all()
