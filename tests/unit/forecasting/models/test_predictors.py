from functools import partial

import pytest
import torch
from torch import Tensor, nn

from wscore.errors import ModelError
from wscore.forecasting.models.matrix_parts import present_parts
from wscore.forecasting.models.per_weight import (
    DiffusionPredictor,
    DiffusionPredictorConfig,
    SeriesPredictor,
    SeriesPredictorConfig,
)
from wscore.forecasting.models.predictors import (
    FEW,
    GramPredictor,
    GramPredictorConfig,
    PcaPredictor,
    PcaPredictorConfig,
    ShortBlock,
    WeightPredictor,
    agreed,
    gram_features,
    part_features,
)
from wscore.forecasting.sequences import reaching_back, training_windows
from wscore.forecasting.trajectories.grams import part_grams, snapshot_grams, window_grams
from wscore.io import read_json, write_json
from wscore.networks.layout import Layout, layout_of
from wscore.training.model_folder import load_model, save_model

SHAPE = {"sequence_length": 4, "horizons": (1, 2, 3), "model_dim": 16, "layers": 1, "heads": 2, "dropout": 0.0}


def network(hidden: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, hidden, 3), nn.Flatten(), nn.Linear(4 * hidden, 5))


LAYOUT = layout_of(network().state_dict())
RANK = 3
EDGES = (3, 20)
EVERY = ["gram", "lagged_snapshots", "undivided", "pca", "whole", "param", "chunk", "diffusion"]


def untrained(kind: str, mode: str = "residual") -> WeightPredictor:
    """A predictor whose last layer is not zero, so that it forecasts something."""
    if kind in ("gram", "lagged_snapshots", "undivided"):
        lagged_snapshots, rank_splits = (
            (5, 7) if kind == "lagged_snapshots" else (),
            () if kind == "undivided" else EDGES,
        )
        shape = GramPredictorConfig(
            **SHAPE, lagged_snapshots=lagged_snapshots, rank_splits=rank_splits, ensemble_size=2
        )
        model: WeightPredictor = GramPredictor(shape)
    elif kind in ("param", "chunk"):
        model = SeriesPredictor(SeriesPredictorConfig(**SHAPE, chunk_size=1 if kind == "param" else 7))
    elif kind == "diffusion":
        model = DiffusionPredictor(
            DiffusionPredictorConfig(**SHAPE, chunk_size=1, steps=3, samples=4, band=0.8, seed=0)
        )
    else:
        rank = RANK if kind == "pca" else None
        model = PcaPredictor(PcaPredictorConfig(**SHAPE, weights=LAYOUT.size, rank=rank, mode=mode))
        if rank:
            model.components.copy_(torch.linalg.qr(torch.randn(LAYOUT.size, rank)).Q.T)
        model.mean.normal_()
    for head in heads(model):
        nn.init.normal_(head.weight)
        nn.init.normal_(head.bias)
    return model.eval()


def heads(model: nn.Module) -> list[nn.Module]:
    """The last layers of a predictor: one of each of its transformers."""
    return [one.head for one in getattr(model, "members", [model])]


def walk(count: int = 4, size: int = LAYOUT.size) -> Tensor:
    return torch.cumsum(torch.randn(count, size), 0)


@pytest.mark.parametrize("kind", EVERY)
def test_an_untrained_predictor_copies(kind: str) -> None:
    model, history = untrained(kind), walk()
    for head in heads(model):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    assert torch.allclose(model.predict(history, LAYOUT, 3), history[-1].expand(3, -1), atol=1e-6)


@pytest.mark.parametrize("kind", EVERY)
def test_only_the_last_snapshots_count_and_fewer_horizons_are_the_first_ones(kind: str) -> None:
    model = untrained(kind)
    history = walk(model.config.reach)
    found = model.predict(history, LAYOUT, 3)
    assert found.shape == (3, LAYOUT.size)
    assert not torch.allclose(found[0], history[-1], atol=1e-3)
    assert_close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)  # batches of other shapes round otherwise
    assert_close(model.predict(torch.cat([walk(2), history]), LAYOUT, 3), found)
    assert_close(model.predict(history, LAYOUT, 1), found[:1])
    assert_close(model.predict(history, LAYOUT, [3, 1]), found[[2, 0]])


