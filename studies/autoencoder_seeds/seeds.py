"""Variation of the autoencoder's metrics over seeds and splits, next to every baseline."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import pandas as pd

from wscore.autoencoder.evaluation.evaluate import OURS, draw_probe_images, evaluate, held_out, methods
from wscore.autoencoder.evaluation.report import autoencoder_report
from wscore.autoencoder.training.train import AeConfig, train_autoencoder
from wscore.config import Section
from wscore.evaluation.config import EvaluateConfig
from wscore.evaluation.partial_results import Parts, Records
from wscore.networks.datasets import Tasks
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

HEADLINES = ("agreement", "accuracy_change", "rank_correlation", "r2", "normalised_r2")
Seed = Annotated[int, msgspec.Meta(ge=0)]


class SeedsConfig(Section):
    """Seeds and splits of the study (section `autoencoder_seeds:`).

    Args:
        seeds: of training, on the split of `tokens.seed`; distinct.
        splits: further seeds of the split, each with the first training seed.
        networks: held-out networks evaluated in each.
    """

    seeds: Annotated[tuple[Seed, ...], msgspec.Meta(min_length=2)]
    splits: tuple[Seed, ...]
    networks: Annotated[int, msgspec.Meta(ge=1)]

    def __post_init__(self) -> None:
        for name in ("seeds", "splits"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"Expected `{name}` to differ from each other")


class Recipe(NamedTuple):
    """The sections of the default pipeline that an autoencoder depends on."""

    tokens: TokensConfig
    ae: AeConfig
    evaluate: EvaluateConfig


def every_seed(
    zoo: Zoo, cache: TokenCache, images: Tasks, recipe: Recipe, config: SeedsConfig, folder: Path,
    parts: Parts | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Return one row per training and method: seed, split, method, `HEADLINES` and compression_ratio.

    Args:
        zoo: the networks.
        cache: their tokens with the split of the pipeline.
        images: of every data set.
        recipe: sections of the default pipeline.
        config: seeds and splits.
        folder: for the tokens of the other splits.
        parts: cache of the rows of completed trainings.
    """
    records, parts = [], parts or Parts(None)
    for seed, split, tokens in _variants(zoo, cache, recipe, config, folder):
        varied = recipe._replace(
            ae=msgspec.structs.replace(recipe.ae, seed=seed),
            evaluate=msgspec.structs.replace(recipe.evaluate, max_networks=config.networks),
        )  # fmt: skip
        name = f"seed-{seed}-split-{split}"
        rows = parts(name, partial(_evaluated, zoo, tokens, images, varied, parts.below(f"{name}-training")))
        records += [{"seed": seed, "split": split, **row} for row in rows]
    return pd.DataFrame(records)


def spread(table: pd.DataFrame, own_split: int) -> pd.DataFrame:
    """Return for each method and headline the mean and the standard deviation (n - 1) over seeds and over splits.

    Columns are method, metric, seeds_mean, seeds_sd, seeds (count), and the same over splits (the first seed on every
    split); the deviation of a single value is missing.

    Args:
        table: from `every_seed`.
        own_split: the split of the seeds.
    """
    first = table["seed"].iloc[0]
    subsets = {"seeds": table[table["split"] == own_split], "splits": table[table["seed"] == first]}
    records = []
    for method in dict.fromkeys(table["method"]):
        for metric in HEADLINES:
            record: dict[str, object] = {"method": method, "metric": metric}
            for name, subset in subsets.items():
                values = subset.loc[subset["method"] == method, metric].to_numpy(float)
                record |= {f"{name}_mean": values.mean(), f"{name}_sd": _deviation(values), name: len(values)}
            records.append(record)
    return pd.DataFrame(records)


def headline(deviations: pd.DataFrame) -> str:
    """Return the agreement of ours with its deviations in one line."""
    row = deviations[(deviations["method"] == OURS) & (deviations["metric"] == "agreement")].iloc[0]
    text = f"agreement {row['seeds_mean']:.3f}, sd {row['seeds_sd']:.4f} over {row['seeds']} seeds"
    return text + (f", {row['splits_sd']:.4f} over {row['splits']} splits" if row["splits"] > 1 else "")


def _variants(
    zoo: Zoo, cache: TokenCache, recipe: Recipe, config: SeedsConfig, folder: Path
) -> Iterator[tuple[int, int, TokenCache]]:
    for seed in config.seeds:
        yield seed, recipe.tokens.seed, cache
    for split in config.splits:
        if split != recipe.tokens.seed:
            place = folder / f"split-{split}"
            build_cache(zoo, msgspec.structs.replace(recipe.tokens, seed=split), place)
            yield config.seeds[0], split, TokenCache(place)


def _evaluated(zoo: Zoo, cache: TokenCache, images: Tasks, recipe: Recipe, resume: Path | None) -> Records:
    """Return method, `HEADLINES` and compression_ratio of a newly trained autoencoder and of every baseline."""
    shown = images if recipe.ae.behaviour.share else None
    trained = train_autoencoder(cache, recipe.ae, zoo=zoo, images=shown, resume=resume)
    config = recipe.evaluate
    ways, rows = methods(cache, trained.model, config), held_out(cache, config)
    results = evaluate(zoo, rows, ways, draw_probe_images(images, config), cache=cache, batch_size=config.batch_size)
    report = autoencoder_report(results, config)
    wanted = (*HEADLINES, "compression_ratio")
    return [{"method": way, **{name: report[way].get(name, float("nan")) for name in wanted}} for way in ways]


def _deviation(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")
