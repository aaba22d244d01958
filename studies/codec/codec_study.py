"""A codec fitted to a zoo beside codes that know no zoo, on networks of held-out runs, at the same bytes.

single_pass   the codec; networks are not run
search        its numbers searched for with training images, in the coordinates of the zoo
plain         each tensor rounded by itself, the same range coder
curvature     steps and rounding from the network's own curvature on training images
own_search    the same search as `search`, in the steps of `curvature`
int8, int4    every weight rounded, a scale for each tensor
mean_network  the mean of the training networks of the layout
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from studies.codec.config import CodecStudyConfig
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.search import SearchConfig
from wscore.autoencoder.evaluation.codec_controls import (
    Coded,
    Networks,
    Rounding,
    curvature,
    decoded,
    plain,
    searched,
)
from wscore.autoencoder.evaluation.controls import LayoutGroup, Quantized
from wscore.autoencoder.evaluation.fidelity import compare, intervals, repair, summarise
from wscore.evaluation.partial_results import Parts, Records
from wscore.networks.architectures import parse
from wscore.networks.images import Images
from wscore.networks.inference import StackedAnswer, logits
from wscore.networks.layout import Layout
from wscore.tokens.config import TokensConfig
from wscore.tokens.index import split_rows
from wscore.zoo.store import Zoo

HEADER = 9  # bytes of a file of a layout that the codec knows; controls are granted as many
SEARCHES = ("search", "own_search")


class SplitZoo(NamedTuple):
    """A zoo and what its networks are run on.

    Attributes:
        zoo: the networks.
        splits: split of each row.
        images: of their task.
    """

    zoo: Zoo
    splits: np.ndarray
    images: Images


class Drawn(NamedTuple):
    """Networks of one architecture.

    Attributes:
        networks: as functions of their weights.
        about: metadata (model_id, run_id, family), a row each.
        mean: weights of the mean training network of their layout (D,).
        images: on which they are compared.
    """

    networks: Networks
    about: pd.DataFrame
    mean: np.ndarray
    images: Images


def open_zoo(zoo: Zoo, images: Images, split: TokensConfig | None) -> SplitZoo:
    """Return a zoo with the split of section `tokens`, or all of it for tests."""
    return SplitZoo(zoo, np.full(len(zoo), "test") if split is None else split_rows(zoo, split), images)


def draw(source: SplitZoo, split: str, *, runs: int, seed: int) -> list[Drawn]:
    """Return a random checkpoint of each of `runs` runs, as many of each family, of the architectures with most runs."""
    random, families = np.random.default_rng(seed), {}
    for text, layout, rows in source.zoo.families():
        own = _one_each(source.zoo, rows[source.splits[rows] == split], random)
        families.setdefault(parse(text).family, []).append((text, layout, own))
    found, means = [], _means(source)
    for family, kinds in families.items():
        left = -(-runs // len(families))
        for turn, (text, layout, rows) in enumerate(sorted(kinds, key=lambda kind: -len(kind[2]))):
            own, left = rows[:left], left - len(rows[:left])
            mean = means.get(layout.identity, np.zeros(layout.size, np.float32))
            found += [(turn, _drawn(source, family, text, layout, own, mean))] if len(own) else []
    return [group for _, group in sorted(found, key=lambda pair: pair[0])]  # families take turns


def _drawn(source: SplitZoo, family: str, text: str, layout: Layout, rows: np.ndarray, mean: np.ndarray) -> Drawn:
    vectors = torch.from_numpy(source.zoo.weights(rows))
    networks = Networks(layout, StackedAnswer(text, layout), vectors, source.images.x_train)
    about = source.zoo.table.iloc[rows][["model_id", "run_id"]].assign(family=family).reset_index(drop=True)
    return Drawn(networks, about, mean, source.images)


def coded(codec: WeightCodec, networks: Networks, ratio: float, search: SearchConfig | None) -> Coded:
    """Return networks that went through files of the codec, in a single pass or searched."""
    run = {} if search is None else {"answer": networks.answer, "images": networks.images, "search": search}
    files = codec.compress_vectors(networks.layout, networks.vectors, ratio=ratio, **run)
    back = [torch.from_numpy(networks.layout.flatten(codec.decompress(data))) for data in files]
    return Coded(torch.stack(back), torch.tensor([len(data) for data in files]))


def searches(
    codec: WeightCodec, networks: Networks, ratio: float, start: Rounding, configs: Mapping[str, SearchConfig]
) -> dict[str, Coded]:
    """Return networks by search in coordinates of the zoo, and in steps of their own from `start` on."""
    own = searched(networks, start, _room(networks, ratio), configs["own_search"])
    return {
        "search": coded(codec, networks, ratio, configs["search"]),
        "own_search": _with_header(decoded(networks, own)),
    }


def learning_rates(codec: WeightCodec, groups: Sequence[Drawn], config: CodecStudyConfig) -> dict[str, float]:
    """Return the rate of each search with the highest mean agreement on networks of the validation split."""
    agreements: dict[str, dict[float, list[float]]] = {name: {} for name in SEARCHES}
    ratio = config.ratios[1]
    for group in groups:
        (start,) = curvature(group.networks, [int(_room(group.networks, ratio)[0])])
        for rate in config.learning_rates:
            configs = dict.fromkeys(SEARCHES, msgspec.structs.replace(config.search, lr=rate))
            for name, own in searches(codec, group.networks, ratio, start, configs).items():
                agreements[name].setdefault(rate, []).extend(compared(group, own)["agreement"])
    return {name: max(found, key=lambda rate: np.mean(found[rate])) for name, found in agreements.items()}


def evaluate(
    codec: WeightCodec,
    groups: Sequence[Drawn],
    config: CodecStudyConfig,
    rates: Mapping[str, float],
    parts: Parts,
) -> pd.DataFrame:
    """Return one row per network, ratio and method; groups that `parts` has are not done again."""
    make = lambda group: list(_records(codec, group, config, rates))  # noqa: E731
    found = [parts(f"group-{number}", partial(make, group)) for number, group in enumerate(groups)]
    return pd.DataFrame([row for rows in found for row in rows])


def unseen(codec: WeightCodec, groups: Sequence[Drawn], ratios: Sequence[float]) -> pd.DataFrame:
    """Return one row per network of other widths and ratio, in a single pass and tensor by tensor."""
    rows = [
        row
        for group in groups
        for ratio in ratios
        for row in _rows(group, ratio, _passes(codec, group.networks, ratio))
    ]
    return pd.DataFrame(rows)


def facts_of(rows: pd.DataFrame, unseen_rows: pd.DataFrame, folder: Path, config: CodecStudyConfig) -> dict[str, float]:
    """Return counts of networks, the bytes of a saved codec, and from how many networks it pays at the first ratio."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    saved = 4 * rows["weights"].mean() * (1 - 1 / config.ratios[0])
    return {
        "networks": rows["model_id"].nunique(),
        "other_networks": unseen_rows["model_id"].nunique(),
        "decoder_bytes": size,
        "pays_from": math.ceil(size / saved),
    }


