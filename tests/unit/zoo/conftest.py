from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from wscore.config import load_section
from wscore.zoo.config import ZooConfig
from wscore.zoo.images import Images

PARAMS = Path(__file__).parents[3] / "params.yaml"
TINY = {
    "n_runs": 8,
    "checkpoints": 2,
    "epochs": (1, 2),
    "widths": {"mlp": ((5,),), "cnn": ((2, 3),), "cnn_bn": ((2, 3),), "resnet": ((2, 3),)},
    "activations": ("relu", "tanh"),
    "poolings": ("max",),
    "batch_sizes": (16,),
    "train_fraction": (0.4, 1.0),
    "workers": 1,
}


@pytest.fixture(scope="session")
def zoo_config() -> Callable[..., ZooConfig]:
    """`zoo_config(**changes)` is the section of params.yaml made tiny, with changes."""
    return lambda **changes: msgspec.structs.replace(load_section(ZooConfig, "zoo", PARAMS), **{**TINY, **changes})


@pytest.fixture(scope="session")
def few_digits(digits: Images) -> Images:
    """100 training and 60 test digits."""
    parts = {"x_train": digits.x_train[:100], "y_train": digits.y_train[:100]}
    return digits._replace(**parts, x_test=digits.x_test[:60], y_test=digits.y_test[:60])
