"""Judging of forecasts on small trajectories whose future is known by hand."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from wscore.config import load_section
from wscore.forecasting.config import PredictorConfig
from wscore.forecasting.evaluation.config import ForecastConfig
from wscore.forecasting.evaluation.evaluate import evaluate_forecasts
from wscore.forecasting.evaluation.recovery import RecoveryImages, draw_recovery_images
from wscore.forecasting.evaluation.tables import (
    ForecastResults,
    by_method,
    forecast_report,
    forecast_summary_line,
    forecast_tables,
    near_steps,
    pooled_metrics,
)
from wscore.forecasting.models.predictors import Steps, WeightPredictor, steps_of
from wscore.forecasting.splits import RunSplit, make_plan
from wscore.forecasting.trajectories.store import Manifest, SnapshotColumns, Trajectory, write_trajectory
from wscore.networks.images import Images
from wscore.networks.layout import Layout
from wscore.networks.lenet import NetworkSpec, accuracy_and_loss, network_layout

PARAMS = Path(__file__).parents[4] / "params.yaml"
SPEC = NetworkSpec(name="mlp", channels=1, size=4, classes=3)
LAYOUT = network_layout(SPEC)
COUNT = 20
METHODS = [
    "ours", "copy_last", "linear", "damped", "ridge_ar", "online_ar1", "pca_ar", "lawa", "ema", "truth",
]  # fmt: skip


class Oracle(WeightPredictor):
    """Forecasts w(t + k) = w(t) + gain k d."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def predict(self, history: Tensor, layout: Layout, horizons: Steps) -> Tensor:  # noqa: ARG002
        steps = torch.tensor(steps_of(horizons))[:, None]
        return history[-1] + self.gain * steps * (history[-1] - history[-2])


SETTINGS = ForecastConfig(window_step=1, scored_windows=2, probe_images=30, recovery_steps=(1, 3))


def judged_by(
    model: WeightPredictor, plan: RunSplit, config: PredictorConfig, seen: RecoveryImages, **changes: object
) -> ForecastResults:
    return evaluate_forecasts(model, plan, config, [seen], msgspec.structs.replace(SETTINGS, **changes))


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
        "sequence_length": 3, "train_split": 0.5, "holdout_runs": 1, "validation_runs": 0, "stride": 2,
        "augment_strides": (1,), "extrapolation_steps": 2, "far_step": None,
    }  # fmt: skip
    return msgspec.structs.replace(load_section(PredictorConfig, "predictor", PARAMS), **changes)


@pytest.fixture
def plan(tmp_path: Path, config: PredictorConfig) -> Callable[[Callable[[int], np.ndarray]], RunSplit]:
    def make(path: Callable[[int], np.ndarray], runs: int = 3) -> RunSplit:
        return make_plan(config, [write(tmp_path / f"seed-{seed}", seed, path(seed)) for seed in range(runs)])

    return make


def write(folder: Path, seed: int, weights: np.ndarray, optimizer: str = "sgd") -> Trajectory:
    ones = (1.0,) * len(weights)
    numbers = tuple(range(len(weights)))
    columns = SnapshotColumns(
        step=numbers, epoch=tuple(map(float, numbers)), lr=ones, train_loss=ones, test_loss=ones, test_accuracy=ones
    )
    manifest = Manifest(
        format=1, run=folder.name, seed=seed, dataset="none", optimizer=optimizer, weight_decay=0.0, batch_size=1,
        snapshots_per_epoch=1, network=SPEC, layout=LAYOUT, snapshots=columns,
    )  # fmt: skip
    write_trajectory(folder, manifest, weights.astype(np.float32))
    return Trajectory(folder)


def test_the_true_future_has_skill_one_and_copying_zero(plan, config, images) -> None:
    for row in pooled_metrics(judged_by(Oracle(0.3), plan(walk), config, draw_recovery_images(images, 30))):
        if row.method == "truth":
            assert (row.skill, row.mse, row.skill_worst) == (1, 0, 1)
            assert row.cosine == pytest.approx(1)
        if row.method == "copy_last":
            assert row.skill == 0
            assert np.isnan(row.cosine)


def test_continued_increments_are_exact_on_a_line_and_nowhere_else(plan, config, images) -> None:
    straight = pooled_metrics(judged_by(Oracle(1.0), plan(line), config, draw_recovery_images(images, 30)))
    for row in straight:
        if row.method in ("ours", "linear", "damped", "online_ar1"):
            assert row.skill == pytest.approx(1, abs=1e-4)
    found = forecast_report(judged_by(Oracle(1.0), plan(walk), config, draw_recovery_images(images, 30)))
    assert found["temporal"]["h2"]["linear"] == found["temporal"]["h2"]["ours"]
    assert found["temporal"]["h2"]["linear"]["skill"] < -0.5


