"""Generalisation of a `gram` predictor to unseen seeds, data sets, learning rates, optimisers and strides, by cell.

    python -m benchmarks.forecast_cells --folder .cache/cells [--images fashion=path mnist=path] [--length 5]
    python -m benchmarks.forecast_cells --folder .cache/shifted --study shifted [--ceiling 8 --starts 6]
    python -m benchmarks.forecast_cells --folder .cache/shifted --study shifted [--older 5 6 7 8]

Records LeNet-5 (cached in the folder; some minutes the first time), trains one predictor on SGD and Adam runs of two
seeds at several strides, with a third seed for choosing the epoch, and tests it on runs of two other seeds: with the
training settings, another learning rate, another optimiser, or other images, each also at untrained strides.

    epochs     20 epochs of the 1,198 digits in batches of 8; strides of 1, 2, 3 and 6 snapshots, 6 being an epoch
    shifted    2,000 steps of batches of 64, every digit shifted by up to 3 pixels whenever it is drawn; strides of
               1, 2, 5 and 10 snapshots of 10 steps. Tested on another seed, on letters in the fonts of matplotlib, at
               other rates, and on 20 epochs of unshifted digits, with snapshots every 5 and 20 steps
    nine       nine single runs of `shifted`, from the same folder: seed 2 of SGD 0.01, Adam 0.001 and SGD 0.05 and of both
               still digits, and both seeds of SGD 0.01 and Adam 0.001 on letters, each a separate cell
    again      the same with other runs: seed 4, and two further seeds of letters

`--images` adds data sets to `epochs`, from idx, npz or parquet files, cut to as many training images as there are
digits. `--older` are lagged input snapshots of the predictor, as steps back.

Prints the skill 1 and 5 steps ahead of every cell over all windows of its runs, with half the difference between its
two seeds, next to the baselines (fitted on the training runs of the predictor at the stride of the cell) and two
oracles fitted on the test targets, which bound the skill of any combination of the same increments:

    fixed      one coefficient per increment and tensor, fitted on the test windows
    oracle     the best coefficients of each window

`--ceiling 8` adds the upper bound for forecasts given network, images and optimiser, but not the future batches (see
`benchmarks/forecast_ceiling.py`): each run is continued 8 times from `--starts` snapshots, with new batches and image
shifts. Both oracles above use the future batches too, so they may be higher.

Then means, minima, shares above 0 and a summary line. The exit status is 1 if a cell has no positive skill.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.forecast_ceiling import Ceiling, Lost, ceiling_of, lost_of, measure, plan_of
from benchmarks.glyphs import write_glyphs
from wscore.config import convert, load_section, to_plain
from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.evaluation.baselines import BASELINES as ALL_BASELINES
from wscore.forecasting.evaluation.evaluate import Method, forecast_window
from wscore.forecasting.evaluation.tables import TRUTH
from wscore.forecasting.sequences import Windows
from wscore.forecasting.splits import later, learned, windows_between
from wscore.forecasting.train import LearnedForecaster
from wscore.forecasting.trajectories.grams import TINY, relative_errors, snapshot_grams, window_grams
from wscore.forecasting.trajectories.store import Trajectory, open_trajectories
from wscore.forecasting.trajectories.train_base import BaseConfig, record_runs
from wscore.networks.images import load_images

SGD, ADAM = {"name": "sgd", "lr": 0.01}, {"name": "adam", "lr": 0.001}
HORIZONS = (1, 5)
TRAIN_IMAGES, PROBED = 1200, 100
BASELINES = ("online_ar1", "damped", "ridge_ar", "linear", "lawa", "ema")
OURS, BOUNDS = "gram", ("fixed", "oracle")
COLUMNS = (OURS, *BASELINES, *BOUNDS)
RIDGE = 1e-3  # ridge of the oracles, relative to the mean squared increment
EVERY = 3  # every third window is tested


class Cell(NamedTuple):
    """Skills of one setting at one stride.

    Attributes:
        name: of setting and stride.
        skill: of each column and horizon, over all runs.
        spread: of ours, half the range over runs.
        ceilings: of each horizon; empty if not measured.
    """

    name: str
    skill: np.ndarray
    spread: np.ndarray
    ceilings: list[Ceiling]


class Effort(NamedTuple):
    """Settings of the ceilings.

    Attributes:
        repeats: continuations from each start.
        starts: snapshots per run from which it is continued.
    """

    repeats: int
    starts: int


class Setting(NamedTuple):
    """Test runs of one kind.

    Attributes:
        name: what is unseen.
        changes: to section `base:`.
        strides: test strides, in snapshots.
        apart: seeds whose runs are separate cells; empty: one cell with all runs of the study.
        seeds: of the runs, if not those of the study.
    """

    name: str
    changes: dict[str, Any]
    strides: Sequence[int]
    apart: Sequence[int] = ()
    seeds: Sequence[int] = ()

    def groups(self, runs: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
        """Return the runs of each cell by name."""
        if not self.apart:
            return {self.name: list(runs)}
        return {f"{self.name}, seed {seed}": [run for run in runs if run.manifest.seed == seed] for seed in self.apart}


class Study(NamedTuple):
    """Training runs and test settings of a study.

    Attributes:
        training: changes to section `base:` for the training runs.
        trained: their seeds.
        validated: seeds for choosing the epoch.
        tested: seeds of the cells.
        strides: of the training windows.
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
    parser.add_argument("--study", choices=("epochs", "shifted", "nine", "again"), default="epochs")
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=PATH", help="more data sets for `epochs`")
    parser.add_argument("--length", type=int, default=5, help="input snapshots of the predictor")
    parser.add_argument("--older", type=int, nargs="*", default=[], help="lagged input snapshots, as steps back")
    parser.add_argument("--epochs", type=int, default=14, help="of the predictor")
    parser.add_argument(
        "--ceiling", type=int, default=0, metavar="TIMES", help="continuations per start; 0: no ceiling"
    )
    parser.add_argument("--starts", type=int, default=6, help="snapshots per run from which it is continued")
    options = parser.parse_args()
    torch.set_num_threads(1)
    studies = {
        "epochs": lambda: epochs(options.images),
        "shifted": lambda: shifted(options.folder),
        "nine": lambda: nine(options.folder),
        "again": lambda: again(options.folder),
    }
    study = studies[options.study]()
    config = predictor_config(options, study)
    learner = train(options.folder, study, config)
    effort = Effort(options.ceiling, options.starts)
    found = [cell for setting in study.settings for cell in cells(options.folder, study, setting, learner, effort)]
    show(found)
    sys.exit(int(any((cell.skill[0] <= 0).any() for cell in found)))


