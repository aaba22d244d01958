"""Evaluates compression methods: every held-out network is reconstructed by every method, then measured and run."""

import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wscore.autoencoder.coding.codec import WeightCodec
from wscore.autoencoder.evaluation.controls import (
    CodecCoordinates,
    LayoutGroup,
    LayoutPca,
    MeanNetwork,
    Method,
    Noise,
    TokenMethod,
    TokenPca,
)
from wscore.autoencoder.evaluation.diversity import Spread, TrainingNetworks
from wscore.autoencoder.evaluation.fidelity import COLUMNS, Repaired, compare, repair
from wscore.autoencoder.evaluation.weight_errors import StructureErrors
from wscore.errors import WscoreWarning
from wscore.evaluation.config import EvaluateConfig
from wscore.networks.architectures import parse
from wscore.networks.datasets import NetworkKey, Tasks, as_tasks, kinds_of
from wscore.networks.images import Images
from wscore.networks.layout import Layout
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo

OURS = "ours"


class Questions(NamedTuple):
    """Images of one data set on which networks are compared.

    Attributes:
        images: with values in [0, 1].
        labels: their classes.
    """

    images: Float[Tensor, "images channel height width"]
    labels: Int[Tensor, " images"]


class ProbeImages:
    """Images on which networks are compared, each on its own data set.

    Args:
        tasks: all images; determines how networks are run.
        questions: test images in use, by data set.
    """

    def __init__(self, tasks: Tasks, questions: Mapping[str, Questions]) -> None:
        self.tasks, self.questions = tasks, dict(questions)

    def kinds(self, table: pd.DataFrame) -> list[NetworkKey]:
        """Return the kind of every row of a zoo's table."""
        return kinds_of(table, self.tasks)

    def fits(self, kind: NetworkKey, layout: Layout) -> bool:
        """Return whether networks can be built and run on the images of their data set."""
        return self.tasks.way(kind, layout).answer is not None

    def logits(self, kind: NetworkKey, layout: Layout, weights: np.ndarray) -> Float[Tensor, "networks images classes"]:
        """Return the logits of networks."""
        return self.tasks.way(kind, layout).logits(torch.from_numpy(weights), self.questions[kind.task].images)

    def labels(self, kind: NetworkKey) -> Int[Tensor, " images"]:
        """Return the classes of the images of a data set."""
        return self.questions[kind.task].labels


class MetricAccumulator:
    """Accumulates the metrics of one method over batches of networks."""

    def __init__(self, mean: MeanNetwork, cache: TokenCache, training: TrainingNetworks) -> None:
        self.cache = cache
        self.spread = Spread(training)
        self.raw = StructureErrors(mean.mean)
        self.normalised = StructureErrors(lambda layout: self._normalise(layout, mean.mean(layout)[None])[0])
        self.networks = self.weights = self.floats = self.variances = self.others = 0.0

    def add(self, group: LayoutGroup, repaired: Repaired, floats: float | None) -> None:
        """Add a batch of networks and their reconstructions."""
        layout, weights = group.layout, group.weights
        self.raw.add(layout, weights, repaired.weights)
        self.normalised.add(layout, self._normalise(layout, weights), self._normalise(layout, repaired.weights))
        self.spread.add(layout, weights, repaired.weights)
        self.networks += len(weights)
        self.weights += weights.size
        self.floats += len(weights) * (float("nan") if floats is None else floats)
        self.variances += repaired.variances
        self.others += repaired.others

    def summary(self) -> dict[str, float]:
        """Return the structural metrics, the compression and the counts of repaired weights.

        Errors are in raw units (those of the weights); normalised_mse and normalised_r2 in
        normalised units. expansion is 1 where more floats are stored than the network has.
        """
        normalised = self.normalised.overall()
        counts = {"repaired_variances": self.variances, "repaired_weights": self.others}
        errors = {**self.raw.overall(), "normalised_mse": normalised["mse"], "normalised_r2": normalised["r2"]}
        errors |= self.spread.summary()
        if np.isnan(self.floats):
            return errors | counts
        ratio = self.weights / self.floats
        stored = {
            "stored_floats": self.floats / self.networks,
            "compression_ratio": ratio,
            "expansion": float(ratio < 1),
        }
        return errors | stored | counts

    def _normalise(self, layout: Layout, vectors: np.ndarray) -> np.ndarray:
        return np.asarray(self.cache.normalizer.normalize(layout, vectors.astype(np.float32)))


