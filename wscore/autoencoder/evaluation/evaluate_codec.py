"""Evaluates the weight codec: networks of held-out runs, and of widths that no fit saw, go through files and are run again."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.coding.curvature import MOST
from wscore.autoencoder.coding.problem import SearchConfig
from wscore.autoencoder.evaluation.codec_controls import Networks
from wscore.autoencoder.evaluation.codec_methods import (
    MEAN_NETWORK,
    SEARCHES,
    Methods,
    Searches,
    alone,
    fixed_sizes,
    passes,
    without_zoo,
    zoo_search,
)
from wscore.autoencoder.evaluation.controls import MeanNetwork
from wscore.autoencoder.evaluation.fidelity import COLUMNS, compare, repair
from wscore.config import Section
from wscore.errors import WscoreWarning
from wscore.evaluation.partial_results import Records
from wscore.networks.architectures import parse
from wscore.networks.datasets import DataConfig, NetworkKey, Tasks, kinds_of, load_tasks
from wscore.networks.images import Images
from wscore.networks.inference import Answer, MixedAnswer, logits
from wscore.networks.layout import Layout
from wscore.parallel import workers_here
from wscore.progress import progress_bar
from wscore.tokens.cache import TokenCache
from wscore.zoo.splits import UNSEEN
from wscore.zoo.store import Weights, Zoo

TEST = "test"
ABOUT = ["model_id", "run_id", "checkpoint"]
TOGETHER, WEIGHTS = 16, 1 << 22  # networks, and their weights, that a worker codes at once
BATCH = 1024  # training networks that are read at once
Ratio = Annotated[float, msgspec.Meta(gt=1)]


class EvaluateCodecConfig(Section):
    """How the weight codec is evaluated on held-out runs (section `evaluate_codec:`).

    Args:
        ratios: besides `ae.compression`; the first is the headline.
        max_networks: maximum number of networks of the test split, randomly sampled from as many runs as possible; null: all.
        max_unseen: the same for widths that no fit saw.
        probe_images: test images on which original and decompressed networks are compared; all if there are fewer.
        search_steps: of the searches.
        learning_rates: of each search, chosen on validation runs (`make rate-fidelity`).
        bootstrap_samples: bootstrap resamplings of the runs for each 95% interval; 0 omits the intervals.
        seed: for sampled networks, the searches and the bootstrap.
    """

    ratios: Annotated[tuple[Ratio, ...], msgspec.Meta(min_length=1)]
    max_networks: Annotated[int, msgspec.Meta(ge=1)] | None
    max_unseen: Annotated[int, msgspec.Meta(ge=1)] | None
    probe_images: Annotated[int, msgspec.Meta(ge=1)]
    search_steps: Annotated[int, msgspec.Meta(ge=1)]
    learning_rates: dict[str, Annotated[float, msgspec.Meta(gt=0)]]
    bootstrap_samples: Annotated[int, msgspec.Meta(ge=0)]
    seed: Annotated[int, msgspec.Meta(ge=0)]

    def __post_init__(self) -> None:
        """Reject learning rates of other searches."""
        if set(self.learning_rates) != set(SEARCHES):
            raise ValueError(f"learning_rates: expected {', '.join(SEARCHES)}, got {', '.join(self.learning_rates)}")

    @property
    def searches(self) -> Searches:
        """How numbers are searched."""
        return Searches(SearchConfig(steps=self.search_steps, seed=self.seed), self.learning_rates)


class CodecSources(NamedTuple):
    """What workers read; can be sent to any process that sees the same files.

    Attributes:
        zoo: reader of the weights.
        codec: folder.
        data: section `data`.
    """

    zoo: Weights
    codec: Path
    data: DataConfig


class Group(NamedTuple):
    """Networks that a worker codes at once.

    Attributes:
        split: of all of them; those of `UNSEEN` have no mean network and no fixed sizes beside them.
        kinds: how each is run; they may differ in activation and pooling.
        layout: of all of them.
        about: a row each: columns `ABOUT`, by row number in the zoo.
        mean: mean training network of the layout, hidden units aligned.
        deviations: sum over the weights of each aligned network of (w - m)^2.
    """

    split: str
    kinds: tuple[NetworkKey, ...]
    layout: Layout
    about: pd.DataFrame
    mean: Float[np.ndarray, " weights"]
    deviations: Float[np.ndarray, " n"]


def evaluate_codec(
    zoo: Zoo, cache: TokenCache, sources: CodecSources, ratios: Sequence[float], config: EvaluateCodecConfig,
    *, splits: Mapping[str, int | None],
) -> pd.DataFrame:  # fmt: skip
    """Return one row per network, ratio and method; groups of networks are coded in parallel.

    Columns: split, `ABOUT`, family, weights, ratio, method, bytes, squared_error, squared_norm, squared_deviation (from the mean
    training network) and those of a `Comparison`, which are NaN for networks that can't be run. Methods that run networks have no
    rows of these; those that need their curvature have none if a network has more than `MOST` weights.

    Args:
        zoo: the networks.
        cache: their splits.
        sources: what workers read.
        ratios: at which networks are coded.
        config: section `evaluate_codec`.
        splits: maximum number of networks of each split, randomly sampled; None for all.
    """
    tasks = load_tasks(sources.data)
    groups = [
        group for split, most in splits.items() for group in draw_groups(zoo, cache, tasks, split, most, config.seed)
    ]
    _warn_of_the_unknown(groups, tasks)
    curved = all(group.layout.size <= MOST for group in groups)
    work = partial(code_group, sources, tuple(ratios), config, curved)
    coding = workers_here("evaluate_codec").map(work, sorted(groups, key=_size, reverse=True))
    coded = list(progress_bar(coding, total=len(groups), desc="coding", unit="group"))
    rows = pd.DataFrame([row for records in coded for row in records])
    return rows.sort_values(by=["split", "ratio", *ABOUT], kind="stable").reset_index(drop=True)


def draw_groups(zoo: Zoo, cache: TokenCache, tasks: Tasks, split: str, most: int | None, seed: int) -> list[Group]:
    """Return at most `most` random networks of a split in groups that are run together; none if the split is empty."""
    rows = rows_of_split(cache, split)
    rows = rows[drawn(zoo.table["run_id"].to_numpy(str)[rows], most, seed)]
    names = zoo.table["layout"].astype(str)
    members: dict[tuple[str, NetworkKey], list[tuple[int, NetworkKey]]] = {}
    for row, kind in zip(rows.tolist(), kinds_of(zoo.table.iloc[rows], tasks), strict=True):
        members.setdefault((str(names.iloc[row]), _alike(kind)), []).append((row, kind))
    mean, groups = MeanNetwork(cache.of_split("train", BATCH)), []
    for (name, _), pairs in sorted(members.items()):
        layout = zoo.layouts[name]
        count = max(1, min(TOGETHER, WEIGHTS // layout.size))
        for start in range(0, len(pairs), count):
            chunk, kinds = zip(*pairs[start : start + count], strict=True)
            average = mean.mean(layout)
            deviations = np.square(cache.weights(np.array(chunk)) - average).sum(1)
            groups.append(Group(split, kinds, layout, zoo.table.loc[list(chunk), ABOUT], average, deviations))
    return groups


def drawn(runs: Shaped[np.ndarray, " network"], most: int | None, seed: int) -> Int[np.ndarray, " drawn"]:
    """Return at most `most` random networks, given the run of each, of as many runs as possible."""
    if most is None or most >= len(runs):
        return np.arange(len(runs))
    shuffled = np.random.default_rng(seed).permutation(len(runs))
    turns = pd.Series(runs[shuffled]).groupby(runs[shuffled]).cumcount().to_numpy()
    return np.sort(shuffled[turns.argsort(kind="stable")[:most]])


def rows_of_split(cache: TokenCache, split: str) -> Int[np.ndarray, " network"]:
    """Return the rows in the zoo of the networks of a split."""
    return np.unique(cache.networks(cache.indices(split)))


def _alike(kind: NetworkKey) -> NetworkKey:
    """Return a key of networks that are run together: those of the zoo's own architectures but for activation and pooling."""
    if not kind.architecture:
        return kind
    same = msgspec.structs.replace(parse(kind.architecture), activation="relu", pooling="none")
    return kind._replace(architecture=same.to_json())


