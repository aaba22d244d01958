"""Loss from not having seen a width: the same networks through codecs that saw other runs of their layouts, or none."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, Shaped

from wscore.autoencoder.coding.blocks import Structure
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.evaluation.codec_controls import Networks
from wscore.autoencoder.evaluation.codec_methods import coded
from wscore.autoencoder.evaluation.evaluate_codec import EvaluateCodecConfig, Group, comparer, group_answer
from wscore.evaluation.bootstrap import bounds, mean, run_weights
from wscore.networks.architectures import parse
from wscore.networks.datasets import Tasks
from wscore.zoo.store import Zoo

ALL = "all"
Rows = Int[np.ndarray, " network"]


class Half(NamedTuple):
    """Half of the runs of layouts that no fit saw.

    Attributes:
        fitted: networks of a fit with this half.
        tested: those of the other half.
    """

    fitted: Rows
    tested: Rows


def halves(zoo: Zoo, train: Rows, unseen: Rows, seed: int) -> Iterator[Half]:
    """Yield both halves of the runs of each unseen layout, in random order."""
    random = np.random.default_rng(seed)
    layouts, runs = (zoo.table[name].to_numpy(str) for name in ("layout", "run_id"))
    first: list[str] = []
    for layout in np.unique(layouts[unseen]):
        names = random.permutation(np.unique(runs[unseen[layouts[unseen] == layout]]))
        first += names[: len(names) // 2].tolist()
    inside = np.isin(runs[unseen], first)
    for chosen in (inside, ~inside):
        yield Half(with_further(zoo, train, unseen[chosen], random), unseen[~chosen])


def with_further(zoo: Zoo, train: Rows, further: Rows, random: np.random.Generator) -> Rows:
    """Return training networks with further ones; of each structure as many runs are left out as come in, at most half."""
    signatures = {name: Structure(layout).signature for name, layout in zoo.layouts.items()}
    structures = np.array([signatures[name] for name in zoo.table["layout"].astype(str)])
    runs, kept = zoo.table["run_id"].to_numpy(str), [further]
    for structure in np.unique(structures[train]):
        mine = train[structures[train] == structure]
        names = random.permutation(np.unique(runs[mine]))
        added = len(np.unique(runs[further[structures[further] == structure]]))
        kept.append(mine[~np.isin(runs[mine], names[: min(added, len(names) // 2)])])
    return np.sort(np.concatenate(kept))


def agreements(
    codec: WeightCodec, zoo: Zoo, tasks: Tasks, groups: Sequence[Group], ratios: Sequence[float], config: EvaluateCodecConfig
) -> pd.DataFrame:  # fmt: skip
    """Return a row for each network and ratio: model_id, run_id, layout (in words), ratio and agreement in a single pass."""
    rows = []
    for group in groups:
        images, vectors = tasks.of(group.kinds[0].task), torch.from_numpy(zoo.weights(group.about.index.to_numpy()))
        answer = group_answer(tasks, group)
        if answer is None or images is None:
            continue
        networks, kind = Networks(group.layout, answer, vectors, images.x_train), parse(group.kinds[0].architecture)
        about = group.about[["model_id", "run_id"]].assign(layout=f"{kind.family} {'-'.join(map(str, kind.widths))}")
        compared, back = comparer(networks, images, config), coded(codec, networks, ratios).vectors
        for ratio, decoded in zip(ratios, back.split(len(vectors)), strict=True):
            rows.append(about.assign(ratio=ratio, agreement=compared(decoded)["agreement"]))
    return pd.concat(rows) if rows else pd.DataFrame(columns=["model_id", "run_id", "layout", "ratio", "agreement"])


def groups_of(groups: Sequence[Group], rows: Rows) -> list[Group]:
    """Return groups with some networks of a zoo only."""
    chosen = [(group, np.isin(group.about.index.to_numpy(), rows)) for group in groups]
    return [
        group._replace(
            kinds=tuple(kind for kind, inside in zip(group.kinds, mask, strict=True) if inside),
            about=group.about[mask],
            deviations=group.deviations[mask],
        )
        for group, mask in chosen
        if mask.any()
    ]


def losses(unseen: pd.DataFrame, seen: pd.DataFrame, samples: int, seed: int) -> pd.DataFrame:
    """Return the mean agreement of both codecs and their difference, with its 95% interval over runs, by layout and ratio.

    Args:
        unseen: rows of `agreements` by the codec that saw none of these layouts.
        seen: of the same networks by codecs that saw other runs of them.
        samples: bootstrap resamplings.
        seed: of the bootstrap.
    """
    pairs = unseen.merge(
        seen, on=["model_id", "run_id", "layout", "ratio"], suffixes=("_unseen", "_seen"), validate="1:1"
    )
    pairs["loss"] = pairs["agreement_seen"] - pairs["agreement_unseen"]
    tables = [(ALL, ratio, part) for ratio, part in pairs.groupby("ratio")]
    tables += [(layout, ratio, part) for (layout, ratio), part in pairs.groupby(["layout", "ratio"])]  # pyright: ignore
    return pd.DataFrame([
        {"layout": layout, "ratio": ratio, "networks": len(part)} | _loss(pd.DataFrame(part), samples, seed)
        for layout, ratio, part in tables
    ])  # fmt: skip


def _loss(pairs: pd.DataFrame, samples: int, seed: int) -> dict[str, float]:
    runs: Shaped[np.ndarray, " rows"] = pairs["run_id"].to_numpy(str)
    weights = run_weights(runs, samples=samples, seed=seed)
    values = {
        name: float(pairs[name].to_numpy(float).mean()) for name in ("agreement_unseen", "agreement_seen", "loss")
    }
    return values | (bounds({"loss": mean(pairs["loss"].to_numpy(float), weights)}) if len(weights) else {})