def summary_line(found: pd.DataFrame) -> str:
    """Return the agreement of the codec with search at each ratio."""
    own = found[found["method"] == "search"]
    pairs = zip(own["agreement"], own["achieved"], strict=True)
    return "agreement after search " + ", ".join(f"{agreement:.3f} at {ratio:.1f}x" for agreement, ratio in pairs)


def table(rows: pd.DataFrame, config: CodecStudyConfig) -> pd.DataFrame:
    """Return the means over networks by ratio and method, with intervals over runs."""
    found = []
    for (ratio, method), part in rows.groupby(["ratio", "method"], sort=False):
        values = {**summarise(part), **intervals(part, samples=config.samples, seed=config.seed)}
        share = 4 * part["weights"].sum() / part["bytes"].sum()
        found.append({"ratio": ratio, "method": method, "networks": len(part), "achieved": float(share), **values})
    return pd.DataFrame(found).drop(columns=["kl", "accuracy_original"])


def _records(codec: WeightCodec, group: Drawn, config: CodecStudyConfig, rates: Mapping[str, float]) -> Iterator[dict]:
    networks = group.networks
    configs = {name: msgspec.structs.replace(config.search, lr=rate) for name, rate in rates.items()}
    starts = curvature(networks, [int(_room(networks, ratio)[0]) for ratio in config.ratios])
    for ratio, start in zip(config.ratios, starts, strict=True):
        own = {"curvature": _with_header(decoded(networks, start)), **searches(codec, networks, ratio, start, configs)}
        yield from _rows(group, ratio, {**_passes(codec, networks, ratio), **own, **_fixed(group)})


def _passes(codec: WeightCodec, networks: Networks, ratio: float) -> dict[str, Coded]:
    single = coded(codec, networks, ratio, None)
    return {"single_pass": single, "plain": _with_header(plain(networks, _room(networks, ratio)))}


def _room(networks: Networks, ratio: float) -> Tensor:
    """Return the bytes of a file at a ratio, less its header."""
    return torch.full((len(networks.vectors),), int(4 * networks.layout.size / ratio) - HEADER)


def _with_header(own: Coded) -> Coded:
    return own._replace(sizes=own.sizes + HEADER)


def _fixed(group: Drawn) -> dict[str, Coded]:
    """Return what does not depend on a ratio: 8 and 4 bits, and the mean network."""
    layout, vectors = group.networks.layout, group.networks.vectors
    found = {
        "mean_network": Coded(torch.from_numpy(group.mean).expand_as(vectors), torch.full((len(vectors),), HEADER))
    }
    for bits in (8, 4):
        method = Quantized(bits)
        restored = method.restore(LayoutGroup(layout, np.arange(len(vectors)), vectors.numpy()))
        size = round(4 * method.floats(layout))
        found[f"int{bits}"] = Coded(torch.from_numpy(restored), torch.full((len(vectors),), size))
    return found


def _rows(group: Drawn, ratio: float, methods: Mapping[str, Coded]) -> Records:
    found: Records = []
    for method, own in methods.items():
        values = pd.concat([group.about, compared(group, own)], axis=1)
        values = values.assign(weights=group.networks.layout.size, bytes=own.sizes.numpy(), ratio=ratio, method=method)
        found += values.to_dict("records")
    return found


def compared(group: Drawn, own: Coded) -> pd.DataFrame:
    """Return how networks that came back compare with their originals on test images, one row each."""
    answer, layout = group.networks.answer, group.networks.layout
    whole = torch.from_numpy(repair(layout, own.vectors.numpy()).weights)
    original, restored = (logits(answer, vectors, group.images.x_test) for vectors in (group.networks.vectors, whole))
    return pd.DataFrame(compare(original, restored, group.images.y_test)._asdict())


def _one_each(zoo: Zoo, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return one row of each run, in random order."""
    shuffled = random.permutation(rows)
    return shuffled[np.unique(zoo.table["run_id"].to_numpy(str)[shuffled], return_index=True)[1]]


def _means(source: SplitZoo) -> dict[str, np.ndarray]:
    """Return the mean training network of each layout."""
    found: dict[str, list[np.ndarray]] = {}
    for _, layout, rows in source.zoo.families():
        if len(train := rows[source.splits[rows] == "train"]):
            found.setdefault(layout.identity, []).append(source.zoo.weights(train))
    return {identity: np.concatenate(parts).mean(0) for identity, parts in found.items()}
