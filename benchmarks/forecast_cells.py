"""How far a `gram` predictor carries: unseen seeds, data sets, learning rates, optimisers and strides, cell by cell.

    python -m benchmarks.forecast_cells --folder .cache/cells [--images fashion=path mnist=path] [--length 5]

Records LeNet-5 on the digits (kept in the folder, some minutes the first time), trains one predictor on SGD and Adam
runs of two seeds at strides of 1, 2, 3 and 6 snapshots, 6 being an epoch, with a third seed to choose the epoch, and
tests it on runs of other seeds: with the settings of the training, with another learning rate, another optimiser, other
images, each also at strides that were not trained on. `--images` adds data sets from idx, npz or parquet files, cut to
as many training images as there are digits. Prints the skill 1 and 5 steps ahead of every cell over all windows of its
runs beside that of the baselines that look at nothing but the window, then mean and minimum. The exit status is 1 if a
cell has no positive skill.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from wscore.config import convert, load_section, to_plain
from wscore.forecasting.base import BaseConfig, record_runs
from wscore.forecasting.baselines import OnlineAr1
from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.plan import later, learned, windows_between
from wscore.forecasting.recipe import LearnedForecaster
from wscore.forecasting.snapshots import Trajectory, open_trajectories
from wscore.zoo.images import load_images

TRAINED, VALIDATED, TESTED = (0, 1), (2,), (100,)
SGD, ADAM = {"name": "sgd", "lr": 0.01}, {"name": "adam", "lr": 0.001}
STRIDES, UNSEEN_STRIDES = (1, 2, 3, 6), (4, 9)
HORIZONS = (1, 5)
TRAIN_IMAGES = 1200
METHODS = ("gram", "online_ar1", "linear")


class Setting(NamedTuple):
    """How some runs differ from those of the training.

    Attributes:
        name: what is unseen.
        changes: in section `base:`.
    """

    name: str
    changes: dict[str, Any]


def main() -> None:
    """Record, train, test, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=PATH")
    parser.add_argument("--length", type=int, default=5, help="snapshots that the predictor looks at")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = train(options.folder, options.length)
    found = [cell for setting in settings(options.images) for cell in cells(options.folder, setting, model)]
    print(f"{'cell':52}" + "".join(f"{f'{name} h{step}':>16}" for name in METHODS for step in HORIZONS))
    for name, skills in found:
        print(f"{name:52}" + "".join(f"{skill:16.3f}" for skill in skills))
    table = np.array([skills for _, skills in found])
    for name, row in (("mean", table.mean(0)), ("minimum", table.min(0)), ("share above 0", (table > 0).mean(0))):
        print(f"{name:52}" + "".join(f"{value:16.3f}" for value in row))
    sys.exit(int((table[:, : len(HORIZONS)] <= 0).any()))


def settings(images: Sequence[str]) -> list[Setting]:
    """Return what is tested."""
    found = [
        Setting("sgd 0.01", {"optimizers": [SGD]}),
        Setting("adam 0.001", {"optimizers": [ADAM]}),
        Setting("sgd 0.03 (other rate)", {"optimizers": [{"name": "sgd", "lr": 0.03}]}),
        Setting("adam 0.0003 (other rate)", {"optimizers": [{"name": "adam", "lr": 0.0003}]}),
        Setting("momentum 0.002 (other optimiser)", {"optimizers": [{"name": "momentum", "lr": 0.002}]}),
        Setting("sgd 0.01, batches of 16", {"optimizers": [SGD], "batch_size": 16}),
    ]
    for text in images:
        name, _, path = text.partition("=")
        place = {"dataset": name, "root": path, "max_train": TRAIN_IMAGES, "max_test": 1000}
        found += [
            Setting(f"{name}, {optimizer['name']}", {**place, "optimizers": [optimizer]}) for optimizer in (SGD, ADAM)
        ]
    return found


def recorded(folder: Path, name: str, seeds: Sequence[int], changes: Mapping[str, Any]) -> list[Trajectory]:
    """Return runs from the folder, recorded there if they are missing."""
    place = folder / name.replace(" ", "_").replace(",", "")
    if not place.is_dir():
        fixed = {"seeds": list(seeds), "workers": 1, "probe_images": 100, "snapshots_per_epoch": 6, "epochs": 20}
        plain = to_plain(load_section(BaseConfig, "base")) | fixed | dict(changes)
        config = convert(plain, BaseConfig, where="base")
        record_runs(config, load_images(config.images), place)
    return open_trajectories(place)


def predictor_config(length: int, stride: int) -> PredictorConfig:
    """Return section `predictor:` for training on whole runs."""
    changes = {
        "kind": "gram", "split": "run", "sequence_length": length, "stride": stride, "augment_strides": list(STRIDES),
        "extrapolation_steps": max(HORIZONS), "far_step": None, "device": "cpu", "predictor_epochs": 40,
    }  # fmt: skip
    return convert(to_plain(load_section(PredictorConfig, "predictor")) | changes, PredictorConfig, where="predictor")


def train(folder: Path, length: int) -> LearnedForecaster:
    """Return the one predictor that all cells are tested with."""
    config = predictor_config(length, STRIDES[-1])
    runs = recorded(folder, "training", (*TRAINED, *VALIDATED), {"optimizers": [SGD, ADAM]})
    seeds = {part: [run for run in runs if run.manifest.seed in part] for part in (TRAINED, VALIDATED)}
    model = LearnedForecaster(config)
    known, watched = (
        [make(config, run, {}) for run in seeds[part]] for make, part in ((learned, TRAINED), (later, VALIDATED))
    )
    model.fit(known, watched)
    print(f"trained on {len(known)} runs, validation skill {model.history.best['validation_skill']:+.3f}")
    return model


def cells(folder: Path, setting: Setting, model: LearnedForecaster) -> Iterator[tuple[str, list[float]]]:
    """Yield the skills of each stride: of the predictor, of online AR(1) and of the linear forecast."""
    runs = recorded(folder, setting.name, TESTED, setting.changes)
    for stride in sorted({3, 6, *UNSEEN_STRIDES}):
        config = predictor_config(model.config.sequence_length, stride)
        errors, copied = np.zeros((len(METHODS), len(HORIZONS))), np.zeros(len(HORIZONS))
        for run in runs:
            for last in windows_between(config, 1, len(run)).last.tolist()[::3]:
                numbers = [last + stride * step for step in range(1 - config.sequence_length, 1)]
                history = torch.from_numpy(run.weights[numbers])
                truth = torch.from_numpy(run.weights[[last + stride * step for step in HORIZONS]])
                forecasts = (
                    model.predict(history, run.layout, HORIZONS),
                    OnlineAr1(config).predict(history, run.layout, HORIZONS),
                    history[-1] + torch.tensor(HORIZONS)[:, None] * (history[-1] - history[-2]),
                )
                errors += np.stack([(one - truth).double().square().sum(1).numpy() for one in forecasts])
                copied += (history[-1] - truth).double().square().sum(1).numpy()
        unseen = " (other stride)" if stride in UNSEEN_STRIDES else ""
        yield f"{setting.name}, stride {stride}{unseen}", (1 - errors / copied).ravel().tolist()


if __name__ == "__main__":
    main()
