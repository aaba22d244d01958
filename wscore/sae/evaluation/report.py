"""Full evaluation of a sparse dictionary: metrics, tables and features."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from wscore.autoencoder.evaluation.evaluate import OURS, AutoencoderResults, ProbeImages, evaluate, held_out
from wscore.autoencoder.evaluation.report import autoencoder_report, autoencoder_tables
from wscore.autoencoder.models.autoencoder import Decoder
from wscore.evaluation.config import EvaluateConfig
from wscore.sae.evaluation.evaluate import (
    CodeStatistics,
    Dictionary,
    NetworkMaker,
    RowMean,
    add_recovered,
    code_statistics,
    density_histogram,
    mean_network,
    sparse_methods,
    unexplained,
)
from wscore.sae.evaluation.explain import ExplainConfig, activity, explain_features
from wscore.sae.evaluation.feature_images import Portrait, portraits
from wscore.sae.evaluation.steering import Steering, steering_metrics
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo

NOT_STEERED = pd.DataFrame(columns=["latent", "layer"])


class DictionaryResults(NamedTuple):
    """Evaluation results of a dictionary.

    Attributes:
        figures: content of `metrics/sae_test.json`.
        tables: by name of their file; `accuracy`, `agreement` and `errors` have a column per method.
        codes: statistics of the held-out rows.
        portraits: features to plot.
    """

    figures: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    codes: CodeStatistics
    portraits: list[Portrait]


class EvaluationData(NamedTuple):
    """Data for the evaluation of a dictionary.

    Attributes:
        zoo: the networks.
        cache: their tokens.
        probe: images on which the networks are run.
        decoder: returns the autoencoder's decoder, which reconstructs networks from latents.
    """

    zoo: Zoo
    cache: TokenCache
    probe: ProbeImages
    decoder: Callable[[], Decoder]


def evaluate_dictionary(
    dictionary: Dictionary, data: EvaluationData, config: EvaluateConfig, explaining: ExplainConfig
) -> DictionaryResults:
    """Evaluate a dictionary and its controls on the test split."""
    mean, chosen = RowMean.fit(dictionary.rows), dictionary.rows.rows_of("test")
    codes = code_statistics(dictionary, chosen, mean)
    maker = NetworkMaker(dictionary, data.cache, mean_network(data.cache, config), data.decoder)
    figures, results = fidelity(dictionary, data, maker, mean, codes, config)
    train, test = activity(dictionary, "train"), activity(dictionary, "test")
    features, counts = explain_features(dictionary, data.zoo, train, test, explaining)
    steered = NOT_STEERED
    if not dictionary.model.config.decoder_hidden:
        steering = Steering(dictionary, maker, data.zoo, data.probe, explaining)
        steered = steering.table(codes, train, test)
    report = {
        "codes": codes.figures,
        **figures,
        "features": counts,
        "steering": dict(steering_metrics(steered)),
    }
    kept = {name: table.rename(columns={OURS: "dictionary"}) for name, table in autoencoder_tables(results).items()}
    kept |= {"features": features, "steering": steered, **_latents(codes)}
    drawn = portraits(dictionary, data.zoo, train, codes, features, explaining.drawn)
    return DictionaryResults(report, kept, codes, drawn)


def fidelity(
    dictionary: Dictionary,
    data: EvaluationData,
    maker: NetworkMaker,
    mean: RowMean,
    codes: CodeStatistics,
    config: EvaluateConfig,
) -> tuple[dict[str, Any], AutoencoderResults]:
    """Return the fidelity of held-out networks reconstructed from few numbers per row, by method."""
    rank = max(1, round(codes.figures["l0"]))
    ways = sparse_methods(dictionary, maker, mean, rank)
    results = evaluate(
        data.zoo, held_out(data.cache, config), ways, data.probe, cache=data.cache,
        batch_size=config.batch_size,
    )  # fmt: skip
    report = autoencoder_report(results, config)
    add_recovered(report)
    for name, value in unexplained(dictionary, ways, dictionary.rows.rows_of("test"), mean).items():
        report[name]["fvu"] = value
    return {"rank": float(rank), **report}, results


def _latents(codes: CodeStatistics) -> dict[str, pd.DataFrame]:
    """Return one row per latent, and the histogram of the densities."""
    table = pd.DataFrame({
        "latent": range(len(codes.density)), "density": codes.density, "activation": codes.activation,
        "active": codes.active,
    })  # fmt: skip
    return {"latents": table, "density": pd.DataFrame(density_histogram(codes.density))}
