from collections.abc import Callable
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from wscore.config import load_section
from wscore.networks.images import Images, ImagesConfig
from wscore.zoo.config import ZooConfig
from wscore.zoo.sources import fetch_zoo
from wscore.zoo.store import Zoo

PARAMS = Path(__file__).parents[3] / "params.yaml"
NO_IMAGES = ImagesConfig(
    dataset="digits", root=None, revision=None, size=None, max_train=None, max_test=None, normalize=None
)
TINY = {
    "n_runs": 8,
    "checkpoints": 2,
    "epochs": (1, 2),
    "widths": {
        "mlp": ((5,),),
        "cnn": ((2, 3),),
        "cnn_bn": ((2, 3),),
        "resnet": ((2, 3),),
        "residual_mlp": ((4, 3),),
        "depthwise_cnn": ((2, 3),),
        "vit": ((4, 5),),
    },
    "activations": ("relu", "tanh"),
    "poolings": ("max",),
    "batch_sizes": (16,),
    "train_fraction": (0.4, 1.0),
}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder of the test's own: shards go to `.cache/` in it."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def zoo_config() -> Callable[..., ZooConfig]:
    """`zoo_config(**changes)` is the section of params.yaml made tiny, with changes."""
    return lambda **changes: msgspec.structs.replace(load_section(ZooConfig, "zoo", PARAMS), **{**TINY, **changes})


@pytest.fixture
def read_zoo(zoo_config: Callable[..., ZooConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`read_zoo(source, folder, reading={...}, hygiene={...}, **changes)` takes a folder in and returns the zoo."""
    monkeypatch.chdir(tmp_path)

    def read(source: str, folder: Path, *, reading=None, hygiene=None, **changes) -> Zoo:
        config = zoo_config(source=source, path=str(folder), **changes)
        reading = dict(reading or {})
        columns = msgspec.structs.replace(config.reading.columns, **reading.pop("columns", {}))
        reading = msgspec.structs.replace(config.reading, columns=columns, **reading)
        hygiene = msgspec.structs.replace(config.hygiene, **(hygiene or {}))
        config = msgspec.structs.replace(config, reading=reading, hygiene=hygiene)
        fetch_zoo(config, NO_IMAGES, tmp_path / "zoo")
        return Zoo(tmp_path / "zoo")

    return read


@pytest.fixture
def excluded(tmp_path: Path) -> Callable[[], dict[str, str]]:
    """`excluded()` is the reason why each network is not in the zoo that `read_zoo` wrote."""

    def listed() -> dict[str, str]:
        return dict(pd.read_csv(tmp_path / "zoo" / "set_aside.csv")[["model_id", "reason"]].to_numpy().tolist())

    return listed


@pytest.fixture(scope="session")
def few_digits(digits: Images) -> Images:
    """100 training and 60 test digits."""
    parts = {"x_train": digits.x_train[:100], "y_train": digits.y_train[:100]}
    return digits._replace(**parts, x_test=digits.x_test[:60], y_test=digits.y_test[:60])
