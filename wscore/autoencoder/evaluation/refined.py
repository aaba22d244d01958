"""Refines latents at encoding time, for the autoencoder and, as a control for the decoder's part of the gain, PCA."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.autoencoder.coding.entropy import Code, EntropyCode
from wscore.autoencoder.coding.refine import (
    Problem,
    RefineConfig,
    derivative,
    draw_images,
    encode_refined,
    one_pass,
    search,
    weighs_bits,
)
from wscore.autoencoder.decode_weights import NetworkGroup, subjects
from wscore.autoencoder.evaluation.controls import AT_ONCE, LayoutGroup, LayoutPca, Vectors
from wscore.networks.datasets import Tasks, as_tasks
from wscore.networks.images import Images
from wscore.networks.layout import Layout
from wscore.tokens.cache import TokenCache
from wscore.zoo.store import Zoo

Latents = Float[Tensor, "windows latent"]


class Refinement(NamedTuple):
    """Inputs of the refinement of latents.

    Attributes:
        zoo: provides the architectures.
        images: of every data set, for its own networks; only training images are used.
        config: of the refinement.
    """

    zoo: Zoo
    images: Images | Tasks
    config: RefineConfig


@runtime_checkable
class Coder(Protocol):
    """A coder with latents that can be optimized.

    Attributes:
        code: quantisation of latents; None for floats.
    """

    code: Code | None

    def encode(self, items: np.ndarray) -> Latents:
        """Return the latents of windows of one layout."""
        ...

    def decode(self, latents: Latents, items: np.ndarray) -> Float[Tensor, "windows token dim"]:
        """Return normalised tokens; only the shape of the items is used."""
        ...

    @property
    def floats(self) -> Callable[[Layout], float]:
        """Number of floats stored per network of a layout."""
        ...


class ModelCoder:
    """The autoencoder.

    Args:
        cache: of the tokens.
        model: with an `encoder` and a `decoder`.
        code: quantisation of latents; None for floats.
        floats: size per network of a layout in 32-bit floats.
    """

    def __init__(self, cache: TokenCache, model: Any, code: Code | None, floats: Callable[[Layout], float]) -> None:
        self.cache, self.model, self.code, self.floats = cache, model, code, floats
        self.shape: tuple[int, ...] = (-1,)

    @torch.no_grad()
    def encode(self, items: np.ndarray) -> Latents:
        """Return the latents of windows."""
        parts = np.array_split(items, -(-len(items) // AT_ONCE))
        latents = torch.cat([self.model.encoder(self.cache.batch(part)) for part in parts])
        self.shape = tuple(latents.shape[1:])
        return latents.flatten(1)

    def decode(self, latents: Latents, items: np.ndarray) -> Float[Tensor, "windows token dim"]:
        """Return the tokens decoded from latents."""
        frame = self.cache.batch(items).repeat(len(latents) // len(items))
        return self.model.decoder(latents.unflatten(1, self.shape), frame)


class PcaCoder:
    """PCA by layout: scores, without rounding, in units of the RMS of the training scores.

    Args:
        pca: fitted on the training split.
    """

    code: Code | None = None

    def __init__(self, pca: LayoutPca) -> None:
        self.pca, self.cache = pca, pca.cache

    def encode(self, items: np.ndarray) -> Latents:
        """Return the scores of windows."""
        flat = self.cache.batch(items).tokens.flatten(1)
        latents = torch.zeros(len(items), self.pca.numbers)
        for key, places in self.pca.kinds(items).items():
            if key not in self.pca.fits:
                continue
            fit = self.pca.fits[key]
            scores = (flat[places][:, fit.columns] - torch.from_numpy(fit.pca.mean)) @ torch.from_numpy(fit.pca.basis).T
            latents[places, : scores.shape[1]] = scores / self._scale(key)
        return latents

    def decode(self, latents: Latents, items: np.ndarray) -> Float[Tensor, "windows token dim"]:
        """Return mean + scores times basis."""
        one = self.cache.batch(items)
        size = one.tokens[0].numel()
        parts = []
        for place, part in enumerate(latents.unflatten(0, (-1, len(items))).unbind(1)):  # window by window
            (key,) = self.pca.kinds(items[place : place + 1])
            if key not in self.pca.fits:  # no training network: zeros for any latent
                parts.append(0 * part[:, :1].expand(-1, size))
                continue
            fit = self.pca.fits[key]
            basis = torch.from_numpy(fit.pca.basis)
            values = part[:, : len(basis)] * self._scale(key) @ basis + torch.from_numpy(fit.pca.mean)
            columns = torch.from_numpy(fit.columns)
            parts.append(part.new_zeros(len(part), size).index_copy(1, columns, values))
        return torch.stack(parts, dim=1).flatten(0, 1).unflatten(1, tuple(one.tokens.shape[1:]))

    def floats(self, layout: Layout) -> float:
        """Return windows x floats of a window + 1."""
        return self.pca.floats(layout)

    def _scale(self, key: tuple[str, int]) -> float:
        return self.pca.fits[key].spread


class Refined:
    """A coder whose latents are optimized to match the original's outputs on training images.

    Networks that cannot be run are reconstructed by the coder alone.

    Args:
        coder: coder to refine.
        setting: zoo, images and configuration.

    Attributes:
        seconds: spent on refining so far.
        refined: networks refined so far.
        rounding: seconds of these spent on curvature-aware rounding of the encoder's latents.
        rounded: networks after that rounding alone, by row, if the search starts from it.
    """

    def __init__(self, coder: Coder, cache: TokenCache, setting: Refinement) -> None:
        self.coder, self.cache, self.setting = coder, cache, setting
        tasks = as_tasks(setting.images)
        self.setting = setting._replace(images=tasks)
        self.images = {one.name: draw_images(one.x_train, setting.config) for one in tasks.images}
        self.seconds, self.rounding, self.refined = 0.0, 0.0, 0
        self.rounded: dict[int, np.ndarray] = {}
        self.syntheses: dict[str, Tensor] = {}  # computed once: linear paths are the same for all latents

    def restore(self, group: LayoutGroup) -> Vectors:
        """Return the networks decoded from their refined latents."""
        items = self.cache.items(group.rows)
        weights = np.zeros_like(group.weights)
        places = {int(row): place for place, row in enumerate(group.rows)}
        for some in subjects(self.cache, self.setting.zoo, items, self.setting.images):
            rows = [places[int(row)] for row in some.rows]
            windows = some.items.shape[1]
            start = self.coder.encode(some.items.reshape(-1)).reshape(len(rows), -1)  # (n, K)
            decode = lambda z, some=some, frame=some.items[0], w=windows: some.weights(  # noqa: E731
                self.coder.decode(z.reshape(len(z) * w, -1), frame)
            )
            original = torch.from_numpy(group.weights[rows]).float()
            since = time.perf_counter()
            latents = self._stored(some, (decode, original), start)
            if some.way.answer is not None:
                self.seconds, self.refined = self.seconds + time.perf_counter() - since, self.refined + len(rows)
            with torch.no_grad():
                weights[rows] = decode(latents).numpy()
        return weights

    def _stored(self, some: NetworkGroup, networks: tuple[Callable[[Tensor], Tensor], Tensor], start: Tensor) -> Tensor:
        """Return refined, quantised latents; for networks that cannot be run, those of the coder.

        Args:
            some: the networks.
            networks: map from latents to weights, and the original weights.
            start: latents of the coder.
        """
        code = self.coder.code
        kinds = self.cache.keys(some.items[0])
        rounds = code is not None and not code.exact
        if some.way.answer is None:
            rows = start.reshape(len(start) * len(kinds), -1)
            return code.rounded(rows, kinds.repeat(len(start))).reshape(start.shape) if code and rounds else start
        layout = some.layout.identity
        if layout not in self.syntheses and self.setting.config.curvature_images:
            self.syntheses[layout] = derivative(networks[0], start.mean(0))
        images, synthesis = self.images[some.task], self.syntheses.get(layout)
        problem = Problem(networks[0], some.answer, networks[1], images, synthesis)
        if not isinstance(code, EntropyCode) or not weighs_bits(code, self.setting.config):
            return encode_refined(problem, start, code, self.setting.config, kinds)
        found = [
            self._searched(problem.alone(place), start[place : place + 1], code, kinds, int(row))
            for place, row in enumerate(some.rows)
        ]
        return torch.cat(found)

    def _searched(self, problem: Problem, start: Tensor, code: EntropyCode, kinds: Tensor, row: int) -> Tensor:
        """Return refined latents of one network, and store its reconstruction after the first rounding."""
        since = time.perf_counter()
        first = one_pass(problem, start, code, self.setting.config, kinds)
        self.rounding += time.perf_counter() - since
        with torch.no_grad():
            self.rounded[row] = problem.decode(first.latents)[0].numpy()
        return search(problem, first, code, self.setting.config, kinds).latents

    def floats(self, layout: Layout) -> float:
        """Return the size of the code: refinement adds nothing."""
        return self.coder.floats(layout)


class CurvatureRounding:
    """Starting point of the search: encoder latents after curvature-aware rounding, not optimized.

    Args:
        refined: the search on the same networks, run now if it was not before.
    """

    def __init__(self, refined: Refined) -> None:
        self.refined = refined

    def restore(self, group: LayoutGroup) -> Vectors:
        """Return networks decoded from the rounded latents; networks that cannot be run as the coder alone decodes them."""
        found = self.refined.restore(group) if any(int(row) not in self.refined.rounded for row in group.rows) else None
        rows = [self.refined.rounded.get(int(row)) for row in group.rows]
        if found is None:
            return np.stack([one for one in rows if one is not None])
        return np.stack([found[place] if one is None else one for place, one in enumerate(rows)])

    def floats(self, layout: Layout) -> float:
        """Return the size of the code."""
        return self.refined.floats(layout)


def seconds_per_network(ways: Mapping[str, object]) -> dict[str, float]:
    """Return the mean seconds per refined network, by method."""
    found = {}
    for name, way in ways.items():
        if isinstance(way, Refined):
            found[name] = way.seconds / max(1, way.refined)
        elif isinstance(way, CurvatureRounding):
            found[name] = way.refined.rounding / max(1, way.refined.refined)
    return found
