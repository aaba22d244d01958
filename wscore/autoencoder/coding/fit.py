"""A codec fitted to a zoo in two passes over its networks."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from wscore.autoencoder.coding.blocks import Structure
from wscore.autoencoder.coding.config import CodecConfig, RoleFigures
from wscore.autoencoder.coding.coordinates import Coordinates
from wscore.autoencoder.coding.gains import Gains, GainSums
from wscore.autoencoder.coding.gauss_newton import gauss_newton_rows
from wscore.autoencoder.coding.own_inputs import Inputs, kept
from wscore.autoencoder.coding.roles import Role, RoleSums
from wscore.autoencoder.coding.state import TensorEntry, entries_of, entries_of_layout
from wscore.networks.datasets import NetworkKey, Tasks, kinds_of
from wscore.networks.inference import Answer
from wscore.networks.layout import Layout
from wscore.zoo.store import Zoo

NETWORKS, GAUGED = 128, 64  # of each layout whose outputs are looked at for roles and for gains, at most, spread evenly
TOGETHER = 512  # networks x images that are run as one
BLOCK = 256  # networks that are added at once


class Population(NamedTuple):
    """Networks that differ in their weights alone.

    Attributes:
        layout: of all of them.
        weights: (n, D), may be read from disk as it is indexed.
        answer: how they are run; None if they can't be.
        images: training images of their task.
        labels: classes of the images; without them the codec keeps none of the images.
    """

    layout: Layout
    weights: np.ndarray
    answer: Answer | None
    images: torch.Tensor | None
    labels: torch.Tensor | None = None


def populations_of(zoo: Zoo, rows: Int[np.ndarray, " network"], tasks: Tasks) -> Iterator[Population]:
    """Yield the networks of some rows of a zoo, those of one layout that are run alike together, in order of appearance."""
    groups: dict[tuple[str, NetworkKey], list[int]] = {}
    for row, key in zip(rows, kinds_of(zoo.table.iloc[rows], tasks), strict=True):
        groups.setdefault((zoo.layout(int(row)).identity, key), []).append(int(row))
    for (name, key), members in groups.items():
        layout, images = zoo.layouts[name], tasks.of(key.task)
        answer = tasks.way(key, layout).answer
        data = (images.x_train, images.y_train) if answer and images else (None, None)
        yield Population(layout, zoo.weights(np.array(members)), answer, *data)


class Fitted(NamedTuple):
    """What a codec knows.

    Attributes:
        config: figures, layouts and structures.
        roles: statistics by role.
        gains: of each structure whose networks can be run, see `gains`.
        inputs: on which networks are run that come without images, see `own_inputs`.
    """

    config: CodecConfig
    roles: dict[str, Role]
    gains: dict[str, Gains]
    inputs: dict[str, Inputs]


def fit_roles(populations: Iterable[Population], *, images: int, temperature: float, seed: int) -> Fitted:
    """Return what a codec learns from networks.

    Args:
        populations: of networks.
        images: for each network whose outputs are looked at.
        temperature: of the softmax, in spreads of the logits.
        seed: of the images, those that are kept too, and of the directions in which outputs are looked at.
    """
    sums, generator = RoleSums(), torch.Generator().manual_seed(seed)
    structures: dict[str, Structure] = {}
    populations = list(populations)
    totals: dict[str, int] = {}
    for population in populations:
        totals[population.layout.identity] = totals.get(population.layout.identity, 0) + len(population.weights)
    for population in populations:
        structure = structures.setdefault(population.layout.identity, Structure(population.layout))
        for start in range(0, len(population.weights), BLOCK):
            sums.add(structure, torch.from_numpy(population.weights[start : start + BLOCK]))
        share = min(1.0, NETWORKS / totals[population.layout.identity])
        for weights, rows in _sensitivity(population, share, images, temperature, generator):
            sums.add_rows(structure, _of_equal_cost(structure, weights, structure.smooth_rows(weights, rows)))
    roles, gains = sums.roles(), GainSums()
    for population in populations:
        code = Coordinates(structures[population.layout.identity], roles, known=True)
        share = min(1.0, GAUGED / totals[population.layout.identity])
        for weights, rows in _sensitivity(population, share, images, temperature, generator):
            gains.add(code, weights, code.structure.smooth_rows(weights, rows))
    known = kept(_runs(populations), torch.Generator().manual_seed(seed))
    config = CodecConfig(
        layouts=tuple(
            dict.fromkeys(
                entries for _, structure in sorted(structures.items()) for entries in _orders(structure.layout)
            )
        ),
        structures=tuple(sorted({structure.signature for structure in structures.values()})),
        roles={key: RoleFigures(weight=role.weight, level=role.level) for key, role in roles.items()},
        architectures=known.architectures,
        relative=sums.relative(roles),
    )
    return Fitted(config, roles, gains.gains(), known.inputs)


def _runs(populations: Iterable[Population]) -> Iterator[tuple[Answer, Inputs]]:
    """Yield how networks are run, and on what, where the classes of images are known."""
    for each in populations:
        if each.answer is not None and each.images is not None and each.labels is not None:
            yield each.answer, Inputs(each.images, each.labels)


def _sensitivity(
    population: Population, share: float, count: int, temperature: float, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield a share of the networks, and rows of their Gauss-Newton matrices, if they can be run."""
    if population.answer is None or population.images is None:
        return
    total = len(population.weights)
    chosen = torch.linspace(0, total - 1, max(1, round(share * total))).long().unique()
    for part in chosen.split(max(1, TOGETHER // count)):
        weights = torch.from_numpy(population.weights[part.numpy()])
        drawn = population.images[torch.randint(len(population.images), (count,), generator=generator)]
        yield (
            weights,
            gauss_newton_rows(population.answer, weights, drawn, temperature=temperature, generator=generator),
        )


def _of_equal_cost(structure: Structure, weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return rows of networks in which errors of all blocks relative to their root mean squares cost 1 together.

    Each network has a step of its own, so that what errors cost in it altogether does not matter; a few where they cost
    most would outweigh all others.
    """
    cost = torch.zeros(len(weights))
    blocks = zip(structure.split(structure.smooth(weights)), structure.split(rows.flatten(0, 1)), strict=True)
    for x, gradients in blocks:
        cost += x.square().flatten(1).mean(1) * gradients.reshape(*rows.shape[:2], -1).square().sum(2).mean(1)
    return rows / cost.clamp_min(1e-30).sqrt()[:, None, None]


def _orders(layout: Layout) -> list[tuple[TensorEntry, ...]]:
    """Return the tensors of a layout as modules and as zoos order them: counters with their layer, or last."""
    return [entries_of_layout(layout), entries_of(layout.unflatten(torch.zeros(layout.size)))]