def group_answer(tasks: Tasks, group: Group) -> Answer | None:
    """Return what runs the networks of a group; None if they can't be."""
    ways = [tasks.way(kind, group.layout).answer for kind in group.kinds]
    if len(set(group.kinds)) == 1 or any(way is None for way in ways):
        return ways[0]
    return MixedAnswer([kind.architecture for kind in group.kinds], group.layout)


def code_group(
    sources: CodecSources, ratios: Sequence[float], config: EvaluateCodecConfig, curved: bool, group: Group
) -> Records:
    """Return one row per network, ratio and method of a group."""
    tasks, codec = load_tasks(sources.data), WeightCodec.from_folder(sources.codec)
    images, vectors = tasks.of(group.kinds[0].task), torch.from_numpy(sources.zoo.weights(group.about.index.to_numpy()))
    answer = group_answer(tasks, group)
    networks = Networks(group.layout, answer, vectors, torch.zeros(0) if images is None else images.x_train)
    compared = comparer(networks, images, config)
    about = group.about.reset_index(drop=True)
    about = about.assign(split=group.split, family=family_of(group.kinds[0]), weights=group.layout.size)
    records: Records = []
    last, values = None, {}
    for ratio, method, coded in _methods(codec, networks, ratios, config, group, curved=curved):
        if coded is not last:  # else of a size of its own, the same beside every ratio
            last, values = coded, compared(coded.vectors) | _errors(vectors, coded.vectors, group, method)
        records += about.assign(ratio=ratio, method=method, bytes=coded.sizes.numpy(), **values).to_dict("records")
    return records


