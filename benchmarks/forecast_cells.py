"""How far a `gram` predictor carries: unseen seeds, data sets, learning rates, optimisers and strides, cell by cell.

    python -m benchmarks.forecast_cells --folder .cache/cells [--images fashion=path mnist=path] [--length 5]
    python -m benchmarks.forecast_cells --folder .cache/shifted --study shifted

Records LeNet-5 (kept in the folder, some minutes the first time), trains one predictor on SGD and Adam runs of two seeds
at several strides, with a third seed to choose the epoch, and tests it on runs of other seeds: with the settings of the
training, with another learning rate, another optimiser, other images, each also at strides that were not trained on.

    epochs     20 epochs of the 1,198 digits in batches of 8; strides of 1, 2, 3 and 6 snapshots, 6 being an epoch
    shifted    2,000 steps of batches of 64, every digit moved by up to 3 pixels whenever it is drawn; strides of 1, 2, 5
               and 10 snapshots of 10 steps. Tested on another seed, on letters in the fonts of matplotlib, at other rates,
               and on 20 epochs of digits that stay in place, with snapshots every 5 and 20 steps

`--images` adds data sets to `epochs`, from idx, npz or parquet files, cut to as many training images as there are
digits. Prints the skill 1 and 5 steps ahead of every cell over all windows of its runs beside that of the baselines that
look at nothing but the window, then mean and minimum. The exit status is 1 if a cell has no positive skill.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.glyphs import write_glyphs
from wscore.config import convert, load_section, to_plain
from wscore.forecasting.base import BaseConfig, record_runs
from wscore.forecasting.baselines import OnlineAr1
from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.plan import later, learned, windows_between
from wscore.forecasting.recipe import LearnedForecaster
from wscore.forecasting.snapshots import Trajectory, open_trajectories
from wscore.zoo.images import load_images

SGD, ADAM = {"name": "sgd", "lr": 0.01}, {"name": "adam", "lr": 0.001}
HORIZONS = (1, 5)
TRAIN_IMAGES, PROBED = 1200, 100
METHODS = ("gram", "online_ar1", "linear")


class Setting(NamedTuple):
    """Runs of one kind that are tested.

    Attributes:
        name: what is unseen.
        changes: in section `base:`.
        strides: at which they are tested, in snapshots.
    """

    name: str
    changes: dict[str, Any]
    strides: Sequence[int]


class Study(NamedTuple):
    """What is learned from and what is tested.

    Attributes:
        training: changes of section `base:` for the runs that are learned from.
        trained: their seeds.
        validated: seeds that choose the epoch.
        tested: seeds of the cells.
        strides: that are learned from.
        settings: the cells.
    """

    training: dict[str, Any]
    trained: Sequence[int]
    validated: Sequence[int]
    tested: Sequence[int]
    strides: Sequence[int]
    settings: list[Setting]


def main() -> None:
    """Record, train, test, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--study", choices=("epochs", "shifted"), default="epochs")
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=PATH", help="more data sets for `epochs`")
    parser.add_argument("--length", type=int, default=5, help="snapshots that the predictor looks at")
    parser.add_argument("--epochs", type=int, default=40, help="of the predictor")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = epochs(options.images) if options.study == "epochs" else shifted(options.folder)
    model = train(options.folder, study, predictor_config(options.length, study, options.epochs))
    found = [cell for setting in study.settings for cell in cells(options.folder, study, setting, model)]
    print(f"{'cell':52}" + "".join(f"{f'{name} h{step}':>16}" for name in METHODS for step in HORIZONS))
    for name, skills in found:
        print(f"{name:52}" + "".join(f"{skill:16.3f}" for skill in skills))
    table = np.array([skills for _, skills in found])
    for name, row in (("mean", table.mean(0)), ("minimum", table.min(0)), ("share above 0", (table > 0).mean(0))):
        print(f"{name:52}" + "".join(f"{value:16.3f}" for value in row))
    sys.exit(int((table[:, : len(HORIZONS)] <= 0).any()))


def epochs(images: Sequence[str]) -> Study:
    """Return the study of runs of 20 epochs."""
    fixed = {"epochs": 20, "batch_size": 8, "snapshots_per_epoch": 6}
    changes = {
        "sgd 0.01": {"optimizers": [SGD]},
        "adam 0.001": {"optimizers": [ADAM]},
        "sgd 0.03 (other rate)": {"optimizers": [{"name": "sgd", "lr": 0.03}]},
        "adam 0.0003 (other rate)": {"optimizers": [{"name": "adam", "lr": 0.0003}]},
        "momentum 0.002 (other optimiser)": {"optimizers": [{"name": "momentum", "lr": 0.002}]},
        "sgd 0.01, batches of 16": {"optimizers": [SGD], "batch_size": 16},
    }
    for text in images:
        name, _, path = text.partition("=")
        place = {"dataset": name, "root": path, "max_train": TRAIN_IMAGES, "max_test": 1000}
        changes |= {f"{name}, {one['name']}": {**place, "optimizers": [one]} for one in (SGD, ADAM)}
    settings = [Setting(name, {**fixed, **some}, (3, 4, 6, 9)) for name, some in changes.items()]
    return Study({**fixed, "optimizers": [SGD, ADAM]}, (0, 1), (2,), (100,), (1, 2, 3, 6), settings)