def show(found: Sequence[Cell]) -> None:
    """Print a row per cell, means, minima and shares above 0, and the summary."""
    print(f"{'1 / 5 ahead':44}{OURS:>20}" + "".join(f"{name:>14}" for name in COLUMNS[1:]) + f"{'ceiling':>22}")
    for cell in found:
        ours = " / ".join(f"{skill:.2f}±{spread:.2f}" for skill, spread in zip(cell.skill[0], cell.spread, strict=True))
        highest = " / ".join(f"{one.skill:.2f}±{one.error:.2f}" for one in cell.ceilings)
        others = "".join(f"{f'{near:.2f} / {far:.2f}':>14}" for near, far in cell.skill[1:])
        print(f"{cell.name:44}{ours:>20}{others}{highest:>22}")
    table = np.array([cell.skill for cell in found])  # (cells, columns, horizons)
    for name, rows in (("mean", table.mean(0)), ("minimum", table.min(0)), ("share above 0", (table > 0).mean(0))):
        text = [f"{near:.3f} / {far:.3f}" for near, far in rows]
        print(f"{name:44}{text[0]:>20}" + "".join(f"{one:>14}" for one in text[1:]))
    best = table[:, 1 : 1 + len(BASELINES)].max(1)  # (cells, horizons): the best baseline of each cell
    for number, step in enumerate(HORIZONS):
        ours, limit = table[:, 0, number], table[:, -1, number]
        print(
            f"{step} ahead: above 0 in {(ours > 0).sum()} of {len(found)} cells, above the best baseline of the cell in "
            f"{(ours > best[:, number]).sum()}; mean {ours.mean():+.3f}, best baseline {best[:, number].mean():+.3f}, "
            f"knowing the future {limit.mean():+.3f}"
        )
        if found[0].ceilings:
            skill, itself = np.array([[cell.ceilings[number].skill, cell.ceilings[number].itself] for cell in found]).T
            print(
                f"{step} ahead: ceiling {skill.mean():+.3f} ({itself.mean():+.3f} by the runs themselves), "
                f"of which ours has {ours.mean() / skill.mean():.0%}"
            )


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
    return Study({**fixed, "optimizers": [SGD, ADAM]}, (0, 1), (2,), (100, 101), (1, 2, 3, 6), settings)