@pytest.mark.parametrize("kind", EVERY)
def test_a_round_trip_gives_the_same_forecast(kind: str, tmp_path) -> None:
    model, history = untrained(kind), walk()
    save_model(tmp_path, model)
    assert torch.equal(
        load_model(tmp_path, WeightPredictor).predict(history, LAYOUT, 3), model.predict(history, LAYOUT, 3)
    )


@pytest.mark.parametrize("kind", ["gram", "pca", "param", "diffusion"])
def test_the_forecast_moves_and_grows_with_the_history(kind: str) -> None:
    """w -> a w + b gives the same forecast, moved and stretched: early and late windows are alike."""
    model, history, shift = untrained(kind), walk().double(), torch.randn(LAYOUT.size).double()
    found = model.predict(history.float(), LAYOUT, 3).double() - history[-1]
    other = 0.5 * history + shift
    moved = model.predict(other.float(), LAYOUT, 3).double() - other[-1]
    assert torch.allclose(moved, 0.5 * found, atol=1e-4)


def permuted(history: Tensor, layout: Layout, order: Tensor, *, coupled: bool = True) -> Tensor:
    states = layout.unflatten(history.clone())
    states["0.weight"] = states["0.weight"][:, order]
    states["0.bias"] = states["0.bias"][:, order]
    if coupled:
        states["2.weight"] = states["2.weight"].unflatten(-1, (6, 4))[:, :, order].flatten(-2)
    return torch.cat([states[spec.name].flatten(1) for spec in layout.tensors], dim=1)


def test_gram_forecasts_the_permuted_network_when_neurons_are_permuted() -> None:
    model, history, order = untrained("gram"), walk(), torch.randperm(6)
    found = model.predict(history, LAYOUT, 3)
    assert torch.allclose(
        model.predict(permuted(history, LAYOUT, order), LAYOUT, 3), permuted(found, LAYOUT, order), atol=1e-4
    )
    pca = untrained("pca")
    found = pca.predict(history, LAYOUT, 3)  # knows directions, so that it can't
    assert not torch.allclose(
        pca.predict(permuted(history, LAYOUT, order), LAYOUT, 3), permuted(found, LAYOUT, order), atol=1e-2
    )


def test_gram_forecasts_networks_of_any_architecture() -> None:
    model = untrained("gram")
    for other in (
        network(hidden=9),
        nn.Linear(3, 2),
        nn.Sequential(nn.Linear(4, 7), nn.BatchNorm1d(7), nn.Linear(7, 2)),
    ):
        layout = layout_of(other.state_dict())
        assert model.predict(walk(size=layout.size), layout, 2).isfinite().all()


def test_gram_is_longer_than_no_combination_within_its_bound() -> None:
    model, history = untrained("gram"), walk()
    change = model.predict(history, LAYOUT, 3) - history[-1]
    for part in LAYOUT.slices().values():
        lengths = (history[1:] - history[:-1])[:, part].norm(dim=1).sum()
        assert (change[:, part].norm(dim=1) <= 3 * 1.5 * torch.arange(1, 4).sqrt() * lengths + 1e-4).all()
        assert (change[:, part].norm(dim=1) > 0).all()


def naive(model: GramPredictor, history: Tensor, grams: Tensor) -> Tensor:
    """The forecast from projections that are there in full."""
    recent = model.config.sequence_length - 1
    increments = (history[1:] - history[:-1]).flip(0).double()
    there = present_parts(LAYOUT, 3).bool()
    with torch.no_grad():
        found = model(part_features(grams[None], LAYOUT, recent), grams[there][None])[0].double()  # (T, m, K)
    forecast, first = [], 0
    for spec, part in zip(LAYOUT.tensors, LAYOUT.slices().values(), strict=True):
        if len(spec.shape) == 1:
            forecast.append(found[first].T @ increments[:, part])
            first += 1
            continue
        own = increments[:, part].unflatten(-1, (spec.shape[0], -1))
        parts = [own @ some for some in projections((own[:recent].mT @ own[:recent]).sum(0))]
        change = sum(torch.einsum("mrc,mk->krc", one, found[first + index]) for index, one in enumerate(parts))
        forecast.append(change.flatten(1))
        first += len(parts)
    return (history[-1].double() + torch.cat(forecast, dim=1)).float()


