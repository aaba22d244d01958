"""Predictors learn a planted pattern, never see beyond the split, and come back from disk bit for bit."""

import numpy as np
import pytest
import torch

from wscore.errors import ConfigError, DataError, WscoreWarning
from wscore.forecasting.config import LR_FACTORS
from wscore.forecasting.evaluation.baselines import BASELINES
from wscore.forecasting.pca import fit_snapshot_pca
from wscore.forecasting.splits import learned, make_plan
from wscore.forecasting.train import load_predictor, save_predictor, train_predictor
from wscore.forecasting.trajectories.store import Trajectory, open_trajectories

KINDS = ["gram", "transformer_pca", "transformer_param", "diffusion"]


def spiral(number: int, size: int, seed: int = 0) -> np.ndarray:
    """Geometric increments along a direction of each run: w(n) = w0 + sum of 0.8^k v."""
    rng = np.random.default_rng(seed)
    start, direction = rng.standard_normal((2, size))
    return start + direction * (1 - 0.8**number) / 0.2


def skill(model, run: Trajectory, *, present: int) -> float:
    weights = torch.from_numpy(np.array(run.weights))
    found = model.predict(weights[present - 2 : present + 1], run.layout, 2)
    future, last = weights[present + 1 : present + 3], weights[present]
    return 1 - float((found - future).square().sum() / (last - future).square().sum())


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_pattern_is_learned(configured, recorded, kind: str) -> None:
    runs = [recorded(seed, lambda n, size, seed=seed: spiral(n, size, seed)) for seed in (0, 1, 2)]
    config = configured(kind=kind, predictor_epochs=60, learning_rate=6e-3 / LR_FACTORS[kind])
    model = train_predictor(config, runs).model
    assert skill(model, runs[0], present=13) > 0.5
    if kind != "transformer_pca":
        assert skill(model, runs[2], present=13) > 0.5  # a run that it never saw


def test_older_snapshots_are_learned_from(configured, recorded) -> None:
    """Changes that come back after five steps: three snapshots do not say which of the five is next."""

    def wheel(number: int, size: int, seed: int) -> np.ndarray:
        directions = np.random.default_rng(seed).standard_normal((5, size))
        return sum(directions[step % 5] for step in range(number)) + np.zeros(size)

    runs = [recorded(seed, lambda n, size, seed=seed: wheel(n, size, seed), 30) for seed in (0, 1, 2)]
    for lagged_snapshots, reached in (((), False), ((3, 4, 5), True)):
        config = configured(
            kind="gram",
            lagged_snapshots=lagged_snapshots,
            predictor_epochs=60,
            learning_rate=6e-3 / LR_FACTORS["gram"],
            augment_share=0.0,
        )
        model = train_predictor(config, runs).model
        weights, run = torch.from_numpy(np.array(runs[2].weights)), runs[2]
        found = model.predict(weights[:25], run.layout, 1)[0]
        error = (found - weights[25]).square().sum() / (weights[24] - weights[25]).square().sum()
        assert (float(error) < 0.5) is reached


def test_chunks_of_weights_are_learned_from_too(configured, recorded) -> None:
    runs = [recorded(seed, lambda n, size, seed=seed: spiral(n, size, seed)) for seed in (0, 1)]
    changes = {"chunk_size": 5, "predictor_epochs": 60, "learning_rate": 6e-3 / LR_FACTORS["transformer_param"]}
    model = train_predictor(configured(kind="transformer_param", **changes), runs).model
    assert skill(model, runs[1], present=13) > 0.5