def shifted(folder: Path) -> Study:
    """Return the study of runs on randomly shifted images."""
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
    return Study({**digits, "optimizers": [SGD, ADAM]}, (0, 1), (3,), (2, 4), (1, 2, 5, 10), settings)


def nine(folder: Path) -> Study:
    """Return the study of nine single runs of `shifted`."""
    study, left_out = shifted(folder), ("adam 0.002 (other rate)", "letters, sgd 0.05 (other rate)")
    twice = ("letters, sgd 0.01", "letters, adam 0.001")
    first, both = study.tested[:1], study.tested
    settings = [one._replace(apart=both if one.name in twice else first) for one in study.settings]
    return study._replace(settings=[one for one in settings if one.name not in left_out])


def again(folder: Path) -> Study:
    """Return the study of nine further runs, disjoint from `nine`."""
    study, further = nine(folder), (6, 7)
    settings = [
        one._replace(name=f"{one.name}, other seeds", apart=further, seeds=further)
        if "letters" in one.name
        else one._replace(apart=study.tested[1:])
        for one in study.settings
    ]
    return study._replace(settings=settings)


def recorded(folder: Path, name: str, seeds: Sequence[int], changes: Mapping[str, Any]) -> list[Trajectory]:
    """Return runs from the folder; record them if they are missing."""
    place = folder / plain_name(name)
    if not place.is_dir():
        config = base_config(seeds, changes)
        record_runs(config, load_images(config.images), place)
    return open_trajectories(place)


def plain_name(name: str) -> str:
    """Return the name of a folder."""
    return name.replace(" ", "_").replace(",", "")


def base_config(seeds: Sequence[int], changes: Mapping[str, Any]) -> BaseConfig:
    """Return section `base:` with changes."""
    fixed = {"seeds": list(seeds), "probe_images": PROBED}
    plain = to_plain(load_section(BaseConfig, "base")) | fixed | dict(changes)
    return convert(plain, BaseConfig, where="base")


def predictor_config(options: argparse.Namespace, study: Study) -> PredictorConfig:
    """Return section `predictor:` for training on whole runs."""
    changes = {
        "kind": "gram", "split": "run", "sequence_length": options.length, "lagged_snapshots": options.lagged_snapshots,
        "stride": max(study.strides),
        "augment_strides": list(study.strides), "extrapolation_steps": max(HORIZONS), "far_step": None,
        "predictor_epochs": options.epochs, "augment_share": 0.15,
    }  # fmt: skip
    return convert(to_plain(load_section(PredictorConfig, "predictor")) | changes, PredictorConfig, where="predictor")


class Learner(NamedTuple):
    """The trained predictor with its training runs.

    Attributes:
        model: used for all cells.
        runs: of its training.
    """

    model: LearnedForecaster
    runs: list[Trajectory]

    def methods(self, config: PredictorConfig) -> dict[str, Method]:
        """Return the predictor and the baselines fitted at a stride."""
        known = [learned(config, run) for run in self.runs]
        found: dict[str, Method] = {OURS: self.model.predict}
        for name in BASELINES:
            rule = ALL_BASELINES[name](config)
            rule.fit(known)
            found[name] = rule.predict
        return found


def train(folder: Path, study: Study, config: PredictorConfig) -> Learner:
    """Return the predictor for all cells."""
    runs = recorded(folder, "training", (*study.trained, *study.validated), study.training)
    known, watched = ([run for run in runs if run.manifest.seed in seeds] for seeds in (study.trained, study.validated))
    model = LearnedForecaster(config)
    model.fit([learned(config, run) for run in known], [later(config, run) for run in watched])
    print(f"trained on {len(known)} runs, validation skill {model.history.best['validation_skill']:+.3f}")
    return Learner(model, known)


