"""Two processes under torchrun train the same model as one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from wscore.io import read_json, read_tensors, write_json, write_tensors
from wscore.training.callbacks import Resume
from wscore.training.engine import Engine
from wscore.training.history import History
from wscore.training.loop import FitConfig, TensorBatches, fit

ROOT = Path(__file__).parents[3]
CONFIG = FitConfig(
    epochs=5, lr=0.01, weight_decay=0.01, schedule="cosine", warmup=0.1, clip_norm=1.0, accumulate=2, patience=5,
    precision="no", seed=4,
)  # fmt: skip


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return {"loss": (model(batch[0]) - batch[1]).square().mean()}


def train(folder: Path) -> tuple[nn.Module, History]:
    """Batches of 7: uneven halves, and a last one of 2, which both processes compute whole."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 6, generator=generator), torch.randn(40, 3, generator=generator)
    torch.manual_seed(2 + int(os.environ.get("RANK", "0")))  # the first process's weights must win
    model = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3))
    history = fit(
        model,
        train=TensorBatches(x[:30], y[:30], batch_size=7, seed=4),
        validation=TensorBatches(x[30:], y[30:], batch_size=7, shuffle=False),
        loss=squared_error,
        config=CONFIG,
        resume=Resume(folder / "run", seconds=0),
    )
    return model, history


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, __file__, str(tmp_path)], env=environment, check=True, timeout=180)
    found = read_json(tmp_path / "rows.json")
    assert found["processes"] == 2
    model, history = train(tmp_path)
    weights = read_tensors(tmp_path / "final.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-6)
    for row, other in zip(found["rows"], history.rows, strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final.safetensors", "rows.json"]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    model, history = train(folder)
    write_tensors(folder / "final.safetensors", model.state_dict())
    write_json(folder / "rows.json", {"processes": Engine("cpu", "no").processes, "rows": history.rows})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