def projections(covariance: Tensor) -> list[Tensor]:
    values, directions = torch.linalg.eigh(covariance)
    some = directions.flip(1)[:, : min(20, int((values > 1e-9 * values.max()).sum()))]
    return [some[:, :3] @ some[:, :3].T, some[:, 3:] @ some[:, 3:].T, torch.eye(len(values)) - some @ some.T]


def test_gram_is_trained_on_what_it_sees_when_it_predicts() -> None:
    model, weights = untrained("gram"), walk(9).numpy()
    assert isinstance(model, GramPredictor)
    windows = training_windows(9, length=4, horizons=(1, 2, 3), stride=2)
    grams = part_grams(weights, LAYOUT, windows, 3, EDGES)[0, ..., :3, :3]
    history = torch.from_numpy(weights[windows.history[0]])
    assert torch.allclose(model.predict(history, LAYOUT, 3), naive(model, history, grams), atol=1e-4)


def test_older_snapshots_are_trained_on_and_looked_at_as_far_as_there_are_some() -> None:
    model, weights = untrained("lagged_snapshots"), walk(14).numpy()
    assert isinstance(model, GramPredictor)
    windows = reaching_back(training_windows(14, length=4, horizons=(1, 2, 3), stride=1), (5, 7))
    grams = part_grams(weights, LAYOUT, windows, 3, EDGES)[..., :5, :5]
    for number, last in ((-1, 12), (2, 5), (3, 6), (0, 3)):  # all, one, one and a part, none of the older snapshots
        assert windows.history[number, -1] == last
        history = torch.from_numpy(weights[windows.history[number]])
        found = model.predict(torch.from_numpy(weights[: last + 1]), LAYOUT, 3)
        assert torch.allclose(found, naive(model, history, grams[number]), atol=1e-4)
    nearer = model.predict(torch.from_numpy(weights[5:13]), LAYOUT, 3)
    assert torch.allclose(nearer, model.predict(torch.from_numpy(weights[:13]), LAYOUT, 3))  # not more than 7 back
    assert not torch.allclose(nearer, model.predict(torch.from_numpy(weights[6:13]), LAYOUT, 3))
    for wrong in ((3,), (5, 5), (7, 5)):
        with pytest.raises(ValueError, match="lagged_snapshots must be ascending from 4 or more"):
            GramPredictorConfig(**SHAPE, lagged_snapshots=wrong, rank_splits=EDGES, ensemble_size=1)


def test_features_tell_increments_and_tensors_apart() -> None:
    grams = window_grams(
        snapshot_grams(walk(8).numpy(), LAYOUT), training_windows(8, length=4, horizons=(1,), stride=1)
    )
    features = gram_features(grams[..., :3, :3], LAYOUT)
    assert features.shape == (4, 4, 3, 12)
    assert torch.allclose(features[..., :3].diagonal(dim1=-2, dim2=-1), torch.ones(4, 4, 3))  # cosine with itself
    assert features[..., :6].abs().max() <= 1 + 1e-6
    assert features[0, :, 0, -2:].tolist() == [[1, 0], [0, 0], [0, 1], [0, 0]]  # conv, bias, linear, bias
    assert torch.allclose(features[0, :, 0, -3], torch.tensor([54.0, 6.0, 120.0, 5.0]).log10())


@pytest.mark.parametrize("kind", EVERY)
def test_a_standing_network_is_forecast_to_stand(kind: str) -> None:
    history = torch.ones(4, LAYOUT.size)
    assert torch.allclose(untrained(kind).predict(history, LAYOUT, 3), history[:3], atol=1e-5)
    stopped = torch.cat([walk(3), torch.zeros(1, LAYOUT.size)])
    stopped[-1] = stopped[-2]  # one increment of zero among others
    assert untrained(kind).predict(stopped, LAYOUT, 3).isfinite().all()


