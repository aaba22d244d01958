"""A training that was killed goes on and ends with the very same bits."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from wscore.errors import WscoreWarning
from wscore.io import write_tensors
from wscore.training.callbacks import CHECKPOINTS, Callback, Resume, resume_folder
from wscore.training.history import History
from wscore.training.loop import FitConfig, TensorBatches, fit
from wscore.training.state import TrainingState

ROOT = Path(__file__).parents[3]
CONFIG = FitConfig(
    epochs=8, lr=0.01, weight_decay=0.01, schedule="cosine", warmup=0.1, clip_norm=1.0, accumulate=2, patience=8,
    precision="no", seed=4,
)  # fmt: skip


class InterruptedTrainingError(Exception):
    """Stands for Ctrl-C and the like."""


class StopAt(Callback):
    """Raises, or kills the whole process, in the middle of an epoch."""

    def __init__(self, step: int, *, kill: bool = False) -> None:
        self.step = step
        self.kill = kill

    def on_step(self, state: TrainingState) -> None:
        if state.step == self.step:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise InterruptedTrainingError


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 3))


def noisy_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    inputs = batch[0] + 0.1 * torch.randn_like(batch[0])
    return {"loss": (model(inputs) - batch[1]).square().mean()}


def train(model: nn.Module, **options: Any) -> History:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 6, generator=generator), torch.randn(40, 3, generator=generator)
    return fit(
        model,
        train=TensorBatches(x[:30], y[:30], batch_size=8, seed=4),
        validation=TensorBatches(x[30:], y[30:], batch_size=8, shuffle=False),
        **{"loss": noisy_error, "config": CONFIG, **options},
    )


def assert_same(model: nn.Module, other: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("step", [3, 4, 9, 15])
def test_interrupted_training_goes_on_bit_for_bit(step: int, tmp_path: Path) -> None:
    whole, cut = network(), network()
    history = train(whole)
    with pytest.raises(InterruptedTrainingError):
        train(cut, resume=Resume(tmp_path / "run", seconds=0), callbacks=[StopAt(step)])
    resumed = network()
    assert train(resumed, resume=tmp_path / "run").rows == history.rows
    assert_same(resumed, whole.state_dict())
    assert not (tmp_path / "run").exists()


def test_it_really_goes_on_and_does_not_start_again(tmp_path: Path) -> None:
    class Count(Callback):
        steps = 0

        def on_step(self, state: TrainingState) -> None:  # noqa: ARG002
            self.steps += 1

    with pytest.raises(InterruptedTrainingError):
        train(network(), resume=Resume(tmp_path, seconds=0), callbacks=[StopAt(9)])
    count = Count()
    history = train(network(), resume=tmp_path, callbacks=[count])
    assert count.steps == history.rows[-1]["step"] - 8  # two steps an epoch: four epochs were done


def test_a_training_that_had_stopped_early_does_not_go_on(tmp_path: Path) -> None:
    class FailAtTheEnd(Callback):
        def on_end(self, state: TrainingState) -> None:
            raise InterruptedTrainingError(state.epoch)

    config = FitConfig.of(CONFIG, epochs=60, lr=0.3, patience=3)
    history = train(network(), config=config)
    assert len(history) < 60
    with pytest.raises(InterruptedTrainingError):
        train(network(), config=config, resume=Resume(tmp_path, seconds=0), callbacks=[FailAtTheEnd()])
    assert train(network(), config=config, resume=tmp_path).rows == history.rows


def test_nothing_is_pickled_and_the_state_is_written_at_most_so_often(tmp_path: Path) -> None:
    with pytest.raises(InterruptedTrainingError):
        train(network(), resume=Resume(tmp_path / "often", seconds=0), callbacks=[StopAt(5)])
    with safe_open(tmp_path / "often" / "state.safetensors", framework="pt") as file:
        plain = json.loads(file.metadata()["state"])
    assert (plain["epoch"], plain["step"], len(plain["rows"])) == (2, 4, 2)
    with pytest.raises(InterruptedTrainingError):
        train(network(), resume=Resume(tmp_path / "rarely", seconds=3600), callbacks=[StopAt(5)])
    assert not (tmp_path / "rarely").exists()


@pytest.mark.parametrize("damage", ["truncated", "other model"])
def test_a_state_that_does_not_fit_warns_and_training_starts_afresh(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    if damage == "truncated":
        with pytest.raises(InterruptedTrainingError):
            train(network(), resume=Resume(tmp_path, seconds=0), callbacks=[StopAt(5)])
        path.write_bytes(path.read_bytes()[:-100])
    else:
        write_tensors(path, {"model/0.weight": torch.zeros(2)}, {"state": "{}"})
    whole, resumed = network(), network()
    train(whole)
    with pytest.warns(WscoreWarning, match="training starts afresh"):
        train(resumed, resume=tmp_path)
    assert_same(resumed, whole.state_dict())


def test_folder_depends_on_stage_params_and_data() -> None:
    folders = {resume_folder(stage, params, data) for stage in "ab" for params in "cd" for data in "ef"}
    assert len(folders) == 8
    assert all(folder.is_relative_to(CHECKPOINTS) for folder in folders)


@pytest.mark.slow
def test_a_process_killed_by_kill_minus_nine_goes_on_bit_for_bit(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, __file__, str(tmp_path)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "state.safetensors").is_file()
    whole, resumed = network(), network()
    assert train(resumed, resume=tmp_path).rows == train(whole).rows
    assert_same(resumed, whole.state_dict())


def be_killed(folder: Path) -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    train(network(), resume=Resume(folder, seconds=0), callbacks=[StopAt(9, kill=True)])


if __name__ == "__main__":
    be_killed(Path(sys.argv[1]))
