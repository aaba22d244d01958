"""A miniature of the repository after `make repro`: the stages run on a tiny zoo, in this process."""

import importlib
import os
import shlex
import shutil
from pathlib import Path

import pytest

from tests.contract.imports import ROOT, module_name, pipeline
from wscore.config import PARAMS
from wscore.io import hash_folder, read_json, write_json
from wscore.presets import apply_preset
from wscore.training.model_folder import model_identities

SKIPPED = ("fetch_zoo", "evaluate")  # the zoo is a fixture, the figures are those of the repository
TINY = """
ae: {latent_dim: 8, hidden_dim: 8, layers: 1, epochs: 1, batch_size: 8}
encoder: {probes: 10, probe_steps: 2, hidden_dim: 8, layers: 1, epochs: 1}
heads: {tasks: [accuracy], hidden_dim: 8, layers: 1, copies: 1, epochs: 1, boosting_rounds: 2}
sae: {latent_dim: 16, k: 4, epochs: 1}
base: {network: mlp, size: 8, max_train: 100, max_test: 50, batch_size: 16, epochs: 6, snapshots_per_epoch: 2,
  optimizers: [{name: sgd, lr: 0.1}], seeds: [0, 1], probe_images: 20}
predictor: {validation_runs: 0, stride: 1, augment_strides: [], extrapolation_steps: 2, far_step: null, model_dim: 8,
  layers: 1, heads: 2, predictor_epochs: 1}
"""


@pytest.fixture(scope="session")
def finished(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the pipeline has run; don't write into it."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(ROOT / PARAMS, folder)
    shutil.copytree(ROOT / "metrics", folder / "metrics")
    (folder / "data").mkdir()
    (folder / "data/zoo").symlink_to(tiny_zoo)
    before = Path.cwd()
    os.chdir(folder)
    try:
        Path("tiny.yaml").write_text(TINY, encoding="utf-8")
        apply_preset(Path("tiny.yaml"), PARAMS)
        for name, entry in pipeline().items():
            if name == "publish":
                claim_metrics()
            if not name.startswith(SKIPPED):
                run_stage(entry["cmd"].replace("${item}", "accuracy"))
    finally:
        os.chdir(before)
    return folder


def claim_metrics() -> None:
    """Let the figures of the repository be those of the models here."""
    models = Path("models")
    sides = {side: models / "autoencoder" / side for side in ("encoder", "decoder")}
    identities = {
        "autoencoder": model_identities(sides), "codec": {"codec": hash_folder(models / "codec")},
        "heads": model_identities({"accuracy": models / "heads/accuracy"}),
        "sae": model_identities({"sparse_dictionary": models / "sae"}),
        "predictor": model_identities({"predictor": models / "predictor"}),
    }  # fmt: skip
    for name, own in identities.items():
        path = Path(f"metrics/{name}_test.json")
        write_json(path, {**read_json(path), f"{name}_test_of": own})


def run_stage(command: str) -> None:
    """Run the command of a stage in this process."""
    stage = importlib.import_module(module_name(command))
    stage.main(shlex.split(command)[3:])


@pytest.fixture
def workplace(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with the finished pipeline beside it: outputs of a test don't reach the next one."""
    for entry in finished.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    return tmp_path