def test_pca_changes_nothing_outside_of_its_components() -> None:
    model, history = untrained("pca"), walk()
    assert isinstance(model, PcaPredictor)
    change = model.predict(history, LAYOUT, 3) - history[-1]
    assert torch.allclose(model.expand(change @ model.components.T), change, atol=1e-4)
    outside = history - (history - history[:1]) @ model.components.T @ model.components
    assert torch.allclose(
        model.predict(outside, LAYOUT, 3), outside[-1].expand(3, -1), atol=1e-3
    )  # foreign run: copies


def test_absolute_forgets_what_its_components_do_not_hold() -> None:
    model, history = untrained("pca", "absolute"), walk()
    assert isinstance(model, PcaPredictor)
    found = model.predict(history, LAYOUT, 3) - model.mean
    assert torch.allclose(model.expand(found @ model.components.T), found, atol=1e-4)


def test_a_default_gram_predictor_is_small() -> None:
    model = GramPredictor(
        GramPredictorConfig(
            **{**SHAPE, "sequence_length": 5, "horizons": (1, 2, 3, 4, 5), "model_dim": 48, "layers": 2},
            lagged_snapshots=(),
            rank_splits=EDGES,
            ensemble_size=3,
        )
    )
    assert sum(parameter.numel() for parameter in model.parameters()) == 3 * 39_605


def test_what_does_not_fit_is_named() -> None:
    for kind in ("gram", "pca", "param", "diffusion"):
        model = untrained(kind)
        with pytest.raises(ModelError, match="too few snapshots to forecast from; expected 4; got 3"):
            model.predict(walk(3), LAYOUT, 1)
        with pytest.raises(ModelError, match=r"not trained; expected some of \[1, 2, 3\]; got \[4\]"):
            model.predict(walk(), LAYOUT, 4)
    other = layout_of(nn.Linear(3, 2).state_dict())
    with pytest.raises(ModelError, match=f"another network; expected {LAYOUT.size}; got 8"):
        untrained("pca").predict(walk(size=8), other, 1)
    with pytest.raises(ModelError, match="do not fit the layout; expected 8; got 9"):
        untrained("gram").predict(walk(size=9), other, 1)
    with pytest.raises(ValueError, match="model_dim 16 is not a multiple of heads 3"):
        GramPredictorConfig(**{**SHAPE, "heads": 3}, lagged_snapshots=(), rank_splits=EDGES, ensemble_size=1)


@pytest.mark.parametrize("kind", ["gram", "param", "chunk", "diffusion"])
def test_blocks_of_weights_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, history = untrained(kind), walk()
    whole = model.predict(history, LAYOUT, 3)
    monkeypatch.setattr("wscore.forecasting.models.predictors.COLUMNS_AT_ONCE", 35)
    found = model.predict(history, LAYOUT, 3)
    if kind == "diffusion":  # other noise
        assert found.shape == whole.shape
    else:
        assert torch.allclose(found, whole, atol=1e-5)


@pytest.mark.parametrize("kind", EVERY[3:])
def test_a_folder_from_before_horizons_were_a_list_is_read(kind: str, tmp_path) -> None:
    model = untrained(kind)
    save_model(tmp_path, model)
    content = read_json(tmp_path / "config.json")
    assert content["format"] == 2
    for old in (len(model.config.horizons), list(model.config.horizons)):  # both were written as format 1
        config = {**content["config"], "horizons": old}
        write_json(tmp_path / "config.json", {**content, "format": 1, "config": config})
        assert load_model(tmp_path, WeightPredictor).config == model.config
    write_json(tmp_path / "config.json", {**content, "format": 3})
    with pytest.raises(ModelError, match="unknown format; expected at most 2; got 3; update wscore"):
        load_model(tmp_path, WeightPredictor)


