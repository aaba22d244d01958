"""The page on an own zoo, command by command, on 200 small networks of unknown architecture."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.contract.imports import ROOT, pipeline, studies
from tests.examples.conftest import run_stage
from wscore.cli.main import main
from wscore.config import PARAMS
from wscore.presets import apply_preset

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::wscore.errors.WscoreWarning")]
RUNS, CHECKPOINTS = 40, 5
TINY = """
ae: {latent_dim: 8}
encoder: {probes: 10, probe_steps: 2, hidden_dim: 8, layers: 1, epochs: 1}
heads: {hidden_dim: 8, layers: 1, copies: 1, epochs: 1, boosting_rounds: 2}
evaluate_heads: {boosting_iterations: 2, bootstrap_samples: 20, ood: null}
evaluate_codec: {max_networks: 4, ratios: [10]}
"""


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints in a folder per run, whose weights grow with the epoch, and their metadata."""
    folder = tmp_path_factory.mktemp("own") / "networks"
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for run in range(RUNS):
        start = {
            "stem.w": torch.randn(6, 4),
            "stem.b": torch.randn(6),
            "top.w": torch.randn(3, 6),
            "top.b": torch.randn(3),
        }
        (folder / f"run{run:02}").mkdir(parents=True)
        for epoch in range(1, CHECKPOINTS + 1):
            file = f"run{run:02}/epoch{epoch}.pt"
            torch.save({name: tensor * (1 + epoch) for name, tensor in start.items()}, folder / file)
            rows.append({"file": file, "epoch": epoch, "test_accuracy": epoch / 10, "lr": 0.001 * (1 + run % 7),
                         "activation": ("relu", "tanh")[run % 2]})  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    return folder


def commands() -> list[str]:
    page = (ROOT / "docs/own_zoo.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return [re.sub(r"\s+#.*", "", line) for line in blocks[1].splitlines()]


def run_until(stage: str, done: set[str]) -> None:
    """Run a stage, and those that it reads from, where they have not run."""
    stages = {**pipeline(), **studies()}
    makers = {out: name for name, entry in stages.items() for out in map(path_of, entry.get("outs", ()))}
    entry = stages[stage]
    for needed in map(path_of, entry["deps"]):
        maker = next((makers[out] for out in makers if needed == out or needed.startswith(f"{out}/") or
                      out.startswith(f"{needed}/")), None)  # fmt: skip
        if maker is not None and maker != stage and maker not in done:
            run_until(maker, done)
    for item in ("accuracy", "hyperparameters") if "${item}" in entry["cmd"] else ("",):
        run_stage(entry["cmd"].replace("${item}", item))
    done.add(stage)


def path_of(entry: Any) -> str:
    return str(next(iter(entry)) if isinstance(entry, dict) else entry).replace("/${item}", "")


def test_the_page_leads_to_predictions(
    networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / PARAMS, tmp_path)
    (tmp_path / "metrics").mkdir()
    monkeypatch.chdir(tmp_path)
    Path("networks").symlink_to(networks)
    shutil.copy(networks / "run00/epoch3.pt", "new.pt")
    Path("tiny.yaml").write_text(TINY, encoding="utf-8")
    done: set[str] = set()
    printed: dict[str, str] = {}
    for line in commands():
        words = shlex.split(line)
        if words[:3] == ["python", "-m", "wscore.presets"]:
            apply_preset(ROOT / words[3], Path(words[4]))
            apply_preset(Path("tiny.yaml"), Path(words[4]))
        elif words[:2] == ["dvc", "repro"]:
            run_until(words[2], done)
        elif words == ["make", "publish-zoo"]:
            run_until("publish_zoo", done)
        elif words[0] == "wscore":
            main(words[1:])
            printed[" ".join(words[1:3])] = capsys.readouterr().out
        else:
            assert words in (["make", "smoke"], ["source", ".venv/bin/activate"]), line
    assert "test_accuracy" in printed["predict new.pt"]
    assert "run00" in printed["neighbours new.pt"]
    assert "8 of 40 runs in the test split" in printed["inspect data/zoo"]
    assert "heads." not in printed["inspect data/zoo"]
    card = Path("models/published_zoo/heads/accuracy/README.md").read_text(encoding="utf-8")
    assert 'from_pretrained("models/published_zoo")' in card
    assert "my-zoo" in card
    assert not {"train_sae", "train_base", "train_predictor"} & done
    main(["decompress", "new.wsz", "--out", "back.safetensors", "--model", "models/published_zoo"])
    assert list(load_file("back.safetensors")) == ["stem.b", "stem.w", "top.b", "top.w"]