def test_skill_and_cosine_by_hand(plan, config, images) -> None:
    """A forecast of half the way has error 1/4 of copying's, in the right direction."""
    found = forecast_report(judged_by(Oracle(0.5), plan(line), config, draw_recovery_images(images, 30)))
    for split in ("temporal", "unseen_run", "unseen_run_all"):
        for horizon in ("h1", "h2"):
            assert found[split][horizon]["ours"]["skill"] == pytest.approx(0.75, abs=1e-4)
            assert found[split][horizon]["ours"]["cosine"] == pytest.approx(1, abs=1e-4)


def test_splits_hold_the_right_windows(plan, config, images) -> None:
    judged = judged_by(Oracle(1.0), plan(walk), config, draw_recovery_images(images, 30))
    ours = [entry for entry in judged.entries if entry.method == "ours" and entry.horizon == 1]
    # split at 10: targets t + 2 and t + 4 in [10, 20), that is t in 9..15; of unseen runs earlier ones too, a stride apart
    assert sorted((entry.head.run, entry.head.last) for entry in ours if entry.head.source == "temporal") == [
        (run, last) for run in ("seed-0", "seed-1") for last in range(9, 16)
    ]
    assert [entry.head.last for entry in ours if entry.head.source == "unseen_run" and entry.head.later] == list(
        range(9, 16)
    )
    assert [entry.head.last for entry in ours if entry.head.source == "unseen_run"] == [4, 6, 8, *range(9, 16)]
    found = forecast_report(judged)
    assert [found[split]["windows"] for split in found] == [14, 7, 10]


def test_networks_are_run_with_the_forecast_weights(plan, config, images) -> None:
    made = plan(walk)
    judged = judged_by(Oracle(1.0), made, config, draw_recovery_images(images, 30), scored_windows=2)
    run = [entry for entry in judged.entries if entry.head.run == "seed-2" and np.isfinite(entry.loss)]
    assert sorted({entry.head.last for entry in run}) == [4, 8, 9, 15]
    later = accuracy_and_loss(SPEC, torch.from_numpy(np.array(made.held_out[0].weights)), images.x_test, images.y_test)
    for entry in run:
        weights, last = made.held_out[0].weights, entry.head.last
        wanted = {
            "truth": weights[last + 2 * entry.horizon],
            "copy_last": weights[last],
            "linear": weights[last] + entry.horizon * (weights[last] - weights[last - 2]),
            "lawa": weights[[last, last - 2, last - 4]].mean(0),
        }.get(entry.method)
        if wanted is not None:
            score = accuracy_and_loss(SPEC, torch.from_numpy(np.array(wanted))[None], images.x_test, images.y_test)
            assert entry.loss == pytest.approx(score.loss.item(), rel=1e-4)
            assert entry.accuracy == pytest.approx(score.accuracy.item())
        if entry.method == "truth":
            assert entry.agreement == 1
            assert entry.accuracy == pytest.approx(later.accuracy[last + 2 * entry.horizon].item())


def test_networks_of_other_images_are_not_run(plan, config, images) -> None:
    judged = judged_by(Oracle(1.0), plan(walk), config, draw_recovery_images(images._replace(name="others"), 30))
    assert all(np.isnan(entry.loss) for entry in judged.entries)
    assert not judged.recoveries
    assert "recovery" not in forecast_report(judged)["temporal"]


def test_recovery_starts_at_the_forecast_and_trains_all_alike(plan, config, images) -> None:
    made = plan(line)
    judged = judged_by(Oracle(1.0), made, config, draw_recovery_images(images, 30))
    at_once = {
        (entry.head.run, entry.head.last, entry.method): entry.loss for entry in judged.entries if entry.horizon == 2
    }
    for one in judged.recoveries:
        assert one.horizon == 2
        if one.steps == 0:
            assert one.loss == pytest.approx(at_once[one.run, one.last, one.method], rel=1e-5)
    same = {}  # a perfect forecast and the truth are one network, and stay one
    for one in judged.recoveries:
        same.setdefault((one.run, one.last, one.steps), {})[one.method] = one.loss
    for losses in same.values():
        assert losses["ours"] == pytest.approx(losses["truth"], rel=1e-3)
    found = forecast_report(judged)["unseen_run"]["recovery"]
    assert list(found) == ["r0", "r1", "r3"]
    assert found["r3"]["ours"]["loss"] != found["r0"]["ours"]["loss"]
    assert found["r0"]["copy_last"]["loss_wins"] == 0


def test_skill_of_each_tensor(plan, config, images) -> None:
    class Half(Oracle):
        """Exact in the first tensor, copy-last in the others."""

        def predict(self, history: Tensor, layout: Layout, horizons: Steps) -> Tensor:
            found, first = super().predict(history, layout, horizons), next(iter(layout.slices().values()))
            return torch.cat([found[:, first], history[-1:, first.stop :].expand(len(found), -1)], dim=1)

    found = forecast_report(judged_by(Half(1.0), plan(line), config, draw_recovery_images(images, 30)))["unseen_run"]
    skills = [entries["h2"] for entries in found["tensors"].values()]
    assert skills == pytest.approx([1] + [0] * (len(skills) - 1), abs=1e-4)
    first = LAYOUT.tensors[0].size / LAYOUT.size
    assert found["h2"]["ours"]["skill"] == pytest.approx(first, abs=0.1)


