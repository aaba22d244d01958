"""Judging of forecasts on small trajectories whose future is known by hand."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from wscore.config import load_section
from wscore.evaluation.forecast import damping, judge_forecasts, probe
from wscore.evaluation.forecast_tables import Judged, by_method, report, sentence, summary, tables
from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.networks import NetworkSpec, judge, network_layout
from wscore.forecasting.plan import Plan, make_plan
from wscore.forecasting.snapshots import Manifest, SnapshotColumns, Trajectory, write_trajectory
from wscore.models.predictor import WeightPredictor
from wscore.zoo.images import Images
from wscore.zoo.layout import Layout

PARAMS = Path(__file__).parents[3] / "params.yaml"
SPEC = NetworkSpec(name="mlp", channels=1, size=4, classes=3)
LAYOUT = network_layout(SPEC)
COUNT = 20
METHODS = ["ours", "copy_last", "linear", "damped", "online_ar1", "lawa", "ema", "truth"]


class Oracle(WeightPredictor):
    """Forecasts w(t + k) = w(t) + gain k d."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def predict(self, history: Tensor, layout: Layout, horizons: int) -> Tensor:  # noqa: ARG002
        steps = torch.arange(1, horizons + 1)[:, None]
        return history[-1] + self.gain * steps * (history[-1] - history[-2])


def line(seed: int) -> np.ndarray:
    start, direction = np.random.default_rng(seed).standard_normal((2, LAYOUT.size))
    return start + 0.1 * np.arange(COUNT)[:, None] * direction


def walk(seed: int) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).standard_normal((COUNT, LAYOUT.size)), axis=0)


@pytest.fixture
def images() -> Images:
    x, y = torch.rand(30, 1, 4, 4), torch.arange(30) % 3
    return Images("none", x, y, x, y, 3)


@pytest.fixture
def config() -> PredictorConfig:
    changes = {
        "sequence_length": 3, "train_split": 0.5, "holdout_runs": 1, "stride": 2, "augment_strides": (1,),
        "extrapolation_steps": 2,
    }  # fmt: skip
    return msgspec.structs.replace(load_section(PredictorConfig, "predictor", PARAMS), **changes)


@pytest.fixture
def plan(tmp_path: Path, config: PredictorConfig) -> Callable[[Callable[[int], np.ndarray]], Plan]:
    def make(path: Callable[[int], np.ndarray], runs: int = 3) -> Plan:
        return make_plan(config, [write(tmp_path / f"seed-{seed}", seed, path(seed)) for seed in range(runs)])

    return make


def write(folder: Path, seed: int, weights: np.ndarray) -> Trajectory:
    ones = (1.0,) * len(weights)
    numbers = tuple(range(len(weights)))
    columns = SnapshotColumns(
        step=numbers, epoch=tuple(map(float, numbers)), lr=ones, train_loss=ones, test_loss=ones, test_accuracy=ones
    )
    manifest = Manifest(
        format=1, run=folder.name, seed=seed, dataset="none", optimizer="sgd", weight_decay=0.0, batch_size=1,
        snapshots_per_epoch=1, network=SPEC, layout=LAYOUT, snapshots=columns,
    )  # fmt: skip
    write_trajectory(folder, manifest, weights.astype(np.float32))
    return Trajectory(folder)


def test_the_true_future_has_skill_one_and_copying_zero(plan, config, images) -> None:
    for row in summary(judge_forecasts(Oracle(0.3), plan(walk), config, probe(images, 30))):
        if row.method == "truth":
            assert (row.skill, row.mse, row.skill_worst) == (1, 0, 1)
            assert row.cosine == pytest.approx(1)
        if row.method == "copy_last":
            assert row.skill == 0
            assert np.isnan(row.cosine)


def test_continued_increments_are_exact_on_a_line_and_nowhere_else(plan, config, images) -> None:
    straight = summary(judge_forecasts(Oracle(1.0), plan(line), config, probe(images, 30)))
    for row in straight:
        if row.method in ("ours", "linear", "damped", "online_ar1"):
            assert row.skill == pytest.approx(1, abs=1e-4)
    found = report(judge_forecasts(Oracle(1.0), plan(walk), config, probe(images, 30)))
    assert found["temporal"]["h2"]["linear"] == found["temporal"]["h2"]["ours"]
    assert found["temporal"]["h2"]["linear"]["skill"] < -0.5


def test_skill_and_cosine_by_hand(plan, config, images) -> None:
    """A forecast of half the way has error 1/4 of copying's, in the right direction."""
    found = report(judge_forecasts(Oracle(0.5), plan(line), config, probe(images, 30)))
    for split in ("temporal", "unseen_run", "unseen_run_all"):
        for horizon in ("h1", "h2"):
            assert found[split][horizon]["ours"]["skill"] == pytest.approx(0.75, abs=1e-4)
            assert found[split][horizon]["ours"]["cosine"] == pytest.approx(1, abs=1e-4)


def test_splits_hold_the_right_windows(plan, config, images) -> None:
    judged = judge_forecasts(Oracle(1.0), plan(walk), config, probe(images, 30))
    ours = [entry for entry in judged.entries if entry.method == "ours" and entry.horizon == 1]
    # split at 10: targets t + 2 and t + 4 in [10, 20), that is t in 9..15; everything: t from 4 on
    assert sorted((entry.run, entry.last) for entry in ours if not entry.held_out) == [
        (run, last) for run in ("seed-0", "seed-1") for last in range(9, 16)
    ]
    assert [entry.last for entry in ours if entry.held_out and entry.later] == list(range(9, 16))
    assert [entry.last for entry in ours if entry.held_out] == list(range(4, 16))
    found = report(judged)
    assert [found[split]["windows"] for split in found] == [14, 7, 12]