def shifted(folder: Path) -> Study:
    """Return the study of runs on images that are moved at random."""
    letters = folder / "images"
    if not letters.is_dir():
        write_glyphs(letters)
    digits = {"batch_size": 64, "epochs": 106, "snapshot_steps": 10, "shift": 3}
    glyphs = {**digits, "epochs": 79, "shift": 0, "dataset": "glyphs", "root": str(letters)}
    still = {**digits, "epochs": 20, "snapshot_steps": 5, "shift": 0}
    fast = {"name": "sgd", "lr": 0.05}
    each = (1, 5, 10)  # 10, 50 and 100 steps of the optimiser
    settings = [
        Setting("sgd 0.01", {**digits, "optimizers": [SGD]}, each),
        Setting("adam 0.001", {**digits, "optimizers": [ADAM]}, each),
        Setting("sgd 0.05 (other rate)", {**digits, "optimizers": [fast]}, each),
        Setting("adam 0.002 (other rate)", {**digits, "optimizers": [{**ADAM, "lr": 0.002}]}, each),
        Setting("letters, sgd 0.01", {**glyphs, "optimizers": [SGD]}, each),
        Setting("letters, adam 0.001", {**glyphs, "optimizers": [ADAM]}, each),
        Setting("letters, sgd 0.05 (other rate)", {**glyphs, "optimizers": [fast]}, each),
        Setting("still digits, sgd 0.05", {**still, "optimizers": [fast]}, (1, 4)),
        Setting("still digits, adam 0.001", {**still, "optimizers": [ADAM]}, (1, 4)),
    ]
    return Study({**digits, "optimizers": [SGD, ADAM]}, (0, 1), (3,), (2,), (1, 2, 5, 10), settings)


def recorded(folder: Path, name: str, seeds: Sequence[int], changes: Mapping[str, Any]) -> list[Trajectory]:
    """Return runs from the folder, recorded there if they are missing."""
    place = folder / name.replace(" ", "_").replace(",", "")
    if not place.is_dir():
        fixed = {"seeds": list(seeds), "workers": 1, "probe_images": PROBED}
        plain = to_plain(load_section(BaseConfig, "base")) | fixed | dict(changes)
        config = convert(plain, BaseConfig, where="base")
        record_runs(config, load_images(config.images), place)
    return open_trajectories(place)


def predictor_config(length: int, study: Study, count: int) -> PredictorConfig:
    """Return section `predictor:` for training on whole runs."""
    changes = {
        "kind": "gram", "split": "run", "sequence_length": length, "stride": max(study.strides),
        "augment_strides": list(study.strides), "extrapolation_steps": max(HORIZONS), "far_step": None, "device": "cpu",
        "predictor_epochs": count,
    }  # fmt: skip
    return convert(to_plain(load_section(PredictorConfig, "predictor")) | changes, PredictorConfig, where="predictor")


def train(folder: Path, study: Study, config: PredictorConfig) -> LearnedForecaster:
    """Return the one predictor that all cells are tested with."""
    runs = recorded(folder, "training", (*study.trained, *study.validated), study.training)
    known, watched = (
        [make(config, run, {}) for run in runs if run.manifest.seed in seeds]
        for make, seeds in ((learned, study.trained), (later, study.validated))
    )
    model = LearnedForecaster(config)
    model.fit(known, watched)
    print(f"trained on {len(known)} runs, validation skill {model.history.best['validation_skill']:+.3f}")
    return model


def cells(folder: Path, study: Study, setting: Setting, model: LearnedForecaster) -> Iterator[tuple[str, list[float]]]:
    """Yield the skills of each stride: of the predictor, of online AR(1) and of the linear forecast."""
    runs = recorded(folder, setting.name, study.tested, setting.changes)
    for stride in setting.strides:
        errors, copied = np.zeros((len(METHODS), len(HORIZONS))), np.zeros(len(HORIZONS))
        for run in runs:
            for squares, own in errors_of(model, run, stride):
                errors, copied = errors + squares, copied + own
        unseen = "" if stride in study.strides else " (other stride)"
        yield f"{setting.name}, stride {stride}{unseen}", (1 - errors / copied).ravel().tolist()


def errors_of(model: LearnedForecaster, run: Trajectory, stride: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the squared errors of all methods, and of copying, in every third window of a run."""
    config = convert(to_plain(model.config) | {"stride": stride}, PredictorConfig, where="predictor")
    rule = OnlineAr1(config)
    for last in windows_between(config, 1, len(run)).last.tolist()[::3]:
        numbers = [last + stride * step for step in range(1 - config.sequence_length, 1)]
        history = torch.from_numpy(run.weights[numbers])
        truth = torch.from_numpy(run.weights[[last + stride * step for step in HORIZONS]])
        forecasts = (
            model.predict(history, run.layout, HORIZONS),
            rule.predict(history, run.layout, HORIZONS),
            history[-1] + torch.tensor(HORIZONS)[:, None] * (history[-1] - history[-2]),
        )
        squares = np.stack([(one - truth).double().square().sum(1).numpy() for one in forecasts])
        yield squares, (history[-1] - truth).double().square().sum(1).numpy()


if __name__ == "__main__":
    main()
