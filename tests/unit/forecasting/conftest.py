from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from wscore.config import load_section
from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.trajectories.store import Manifest, SnapshotColumns, Trajectory, write_trajectory
from wscore.networks.lenet import NetworkSpec, network_layout

PARAMS = Path(__file__).parents[3] / "params.yaml"
SMALL = {
    "sequence_length": 3, "lagged_snapshots": (), "rank_splits": (3, 20),
    "train_split": 0.6, "holdout_runs": 1, "validation_runs": 0, "stride": 1,
    "augment_strides": (), "extrapolation_steps": 2, "far_step": None, "model_dim": 16, "layers": 1, "heads": 2,
    "predictor_epochs": 30,
}  # fmt: skip


@pytest.fixture
def configured() -> Callable[..., PredictorConfig]:
    def make(**changes: object) -> PredictorConfig:
        return msgspec.structs.replace(load_section(PredictorConfig, "predictor", PARAMS), **{**SMALL, **changes})

    return make


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., Trajectory]:
    """`recorded(seed, path, count)` writes a trajectory of a tiny network whose snapshot n is `path(n, D)` (D,)."""

    def make(
        seed: int,
        weights: np.ndarray | Callable[[int, int], np.ndarray],
        count: int = 20,
        *,
        network: str = "mlp",
        **facts: str,
    ) -> Trajectory:
        spec = NetworkSpec(name=network, channels=1, size=4, classes=2)
        layout = network_layout(spec)
        rows = np.stack([weights(number, layout.size) for number in range(count)]) if callable(weights) else weights
        columns = SnapshotColumns(
            step=tuple(range(len(rows))), epoch=tuple(float(n) for n in range(len(rows))), lr=(0.1,) * len(rows),
            train_loss=(1.0,) * len(rows), test_loss=(1.0,) * len(rows), test_accuracy=(0.5,) * len(rows),
        )  # fmt: skip
        manifest = Manifest(
            format=1, run=f"seed-{seed}", seed=seed, weight_decay=0.0, batch_size=8, snapshots_per_epoch=1, network=spec,
            layout=layout, snapshots=columns, **{"dataset": "none", "optimizer": "sgd"} | facts,
        )  # fmt: skip
        write_trajectory(tmp_path / f"seed-{seed}", manifest, rows.astype(np.float32))
        return Trajectory(tmp_path / f"seed-{seed}")

    return make