def test_networks_are_run_with_the_forecast_weights_a_stride_apart(plan, config, images) -> None:
    made = plan(walk)
    judged = judge_forecasts(Oracle(1.0), made, config, probe(images, 30))
    run = [entry for entry in judged.entries if entry.run == "seed-2" and np.isfinite(entry.loss)]
    assert sorted({entry.last for entry in run}) == [5, 7, 9, 11, 13, 15]
    for entry in run:
        weights = made.held_out[0].weights
        wanted = {
            "truth": weights[entry.last + 2 * entry.horizon],
            "copy_last": weights[entry.last],
            "linear": weights[entry.last] + entry.horizon * (weights[entry.last] - weights[entry.last - 2]),
            "lawa": weights[[entry.last, entry.last - 2, entry.last - 4]].mean(0) if entry.last >= 4 else None,
        }.get(entry.method)
        if wanted is not None:
            score = judge(SPEC, torch.from_numpy(np.array(wanted))[None], images.x_test, images.y_test)
            assert entry.loss == pytest.approx(score.loss.item(), rel=1e-4)
            assert entry.accuracy == pytest.approx(score.accuracy.item())


def test_the_damping_is_learned_before_the_split(plan, config) -> None:
    assert damping(plan(line), config) == pytest.approx(1, rel=1e-4)

    def reversing(seed: int) -> np.ndarray:
        path = line(seed)
        path[10:] = path[9] - (path[10:] - path[9])
        return path

    assert damping(plan(reversing), config) == pytest.approx(1, rel=1e-4)
    assert abs(damping(plan(walk), config)) < 0.3


def test_the_report_is_flat_numbers_and_says_where_there_is_no_skill(plan, config, images) -> None:
    good = report(judge_forecasts(Oracle(0.5), plan(line), config, probe(images, 30)))
    bad = report(judge_forecasts(Oracle(-1.0), plan(line), config, probe(images, 30)))
    assert list(good["temporal"]["h1"]) == METHODS
    assert set(good["temporal"]["h1"]["ours"]) == {"skill", "mse", "cosine", "accuracy", "loss"}
    assert "cosine" not in good["temporal"]["h1"]["copy_last"]  # it forecasts no change
    assert good["temporal"]["forecastable"] == 2
    assert good["temporal"]["skill_mean"] == pytest.approx(0.75, abs=1e-4)
    assert sentence(good).startswith("temporal: skill +0.750 / +0.750 at 1 / 2 steps (best baseline +1.000, linear)")
    assert sentence(bad).count("not forecastable here") == 3
    msgspec.convert(bad, dict[str, dict[str, float | dict[str, dict[str, float]]]])  # floats only, in three levels


def test_figures_by_method(plan, config, images) -> None:
    found = report(judge_forecasts(Oracle(0.5), plan(line), config, probe(images, 30)))
    methods = by_method(found, "unseen_run")
    assert list(methods) == METHODS
    assert methods["ours"]["skill_2"] == found["unseen_run"]["h2"]["ours"]["skill"]
    assert by_method(found, "no such split") == {}


def test_tables(plan, config, images) -> None:
    made = tables(judge_forecasts(Oracle(0.5), plan(walk), config, probe(images, 30)))
    assert list(made["skill_temporal"].columns) == ["horizon", *METHODS]
    assert made["skill_temporal"]["truth"].tolist() == [1, 1]
    assert len(made["summary"]) == 3 * 2 * len(METHODS)
    paths = made["paths"]
    assert set(paths["run"]) == {"seed-0", "seed-2"}  # the first run of each kind
    assert (paths["series"] == "truth").sum() == 2 * COUNT
    forecasts = paths[(paths["run"] == "seed-0") & (paths["series"] == "ours")]
    starts = forecasts.groupby("start")["epoch"].apply(list).to_dict()
    assert starts == {start: [start, start + 2, start + 4] for start in (9, 11, 13, 15)}
    truth = paths[(paths["run"] == "seed-0") & (paths["series"] == "truth")].set_index("epoch")
    first = forecasts[forecasts["epoch"] == forecasts["start"]].iloc[0]
    assert first["x"] == pytest.approx(truth.loc[first["start"], "x"])  # a forecast begins at the last known snapshot


def test_without_held_out_runs_there_is_one_split(tmp_path, config, images) -> None:
    config = msgspec.structs.replace(config, holdout_runs=0)
    plan = make_plan(config, [write(tmp_path / "seed-0", 0, walk(0))])
    found = report(judge_forecasts(Oracle(0.1), plan, config, probe(images, 30)))
    assert list(found) == ["temporal"]


def test_the_spread_is_over_runs(plan, config, images) -> None:
    judged = judge_forecasts(Oracle(0.1), plan(walk), config, probe(images, 30))
    row = next(row for row in summary(judged) if (row.split, row.method, row.horizon) == ("temporal", "ours", 1))
    skills = []
    for run in ("seed-0", "seed-1"):
        own = Judged([entry for entry in judged.entries if entry.run == run], [])
        skills += [one.skill for one in summary(own) if (one.method, one.horizon) == ("ours", 1)]
    assert row.skill_sd == pytest.approx(np.std(skills, ddof=1))
    assert min(skills) <= row.skill <= max(skills)


def test_probe_is_a_fixed_draw(images) -> None:
    first, again = probe(images, 10), probe(images, 10)
    assert torch.equal(first.images, again.images)
    assert len(first.labels) == 10
    assert len(probe(images, 99).labels) == 30
