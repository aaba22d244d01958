"""Tests whether two networks were trained independently of each other.

Under the hypothesis of independence the hidden units of one network are exchangeable with respect to the other: training
does not depend on their order (Zhu et al. 2025, "Independence tests for language models", arXiv 2502.12292). Two tests:

same order   Units are matched layer by layer, from the input, by the cosine of their incoming weights. Under the hypothesis
             the matching is a uniformly random permutation, so the number of units that are matched with themselves, summed
             over layers, has a known distribution: the p-value is exact.
reordered    If units were shuffled, their position is no evidence, but the cosines of matched units are. A cosine c among
             n units has p = n P(cos > c) for random directions in d dimensions; d is estimated from the cosines between
             the units within each network. The p-values of a layer are combined as by Fisher, but count as two independent
             ones, since units are dependent. An approximation: units of one network stand for those of unrelated ones.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.special import betainc, gammaincc
from torch import Tensor

from wscore.symmetry.spec import PermutationSpec, State, by_unit, permute

FLOOR = 1e-300  # smallest p-value
MOST_FIXED = 170  # k! is finite up to here
TINY = 1e-12
INDEPENDENT = 2  # units of a layer that count as independent


class Matching(NamedTuple):
    """Matched units of one group of pairs of networks.

    Attributes:
        order: unit of the second network that is matched with each unit of the first.
        cosine: of the incoming weights of matched units.
        dimensions: effective dimension of the incoming weights, from the cosines between units within each network.
    """

    order: Int[np.ndarray, "pair unit"]
    cosine: Float[np.ndarray, "pair unit"]
    dimensions: Float[np.ndarray, " pair"]


class Evidence(NamedTuple):
    """Evidence of dependence of pairs of networks.

    Attributes:
        fixed: units that are matched with the unit at their own position.
        same_order: exact p-value of `fixed`.
        reordered: approximate p-value of the cosines of matched units.
        distance: |a - b| / max(|a|, |b|) of the weight matrices, after matching if that is nearer.
        cosine: mean cosine of matched units.
        moved: whether most matched units have another position.
    """

    fixed: Int[np.ndarray, " pair"]
    same_order: Float[np.ndarray, " pair"]
    reordered: Float[np.ndarray, " pair"]
    distance: Float[np.ndarray, " pair"]
    cosine: Float[np.ndarray, " pair"]
    moved: Bool[np.ndarray, " pair"]

    @property
    def p_value(self) -> Float[np.ndarray, " pair"]:
        """p-value of independence by both tests: twice the smaller."""
        return np.minimum(1.0, 2 * np.minimum(self.same_order, self.reordered))


def independence(spec: PermutationSpec, first: State, second: State) -> Evidence:
    """Return the evidence of dependence of pairs of networks.

    Args:
        spec: groups of units, in the order of the layers, at least one.
        first: one network of each pair, tensors (pairs, *shape).
        second: the other.
    """
    first, second = ({name: state[name] for name in spec.axes} for state in (first, second))
    matchings, aligned = match_units(spec, first, second)
    distance = np.minimum(_distance(first, second), _distance(first, aligned))
    fixed = np.sum([(match.order == np.arange(match.order.shape[1])).sum(1) for match in matchings], axis=0)
    tail = fixed_points_tail(tuple(match.order.shape[1] for match in matchings))
    reordered = np.minimum(1.0, len(matchings) * np.min([_cosine_p(match) for match in matchings], axis=0))
    cosines = np.concatenate([match.cosine for match in matchings], axis=1)  # (P, U)
    moved = fixed < cosines.shape[1] / 2
    return Evidence(fixed, tail[fixed], np.maximum(reordered, FLOOR), distance, cosines.mean(1), moved)


def match_units(spec: PermutationSpec, first: State, second: State) -> tuple[list[Matching], State]:
    """Return the matched units of each group, and the second networks with their units so reordered.

    The units of a group are matched after those of the groups before it are aligned.

    Ties, as between units without weights, are broken at random, so that position is no reason for a match.
    """
    random = np.random.default_rng(0)
    matchings: list[Matching] = []
    for number, group in enumerate(spec.units):
        later = set(list(spec.units)[number + 1 :])
        rows, others = (_incoming(spec, group, state, later) for state in (first, second))
        matchings.append(_match(rows, others, random))
        second = permute(spec, second, {group: torch.from_numpy(matchings[-1].order)})
    return matchings, second


def _distance(first: State, second: State) -> np.ndarray:
    joined = [torch.cat([tensor.flatten(1) for tensor in state.values()], dim=1) for state in (first, second)]
    longest = torch.stack([vectors.norm(dim=1) for vectors in joined]).amax(0).clamp_min(TINY)
    return ((joined[0] - joined[1]).norm(dim=1) / longest).numpy()


def fixed_points_tail(sizes: tuple[int, ...]) -> Float[np.ndarray, " count"]:
    """Return P(at least k fixed points) of independent random permutations of given sizes, for k = 0, 1, ..., sum(sizes).

    >>> fixed_points_tail((3,)).round(4).tolist()  # of the six permutations two have none, three one, and one three
    [1.0, 0.6667, 0.1667, 0.1667]
    """
    return _tail(sizes)


@lru_cache(maxsize=256)
def _tail(sizes: tuple[int, ...]) -> np.ndarray:
    total = np.ones(1)
    for size in sizes:
        total = np.convolve(total, _fixed_points(size))[: MOST_FIXED + 1]
    tail = np.full(sum(sizes) + 1, FLOOR)
    tail[: len(total)] = np.clip(np.cumsum(total[::-1])[::-1], FLOOR, 1.0)
    return tail


def _fixed_points(size: int) -> np.ndarray:
    """Return P(k fixed points) of a random permutation: 1/k! sum over j <= size - k of (-1)^j / j!."""
    most = min(size, MOST_FIXED)
    partial = np.cumsum([(-1) ** j / math.factorial(j) for j in range(most + 1)])
    return np.array([partial[min(size - k, most)] / math.factorial(k) for k in range(most + 1)])


def _incoming(spec: PermutationSpec, group: str, state: State, later: set[str]) -> Tensor:
    """Return the incoming weights of units (P, U, inputs), scaled to length 1, from layers whose inputs are aligned."""
    rows = [
        by_unit(state[name], axis, how, spec.units[group])
        for name, axis, how in spec.bindings(group)
        if axis == 0 and spec.axes[name][1].group not in later
    ]
    joined = torch.cat(rows, dim=2)
    return joined / joined.norm(dim=2, keepdim=True).clamp_min(TINY)


def _match(first: Tensor, second: Tensor, random: np.random.Generator) -> Matching:
    shuffle = random.permutation(first.shape[1])
    cosines = (first @ second[:, torch.from_numpy(shuffle)].transpose(1, 2)).numpy()  # (P, U, U)
    places = np.stack([linear_sum_assignment(pair, maximize=True)[1] for pair in cosines])
    matched = np.take_along_axis(cosines, places[:, :, None], 2)[:, :, 0]
    return Matching(shuffle[places], matched, _dimensions(first, second))


def _dimensions(first: Tensor, second: Tensor) -> np.ndarray:
    """Return 1 / the mean squared cosine between different units of a network: d for random directions."""
    units = first.shape[1]
    squares = [(rows @ rows.transpose(1, 2)).square() for rows in (first, second)]
    inner = torch.stack([square.sum((1, 2)) - square.diagonal(dim1=1, dim2=2).sum(1) for square in squares])
    mean = inner.mean(0) / max(units * (units - 1), 1)
    return (1 / mean.clamp_min(1 / first.shape[2])).clamp_min(1.5).double().numpy()


def _cosine_p(match: Matching) -> np.ndarray:
    """Return a p-value per pair from the cosines of its matched units."""
    units = match.cosine.shape[1]
    cosine = np.clip(match.cosine.astype(np.float64), -1, 1)
    half = betainc((match.dimensions[:, None] - 1) / 2, 0.5, np.maximum(1 - cosine**2, 1e-14)) / 2
    p_values = np.clip(units * np.where(cosine > 0, half, 1 - half), FLOOR, 1)
    return np.maximum(gammaincc(INDEPENDENT, -INDEPENDENT * np.log(p_values).mean(axis=1)), FLOOR)
