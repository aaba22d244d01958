"""Probe images that are optimised ("dreamed") on training networks, and measures of the outputs of networks on them.

No real image is used. A probe starts as noise and is optimised until the networks of the training split classify it as
its assigned label (as in Yin et al., 2020, "Dreaming to distill", arXiv 1912.08795, without their norm-layer
statistics), so that networks that learned the task recognise it and others do not. That outputs on a few synthetic
inputs are informative about a network: Kahana et al. (2025), "Deep linear probe generators for weight space learning",
arXiv 2410.10811.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wscore.errors import DataError
from wscore.io import read_tensors, write_tensors
from wscore.networks.architectures import FAMILIES, Architecture, parse
from wscore.networks.inference import StackedAnswer
from wscore.networks.layout import Layout
from wscore.zoo.store import Zoo

PROBES = "probes.safetensors"
GROUPS, MEMBERS = 6, 4  # architectures, and networks of each, used per optimisation step
KEPT = 64  # maximum number of networks used per architecture
NOISE = 0.3  # standard deviation of the noise added to the probes during optimisation
SMOOTHNESS = 0.5  # weight of the mean squared difference of neighbouring pixels
RATE = 0.08
LARGEST = 1e4  # logits are clipped here
LEAST = -20.0  # log probabilities are clipped here


class Probes(NamedTuple):
    """Synthetic images for networks of one image shape and number of classes.

    Attributes:
        images: values in [0, 1].
        labels: target class of each image.
    """

    images: Float[Tensor, "probe channel height width"]
    labels: Int[Tensor, " probe"]


ProbeSets = Mapping[str, Probes]


class Member(NamedTuple):
    """Networks that share an architecture."""

    architecture: Architecture
    layout: Layout
    rows: np.ndarray


def probe_key(architecture: Architecture) -> str:
    """Return the key of the probes for a network: its image shape and number of classes."""
    return f"{'x'.join(map(str, architecture.input))}/{architecture.classes}"


def dream(zoo: Zoo, rows: Int[np.ndarray, " rows"], *, count: int, steps: int, seed: int) -> dict[str, Probes]:
    """Return probes for each image shape and number of classes among some networks of a zoo.

    The probes x of labels y minimise the mean over networks of CE(f(x + noise), y), plus a penalty on differences of
    neighbouring pixels, by Adam; each step uses a few randomly drawn networks.

    Args:
        zoo: of the networks.
        rows: networks to optimise on, all of the training split; those of unknown architecture are skipped.
        count: probes per key; labels cycle through the classes.
        steps: of Adam.
        seed: for the initial images, the noise and the sampling of networks.
    """
    kinds: dict[str, list[Member]] = {}
    for member in _members(zoo, rows):
        kinds.setdefault(probe_key(member.architecture), []).append(member)
    return {key: _dream(zoo, members, count, steps, seed) for key, members in sorted(kinds.items())}


def write_probes(folder: Path, probes: ProbeSets) -> None:
    """Write probes as one safetensors file; no file if there are none."""
    if probes:
        tensors = {f"{key}/{name}": value for key, probe in probes.items() for name, value in probe._asdict().items()}
        write_tensors(folder / PROBES, tensors)


def read_probes(folder: Path) -> dict[str, Probes]:
    """Return the probes in a folder, empty if it has none.

    Raises:
        DataError: if the file holds something else.
    """
    path, probes = folder / PROBES, {}
    tensors = read_tensors(path) if path.is_file() else {}
    for key in sorted({name.rpartition("/")[0] for name in tensors}):
        images, labels = (tensors.get(f"{key}/{part}", torch.empty(())) for part in Probes._fields)
        fits = images.ndim == 4 and images.dtype == torch.float32 and bool(images.isfinite().all())
        if not fits or labels.dtype != torch.int64 or labels.shape != images.shape[:1] or bool((labels < 0).any()):
            raise DataError(
                "holds no probes", where=f"{path}: {key}", expected="images (n, channels, height, width), labels"
            )
        probes[key] = Probes(images, labels)
    return probes


def _members(zoo: Zoo, rows: np.ndarray) -> Iterator[Member]:
    chosen = np.zeros(len(zoo), bool)
    chosen[rows] = True
    for text, layout, numbers in zoo.families():
        if text and chosen[numbers].any():
            architecture = parse(text)
            if architecture.family in FAMILIES:
                yield Member(architecture, layout, numbers[chosen[numbers]])


def _dream(zoo: Zoo, members: list[Member], count: int, steps: int, seed: int) -> Probes:
    generator, random = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    architecture = members[0].architecture
    labels = torch.arange(count) % architecture.classes
    images = (0.4 + 0.3 * torch.randn(count, *architecture.input, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([images], lr=RATE)
    weights = [_draw_networks(zoo, member.rows, random) for member in members]
    for _ in range(steps):
        loss = SMOOTHNESS * _roughness(images)
        drawn = random.choice(len(members), min(GROUPS, len(members)), replace=False)
        for number in drawn.tolist():
            member, vectors = members[number], weights[number]
            chosen = random.choice(len(vectors), min(MEMBERS, len(vectors)), replace=False)
            noisy = (images + NOISE * torch.randn(images.shape, generator=generator)).clamp(0, 1)
            outputs = StackedAnswer(member.architecture, member.layout)(vectors[chosen], noisy[None])  # (n, P, C)
            loss = loss + nn.functional.cross_entropy(outputs.mT, labels.expand(len(chosen), -1)) / len(drawn)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    return Probes(images.detach(), labels)


def _draw_networks(zoo: Zoo, rows: np.ndarray, random: np.random.Generator) -> Float[Tensor, "networks weights"]:
    return torch.from_numpy(zoo.weights(np.sort(random.choice(rows, min(KEPT, len(rows)), replace=False))))


def _roughness(images: Tensor) -> Tensor:
    across, down = images.diff(dim=-1), images.diff(dim=-2)
    return (across**2).mean() + (down**2).mean()


def measure_outputs(logits: np.ndarray, labels: Tensor) -> np.ndarray:
    """Return the `MEASURES` of logits (n, P, C) as (n, measures).

    Raises:
        DataError: if a label is not a class.
    """
    predicted = labels.numpy()
    if not ((predicted >= 0) & (predicted < logits.shape[-1])).all():
        raise DataError(
            "labels of the probes are no classes", expected=f"0 to {logits.shape[-1] - 1}", got=int(predicted.max())
        )
    logits = logits.astype(np.float64)
    log_share = logits - logits.max(axis=-1, keepdims=True)
    log_share -= np.log(np.exp(log_share).sum(axis=-1, keepdims=True))
    share = np.exp(log_share)
    right = np.maximum(log_share[:, np.arange(len(predicted)), predicted], LEAST)  # (n, P)
    top = np.partition(logits, -2, axis=-1)
    view: dict[str, Any] = {
        "share": share,
        "right": right,
        "hit": logits.argmax(axis=-1) == predicted,
        "entropy": -(share * np.maximum(log_share, LEAST)).sum(axis=-1),
        "margin": top[..., -1] - top[..., -2],
        "spread": logits.std(axis=-1),
    }
    return np.column_stack([*_overall(view), *_by_class(view, logits, predicted)])


MEASURES = (
    "hits", "surprise", "entropy", "margin", "confidence", "spread", "right_share", "evenness",
    *(f"{name}_p{q}" for name in ("entropy", "margin") for q in (10, 50, 90)),
    *(f"class_hits{k}" for k in range(4)), *(f"class_surprise{k}" for k in range(4)), "separation", "bias",
)  # fmt: skip


def _overall(view: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the means over all probes, logarithms of margins and spreads, and quantiles."""
    mean = view["share"].mean(axis=1)
    margin = _log(view["margin"])
    means = [view["hit"].mean(1), -view["right"].mean(1), view["entropy"].mean(1), _log(view["margin"].mean(1))]
    means += [view["share"].max(-1).mean(1), _log(view["spread"].mean(1)), np.exp(view["right"]).mean(1)]
    means.append(-(mean * np.log(mean + 1e-9)).sum(axis=-1))
    quantiles = [np.percentile(values, (10, 50, 90), axis=1) for values in (view["entropy"], margin)]
    return [*means, *quantiles[0], *quantiles[1]]


def _by_class(view: Mapping[str, Any], logits: np.ndarray, predicted: np.ndarray) -> list[np.ndarray]:
    """Return quartiles over the classes of hits and surprise, class separation, and the mean logits."""
    classes = np.unique(predicted)
    hits = np.stack([view["hit"][:, predicted == c].mean(axis=1) for c in classes], axis=1)
    surprise = np.stack([-view["right"][:, predicted == c].mean(axis=1) for c in classes], axis=1)
    centres = np.stack([logits[:, predicted == c].mean(axis=1) for c in classes], axis=1)  # (n, classes, C)
    within = ((logits - centres[:, np.searchsorted(classes, predicted)]) ** 2).mean(axis=(1, 2))
    between = centres.var(axis=1).mean(axis=-1)
    quartiles = [np.quantile(values, (0.0, 0.25, 0.5, 0.75), axis=1) for values in (hits, surprise)]
    return [*quartiles[0], *quartiles[1], _log(between) - _log(within), _log((logits.mean(axis=1) ** 2).mean(axis=1))]


def _log(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(values, 1e-9))
