"""Per-tensor error weights of the sparse dictionary, from the sensitivity of network outputs to noise on each tensor.

An error in a running variance or a first filter can ruin a network, one in a wide hidden layer hardly matters; the
squared error of normalised weights treats them equally. The sensitivity to a tensor is measured on training networks and
training images:

    s_t = mean KL(outputs of the network, outputs with noise on tensor t) / entries of t

with Gaussian noise of `NOISE` on the scale of the normaliser. Rows are then multiplied, per tensor, by
(s_t / median s)^(power / 2), which weights a squared error by s^power. Since this is a pure rescaling, it is stored as a
normaliser, and users of the dictionary need nothing else.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from wscore.networks.datasets import NetworkKey, NetworkRunner, Tasks, as_tasks, kinds_of
from wscore.networks.images import Images
from wscore.networks.layout import Layout
from wscore.tokens.cache import TokenCache
from wscore.tokens.normalizer import Affine, Normalizer
from wscore.training.batches import derive_seed
from wscore.zoo.store import Zoo

NOISE = 0.2
NETWORKS = 8  # of each kind that are perturbed
IMAGES = 100
MOST = 10.0  # clip of the KL of one output, in nats: a single broken network should not dominate
LEAST = 1e-3  # lower bound relative to the median sensitivity: insensitive tensors keep a small weight
VARIANCE = 1e-3  # minimum fraction of a running variance after adding noise
Sensitivities = dict[str, tuple[float, ...]]  # one per tensor, by layout identity


def emphasised(zoo: Zoo, cache: TokenCache, images: Images | Tasks, *, power: float, seed: int) -> Normalizer:
    """Return the normaliser of a cache with scales that weight tensors by sensitivity.

    Args:
        zoo: of the networks.
        cache: of their tokens.
        images: networks are run on their training part, each on its own data set.
        power: 0 leaves the scales unchanged.
        seed: for the noise and the choice of networks and images.
    """
    if not power:
        return cache.normalizer
    return rescaled(cache.normalizer, cache.layouts, tensor_sensitivities(zoo, cache, images, seed=seed), power)


def tensor_sensitivities(zoo: Zoo, cache: TokenCache, images: Images | Tasks, *, seed: int) -> Sensitivities:
    """Return the sensitivity s_t of every tensor of every layout whose networks can be run on the images."""
    rng = np.random.default_rng(derive_seed(seed, "emphasis"))
    tasks, means = as_tasks(images), dict[str, list[np.ndarray]]()
    probes = {data.name: data.x_train[np.sort(rng.permutation(len(data.x_train))[:IMAGES])] for data in tasks.images}
    for kind, layout, weights in _training_networks(zoo, cache, tasks, rng):
        way = tasks.way(kind, layout)
        if way.answer is not None:
            scale = cache.normalizer.statistics(layout)[1]
            means.setdefault(layout.identity, []).append(_measure(way, layout, weights, scale, probes[kind.task], rng))
    return {name: tuple(np.mean(parts, axis=0).tolist()) for name, parts in means.items()}


def rescaled(normalizer: Normalizer, layouts: Mapping[str, Layout], given: Sensitivities, power: float) -> Normalizer:
    """Return a normaliser whose scale of tensor t is divided by (s_t / median s)^(power / 2).

    Tensors of unmeasured layouts use the geometric mean over tensors of their kind.
    """
    known = [value for values in given.values() for value in values if value > 0]
    if not known:
        return normalizer
    middle = float(np.median(known))
    factors = {name: [max(value / middle, LEAST) ** (power / 2) for value in values] for name, values in given.items()}
    by_kind: dict[str, list[float]] = {}
    for name, values in factors.items():
        for spec, value in zip(layouts[name].tensors, values, strict=True):
            by_kind.setdefault(spec.kind, []).append(value)
    usual = {kind: float(np.exp(np.mean(np.log(values)))) for kind, values in by_kind.items()}
    kinds = {kind: _divided(normalizer.kinds.get(kind, normalizer.overall), factor) for kind, factor in usual.items()}
    made = {}
    for name, layout in layouts.items():
        divisors = factors.get(name) or [usual.get(spec.kind, 1.0) for spec in layout.tensors]
        old = normalizer.layouts.get(name) or [normalizer.kinds.get(s.kind, normalizer.overall) for s in layout.tensors]
        made[name] = tuple(_divided(transform, factor) for transform, factor in zip(old, divisors, strict=True))
    return Normalizer(mode="layer", overall=normalizer.overall, kinds={**normalizer.kinds, **kinds}, layouts=made)


def _divided(affine: Affine, factor: float) -> Affine:
    return Affine(shift=affine.shift, scale=affine.scale / factor)


def _training_networks(
    zoo: Zoo, cache: TokenCache, tasks: Tasks, rng: np.random.Generator
) -> Iterator[tuple[NetworkKey, Layout, np.ndarray]]:
    """Yield some training networks of each kind: the kind, their layout and weights (n, D)."""
    members: dict[tuple[NetworkKey, str], list[int]] = {}
    kinds, layouts = kinds_of(zoo.table, tasks), zoo.table["layout"].astype(str).tolist()
    for row in np.unique(cache.table["row"].to_numpy(int)[np.asarray(cache.indices("train"))]).tolist():
        members.setdefault((kinds[row], layouts[row]), []).append(row)
    for kind, layout in sorted(members):
        rows = rng.permutation(members[kind, layout])[:NETWORKS]
        yield kind, zoo.layouts[layout], zoo.weights(np.sort(rows))


def _measure(
    way: NetworkRunner, layout: Layout, weights: np.ndarray, scale: np.ndarray, images: Tensor, rng: np.random.Generator
) -> np.ndarray:
    """Return the sensitivity of each tensor (T,) of some networks (n, D)."""
    log_probabilities = way.logits(torch.from_numpy(weights), images).log_softmax(-1)
    values = []
    for spec, offset in zip(layout.tensors, layout.offsets, strict=True):
        span, noisy = slice(offset, offset + spec.size), weights.copy()
        noise = rng.standard_normal((len(weights), spec.size)) * (NOISE * scale[span])
        noisy[:, span] += noise.astype(np.float32)
        if spec.kind == "running_var":
            noisy[:, span] = np.maximum(noisy[:, span], VARIANCE * weights[:, span])
        others = way.logits(torch.from_numpy(noisy), images).log_softmax(-1)
        divergence = (log_probabilities.exp() * (log_probabilities - others)).sum(-1).nan_to_num(MOST).clamp(0, MOST)
        values.append(float(divergence.mean()) / spec.size)
    return np.array(values)
