"""Sparsity against fidelity: all kinds of sparsity at several strengths, next to PCA, on networks of one layout.

Everything else is equal: perceptrons of one layout, a row per hidden unit (incoming weights, bias, outgoing weights),
and the same size, steps and learning rate for all.
"""

from collections.abc import Mapping
from typing import Annotated, Any, get_args

import numpy as np
import pandas as pd
from msgspec import Meta

from studies.sae_pareto.sweep import Member
from wscore.autoencoder.evaluation.evaluate import ProbeImages, evaluate, held_out
from wscore.autoencoder.evaluation.fidelity import summarise
from wscore.autoencoder.models.autoencoder import Decoder
from wscore.config import Section, convert, to_plain
from wscore.evaluation.config import EvaluateConfig
from wscore.sae.evaluation.evaluate import (
    Dictionary,
    NetworkMaker,
    RowMean,
    RowMethod,
    RowPca,
    code_statistics,
    mean_network,
    unexplained,
)
from wscore.sae.rows import UnitRows
from wscore.sae.train import PENALTY_WEIGHTS, Model, SaeConfig, Sparsity
from wscore.tokens.cache import TokenCache
from wscore.tokens.config import TokensConfig
from wscore.tokens.manifest import recipe
from wscore.zoo.config import ZooConfig
from wscore.zoo.store import Zoo

Positive = Annotated[int, Meta(ge=1)]
Weights = tuple[Annotated[float, Meta(ge=0)], ...]
LEVELS = (4, 8, 16, 32, 64)  # L0 values at which curves are compared
PER_CODE = ("topk", "batchtopk", "jumprelu")


class ParetoConfig(Section):
    """Study of sparsity against fidelity (section `sae_pareto:`).

    Args:
        runs: number of trained perceptrons.
        width: their hidden units.
        run_epochs: passes over their training data.
        lr_of_runs: learning rate of their training with momentum, as in `zoo.lr`.
        latent_dim: atoms of every dictionary.
        batch_size: rows per step.
        epochs: passes over the training rows.
        lr: peak learning rate of AdamW.
        k: active codes of topk, batchtopk and jumprelu, and ranks of PCA.
        l1: weights of the L1 penalty.
        kl: weights of the KL penalty.
        hoyer: weights of the Hoyer penalty.
    """

    runs: Positive
    width: Positive
    run_epochs: Positive
    lr_of_runs: Annotated[float, Meta(gt=0)]
    latent_dim: Positive
    batch_size: Positive
    epochs: Positive
    lr: Annotated[float, Meta(gt=0)]
    k: tuple[Positive, ...]
    l1: Weights
    kl: Weights
    hoyer: Weights


def pareto_zoo(zoo: ZooConfig, config: ParetoConfig) -> ZooConfig:
    """Return the section `zoo` for the study: perceptrons of one layout that differ only in their seed."""
    changes = {
        "source": "generate", "n_runs": config.runs, "n_networks": None, "families": ["mlp"], "widths": {"mlp": [[config.width]]},
        "checkpoints": 1, "epochs": [config.run_epochs] * 2, "batch_sizes": [32], "optimizers": ["momentum"],
        "lr": [config.lr_of_runs] * 2, "weight_decay": [1e-4, 1e-4], "dropout": [0.0, 0.0], "init_scale": [1.0, 1.0],
        "train_fraction": [1.0, 1.0], "activations": ["relu"],
    }  # fmt: skip
    return convert({**to_plain(zoo), **changes}, ZooConfig, where="sae_pareto")


def pareto_tokens(tokens: TokensConfig) -> TokensConfig:
    """Return the section `tokens` for the study: unaligned units, a sixth of the runs held out."""
    changes = {"granularity": "neuron", "align": "none", "normalization": "layer", "unseen_widths": {},
               "validation_fraction": 0.1, "test_fraction": 0.16}  # fmt: skip
    return convert({**recipe(tokens), **changes}, TokensConfig, where="sae_pareto")


