"""Interpolates networks in latent space, and samples new networks near trained ones of a given accuracy.

path            networks between a (t = 0) and b (t = 1)
latent          decode((1 - t) z_a + t z_b): starts and ends at the reconstructions
latent_residual the same plus (1 - t) r_a + t r_b, where r = w - decode(z): starts and ends at the networks themselves
aligned         (1 - t) w_a + t w_b, hidden units in the order of the cache
unaligned       the same, hidden units in their original order

draw            a new network, given an architecture and a band of accuracies
kde             decode(z + bandwidth e), z of a training network, e from the Gaussian of its band
gaussian        decode(z), z from a Gaussian fitted to the latents of the band (covariance shrunk, Ledoit and Wolf 2004)
prior           decode(z), z from N(0, 1): of a VAE only, whatever the band
mean_network    control: the mean of the weights of the band
train_noise     control: a training network of the band plus noise of the same norm as the shift of kde draws
train           control: training networks of the band themselves
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.autoencoder.evaluation.diversity import TrainingNetworks, pairwise
from wscore.autoencoder.evaluation.evaluate import ProbeImages
from wscore.autoencoder.evaluation.fidelity import repair
from wscore.autoencoder.models.autoencoder import Autoencoder
from wscore.config import Section
from wscore.errors import DataError
from wscore.networks.datasets import NetworkKey
from wscore.networks.layout import Layout
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo

Vectors = Float[np.ndarray, "networks weights"]
PATHS = ("latent", "latent_residual", "aligned", "unaligned")
DRAWS = ("kde", "gaussian", "prior", "mean_network", "train_noise", "train")
FEWEST = 3  # fewest networks of one architecture in a band for a fit
BLOCK = 256  # networks encoded, decoded or evaluated at once
ACTIVE = (
    0.01  # variance of a latent's mean over networks above which it is active (Burda et al. 2016, arXiv 1509.00519)
)


class LatentsConfig(Section):
    """Paths and samples of the study (section `latents:`).

    Args:
        pairs: of held-out networks of one architecture, last checkpoints of two runs.
        steps: networks on each path, including both ends.
        bands: edges of the bands of accuracy on training images, ascending.
        samples: draws of each method for each architecture and band.
        bandwidth: of the kernel density estimate, as a share of the standard deviation of the band.
        seed: of pairs and draws.
    """

    pairs: Annotated[int, msgspec.Meta(ge=1)]
    steps: Annotated[int, msgspec.Meta(ge=3)]
    bands: Annotated[tuple[Annotated[float, msgspec.Meta(ge=0, le=1)], ...], msgspec.Meta(min_length=2)]
    samples: Annotated[int, msgspec.Meta(ge=2)]
    bandwidth: Annotated[float, msgspec.Meta(gt=0)]
    seed: Annotated[int, msgspec.Meta(ge=0)]

    def __post_init__(self) -> None:
        if list(self.bands) != sorted(set(self.bands)):
            raise ValueError("Expected `bands` to rise")


class Population(NamedTuple):
    """Networks of one architecture, each encoded in a single window.

    Attributes:
        kind: architecture and evaluation images.
        layout: of their weights.
        items: their indices in the cache.
    """

    kind: NetworkKey
    layout: Layout
    items: np.ndarray


class LatentSpace:
    """Encodes networks of a zoo, given their tokens, to latents and decodes them."""

    def __init__(self, zoo: Zoo, cache: TokenCache, model: Autoencoder) -> None:
        self.zoo, self.cache, self.model = zoo, cache, model.eval()
        self.rows = cache.table["row"].to_numpy(int)

    def populations(self, split: str, probe: ProbeImages) -> list[Population]:
        """Return the networks of a split by kind: those that can be evaluated and have a single window.

        Raises:
            DataError: if there is none.
        """
        items = self.cache.indices(split)
        table = self.zoo.table.iloc[self.rows[items]]
        members: dict[tuple[NetworkKey, str], list[int]] = {}
        for item, kind, layout in zip(items, probe.kinds(table), table["layout"].astype(str), strict=True):
            members.setdefault((kind, layout), []).append(int(item))
        populations = [
            Population(kind, self.cache.layouts[layout], np.array(indices))
            for (kind, layout), indices in sorted(members.items())
            if probe.fits(kind, self.cache.layouts[layout]) and self.cache.windows(indices[0]) == 1
        ]
        if not populations:
            reason = "no network can be evaluated and encoded in a single window"
            fix = "use a zoo of known architectures and raise tokens.max_tokens"
            raise DataError(reason, where=f"{split} split of {self.cache.folder}", fix=fix)
        return populations

    @torch.no_grad()
    def encode(self, items: np.ndarray) -> Float[Tensor, "networks latent"]:
        """Return the latents of items."""
        blocks = np.array_split(items, -(-len(items) // BLOCK))
        return torch.cat([self.model.encoder(self.cache.batch(block)) for block in blocks])

    @torch.no_grad()
    def decode(self, population: Population, latents: Float[Tensor, "networks latent"]) -> Vectors:
        """Return raw weights (n, D) of latents decoded as networks of a population."""
        vectors = []
        for block in latents.split(BLOCK):
            alike = np.repeat(population.items[:1], len(block))
            vectors += self.cache.to_weights(alike, self.model.decoder(block, self.cache.batch(alike)))
        return np.stack(vectors)

    def weights(self, items: np.ndarray, *, aligned: bool = True) -> Vectors:
        """Return raw weights (n, D) of items of one layout, with units in the order of the cache or in the original order."""
        rows = self.rows[items]
        return self.cache.weights(rows) if aligned else self.zoo.weights(rows)


def accuracies(population: Population, vectors: Vectors, probe: ProbeImages) -> Float[np.ndarray, " networks"]:
    """Return the accuracy of networks with these weights; an image with a logit that is not finite counts as wrong."""
    weights = repair(population.layout, vectors.astype(np.float32)).weights
    logits = probe.logits(population.kind, population.layout, weights)  # (n, N, C)
    right = (logits.nan_to_num().argmax(-1) == probe.labels(population.kind)) & logits.isfinite().all(-1)
    return right.double().mean(-1).numpy()


def interpolate(space: LatentSpace, probe: ProbeImages, config: LatentsConfig) -> pd.DataFrame:
    """Return one row per pair, path and step: pair, family, path, t, accuracy.

    Raises:
        DataError: if no two held-out runs share an architecture.
    """
    rng, tables = np.random.default_rng(config.seed), []
    steps = np.linspace(0, 1, config.steps, dtype=np.float32)[:, None]
    for number, (population, ends) in enumerate(_pairs(space, probe, config, rng)):
        latents, originals = space.encode(ends), space.weights(ends)
        between = torch.from_numpy(steps)
        decoded = space.decode(population, (1 - between) * latents[:1] + between * latents[1:])
        residual = originals - space.decode(population, latents)
        plain = space.weights(ends, aligned=False)
        paths = {
            "latent": decoded,
            "latent_residual": decoded + _line(steps, residual),
            "aligned": _line(steps, originals),
            "unaligned": _line(steps, plain),
        }
        columns = {"pair": number, "family": _family(population), "t": steps[:, 0]}
        tables += [
            pd.DataFrame({**columns, "path": name, "accuracy": accuracies(population, vectors, probe)})
            for name, vectors in paths.items()
        ]
    return pd.concat(tables, ignore_index=True)


def barriers(table: pd.DataFrame) -> dict[str, float]:
    """Return for each path the mean over pairs of max over t of (line between the ends' accuracies - accuracy at t).

    As in Entezari et al. 2022 (arXiv 2110.06296), but for accuracy instead of error; the ends are those of the path
    itself.
    """
    heights: dict[str, list[float]] = {}
    for _, rows in table.sort_values(by="t").groupby(["path", "pair"], sort=False):
        values, t = rows["accuracy"].to_numpy(float), rows["t"].to_numpy(float)
        heights.setdefault(str(rows["path"].iloc[0]), []).append(
            float(((1 - t) * values[0] + t * values[-1] - values).max())
        )
    return {path: float(np.mean(values)) for path, values in heights.items()}


def draw(space: LatentSpace, train: ProbeImages, test: ProbeImages, config: LatentsConfig) -> pd.DataFrame:
    """Return one row per architecture, band and method: metrics of its samples (see `_sample_metrics`).

    Bands are by accuracy on training images; samples are evaluated on test images.

    Raises:
        DataError: if no architecture has `FEWEST` training networks in a band.
    """
    rng, training, rows = np.random.default_rng(config.seed), TrainingNetworks(space.cache), []
    held_out = {population.kind: population.items for population in space.populations("test", test)}
    for population in space.populations("train", test):
        measured = accuracies(population, space.weights(population.items), train)
        for low, high in zip(config.bands[:-1], config.bands[1:], strict=True):
            inside = (measured >= low) & ((measured < high) | (high == config.bands[-1]))
            if inside.sum() < FEWEST:
                continue
            members = population._replace(items=population.items[inside])
            unseen = held_out.get(population.kind, members.items)
            scale = training.nearest(members.layout, training.normalize(members.layout, space.weights(unseen))).mean()
            head = {"family": _family(population), "low": low, "high": high, "trained": int(inside.sum())}
            for name, vectors in _draws(space, members, training, config, rng).items():
                rows.append(
                    {**head, "method": name, **_sample_metrics(space, members, vectors, test, training, float(scale))}
                )
    if not rows:
        fix = "lower the edges of latents.bands, or train more runs (zoo.n_runs)"
        raise DataError("no band has enough training networks of one architecture", expected=FEWEST, fix=fix)
    return pd.DataFrame(rows)


def by_band(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per band and method: unweighted means over the architectures of `draw`."""
    values = ["accuracy", "accuracy_best", "novelty", "diversity"]
    rows = []
    for _, group in table.groupby(["low", "high", "method"], sort=True):
        first = group.iloc[0]
        head = {name: first[name] for name in ("low", "high", "method")}
        counts = {"architectures": len(group), "trained": int(group["trained"].to_numpy().sum())}
        rows.append({**head, **counts, **{name: float(group[name].to_numpy(float).mean()) for name in values}})
    return pd.DataFrame(sorted(rows, key=lambda row: (row["low"], DRAWS.index(row["method"]))))


@torch.no_grad()
def latent_statistics(space: LatentSpace) -> dict[str, float]:
    """Return statistics of the latents of the training networks, as floats.

    latent_mean and latent_std are means over dimensions of |mean| and standard deviation over networks, active_units counts the
    dimensions whose variance is above `ACTIVE`; of a VAE also kl (nats per network) and posterior_std, means over networks.
    """
    items = space.cache.indices("train")
    latents = space.encode(items)
    statistics = {
        "latent_dim": float(latents.shape[1]),
        "latent_mean": float(latents.mean(0).abs().mean()),
        "latent_std": float(latents.std(0).mean()) if len(latents) > 1 else 0.0,
        "active_units": float((latents.var(0) > ACTIVE).sum()) if len(latents) > 1 else 0.0,
    }
    posterior = space.model.encoder.posterior(space.cache.batch(items[:BLOCK]))
    if posterior is not None:
        from wscore.autoencoder.training.kl_loss import kl_standard_normal

        statistics["kl"] = float(kl_standard_normal(posterior.mean, posterior.log_variance).mean())
        statistics["posterior_std"] = float((posterior.log_variance / 2).exp().mean())
    return statistics


def sentence(paths: pd.DataFrame, draws: pd.DataFrame) -> str:
    """Return a summary in one line."""
    lost, best = barriers(paths), by_band(draws)
    top = best[best["low"] == best["low"].max()].set_index("method")["accuracy"]
    kinds = ", ".join(f"{name} {top[name]:.3f}" for name in ("kde", "gaussian", "mean_network", "train_noise", "train"))
    gap = ", ".join(f"{name} {lost[name]:.3f}" for name in PATHS)
    return f"accuracy lost between two networks: {gap}; accuracy of draws in the highest band: {kinds}"


def _pairs(
    space: LatentSpace, probe: ProbeImages, config: LatentsConfig, rng: np.random.Generator
) -> Iterator[tuple[Population, np.ndarray]]:
    """Yield (population, two items): last checkpoints of two held-out runs of one architecture."""
    candidates = []
    for population in space.populations("test", probe):
        rows = space.rows[population.items]
        last = population.items[np.isin(rows, space.zoo.last_checkpoints(rows))]
        candidates += [(population, last[[i, j]]) for i in range(len(last)) for j in range(i)]
    if not candidates:
        fix = "train more runs (zoo.n_runs), or raise tokens.test_fraction"
        raise DataError("no two held-out runs share an architecture", where=space.cache.folder, fix=fix)
    for place in np.sort(rng.permutation(len(candidates))[: config.pairs]):
        yield candidates[place]


def _draws(
    space: LatentSpace, members: Population, training: TrainingNetworks, config: LatentsConfig, rng: np.random.Generator
) -> Mapping[str, Vectors]:
    """Return raw weights (samples, D) by method, sampled near the members of a band."""
    latents, originals = space.encode(members.items), space.weights(members.items)
    count, width = config.samples, latents.shape[1]
    mean, root = fitted_gaussian(latents.numpy())
    anchors = rng.integers(len(latents), size=count)
    noise = (rng.standard_normal((2, count, width)) @ root.T).astype(np.float32)
    kde = space.decode(members, latents[anchors] + config.bandwidth * torch.from_numpy(noise[0]))
    draws = {"kde": kde, "gaussian": space.decode(members, torch.from_numpy(mean + noise[1]))}
    if space.model.encoder.posterior(space.cache.batch(members.items[:1])) is not None:
        draws["prior"] = space.decode(members, torch.from_numpy(rng.standard_normal((count, width)).astype(np.float32)))
    away = float(training.nearest(members.layout, training.normalize(members.layout, kde)).mean())
    normal = training.normalize(members.layout, originals[anchors])
    direction = rng.standard_normal(normal.shape)
    shift = away * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    noisy = space.cache.normalizer.restore(members.layout, (normal + shift).astype(np.float32))
    return {
        **draws,
        "mean_network": originals.mean(0, keepdims=True),
        "train_noise": np.asarray(noisy),
        "train": originals[np.sort(rng.permutation(len(originals))[:count])],
    }


def fitted_gaussian(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (Z,) of latents and a square root (Z, Z) of their shrunk covariance."""
    from sklearn.covariance import ledoit_wolf

    covariance, _ = ledoit_wolf(latents.astype(np.float64))
    variances, vectors = np.linalg.eigh(covariance)
    return latents.mean(0), vectors * np.sqrt(np.maximum(variances, 0))


def _sample_metrics(
    space: LatentSpace,
    members: Population,
    vectors: Vectors,
    probe: ProbeImages,
    training: TrainingNetworks,
    scale: float,
) -> dict[str, float]:
    """Return mean and best test accuracy, novelty and diversity of samples.

    novelty: distance to the nearest training network, relative to that of held-out networks; 0 for a copy. diversity:
    mean distance between two samples, relative to that between two members of the band; 0 if all are equal.
    """
    accuracy = accuracies(members, vectors, probe)
    normal = training.normalize(members.layout, vectors)
    spread = pairwise(members.layout, training.normalize(members.layout, space.weights(members.items)))
    return {
        "accuracy": float(accuracy.mean()),
        "accuracy_best": float(accuracy.max()),
        "novelty": float(training.nearest(members.layout, normal).mean()) / scale if scale else float("nan"),
        "diversity": pairwise(members.layout, normal) / spread if len(vectors) > 1 and spread else 0.0,
    }


def _line(
    steps: Float[np.ndarray, "step one"], ends: Float[np.ndarray, "two weights"]
) -> Float[np.ndarray, "step weights"]:
    return ((1 - steps) * ends[:1] + steps * ends[1:]).astype(np.float32)


def _family(population: Population) -> str:
    from wscore.networks.architectures import parse

    return parse(population.kind.architecture).family if population.kind.architecture else "unknown"


def path_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per step with the mean accuracy of every path, over all pairs."""
    names: Sequence[str] = PATHS
    return table.pivot_table(index="t", columns="path", values="accuracy")[list(names)].reset_index()
