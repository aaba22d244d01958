"""Who may import whom. The picture is in docs/architecture.md."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.imports import ROOT, imported_files, imported_names

ROWS = (
    ("errors", "config", "interrupt", "io", "late", "lru", "preflight", "presets", "progress", "repro"),
    ("parallel", "pca"),
    ("tracking", "hub", "symmetry", "plots", "evaluation"),
    ("networks", "training", "runner"),
    ("zoo",),
    ("tokens", "forecasting", "encoder"),
    ("autoencoder",),
    ("heads", "sae"),
    ("needs", "report", "offline_plots", "ui"),
    ("publish",),
    ("survey",),
    ("cli",),
    ("stages", "studies"),
)
PLOTS = tuple(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.glob("*/**/*.py")
    if "plot" in path.stem or path.stem == "feature_images"
)
LEVEL = {room: level for level, row in enumerate(ROWS) for room in row}
FENCES = {
    "mlflow": ("wscore/tracking.py",),
    "matplotlib": ("wscore/plots/", *PLOTS),
    "huggingface_hub": ("wscore/hub/", "wscore/publish/"),
    "datasets": ("wscore/hub/", "wscore/networks/images.py", "wscore/publish/"),
    "dvc": ("wscore/repro.py", "wscore/preflight.py"),
    "dvclive": (),
    "yaml": (),
    "pickle": ("wscore/networks/pickles.py",),  # the names of its opcodes
}
SOURCES = sorted(path for room in ("wscore", "stages", "studies") for path in ROOT.glob(f"{room}/**/*.py"))
BELOW = ("training", "config", "errors", "io", "parallel", "progress", "tracking")
MODEL_FREE = ("wscore/training/loop.py", "wscore/training/callbacks.py")


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] != "wscore" else parts[1]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def allowed(room: str, other: str) -> bool:
    return room == other or LEVEL[other] < LEVEL[room] or LEVEL[room] == LEVEL[other] == 0


@pytest.mark.parametrize("path", [p for p in SOURCES if p != ROOT / "wscore/__init__.py"], ids=relative)
def test_a_room_imports_only_itself_and_those_below(path: Path) -> None:
    wrong = [f"{relative(path)}:{line} imports {relative(target)}" for target, line in imported_files(path).items()
             if target.name != "__init__.py" and not allowed(room_of(path), room_of(target))]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_the_documentation_lists_the_same_order() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = [tuple(re.findall(r"`(\w+)`", line)) for line in re.findall(r"^\d+\. (.+)$", text, re.MULTILINE)]
    assert rows == list(ROWS)


def test_the_rule_refuses_upward_and_sideways_imports() -> None:
    assert allowed("heads", "autoencoder")
    assert not allowed("autoencoder", "heads")
    assert not allowed("heads", "sae")
    assert not allowed("networks", "training")


def test_every_room_has_its_row() -> None:
    rooms = {room_of(path) for path in SOURCES} - {"__init__"}
    assert rooms <= set(LEVEL)


def test_nobody_imports_a_stage() -> None:
    wrong = [
        relative(path) for path in SOURCES if any(target.parent.name == "stages" for target in imported_files(path))
    ]
    assert not wrong


@pytest.mark.parametrize("library", sorted(FENCES))
def test_third_parties_stay_behind_their_fence(library: str) -> None:
    wrong = [
        f"{relative(path)}:{line} imports {name}"
        for path in SOURCES
        for name, line in imported_names(path)
        if name.partition(".")[0] == library and not relative(path).startswith(FENCES[library])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", MODEL_FREE)
def test_the_training_loop_knows_no_model(name: str) -> None:
    assert not [relative(target) for target in imported_files(ROOT / name) if room_of(target) not in BELOW]


def test_package_files_are_empty() -> None:
    filled = [relative(p) for p in ROOT.glob("wscore/*/**/__init__.py") if p.read_text(encoding="utf-8").strip()]
    assert not filled


def test_reading_parameters_loads_no_heavy_library() -> None:
    code = "import sys, wscore, wscore.config, wscore.errors, wscore.io, wscore.presets; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert not loaded & {"torch", "pandas", "mlflow", "matplotlib", "sklearn", "datasets"}


def test_commands_on_networks_load_no_library_of_tables_or_trainings() -> None:
    code = "import sys, wscore.cli.commands; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(result.stdout.split()) & {
        "pandas",
        "pyarrow",
        "accelerate",
        "sklearn",
        "scipy",
        "mlflow",
        "datasets",
    }


def test_building_an_encoder_without_memory_loads_no_compiler() -> None:
    """Models are first built on the device `meta`, where some operations load torch._dynamo, which takes two seconds."""
    code = """
import sys, torch
from wscore.encoder.model import EncoderNetwork, EncoderShape
shape = EncoderShape(features=("a", "b"), optional=(1,), components=2, distilled=2, hidden_dim=4, layers=1, dropout=0.0,
                     calibration=3)
with torch.device("meta"):
    EncoderNetwork(shape)
print(*sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(result.stdout.split()) & {"torch._dynamo", "sympy"}


def test_a_stage_does_not_load_the_tracker_before_it_is_needed() -> None:
    code = "import sys, wscore.runner, wscore.tracking; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "mlflow" not in result.stdout.split()