def cells(folder: Path, study: Study, setting: Setting, learner: Learner, effort: Effort) -> Iterator[Cell]:
    """Yield the skills at each stride of a setting."""
    runs = recorded(folder, setting.name, setting.seeds or study.tested, setting.changes)
    for group, some in setting.groups(runs).items():
        highest = ceilings(folder, study, setting, some, learner.model.config, effort) if effort.repeats else {}
        for stride in setting.strides:
            config = at_stride(learner.model.config, stride)
            methods = learner.methods(config)
            pairs = [errors_of(methods, config, run) for run in some]  # of each run (columns, horizons) and (horizons,)
            errors, copied = np.sum([own for own, _ in pairs], 0), np.sum([own for _, own in pairs], 0)
            single = np.array([1 - own[0] / copy for own, copy in pairs])
            name = f"{group}, stride {stride}" + ("" if stride in study.strides else " (other stride)")
            yield Cell(name, 1 - errors / copied, np.ptp(single, axis=0) / 2, highest.get(stride, []))


def at_stride(config: PredictorConfig, stride: int) -> PredictorConfig:
    """Return section `predictor:` for one stride only."""
    return convert(to_plain(config) | {"stride": stride, "augment_strides": []}, PredictorConfig, where="predictor")


def ceilings(
    folder: Path, study: Study, setting: Setting, runs: Sequence[Trajectory], config: PredictorConfig, effort: Effort
) -> dict[int, list[Ceiling]]:
    """Return the ceiling of each horizon at each stride over some runs of a setting."""
    base = base_config(study.tested, setting.changes)
    images, place = load_images(base.images), folder / "ceilings" / plain_name(setting.name)
    lost: dict[tuple[int, int], list[Lost]] = {pair: [] for pair in itertools.product(setting.strides, HORIZONS)}
    for run in runs:
        windows = {stride: tested_windows(at_stride(config, stride), run) for stride in setting.strides}
        plan = plan_of(windows, HORIZONS, effort.starts)
        found = measure(base, run, images, plan, effort.repeats, place)
        for (stride, step), parts in lost.items():
            parts.append(lost_of(run, plan, found, stride, step))
    return {stride: [ceiling_of(lost[stride, step]) for step in HORIZONS] for stride in setting.strides}


def errors_of(methods: Mapping[str, Method], config: PredictorConfig, run: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Return the summed squared errors of all columns, and of copying, over every third window of a run."""
    windows = tested_windows(config, run)
    chosen = [config.steps.index(step) for step in HORIZONS]
    errors, copied = np.zeros((len(COLUMNS), len(HORIZONS))), np.zeros(len(HORIZONS))
    for last in windows.last.tolist():
        forecasts, history, _ = forecast_window(methods, config, run, last)
        truth = forecasts[TRUTH][chosen].double()
        for number, name in enumerate(methods):
            errors[number] += (forecasts[name][chosen].double() - truth).square().sum(1).numpy()
        copied += (history[-1].double() - truth).square().sum(1).numpy()
    grams = window_grams(snapshot_grams(run.weights, run.layout), windows)  # (W, L, V, V)
    for number, some in enumerate((grams.sum(0, keepdim=True), grams)):
        own, _ = relative_errors(
            best_coefficients(some, config.sequence_length - 1).expand(len(grams), -1, -1, -1), grams
        )
        errors[number - len(BOUNDS)] = own.sum((0, 1))[chosen].numpy()
    return errors, copied


def tested_windows(config: PredictorConfig, run: Trajectory) -> Windows:
    """Return every third window of a run."""
    windows = windows_between(config, 1, len(run))
    return windows._replace(
        history=windows.history[::EVERY], targets=windows.targets[::EVERY], known=windows.known[::EVERY]
    )


def best_coefficients(
    grams: Float[Tensor, "window tensor vector vector"], increments: int
) -> Float[Tensor, "window tensor increment horizon"]:
    """Return the best coefficients by ridge regression on the test targets."""
    own, cross = grams[..., :increments, :increments], grams[..., :increments, increments:]
    mean = own.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return torch.linalg.solve(own + (RIDGE * mean + TINY) * torch.eye(increments, dtype=own.dtype), cross)


if __name__ == "__main__":
    main()
