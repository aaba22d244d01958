"""Parameters that earlier users know by name keep name and default."""

import msgspec

from wscore.config import load_section
from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.trajectories.train_base import BaseConfig


def test_known_parameters_keep_their_names_and_defaults() -> None:
    assert load_section(BaseConfig, "base").epochs == 20
    config = load_section(PredictorConfig, "predictor")
    kept = {
        "sequence_length": 3, "train_split": 0.5, "batch_size": 32, "apply_pca": True, "n_components": 500,
        "learning_rate": 1e-4, "predictor_epochs": 100, "extrapolation_steps": 5,
    }  # fmt: skip
    assert config.gram().lagged_snapshots == (3, 4)
    assert msgspec.structs.replace(config, sequence_length=4).gram().lagged_snapshots == (4,)
    assert {name: getattr(config, name) for name in kept} == kept