def test_gram_folders_of_older_formats_are_refused(tmp_path) -> None:
    save_model(tmp_path, untrained("gram"))
    content = read_json(tmp_path / "config.json")
    assert content["format"] == 6
    for old in (1, 2, 3, 4, 5):
        write_json(tmp_path / "config.json", {**content, "format": old})
        with pytest.raises(ModelError, match=f"older format; expected 6; got {old}; recreate the model"):
            load_model(tmp_path, WeightPredictor)


def test_coefficients_are_averaged_and_shortened_by_what_the_transformers_disagree() -> None:
    model = untrained("gram")
    assert isinstance(model, GramPredictor)
    windows = training_windows(9, length=4, horizons=(1,), stride=1)
    products = part_grams(walk(9).numpy(), LAYOUT, windows, 3, EDGES)[..., :3, :3]
    each, grams = model.each(part_features(products, LAYOUT, 3)).double(), products[:, present_parts(LAYOUT, 3).bool()]
    assert each.shape == (2, 5, 2 * 3 + 2, 3, 3)
    mean = (each[0] + each[1]) / 2
    squares = [torch.einsum("wlik,wlij,wljk->wk", one, grams, one) for one in (mean, each[0] - mean, each[1] - mean)]
    share = squares[0] / (squares[0] + 10 * (squares[1] + squares[2]))  # of two, the variance is the sum
    assert 0 < share.min() < share.max() < 1
    assert torch.allclose(agreed(each, grams), mean * share[:, None, None])
    assert torch.allclose(agreed(torch.stack([mean, mean]), grams), mean)
    assert torch.allclose(agreed(mean[None], grams), mean)


def test_steps_far_apart_are_forecast_too() -> None:
    model = GramPredictor(
        GramPredictorConfig(**{**SHAPE, "horizons": (1, 10)}, lagged_snapshots=(), rank_splits=EDGES, ensemble_size=1)
    )
    assert model.predict(walk(), LAYOUT, [10]).shape == (1, LAYOUT.size)
    with pytest.raises(ModelError, match=r"not trained; expected some of \[1, 10\]; got \[2\]"):
        model.predict(walk(), LAYOUT, 2)
    with pytest.raises(ValueError, match=r"horizons must be ascending, got \[2, 1\]"):
        GramPredictorConfig(**{**SHAPE, "horizons": (2, 1)}, lagged_snapshots=(), rank_splits=EDGES, ensemble_size=1)
    with pytest.raises(ValueError, match=r"rank_splits must be ascending, got \[3, 3\]"):
        GramPredictorConfig(**SHAPE, lagged_snapshots=(), rank_splits=(3, 3), ensemble_size=1)


def test_samples_differ_their_mean_is_the_forecast_and_bands_lie_around_it() -> None:
    model, history = untrained("diffusion"), walk()
    assert isinstance(model, DiffusionPredictor)
    drawn = model.sample(history, LAYOUT, 3, model.config.samples)
    assert not torch.allclose(drawn[0], drawn[1], atol=1e-3)
    assert torch.allclose(drawn.mean(0), model.predict(history, LAYOUT, 3), atol=1e-5)
    assert torch.equal(model.predict(history, LAYOUT, 3), model.predict(history, LAYOUT, 3))
    model.width.copy_(torch.tensor([0.0, 1.0, 2.0]))
    bands = model.bands(history, LAYOUT, 3)
    assert torch.allclose(bands.mean, drawn.mean(0), atol=1e-5)
    assert torch.equal(bands.low[0], bands.high[0])
    assert torch.allclose((bands.high - bands.low)[1:], 2 * model.width[1:, None] * drawn.std(0)[1:], atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 4, FEW + 1])
def test_elementwise_attention_is_that_of_torch(tokens: int) -> None:
    plain = nn.TransformerEncoderLayer(12, 3, 24, 0.0, "gelu", batch_first=True, norm_first=True)
    short = ShortBlock(12, 3, 24, 0.0, "gelu", batch_first=True, norm_first=True)
    short.load_state_dict(plain.state_dict())
    x = torch.randn(5, tokens, 12)
    outputs = [block.train()(x) for block in (plain, short)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for first, second in zip(plain.parameters(), short.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-4, atol=1e-5)