def pareto_members(sae: SaeConfig, config: ParetoConfig) -> list[Member]:
    """Return a member for every sparsity and strength, all else as in section `sae`."""
    common = {
        **to_plain(sae), "input": "neurons", "tied": False, "encoder_hidden": [], "decoder_hidden": [],
        "latent_dim": config.latent_dim, "batch_size": config.batch_size, "epochs": config.epochs, "lr": config.lr,
        "dead": "auxiliary", "dead_window": 1.0, "scaling": "global", "emphasis": 0.0, "k": max(config.k), "sparsity_weight": 1.0,
    }  # fmt: skip
    members = []
    for sparsity in get_args(Sparsity):
        for strength in config.k if sparsity in PER_CODE else getattr(config, sparsity):
            changes: dict[str, Any] = {"sparsity": sparsity}
            if sparsity in PER_CODE:
                changes["k"] = strength
            else:
                changes["sparsity_weight"] = strength / PENALTY_WEIGHTS[sparsity]
            made = convert({**common, **changes}, SaeConfig, where=f"sae_pareto.{sparsity}")
            members.append(Member(f"{sparsity} {strength:g}", made))
    return members


def _no_decoder() -> Decoder:
    raise AssertionError("rows of neurons are weights and need no decoder")


def pareto(
    models: Mapping[str, Model],
    zoo: Zoo,
    cache: TokenCache,
    probe: ProbeImages,
    *,
    config: EvaluateConfig,
    ranks: tuple[int, ...],
) -> pd.DataFrame:
    """Return one row per dictionary and rank of PCA: sparsity, setting, l0, dead, fvu, accuracy, recovered, agreement."""
    rows = UnitRows(cache, "neurons")
    mean, chosen, means = RowMean.fit(rows), rows.rows_of("test"), mean_network(cache, config)
    first = Dictionary(next(iter(models.values())), rows, "neurons")
    maker = NetworkMaker(first, cache, means, _no_decoder)
    ways: dict[str, Any] = {
        name: RowMethod(first, lambda batch, kinds, model=model: model(batch.values, batch.mask), 0.0, maker)  # noqa: ARG005
        for name, model in models.items()
    }
    fits = {rank: RowPca(first, rank, by_kind=False) for rank in ranks if rank < rows.width}
    ways |= {f"pca {rank}": RowMethod(first, fitted, float(rank), maker) for rank, fitted in fits.items()}
    fvu = unexplained(first, ways, chosen, mean)
    results = evaluate(
        zoo, held_out(cache, config), {"mean_network": means, **ways}, probe, cache=cache, batch_size=config.batch_size
    )
    summaries = {str(name): summarise(pd.DataFrame(group)) for name, group in results.networks.groupby("method")}
    base = summaries["mean_network"]["accuracy"]
    table = []
    for name in ways:
        sparsity, _, setting = name.partition(" ")
        counts = {"l0": float(setting), "dead_fraction": 0.0}
        if name in models:
            counts = code_statistics(Dictionary(models[name], rows, "neurons"), chosen, mean).figures
        gap = summaries[name]["accuracy_original"] - base
        table.append({
            "sparsity": sparsity, "setting": float(setting), "l0": counts["l0"], "dead_fraction": counts["dead_fraction"],
            "fvu": fvu[name], "accuracy": summaries[name]["accuracy"],
            "accuracy_recovered": (summaries[name]["accuracy"] - base) / gap if gap else float("nan"),
            "agreement": summaries[name]["agreement"], "accuracy_original": summaries[name]["accuracy_original"],
            "accuracy_mean_network": base,
        })  # fmt: skip
    return pd.DataFrame(table)


def at_levels(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a metric of each sparsity at the L0 of `LEVELS`, interpolated over log L0; NaN outside of the measured range."""
    columns: dict[str, list[float]] = {}
    for name, rows in table.groupby("sparsity", sort=False):
        ordered = rows.sort_values(by="l0")
        x, y = np.log(ordered["l0"].to_numpy(float).clip(1e-9)), ordered[metric].to_numpy(float)
        columns[str(name)] = np.interp(np.log(LEVELS), x, y, left=np.nan, right=np.nan).tolist()
    return pd.DataFrame({"l0": LEVELS, **columns})


def sentence(table: pd.DataFrame) -> str:
    """Return the dictionaries of the frontier at low L0 in one line."""
    levels = at_levels(table, "fvu").set_index("l0").drop(columns="pca", errors="ignore")
    best = [
        f"{row.idxmin()} at L0 {level} (FVU {row.min():.3f})" for level, row in levels.iterrows() if row.notna().any()
    ]
    return f"{len(table)} points; lowest FVU: {', '.join(best)}"
