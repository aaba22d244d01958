"""What all tests share: one thread, fixed seeds, no tracking, a tiny zoo, the digits, real image files if there are."""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

os.environ["WSCORE_TRACKING"] = "off"
os.environ.update(WSCORE_WORKERS="1", WSCORE_DEVICE="cpu", WSCORE_THREADS="1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is loaded, as in wscore/__init__.py

import numpy as np
import pandas as pd
import pytest
import torch

from tests import type_checks  # noqa: F401  before modules of wscore, which are loaded with these checks
from wscore.networks.architectures import TRAITS, Architecture, Classifier, build
from wscore.networks.images import Images, ImagesConfig, load_images
from wscore.networks.inference import StackedAnswer, logits, scores
from wscore.networks.layout import layout_of
from wscore.zoo.store import write_layouts, write_part

ROOT = Path(__file__).parent.parent
WIDTHS = {"mlp": (6,), "cnn": (3, 4), "cnn_bn": (3, 4), "resnet": (3, 4)}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits() -> Images:
    """The built-in 8x8 digits: 1,198 training and 599 test images."""
    return load_images(
        ImagesConfig(
            dataset="digits", root=None, revision=None, size=None, max_train=None, max_test=None, normalize=None
        )
    )


@pytest.fixture(scope="session")
def make_tiny_zoo(digits: Images) -> Callable[..., Path]:
    """`make(folder, families=..., runs=3, checkpoints=2, widths=(WIDTHS,))` writes a zoo of tiny networks and returns the folder.

    Bodies are random, heads fitted by least squares on noisy targets: accuracies are true, differ, cost no training. The
    runs of a family take the widths in turn.
    """

    def make(
        folder: Path,
        *,
        families: tuple[str, ...] = tuple(WIDTHS),
        runs: int = 3,
        checkpoints: int = 2,
        widths: Sequence[Mapping[str, tuple[int, ...]]] = (WIDTHS,),
    ) -> Path:
        rows, vectors, layouts = [], [], {}
        for number in range(runs * len(families)):
            family = families[number % len(families)]
            width = widths[number // len(families) % len(widths)][family]
            for checkpoint in range(checkpoints):
                row, vector, layout = tiny_row(digits, family, number, checkpoint, checkpoints, width)
                rows.append(row)
                vectors.append(vector)
                layouts[layout.identity] = layout
        write_part(folder / "rows" / "part-00000.parquet", pd.DataFrame(rows), vectors)
        write_layouts(folder, layouts.values())
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_zoo(make_tiny_zoo: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo folder of 4 families x 3 runs x 2 checkpoints; don't write into it."""
    return make_tiny_zoo(tmp_path_factory.mktemp("tiny") / "zoo")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real image files (mnist/, cifar10_jpeg_subset/, ...): `WSCORE_SHARED_DATA` or ../shared/data."""
    named = os.environ.get("WSCORE_SHARED_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real image files: {folder} is missing (name the folder by WSCORE_SHARED_DATA)")
    return folder


def tiny_row(digits: Images, family: str, number: int, checkpoint: int, checkpoints: int, widths: tuple[int, ...]):
    rng = np.random.default_rng([number, checkpoint])
    activation, pooling = ("relu", "tanh", "gelu")[number // 4 % 3], ("max", "avg")[number // 2 % 2]
    architecture = Architecture(
        family=family, input=(1, 8, 8), classes=10, widths=widths, activation=activation,
        pooling="none" if family == "mlp" else pooling,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 + number)
        network = build(architecture).eval()
    fit_head(network, digits, noise=2.0 / (checkpoint + 1) * rng.uniform(0.1, 1.5), rng=rng)
    layout = layout_of(network.state_dict())
    vector = layout.flatten(network.state_dict())
    row = {
        "model_id": f"run-{number:05d}-{checkpoint}", "run_id": f"run-{number:05d}", "checkpoint": checkpoint,
        "layout": layout.identity, "architecture": architecture.to_json(), "family": family, "dataset": "digits",
        "activation": activation, "pooling": architecture.pooling, **tiny_hyperparameters(number, rng),
        "step": 10 * (checkpoint + 1), "epoch": 4.0 * (checkpoint + 1) / checkpoints, "n_weights": layout.size,
        **tiny_scores(architecture, layout, vector, digits), "seed_init": number, "seed_data": 1000 + number,
        "has_conv_layers": TRAITS[family].has_conv_layers, "has_batch_norm": TRAITS[family].has_batch_norm,
        "has_residual": TRAITS[family].has_residual, "has_dropout": number % 2 == 1,
    }  # fmt: skip
    return row, vector, layout


def fit_head(network: Classifier, digits: Images, *, noise: float, rng: np.random.Generator) -> None:
    """Perturb the body, then set the head to the least-squares fit of noisy one-hot labels on 200 images."""
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.mul_(torch.from_numpy(rng.uniform(0.9, 1.1, tuple(value.shape))).to(value.dtype))
        features = network[:-1](digits.x_train[:200])
        target = torch.eye(10)[digits.y_train[:200]] + noise * torch.from_numpy(rng.standard_normal((200, 10))).float()
        design = torch.cat([features, torch.ones(200, 1)], dim=1).double()
        gram = design.T @ design + 1e-3 * torch.eye(design.shape[1], dtype=torch.float64)
        solution = torch.linalg.solve(gram, design.T @ target.double()).float()
        network.head.weight.copy_(solution[:-1].T)
        network.head.bias.copy_(solution[-1])


def tiny_hyperparameters(number: int, rng: np.random.Generator) -> dict[str, object]:
    optimizer = ("sgd", "momentum", "adam", "adamw")[number % 4]
    return {
        "optimizer": optimizer, "lr": float(10 ** rng.uniform(-3, -1)),
        "momentum": 0.9 if optimizer == "momentum" else 0.0,
        "weight_decay": 0.0 if number % 4 == 0 else 1e-4, "dropout": 0.2 if number % 2 else 0.0,
        "init_scale": float(rng.uniform(0.5, 2.0)), "batch_size": (32, 64)[number % 2], "epochs": 4,
        "train_fraction": float(rng.uniform(0.2, 1.0)),
    }  # fmt: skip


def tiny_scores(architecture: Architecture, layout, vector: np.ndarray, digits: Images) -> dict[str, float]:
    stacked = torch.from_numpy(vector)[None]
    train = scores(logits(StackedAnswer(architecture, layout), stacked, digits.x_train[:200]), digits.y_train[:200])
    test = scores(logits(StackedAnswer(architecture, layout), stacked, digits.x_test), digits.y_test)
    values = {"train_accuracy": train[0], "test_accuracy": test[0], "train_loss": train[1], "test_loss": test[1]}
    return {
        **{name: float(value) for name, value in values.items()},
        "generalization_gap": float(train[0] - test[0]),
    }