def test_several_optimizers_are_judged_apart(tmp_path, config, images) -> None:
    runs = [write(tmp_path / f"{name}-{seed}", seed, walk(seed), name) for name in ("adam", "sgd") for seed in (0, 1)]
    found = forecast_report(judged_by(Oracle(0.1), make_plan(config, runs), config, draw_recovery_images(images, 30)))
    wanted = ["unseen_optimizer"]
    assert [name for name in found if not name.endswith("_all")] == ["temporal", "unseen_run", *wanted]
    every = msgspec.structs.replace(config, unseen_optimizers=())
    found = forecast_report(judged_by(Oracle(0.1), make_plan(every, runs), every, draw_recovery_images(images, 30)))
    assert "temporal_sgd" in found
    assert found["unseen_run_adam"]["windows"] + found["unseen_run_sgd"]["windows"] == found["unseen_run"]["windows"]


def test_runs_that_were_learned_from_to_their_end_are_no_test(plan, config, images) -> None:
    found = forecast_report(
        judged_by(
            Oracle(0.1), plan(walk), msgspec.structs.replace(config, split="run"), draw_recovery_images(images, 30)
        )
    )
    assert list(found) == ["unseen_run", "unseen_run_all"]


def test_a_far_step_is_judged_where_there_is_one(plan, config, images) -> None:
    far = msgspec.structs.replace(config, far_step=4)
    found = forecast_report(judged_by(Oracle(1.0), plan(line), far, draw_recovery_images(images, 30)))["temporal"]
    assert [key for key in found if key[0] == "h"] == ["h1", "h2", "h4"]
    assert near_steps([4, 1, 2]) == [1, 2]


def test_the_report_is_flat_numbers_and_says_where_there_is_no_skill(plan, config, images) -> None:
    good = forecast_report(judged_by(Oracle(0.5), plan(line), config, draw_recovery_images(images, 30)))
    bad = forecast_report(judged_by(Oracle(-1.0), plan(line), config, draw_recovery_images(images, 30)))
    assert list(good["temporal"]["h1"]) == METHODS
    assert set(good["temporal"]["h1"]["ours"]) == {
        "skill", "skill_sd", "mse", "cosine", "accuracy", "loss", "agreement",
    }  # fmt: skip
    assert "cosine" not in good["temporal"]["h1"]["copy_last"]  # it forecasts no change
    assert good["temporal"]["forecastable"] == 2
    assert good["temporal"]["skill_mean"] == pytest.approx(0.75, abs=1e-4)
    assert forecast_summary_line(good).startswith(
        "temporal: skill +0.750 / +0.750 at 1 / 2 steps (best baseline +1.000,"
    )
    assert forecast_summary_line(bad).count("not forecastable here") == 0
    assert (
        forecast_summary_line(bad).count("no skill, but linear has +1.000 at ") == 2
    )  # it is the predictor that fails
    nobody = {
        split: {
            key: {name: {"skill": min(0.05, one["skill"])} for name, one in part[key].items()} for key in ("h1", "h2")
        }
        for split, part in bad.items()
    }
    assert forecast_summary_line(nobody).count("not forecastable here") == 2
    msgspec.convert(bad, dict[str, dict[str, float | dict[str, dict[str, float | dict[str, float]]]]])


def test_figures_by_method(plan, config, images) -> None:
    found = forecast_report(judged_by(Oracle(0.5), plan(line), config, draw_recovery_images(images, 30)))
    methods = by_method(found, "unseen_run")
    assert list(methods) == METHODS
    assert methods["ours"]["skill_2"] == found["unseen_run"]["h2"]["ours"]["skill"]
    assert by_method(found, "no such split") == {}


def test_tables(plan, config, images) -> None:
    made = forecast_tables(judged_by(Oracle(0.5), plan(walk), config, draw_recovery_images(images, 30)))
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
    found = forecast_report(judged_by(Oracle(0.1), plan, config, draw_recovery_images(images, 30)))
    assert list(found) == ["temporal"]


def test_the_spread_is_over_runs(plan, config, images) -> None:
    judged = judged_by(Oracle(0.1), plan(walk), config, draw_recovery_images(images, 30))
    row = next(row for row in pooled_metrics(judged) if (row.split, row.method, row.horizon) == ("temporal", "ours", 1))
    skills = []
    for run in ("seed-0", "seed-1"):
        own = ForecastResults([entry for entry in judged.entries if entry.head.run == run], [], {}, [], [])
        skills += [one.skill for one in pooled_metrics(own) if (one.method, one.horizon) == ("ours", 1)]
    assert row.skill_sd == pytest.approx(np.std(skills, ddof=1))
    assert min(skills) <= row.skill <= max(skills)


def test_probe_is_a_fixed_draw(images) -> None:
    first, again = draw_recovery_images(images, 10), draw_recovery_images(images, 10)
    assert torch.equal(first.images, again.images)
    assert len(first.labels) == 10
    assert len(draw_recovery_images(images, 99).labels) == 30
