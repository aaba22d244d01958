from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.fit import populations_of
from wscore.autoencoder.evaluation.controls import MeanNetwork, TokenMethod
from wscore.autoencoder.evaluation.evaluate import draw_probe_images, evaluate, held_out, methods
from wscore.autoencoder.evaluation.report import (
    FAMILY_METRICS,
    FAMILY_WEIGHTS,
    accuracy_table,
    agreement_table,
    autoencoder_report,
    autoencoder_summary_line,
    error_table,
)
from wscore.evaluation.config import EvaluateConfig
from wscore.networks.datasets import as_tasks
from wscore.networks.inference import StackedAnswer, logits, scores
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo, write_layouts, write_part

CONFIG = EvaluateConfig(max_networks=None, probe_images=60, bootstrap_samples=20, seed=0)
TOKENS = TokensConfig(
    granularity="neuron", chunk_size=32, max_tokens=512, normalization="layer",
    unseen_widths={}, validation_fraction=0.2, test_fraction=0.4, seed=8, align="weights",
)  # fmt: skip


class Output(NamedTuple):
    latent: Tensor
    tokens: Tensor


class Scaled(nn.Module):
    """Gives back the tokens times a factor; 1 is a perfect autoencoder."""

    def __init__(self, factor=1.0, latent_dim=5):
        super().__init__()
        self.factor, self.latent_dim = factor, latent_dim

    def forward(self, batch):
        return Output(batch.tokens.new_zeros(len(batch.tokens), self.latent_dim), batch.tokens * self.factor)


@pytest.fixture(scope="module")
def zoo(make_tiny_zoo, tmp_path_factory):
    return Zoo(make_tiny_zoo(tmp_path_factory.mktemp("zoo") / "zoo", runs=5))


