"""Networks that the decoder of the weight encoder makes: between networks of different widths, of drawn latents, and refined.

path       networks between a (t = 0) and b (t = 1) of one family, all in the layout of a
latent     decode((1 - t) z_a + t z_b)
straight   (1 - t) w_a + t w_b, b resized to the layout of a (`wscore.encoder.resizing`)

draw       networks of a layout, of latents of the training networks in a band of accuracies
gaussian   decode(z), z from a Gaussian fitted to these latents (covariance shrunk, Ledoit and Wolf 2004)
encoded    decode(z), z of these networks
mean       the mean of their weights
typical    the first exemplar of the layout

refined    networks as each method gives them back, after steps of Adam on training images; `random`: new networks
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from studies.latents.latent_space import FEWEST, fitted_gaussian
from wscore.autoencoder.evaluation.controls import LayoutGroup, Method
from wscore.autoencoder.evaluation.evaluate import ProbeImages
from wscore.autoencoder.evaluation.fidelity import repair
from wscore.config import Section
from wscore.encoder.resizing import resizing
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.errors import DataError
from wscore.networks.architectures import build, parse
from wscore.networks.datasets import NetworkKey
from wscore.networks.layout import Layout
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo

SHARES = ("encoded", "gaussian", "typical", "mean")
POSITIVE = 1e-3  # least running variance in refinements


class DecodedConfig(Section):
    """Decoded networks of the study (section `decoded:`).

    Args:
        pairs: of held-out networks of one family and different layouts, last checkpoints of two runs.
        steps: networks on each path, including both ends.
        bands: edges of the bands of test accuracy, ascending.
        samples: draws of each layout and band.
        refined: held-out networks, last checkpoints, that are refined.
        refinement: steps of Adam after which they are evaluated, ascending from 0.
        batch_size: training images in a step.
        lr: of Adam.
        seed: of pairs, draws and images.
    """

    pairs: Annotated[int, msgspec.Meta(ge=1)]
    steps: Annotated[int, msgspec.Meta(ge=3)]
    bands: Annotated[tuple[Annotated[float, msgspec.Meta(ge=0, le=1)], ...], msgspec.Meta(min_length=2)]
    samples: Annotated[int, msgspec.Meta(ge=2)]
    refined: Annotated[int, msgspec.Meta(ge=1)]
    refinement: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    batch_size: Annotated[int, msgspec.Meta(ge=1)]
    lr: Annotated[float, msgspec.Meta(gt=0)]
    seed: Annotated[int, msgspec.Meta(ge=0)]


class Member(NamedTuple):
    """A network of the zoo.

    Attributes:
        row: in the zoo.
        kind: architecture and images.
        layout: of its weights.
        family: of its architecture.
    """

    row: int
    kind: NetworkKey
    layout: Layout
    family: str


class Decoded:
    """Networks of a zoo, their latents, and networks decoded from latents."""

    def __init__(self, zoo: Zoo, cache: TokenCache, encoder: WeightEncoder, probe: ProbeImages) -> None:
        self.zoo, self.cache, self.encoder, self.probe = zoo, cache, encoder, probe

    def members(self, split: str, *, last: bool) -> list[Member]:
        """Return the networks of a split that can be run, or the last checkpoints of the runs among them.

        Raises:
            DataError: if there is none.
        """
        rows = np.unique(self.cache.table["row"].to_numpy(int)[np.asarray(self.cache.indices(split))])
        rows = np.asarray(self.zoo.last_checkpoints(rows)) if last else rows
        table = self.zoo.table.iloc[rows]
        layouts = [self.zoo.layouts[key] for key in table["layout"].astype(str)]
        found = [
            Member(int(row), kind, layout, parse(kind.architecture).family)
            for row, kind, layout in zip(rows, self.probe.kinds(table), layouts, strict=True)
            if kind.architecture and self.probe.fits(kind, layout)
        ]
        if not found:
            raise DataError("no network can be run", where=f"{split} split of {self.cache.folder}")
        return found

    def latents(self, members: Sequence[Member]) -> Float[Tensor, "network latent"]:
        """Return the latents of networks."""
        return torch.stack([self.encoder.encode(self.zoo.state_dict(member.row)) for member in members])

    def accuracies(self, member: Member, weights: Float[Tensor, "network weight"]) -> Float[np.ndarray, " network"]:
        """Return the accuracies of networks of the architecture of another one."""
        return (self.classes(member, weights) == self.probe.labels(member.kind)).float().mean(-1).numpy()

    def classes(self, member: Member, weights: Float[Tensor, "network weight"]) -> Int[Tensor, "network image"]:
        """Return the predicted classes of networks of the architecture of another one."""
        clean = repair(member.layout, weights.numpy().astype(np.float32)).weights
        return self.probe.logits(member.kind, member.layout, clean).nan_to_num().argmax(-1)


def across_widths(space: Decoded, config: DecodedConfig) -> pd.DataFrame:
    """Return one row per step: t, the mean accuracy of both paths, and the mean line between the accuracies of both networks.

    Raises:
        DataError: if no two held-out networks of a family differ in their layouts.
    """
    members, rng = space.members("test", last=True), np.random.default_rng(config.seed)
    pairs = [(a, b) for a in members for b in members if a.family == b.family and a.layout != b.layout]
    if not pairs:
        raise DataError("no two held-out networks of a family differ in their layouts", where=space.cache.folder)
    t = torch.linspace(0, 1, config.steps)[:, None]
    tables = []
    for place in np.sort(rng.permutation(len(pairs))[: config.pairs]):
        first, second = pairs[place]
        ends = space.latents([first, second])
        latent = space.encoder.decoder.decode(torch.lerp(ends[:1], ends[1:], t), first.layout)
        vectors = [torch.from_numpy(space.zoo.weights([member.row])) for member in (first, second)]
        index, factor, constant = resizing(first.layout, second.layout)
        straight = torch.lerp(vectors[0], vectors[1][:, index] * factor + constant, t)
        own = [space.accuracies(member, vector)[0] for member, vector in zip((first, second), vectors, strict=True)]
        line = np.linspace(own[0], own[1], config.steps)
        paths = {"latent": space.accuracies(first, latent), "straight": space.accuracies(first, straight)}
        tables.append(pd.DataFrame({"t": t[:, 0].numpy(), **paths, "originals": line}))
    return pd.DataFrame(pd.concat(tables).groupby("t", as_index=False).mean())


def draws(space: Decoded, config: DecodedConfig) -> pd.DataFrame:
    """Return one row per band: its edges, architectures, and the mean accuracy of networks by method.

    Raises:
        DataError: if no architecture has `FEWEST` training networks in a band.
    """
    rng, groups = np.random.default_rng(config.seed), dict[tuple[NetworkKey, str], list[Member]]()
    for member in space.members("train", last=False):
        groups.setdefault((member.kind, member.layout.identity), []).append(member)
    rows = []
    for members in groups.values():
        weights = torch.from_numpy(space.zoo.weights([member.row for member in members]))
        accuracy = space.accuracies(members[0], weights)
        latents = space.encoder.encode_many(members[0].layout, weights.numpy()).latents
        for low, high in zip(config.bands[:-1], config.bands[1:], strict=True):
            inside = torch.from_numpy((accuracy >= low) & ((accuracy < high) | (high == config.bands[-1])))
            if inside.sum() >= FEWEST:
                made = _drawn(space, members[0].layout, latents[inside], weights[inside], config.samples, rng)
                means = {name: float(space.accuracies(members[0], vectors).mean()) for name, vectors in made.items()}
                rows.append({"low": low, "high": high, "trained": float(accuracy[inside.numpy()].mean()), **means})
    if not rows:
        raise DataError("no band has enough training networks of one architecture", expected=FEWEST)
    table = pd.DataFrame(rows)
    means = pd.DataFrame(table.groupby(["low", "high"], as_index=False).mean())
    return means.assign(architectures=table.groupby(["low", "high"]).size().to_numpy())


def _drawn(
    space: Decoded, layout: Layout, latents: Tensor, weights: Tensor, samples: int, rng: np.random.Generator
) -> Mapping[str, Tensor]:
    mean, root = fitted_gaussian(latents.numpy())
    drawn = torch.from_numpy((mean + rng.standard_normal((samples, len(mean))) @ root.T).astype(np.float32))
    decoder = space.encoder.decoder
    networks = decoder.decode(latents, layout), decoder.decode(drawn, layout)
    return dict(zip(SHARES, (*networks, decoder.typical(layout)[None], weights.mean(0, keepdim=True)), strict=True))


def refinements(space: Decoded, ways: Mapping[str, Method], train: ProbeImages, config: DecodedConfig) -> pd.DataFrame:
    """Return one row per method: mean accuracy, and agreement with the original, of decoded held-out networks after steps.

    Args:
        space: of the networks.
        ways: methods by name.
        train: training images and their labels.
        config: of the steps.
    """
    rng, members = np.random.default_rng(config.seed), space.members("test", last=True)
    chosen = [members[place] for place in np.sort(rng.permutation(len(members))[: config.refined])]
    rows = []
    for member in chosen:
        group = LayoutGroup(member.layout, np.array([member.row]), space.cache.weights(np.array([member.row])))
        starts = {name: repair(member.layout, way.restore(group)).weights[0] for name, way in ways.items()}
        starts |= {"random": _random(member, config.seed), "original": group.weights[0]}
        refined = _refined(member, np.stack(list(starts.values())), train, config)
        classes = [space.classes(member, weights) for weights in refined]
        named = {"accuracy": space.probe.labels(member.kind), "agreement": classes[0][-1]}
        rows.append(pd.DataFrame({"method": list(starts)} | {
            f"{name}_{count}": (each == true).float().mean(-1).numpy()
            for name, true in named.items() for count, each in zip(config.refinement, classes, strict=True)
        }))  # fmt: skip
    return pd.DataFrame(pd.concat(rows).groupby("method", sort=False, as_index=False).mean())


def _random(member: Member, seed: int) -> Float[np.ndarray, " weight"]:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed + member.row)
        return member.layout.flatten(build(parse(member.kind.architecture)).state_dict())


def _refined(
    member: Member, weights: np.ndarray, train: ProbeImages, config: DecodedConfig
) -> list[Float[Tensor, "network weight"]]:
    """Return networks after every number of steps of Adam on the cross-entropy of training images, the same for all."""
    images, labels = train.questions[member.kind.task]
    answer = train.tasks.way(member.kind, member.layout).answer
    assert answer is not None
    vectors = torch.from_numpy(weights.astype(np.float32)).requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=config.lr)
    variances = _variances(member.layout)
    generator, kept = torch.Generator().manual_seed(config.seed), []
    for step in range(config.refinement[-1] + 1):
        if step in config.refinement:
            kept.append(vectors.detach().clone())
        batch = torch.randint(len(images), (config.batch_size,), generator=generator)
        logits = answer(vectors, images[batch][None])
        target = labels[batch].expand(len(vectors), -1).flatten()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target, reduction="none")
        optimizer.zero_grad()
        loss.unflatten(0, logits.shape[:2]).mean(1).sum().backward()
        optimizer.step()
        with torch.no_grad():
            vectors[:, variances] = vectors[:, variances].clamp_min(POSITIVE)
    return kept


def _variances(layout: Layout) -> Int[Tensor, " place"]:
    places = [
        torch.arange(o, o + s.size)
        for s, o in zip(layout.tensors, layout.offsets, strict=True)
        if s.kind == "running_var"
    ]
    return torch.cat(places) if places else torch.zeros(0, dtype=torch.long)