def family_of(kind: NetworkKey) -> str:
    """Return the family of networks of the zoo's own architectures, `unknown` for others."""
    return parse(kind.architecture).family if kind.architecture else "unknown"


def _methods(
    codec: WeightCodec, networks: Networks, ratios: Sequence[float], config: EvaluateCodecConfig, group: Group, *,
    curved: bool,
) -> Methods:  # fmt: skip
    single = list(passes(codec, networks, ratios))
    yield from single
    reached = list(dict.fromkeys(ratio for ratio, _, _ in single))
    if networks.answer is not None and reached:
        yield from alone(codec, networks, reached, config.searches)
        yield from zoo_search(codec, networks, reached, config.searches)
        if curved:
            yield from without_zoo(networks, reached, config.searches)
    if group.split != UNSEEN:
        fixed = fixed_sizes(networks, group.mean)
        yield from ((ratio, name, coded) for name, coded in fixed.items() for ratio in reached)


def comparer(
    networks: Networks, images: Images | None, config: EvaluateCodecConfig
) -> Callable[[Tensor], dict[str, np.ndarray | float]]:
    """Return what compares networks that came back with their originals on test images."""
    answer = networks.answer
    if answer is None or images is None:
        return lambda _: dict.fromkeys(COLUMNS, float("nan"))
    order = np.random.default_rng(config.seed).permutation(len(images.x_test))[: config.probe_images]
    chosen = torch.from_numpy(np.sort(order))
    x, labels = images.x_test[chosen], images.y_test[chosen]
    expected = logits(answer, networks.vectors, x)

    def compared(vectors: Tensor) -> dict[str, np.ndarray | float]:
        whole = torch.from_numpy(repair(networks.layout, vectors.numpy()).weights)
        return dict(compare(expected, logits(answer, whole, x), labels)._asdict())

    return compared


def _errors(original: Tensor, back: Tensor, group: Group, method: str) -> dict[str, np.ndarray]:
    """Return sums over the weights of each network of (w - w^)^2, w^2 and (w - m)^2; the mean network is that of aligned ones."""
    first, second = original.double().numpy(), back.double().numpy()
    errors = group.deviations if method == MEAN_NETWORK else np.square(first - second).sum(1)
    squares = np.square(first).sum(1)
    return {"squared_error": errors, "squared_norm": squares, "squared_deviation": group.deviations}


def _size(group: Group) -> int:
    """Return about how long a group takes: the longest start first."""
    return len(group.about) * group.layout.size


def _warn_of_the_unknown(groups: Sequence[Group], tasks: Tasks) -> None:
    """Warn how many networks can't be run, and why the first can't."""
    reasons = [(tasks.way(group.kinds[0], group.layout).reason, group) for group in groups]
    stuck = [(reason, group) for reason, group in reasons if reason]
    if stuck:
        (reason, first), count = stuck[0], sum(len(group.about) for _, group in stuck)
        total = sum(len(group.about) for group in groups)
        text = f"{count} of {total} networks can't be run: only sizes and errors of their weights are reported"
        warnings.warn(f"{text}; {first.about['model_id'].iloc[0]}: {reason}", WscoreWarning, stacklevel=3)