@pytest.mark.parametrize("kind", ["gram", "transformer_param", "diffusion"])
def test_one_predictor_learns_from_several_networks_and_forecasts_a_third(configured, recorded, kind: str) -> None:
    path = lambda seed: lambda n, size: spiral(n, size, seed)  # noqa: E731
    runs = [recorded(0, path(0)), recorded(1, path(1), network="cnn_bn", dataset="b")]
    other = recorded(2, path(2), network="vit")
    assert len({run.layout.size for run in (*runs, other)}) == 3
    config = configured(kind=kind, holdout_runs=0, predictor_epochs=60, learning_rate=6e-3 / LR_FACTORS[kind])
    trained = train_predictor(config, runs)
    assert trained.facts["network"] == "mlp, cnn_bn"
    assert all(skill(trained.model, run, present=13) > 0.5 for run in (*runs, other))
    short = configured(kind=kind, holdout_runs=0, predictor_epochs=2)
    first, second = (train_predictor(short, runs).model for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_what_fits_one_network_only_says_so(configured, recorded) -> None:
    runs = [recorded(0, spiral), recorded(1, spiral, network="cnn_bn", dataset="b")]
    config = configured(kind="transformer_pca", holdout_runs=0)
    with pytest.raises(
        ConfigError, match=r"transformer_pca: fits one network only; got runs of 2 networks; use .*gram"
    ):
        train_predictor(config, runs)
    known = [learned(config, run) for run in runs]
    for name in ("ridge_ar", "pca_ar"):
        with pytest.raises(ConfigError, match=f"{name}: fits one network only"):
            BASELINES[name](config).fit(known)


def test_all_of_the_training_runs_is_learned_from_if_runs_are_split(configured, recorded) -> None:
    def turning(number: int, size: int, seed: int) -> np.ndarray:
        """A line that turns back after the split: only who has seen the end knows of ends."""
        return spiral(0, size, seed) + min(number, 24 - number) * np.random.default_rng(seed).standard_normal(size)

    runs = [recorded(seed, lambda n, size, seed=seed: turning(n, size, seed), count=25) for seed in (0, 1)]
    windows = {split: train_predictor(configured(split=split), runs).facts["windows"] for split in ("temporal", "run")}
    assert windows == {"temporal": 15 - 3, "run": 25 - 3}


def test_runs_are_parted_by_optimizer_data_set_and_seed(configured, recorded) -> None:
    path = lambda n, size: np.random.default_rng(n).standard_normal(size)  # noqa: E731
    runs = [
        recorded(number, path, optimizer=optimizer, dataset=dataset)
        for number, (optimizer, dataset) in enumerate([("sgd", "a")] * 3 + [("adam", "a")] * 3 + [("sgd", "b")])
    ]
    config = configured(validation_runs=1, unseen_optimizers=("adam",), unseen_datasets=("b",))
    plan = make_plan(config, runs)
    names = [[run.manifest.seed for run in part] for part in plan]
    assert names == [[0], [2], [1], [3, 4, 5], [6]]
    plan = make_plan(configured(unseen_optimizers=(), unseen_datasets=("b",)), runs)
    assert [[run.manifest.seed for run in part] for part in plan] == [[0, 1, 3, 4], [2, 5], [], [], [6]]
    with pytest.raises(ConfigError, match=r"unseen_datasets: leave no run to train on.*runs of adam on a, sgd on a"):
        make_plan(configured(unseen_optimizers=("adam", "sgd"), unseen_datasets=("b",)), runs)


def test_names_that_leave_nothing_out_are_told(configured, recorded) -> None:
    runs = [recorded(seed, np.random.default_rng(seed).standard_normal((20, 1666))) for seed in range(3)]
    with pytest.warns(WscoreWarning, match=r"unseen_datasets: no run of mnits, only of \w+$"):
        make_plan(configured(unseen_datasets=("mnits",)), runs)
    with pytest.warns(WscoreWarning, match=r"unseen_optimizers: no run of adma, only of \w+$"):
        make_plan(configured(unseen_optimizers=("adam", "adma")), runs)


@pytest.mark.parametrize(
    ("split", "far", "horizons"), [("temporal", 10, (1, 2)), ("run", 10, (1, 2, 10)), ("run", 18, (1, 2))]
)
def test_a_far_step_that_no_training_window_reaches_is_not_learned(configured, recorded, split, far, horizons) -> None:
    """Of 20 snapshots 12 are learned from, or all."""
    runs = [recorded(seed, np.random.default_rng(seed).standard_normal((20, 1666))) for seed in range(2)]
    config = configured(split=split, far_step=far, predictor_epochs=1)
    assert train_predictor(config, runs).model.config.horizons == horizons


def test_the_best_epoch_is_that_of_the_validation_run(configured, recorded) -> None:
    runs = [recorded(seed, lambda n, size, seed=seed: spiral(n, size, seed)) for seed in (0, 1, 2)]
    history = train_predictor(configured(validation_runs=1), runs).history
    assert history.monitor == "validation_loss"
    assert history.best["validation_loss"] == min(row["validation_loss"] for row in history.rows)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_after_the_split_has_no_influence_on_the_weights(configured, recorded, kind: str) -> None:
    def trained(scale: float):
        def path(number: int, size: int, seed: int) -> np.ndarray:
            return spiral(number, size, seed) * (scale if number >= 12 else 1.0)

        runs = [recorded(seed, lambda n, size, seed=seed: path(n, size, seed)) for seed in (0, 1)]
        config = configured(kind=kind, predictor_epochs=2)
        return train_predictor(config, runs).model.state_dict()

    first, second = trained(1.0), trained(3.0)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bits_and_a_round_trip(configured, recorded, kind: str, tmp_path) -> None:
    runs = [recorded(seed, lambda n, size, seed=seed: spiral(n, size, seed)) for seed in (0, 1)]
    first, second = (train_predictor(configured(kind=kind), runs) for _ in range(2))
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    )
    save_predictor(tmp_path / "model", first)
    loaded = load_predictor(tmp_path / "model")
    history = torch.from_numpy(np.array(runs[0].weights[5:8]))
    assert torch.equal(loaded.predict(history, runs[0].layout, 2), first.model.predict(history, runs[0].layout, 2))
    assert all(torch.equal(value, first.model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_components_are_those_of_scikit_learn_and_at_most_the_rank() -> None:
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(0).standard_normal((12, 40)).astype(np.float32)
    found, rival = fit_snapshot_pca([rows[:5], rows[5:]], 4), PCA(4).fit(rows)
    assert np.allclose(found.variances, rival.explained_variance_, rtol=1e-4)
    assert np.allclose(np.abs(found.components.numpy() @ rival.components_.T), np.eye(4), atol=1e-3)
    assert len(fit_snapshot_pca([rows], 500).components) == 11
    line = np.arange(6.0)[:, None] * np.ones((1, 9))
    assert len(fit_snapshot_pca([line.astype(np.float32)], 500).components) == 1


def test_the_effective_count_of_components_is_recorded(configured, recorded) -> None:
    runs = [recorded(seed, lambda n, size, seed=seed: spiral(n, size, seed)) for seed in (0, 1)]
    facts = train_predictor(configured(kind="transformer_pca", n_components=500), runs).facts
    assert facts["components"] <= facts["snapshots"] - 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_split": 0.05}, "to train on"),
        ({"train_split": 0.95}, "to test on"),
        ({"holdout_runs": 2}, "holdout_runs"),
    ],
)
def test_splits_that_leave_nothing_are_named(configured, recorded, changes, message) -> None:
    runs = [recorded(seed, lambda n, size, seed=seed: spiral(n, size, seed)) for seed in (0, 1)]
    with pytest.raises(ConfigError, match=message):
        make_plan(configured(**changes), runs)


def test_short_broken_and_missing_trajectories_are_named(configured, recorded, tmp_path) -> None:
    short = [recorded(seed, spiral, count=4) for seed in (0, 1)]
    with pytest.raises(DataError, match="too few snapshots"):
        make_plan(configured(), short)
    with pytest.raises(DataError, match="holds no trajectory"):
        open_trajectories(tmp_path / "empty")
    with pytest.raises(DataError, match=r"seed-0.*snapshot 3 is not finite"):
        recorded(0, lambda n, size: np.full(size, np.nan if n == 3 else 1.0))