class AutoencoderResults(NamedTuple):
    """Evaluation results of all methods.

    Attributes:
        networks: one row per network and method: model_id, run_id, checkpoint, family, method and `COLUMNS`, which are
            NaN where the network cannot be run.
        tallies: of each method.
        families: the same for the networks of each family.
    """

    networks: pd.DataFrame
    tallies: Mapping[str, MetricAccumulator]
    families: Mapping[str, Mapping[str, MetricAccumulator]]


def held_out(cache: TokenCache, config: EvaluateConfig) -> np.ndarray:
    """Return the row numbers of the networks of the test split, at most `max_networks` sampled at random, in order."""
    rows = np.unique(cache.table["row"].to_numpy()[np.asarray(cache.indices("test"))])
    if config.max_networks is not None and config.max_networks < len(rows):
        rows = np.random.default_rng(config.seed).choice(rows, config.max_networks, replace=False)
    return np.sort(rows)


def draw_probe_images(images: Images | Tasks, config: EvaluateConfig) -> ProbeImages:
    """Return a fixed random sample of test images, at most `probe_images` of each data set."""
    tasks, questions = as_tasks(images), {}
    for one in tasks.images:
        order = np.random.default_rng(config.seed).permutation(len(one.x_test))[: config.probe_images]
        chosen = torch.from_numpy(np.sort(order))
        questions[one.name] = Questions(one.x_test[chosen], one.y_test[chosen])
    return ProbeImages(tasks, questions)


def methods(
    cache: TokenCache,
    model: nn.Module,
    config: EvaluateConfig,
    codec: WeightCodec | None = None,
    further: Mapping[str, Method] | None = None,
) -> dict[str, Method]:
    """Return the autoencoder as `ours` and every control by name, fitted on the training split where needed.

    Args:
        cache: tokens of the networks.
        model: maps a `TokenBatch` to something with `latent` (B, Z) and `tokens` (B, T, dim).
        config: of the evaluation.
        codec: fitted on the training split; without it there are no `codec_coordinates`.
        further: other methods by name.
    """
    train = cache.indices("train")
    with torch.no_grad():
        size = model(cache.batch(train[:1])).latent[0].numel()
    ours = TokenMethod(cache, lambda batch: model(batch).tokens, size)
    options = {"batch_size": config.batch_size, "seed": config.seed}
    return {
        OURS: ours,
        "mean_network": MeanNetwork(cache.of_split("train", config.batch_size)),
        "pca": TokenMethod(cache, TokenPca(cache, train, size, **options), size),
        "layout_pca": LayoutPca(cache, size, **options),
        **({} if codec is None else {"codec_coordinates": CodecCoordinates(codec, ours)}),
        **(further or {}),
        "noise": Noise(ours, seed=config.seed),
    }