@pytest.fixture(scope="module")
def cache(zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens") / "tokens"
    build_cache(zoo, TOKENS, folder)
    return TokenCache(folder)


@pytest.fixture(scope="module")
def codec(zoo, cache, digits):
    rows = np.unique(cache.networks(cache.indices("train")))
    return WeightCodec.fit(populations_of(zoo, rows, as_tasks(digits)), images=8)


@pytest.fixture(scope="module")
def judged(zoo, cache, codec, digits):
    def run(factor=1.0, config=CONFIG):
        ways = methods(cache, Scaled(factor), config, codec)
        rows = held_out(cache, config)
        return evaluate(zoo, rows, ways, draw_probe_images(digits, config), cache=cache, batch_size=config.batch_size)

    return run


@pytest.fixture(scope="module")
def perfect(judged):
    return judged()


def test_a_perfect_autoencoder_keeps_everything(perfect):
    ours = autoencoder_report(perfect, CONFIG)["ours"]
    assert ours["agreement"] == pytest.approx(1)
    assert ours["accuracy_change"] == pytest.approx(0)
    assert ours["kl"] == pytest.approx(0, abs=1e-6)
    assert ours["rank_correlation"] == pytest.approx(1)
    assert ours["r2"] == pytest.approx(1)
    assert ours["normalised_r2"] == pytest.approx(1)
    assert ours["relative_error"] == pytest.approx(0, abs=1e-5)
    assert ours["repaired_variances"] == ours["repaired_weights"] == ours["non_finite_share"] == 0


def test_a_worse_autoencoder_scores_worse(judged, perfect):
    good, bad, none = (autoencoder_report(judged(factor), CONFIG)["ours"] for factor in (0.9, 0.5, 0.0))
    assert 1 > good["agreement"] > bad["agreement"] > none["agreement"]
    assert 0 < good["mse"] < bad["mse"] < none["mse"]
    assert good["kl"] < none["kl"]


def test_padding_never_reaches_a_metric(zoo, cache, digits, judged):
    def codec(batch):
        return torch.where(batch.mask, batch.tokens * 0.9, 1e6)

    ways = {"ours": TokenMethod(cache, codec, 5), "mean_network": methods(cache, Scaled(), CONFIG)["mean_network"]}
    verdict = evaluate(zoo, held_out(cache, CONFIG), ways, draw_probe_images(digits, CONFIG), cache=cache, batch_size=3)
    assert autoencoder_report(verdict, CONFIG)["ours"] == pytest.approx(
        autoencoder_report(judged(0.9), CONFIG)["ours"], rel=1e-5
    )


def test_a_broken_autoencoder_is_counted_not_dropped(judged, perfect):
    found = autoencoder_report(judged(float("nan")), CONFIG)
    ours, networks = found["ours"], found["networks"]
    assert networks == autoencoder_report(perfect, CONFIG)["networks"]
    assert ours["repaired_weights"] > 0
    assert ours["repaired_variances"] > 0
    assert ours["agreement"] < 0.6
    assert found["pca"] == autoencoder_report(perfect, CONFIG)["pca"]


def test_accuracies_are_those_of_the_networks(zoo, perfect, digits):
    images = draw_probe_images(digits, CONFIG)
    table = accuracy_table(perfect)
    assert len(table) == len(set(table["model_id"]))
    for _, row in table.iterrows():
        number = int(zoo.table.index[zoo.table["model_id"] == row["model_id"]][0])
        known = zoo.table.loc[number]
        vector = torch.from_numpy(zoo.weights([number]))
        asked = images.questions["digits"]
        values = logits(StackedAnswer(known["architecture"], zoo.layout(number)), vector, asked.images)
        assert row["original"] == pytest.approx(float(scores(values, asked.labels)[0]), abs=1e-6)
        assert row["ours"] == pytest.approx(row["original"])
        assert row["family"] == known["family"]


def test_only_held_out_runs_are_judged(cache, perfect):
    runs = set(cache.table["run_id"][cache.indices("test")])
    assert set(perfect.networks["run_id"]) == runs
    assert not runs & set(cache.table["run_id"][cache.indices("train")])


def test_at_most_so_many_networks(cache):
    every = held_out(cache, CONFIG)
    some = held_out(
        cache,
        EvaluateConfig(**{name: getattr(CONFIG, name) for name in CONFIG.__struct_fields__} | {"max_networks": 3}),
    )
    assert len(some) == 3
    assert set(some) <= set(every)
    assert list(some) == sorted(some)


def test_batches_change_nothing(judged, perfect, monkeypatch):
    monkeypatch.setenv("WSCORE_EVALUATION_BATCH", "3")
    whole, parts = autoencoder_report(perfect, CONFIG), autoencoder_report(judged(), CONFIG)
    for name in ("ours", "mean_network", "noise", "layout_pca", "codec_coordinates"):
        assert whole[name] == pytest.approx(parts[name], rel=1e-4, abs=1e-6), name


def test_compression_counts_stored_floats(zoo, cache, perfect):
    found = autoencoder_report(perfect, CONFIG)
    sizes = np.array([zoo.layout(int(row)).size for row in held_out(cache, CONFIG)])
    for name in ("ours", "pca", "layout_pca", "codec_coordinates"):
        assert found[name]["stored_floats"] == pytest.approx(5 + 1)
        assert found[name]["compression_ratio"] == pytest.approx(sizes.sum() / (6 * len(sizes)))
        assert found[name]["expansion"] == 0
    assert found["mean_network"]["stored_floats"] == 1
    assert "compression_ratio" not in found["noise"]


def test_a_latent_larger_than_the_network_is_flagged(zoo, cache, digits):
    ways = {"ours": TokenMethod(cache, lambda batch: batch.tokens, 100_000), "mean_network": MeanNetwork([])}
    verdict = evaluate(
        zoo, held_out(cache, CONFIG)[:2], ways, draw_probe_images(digits, CONFIG), cache=cache, batch_size=8
    )
    found = autoencoder_report(verdict, CONFIG)
    assert found["ours"]["compression_ratio"] < 1
    assert found["ours"]["expansion"] == 1


def test_the_mean_network_is_the_mean_of_the_aligned_training_networks(zoo, cache):
    way = methods(cache, Scaled(), CONFIG)["mean_network"]
    assert isinstance(way, MeanNetwork)
    rows = np.unique(cache.table["row"][cache.indices("train")])
    layout = zoo.layout(int(rows[0]))
    same = np.array([row for row in rows if zoo.layout(int(row)).identity == layout.identity])
    items = np.flatnonzero(np.isin(cache.table["row"], same))
    vectors = np.stack(cache.to_weights(items, cache.batch(items).tokens))
    np.testing.assert_allclose(way.mean(layout), vectors.mean(0), atol=1e-5)


def test_originals_are_those_of_the_zoo_and_weights_those_of_the_cache(zoo, cache, perfect):
    """Aligned networks lie elsewhere than the zoo's but answer alike: structure and function are both perfect."""
    rows = held_out(cache, CONFIG)
    moved = [not np.array_equal(cache.weights(rows[[n]])[0], zoo.weights(rows[[n]])[0]) for n in range(len(rows))]
    assert any(moved)
    assert autoencoder_report(perfect, CONFIG)["ours"]["agreement"] == pytest.approx(1)


def test_networks_of_unknown_architecture_are_measured_but_not_run(zoo, cache, digits, tmp_path):
    table = zoo.table.assign(
        architecture=[
            "" if family == "cnn" else text
            for family, text in zip(zoo.table["family"], zoo.table["architecture"], strict=True)
        ]
    )
    write_part(tmp_path / "rows" / "part-00000.parquet", table, [zoo.weights([row])[0] for row in range(len(zoo))])
    write_layouts(tmp_path, zoo.layouts.values())
    partly = Zoo(tmp_path)
    ways = {"ours": TokenMethod(cache, lambda batch: batch.tokens, 5), "mean_network": MeanNetwork([])}
    rows = held_out(cache, CONFIG)
    found = autoencoder_report(
        evaluate(partly, rows, ways, draw_probe_images(digits, CONFIG), cache=cache, batch_size=4), CONFIG
    )
    assert found["networks"] == len(rows)
    assert found["networks_not_run"] == sum(zoo.table["family"].iloc[rows] == "cnn") > 0
    assert "cnn" not in found["families"]
    assert found["ours"]["agreement"] == pytest.approx(1)
    nothing = evaluate(
        partly,
        rows[zoo.table["family"].iloc[rows] == "cnn"],
        ways,
        draw_probe_images(digits, CONFIG),
        cache=cache,
        batch_size=4,
    )
    found = autoencoder_report(nothing, CONFIG)
    assert "agreement" not in found["ours"]
    assert found["ours"]["r2"] == pytest.approx(1)
    assert found["families"] == {}
    assert "architecture is unknown" in autoencoder_summary_line(found)
    assert len(accuracy_table(nothing)) == len(agreement_table(nothing)) == 0


def test_images_of_another_size_fit_no_network(digits, zoo):
    images, layout = draw_probe_images(digits, CONFIG), zoo.layout(0)
    kind = images.kinds(zoo.table.iloc[:1])[0]
    assert images.fits(kind, layout)
    assert not images.fits(kind._replace(architecture=""), layout)
    assert not draw_probe_images(digits._replace(x_train=torch.zeros(2, 1, 28, 28)), CONFIG).fits(kind, layout)
    assert not draw_probe_images(digits._replace(classes=7), CONFIG).fits(kind, layout)


def test_tables_agree_with_the_report(perfect):
    found = autoencoder_report(perfect, CONFIG)
    agreement = agreement_table(perfect).set_index("family")
    assert agreement.loc["all", "pca"] == pytest.approx(found["pca"]["agreement"])
    assert agreement.loc["all", "networks"] == found["networks"]
    sized = {"networks", "compression_ratio", "diversity", "nearest_training_distance"}
    for family, entry in found["families"].items():
        assert set(entry) == set(perfect.tallies)
        assert sized | set(FAMILY_METRICS) | set(FAMILY_WEIGHTS) == set(entry["ours"])
        assert entry["ours"]["r2"] == pytest.approx(1)
        assert entry["mean_network"]["r2"] == pytest.approx(0, abs=1e-6)
        assert agreement.loc[family, "pca"] == pytest.approx(entry["pca"]["agreement"])
    errors = error_table(perfect).set_index("kind")
    assert errors.loc["all", "pca"] == pytest.approx(found["pca"]["relative_error"])
    assert list(errors.index) == ["all", *found["kinds"]]
    assert f"{found['pca']['agreement']:.3f}" in autoencoder_summary_line(found)


def test_same_seed_same_bits(judged):
    assert repr(autoencoder_report(judged(0.7), CONFIG)) == repr(
        autoencoder_report(judged(0.7), CONFIG)
    )  # nan is not nan