def evaluate(
    zoo: Zoo, rows: np.ndarray, ways: Mapping[str, Method], probe: ProbeImages, *, cache: TokenCache, batch_size: int
) -> AutoencoderResults:
    """Evaluate every method on these networks, at most `batch_size` of them in memory at once.

    Reconstructed weights are compared with those in the cache, outputs with those of the networks in the zoo.

    Args:
        zoo: of the networks.
        rows: row numbers of the networks.
        ways: methods by name, including `mean_network`, the reference of R2.
        probe: images on which the networks are run.
        cache: tokens of the networks.
        batch_size: networks at once.
    """
    mean = ways["mean_network"]
    assert isinstance(mean, MeanNetwork)
    training = TrainingNetworks(cache)
    blank = lambda: {name: MetricAccumulator(mean, cache, training) for name in ways}  # noqa: E731
    tallies, tables = blank(), []
    families: dict[str, dict[str, MetricAccumulator]] = {}
    _warn_of_the_unknown(zoo, rows, probe)
    for kind, group in _groups(zoo, rows, cache, probe, batch_size):
        expected = _run(kind, group.layout, zoo.weights(group.rows), probe)
        own = families.setdefault(_family(kind.architecture), blank())
        for name, way in ways.items():
            repaired = repair(group.layout, way.restore(group))
            for tally in (tallies[name], own[name]):
                tally.add(group, repaired, way.floats(group.layout))
            found = _run(kind, group.layout, repaired.weights, probe)
            compared = _compared(expected, found, kind, probe)
            tables.append(_table(zoo, group.rows, kind.architecture, compared).assign(method=name))
    return AutoencoderResults(pd.concat(tables, ignore_index=True), tallies, families)


def _groups(
    zoo: Zoo, rows: np.ndarray, cache: TokenCache, probe: ProbeImages, batch_size: int
) -> Iterator[tuple[NetworkKey, LayoutGroup]]:
    for kind, layout, chosen in _alike(zoo, rows, probe):
        for part in np.array_split(chosen, -(-len(chosen) // batch_size)):
            yield kind, LayoutGroup(layout, part, cache.weights(part))


def _alike(zoo: Zoo, rows: np.ndarray, probe: ProbeImages) -> Iterator[tuple[NetworkKey, Layout, np.ndarray]]:
    """Yield the rows that differ only in their weights, in order, by architecture, layout, factory and images."""
    rows = np.sort(rows)
    table = zoo.table.iloc[rows]
    groups: dict[tuple[NetworkKey, str], list[int]] = {}
    for row, kind, layout in zip(rows.tolist(), probe.kinds(table), table["layout"].astype(str), strict=True):
        groups.setdefault((kind, layout), []).append(row)
    for kind, layout in sorted(groups, key=lambda code: (code[0].architecture, code[1], code[0])):
        yield kind, zoo.layouts[layout], np.array(groups[kind, layout])


def _warn_of_the_unknown(zoo: Zoo, rows: np.ndarray, probe: ProbeImages) -> None:
    """Warn how many networks cannot be run, and why the first cannot, unless all lack an architecture."""
    stuck = [group for group in _alike(zoo, rows, probe) if not probe.fits(*group[:2])]
    described = [group for group in stuck if group[0].architecture or group[0].factory]
    if described:
        (kind, layout, members), count = described[0], sum(len(group[2]) for group in stuck)
        first = f"{zoo.table['model_id'].iloc[int(members[0])]}: {probe.tasks.way(kind, layout).reason}"
        message = f"{count} of {len(rows)} networks cannot be run, so their outputs are not available; {first}"
        warnings.warn(message, WscoreWarning, stacklevel=3)


def _run(kind: NetworkKey, layout: Layout, weights: np.ndarray, probe: ProbeImages) -> Tensor | None:
    return probe.logits(kind, layout, weights) if probe.fits(kind, layout) else None


def _compared(
    expected: Tensor | None, found: Tensor | None, kind: NetworkKey, probe: ProbeImages
) -> dict[str, np.ndarray | float]:
    if expected is None or found is None:
        return dict.fromkeys(COLUMNS, float("nan"))
    return compare(expected, found, probe.labels(kind))._asdict()


def _table(zoo: Zoo, rows: np.ndarray, architecture: str, values: Mapping[str, np.ndarray | float]) -> pd.DataFrame:
    return zoo.table.loc[rows, ["model_id", "run_id", "checkpoint"]].assign(family=_family(architecture), **values)


def _family(architecture: str) -> str:
    return parse(architecture).family if architecture else "unknown"
