"""What a codec learned from a zoo must beat at the same bytes: codes of one network that look at no other network.

    plain       each tensor rounded with a step relative to its own size, coded by the codec's own tables
    curvature   steps and rounding from the network's own Gauss-Newton matrix on training images
    search      numbers in finer steps, found from those of `curvature` by the codec's search

`curvature`: steps are proportional to the mean of the diagonal of the Gauss-Newton matrix over a tensor to the power -1/2
(reverse water-filling), and weights are rounded in turn (`coding.curvature`). Temperature, damping and dead zone of each network
and size are those with the lowest divergence on training images. All bytes are those of a range coder, and are decoded again.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.autoencoder.coding import one_step
from wscore.autoencoder.coding.codec import ROUNDED, WeightCodec
from wscore.autoencoder.coding.coordinates import Coordinates
from wscore.autoencoder.coding.curvature import curvatures, factors, round_in_turn
from wscore.autoencoder.coding.problem import Decoder, Originals, SearchConfig
from wscore.autoencoder.coding.range_coder import STREAM, decoder, encoder, read_words, shortest
from wscore.autoencoder.coding.search import search
from wscore.autoencoder.coding.tables import LAPLACE, table
from wscore.autoencoder.coding.tuned import RICH
from wscore.autoencoder.training.behaviour_loss import behaviour_kl
from wscore.networks.inference import Answer, answer_of_rows
from wscore.networks.layout import Layout

CURVED = 128  # training images by which curvature is measured
TEMPERATURES = (0.5, 4.0)  # of the curvature, in spreads of the logits; the larger one is that of the logits themselves
DAMPINGS = (0.03, 0.3)  # shares of the mean diagonal
DEAD_ZONES = (0.0, 0.05, 0.2)  # by how much the rounding threshold of a number of mean curvature lies beyond 1/2
JUDGED, FIRST, BEST = (
    512,
    128,
    3,
)  # training images of the choice between settings; of all of them, and how many are left then
NARROW = (96, 96)  # how much finer or coarser steps are with numbers rounded in turn
LEVELS, LOWEST, OFFSETS = (
    32,
    -22,
    16,
)  # Laplace tables (in quarters of an octave from 2^(-22/8)), and steps beside the network's
STEP_BITS = 9  # of table and step of a tensor
OFFSET_MODEL, LEVEL_MODEL = STREAM.model.Uniform(OFFSETS), STREAM.model.Uniform(LEVELS)
END_BITS = 1  # that the range coder may take beyond what the tables say
FINE, SECTIONS = 128, 8  # parts of an octave in which a network's step is counted, and of the interval in which it lies
FINER = -41  # step of a search beside that of rounding, 0.8: numbers that it lowers pay for it
LEARNED = 2  # steps of a search after which tables are chosen anew
SETTINGS = list(product(range(len(TEMPERATURES)), DAMPINGS))  # number of the temperature, and damping
HELD = 1 << 27  # numbers of the matrices that are held at once


class Networks(NamedTuple):
    """Networks that differ in their weights alone.

    Attributes:
        layout: of all of them.
        answer: how they are run; None if they can't be.
        vectors: their weights (n, D).
        images: training images of their task.
    """

    layout: Layout
    answer: Answer | None
    vectors: Float[Tensor, "n weights"]
    images: Float[Tensor, "images channel height width"]

    @property
    def run(self) -> Answer:
        """How they are run, if they can be."""
        assert self.answer is not None, "networks can be run"
        return self.answer

    def of(self, rows: Sequence[int]) -> "Networks":
        """Return some of the networks."""
        answer = None if self.answer is None else answer_of_rows(self.answer, rows)
        return self._replace(answer=answer, vectors=self.vectors[list(rows)])


class Coded(NamedTuple):
    """Networks that came back from bytes.

    Attributes:
        vectors: their weights (n, D).
        sizes: bytes that each took.
    """

    vectors: Float[Tensor, "n weights"]
    sizes: Int[Tensor, " n"]


class TensorCode(NamedTuple):
    """A network as whole numbers with a step for each tensor.

    Attributes:
        step: log2 of the network's step, in `FINE` parts.
        offsets: log2 of the step of each tensor beside it, in halves, from 0 to `OFFSETS` - 1.
        levels: Laplace table of each tensor.
        numbers: coordinates in steps.
    """

    step: int
    offsets: Int[Tensor, " tensors"]
    levels: Int[Tensor, " tensors"]
    numbers: Int[Tensor, " weights"]


class TensorCoder:
    """Whole numbers as bytes, by a Laplace table for each tensor; `learn` and `bits` price them in a search.

    Args:
        layout: of the networks.
    """

    def __init__(self, layout: Layout) -> None:
        sizes = torch.tensor([spec.size for spec in layout.tensors])
        self.layout, self.count = layout, len(sizes)
        self.side_bits = STEP_BITS * self.count + END_BITS
        self.groups = torch.arange(self.count).repeat_interleave(sizes)
        self.members = torch.nn.functional.one_hot(self.groups, self.count).float()  # (D, tensors)
        tables = [table(LAPLACE, LOWEST + 2 * level) for level in range(LEVELS)]
        self.largest = tables[-1].reach
        self.table = torch.full((LEVELS, self.largest + 1), 1e6)
        for level, each in enumerate(tables):
            self.table[level, : each.reach + 1] = torch.from_numpy(each.bits[:-1]).float()
        self.places, self.calls = torch.zeros(1, layout.size, dtype=torch.int32), 0  # of the bits of 0

    def levels(self, numbers: Float[Tensor, "n weights"]) -> Int[Tensor, "n tensors"]:
        """Return the tables with which each tensor takes fewest bits."""
        return self._costs(numbers).argmin(2)

    def _costs(self, numbers: Float[Tensor, "n weights"]) -> Float[Tensor, "n tensors levels"]:
        """Return the bits of each tensor by each table, from how often it has which magnitude."""
        width = int(numbers.abs().max()) + 1
        first = (torch.arange(len(numbers))[:, None] * self.count + self.groups) * width
        counts = torch.bincount((first + numbers.abs().long()).flatten(), minlength=len(numbers) * self.count * width)
        return counts.view(-1, self.count, width).float() @ self.table[:, :width].mT

    def learn(self, numbers: Float[Tensor, "n weights"]) -> None:
        """Take the tables that fit numbers best, at times."""
        if self.calls % LEARNED == 0:
            levels = self.levels(numbers.clamp(-self.largest, self.largest))
            self.places = (levels * self.table.shape[1]).int()[:, self.groups]
        self.calls += 1

    def bits(self, numbers: Float[Tensor, "n weights"]) -> Float[Tensor, "n weights"]:
        """Return the bits of whole numbers by the tables taken last."""
        places = self.places + numbers.abs().clamp_max(self.largest).int()
        return self.table.view(-1).index_select(0, places.flatten()).view(places.shape)

    def total(self, numbers: Float[Tensor, "n weights"]) -> Float[Tensor, " n"]:
        """Return the bits of networks with tables of their own, those of tables and steps included."""
        return self._costs(numbers).amin(2).sum(1) + self.side_bits

    def encode(self, code: TensorCode) -> bytes:
        """Return the bytes of a network but for its step, which belongs to the header of a file."""
        sink = encoder()
        for values, model in ((code.offsets, OFFSET_MODEL), (code.levels, LEVEL_MODEL)):
            sink.encode(values.numpy().astype(np.int32), model)
        for tensor, level in enumerate(code.levels.tolist()):
            tensor_table = table(LAPLACE, LOWEST + 2 * level)
            symbols = code.numbers[self.groups == tensor].numpy() + tensor_table.reach
            sink.encode(symbols.astype(np.int32), tensor_table.model)
        return shortest(sink)

    def decode(self, step: int, payload: bytes) -> TensorCode:
        """Return the network in bytes."""
        source = decoder(payload)
        offsets, levels = (
            torch.from_numpy(read_words(source, model, self.count)) for model in (OFFSET_MODEL, LEVEL_MODEL)
        )
        parts = []
        for spec, level in zip(self.layout.tensors, levels.tolist(), strict=True):
            tensor_table = table(LAPLACE, LOWEST + 2 * level)
            parts.append(read_words(source, tensor_table.model, spec.size) - tensor_table.reach)
        return TensorCode(step, offsets, levels, torch.from_numpy(np.concatenate(parts)))


class Rounding(NamedTuple):
    """Networks rounded to a size by their curvature, and what a search starts from.

    Attributes:
        step: of each network, see `TensorCode`.
        offsets: of its tensors.
        numbers: whole numbers.
    """

    step: Int[Tensor, " n"]
    offsets: Int[Tensor, "n tensors"]
    numbers: Float[Tensor, "n weights"]


def coordinates(layout: Layout) -> Coordinates:
    """Return the weights themselves as coordinates, running variances as logs."""
    return WeightCodec().coordinates(layout, plain=True)


def plain(networks: Networks, room: Int[Tensor, " n"]) -> Coded:
    """Return networks rounded tensor by tensor, in `room` bytes each.

    Raises:
        ModelError: if the bytes are too few.
    """
    code, payload = coordinates(networks.layout), lambda _, data: data  # steps belong to the header of a file
    files, vectors = one_step.compress(code, Originals(networks.vectors), room, payload, ROUNDED)
    return Coded(vectors, torch.tensor([len(data) for data in files]))


def curvature(networks: Networks, rooms: Sequence[int]) -> list[Rounding]:
    """Return networks rounded by their own curvature, once for each of some counts of bytes."""
    count = max(1, HELD // (len(SETTINGS) * networks.layout.size**2))
    rounded = [_round(networks.of(rows.tolist()), rooms) for rows in torch.arange(len(networks.vectors)).split(count)]
    return [Rounding(*(torch.cat(parts) for parts in zip(*each, strict=True))) for each in zip(*rounded, strict=True)]


def search_own(networks: Networks, start: Rounding, room: Int[Tensor, " n"], config: SearchConfig) -> Rounding:
    """Return networks searched for in finer steps, where bits are few and that is better on training images, else `start`.

    The search begins halfway between `start` and the original, whose bits are so many that most numbers would soon be 0.
    """
    code, coder = coordinates(networks.layout), TensorCoder(networks.layout)
    rows = (8.0 * room < RICH * code.size).nonzero()[:, 0]
    if not len(rows):
        return start
    known = Rounding(*(values[rows] for values in start))
    finer = known._replace(step=known.step + FINER)
    size = _sizes(finer.step, finer.offsets)[:, coder.groups]
    originals = Originals(networks.vectors, None, networks.answer, networks.images).of(rows)
    problem = originals.problem(Decoder(code.inverse, size), coder, (8.0 * room - coder.side_bits)[rows])
    points = (known.numbers * 2.0 ** (-FINER / FINE) + code.forward(networks.vectors[rows]) / size) / 2
    found = finer._replace(numbers=search(problem, points, config).numbers)
    judge = originals.judge(config)
    better = judge.divergence(_weights(code, coder, found)) < judge.divergence(_weights(code, coder, known))
    chosen = [values.index_copy(0, rows[better], new[better]) for values, new in zip(start, found, strict=True)]
    return Rounding(*chosen)


def _weights(code: Coordinates, coder: TensorCoder, rounding: Rounding) -> Float[Tensor, "n weights"]:
    return code.inverse(rounding.numbers * _sizes(rounding.step, rounding.offsets)[:, coder.groups])


def decoded(networks: Networks, rounding: Rounding) -> Coded:
    """Return networks as they come back from their bytes."""
    code, coder = coordinates(networks.layout), TensorCoder(networks.layout)
    levels, y, sizes = coder.levels(rounding.numbers), [], []
    for row, step in enumerate(rounding.step.tolist()):
        network = TensorCode(step, rounding.offsets[row], levels[row], rounding.numbers[row].long())
        payload = coder.encode(network)
        back = coder.decode(step, payload)
        y.append(back.numbers * _sizes(torch.tensor(step), back.offsets)[coder.groups])
        sizes.append(len(payload))
    return Coded(code.inverse(torch.stack(y)), torch.tensor(sizes))


def _sizes(step: Int[Tensor, "*n"], offsets: Int[Tensor, "*n tensors"]) -> Float[Tensor, "*n tensors"]:
    return (step[..., None] / FINE + (offsets - OFFSETS // 2) / 2).double().exp2().float()


def _round(networks: Networks, rooms: Sequence[int]) -> list[Rounding]:
    code, coder = coordinates(networks.layout), TensorCoder(networks.layout)
    damped = torch.empty(len(networks.vectors), len(SETTINGS), code.size, code.size)
    offset = torch.cat([_settings(networks.of([row]), coder, own) for row, own in enumerate(damped)])  # (n s, tensors)
    unit = _sizes(torch.zeros(len(offset), dtype=torch.int64), offset)[:, coder.groups]
    y = code.forward(networks.vectors).repeat_interleave(len(SETTINGS), 0) / unit
    kinds = list(product(rooms, DEAD_ZONES))
    bits = torch.tensor([8.0 * room for room, _ in kinds])
    fit = _Fit(coder, y, damped.flatten(0, 1), bits, [zone for _, zone in kinds])
    steps, numbers = fit.run()  # (n s, k), (n s, k, D)
    weights = code.inverse((numbers * unit[:, None] * (steps / FINE).exp2()[..., None]).flatten(0, 1))
    every = weights.view(-1, len(SETTINGS), len(rooms), len(DEAD_ZONES), code.size).transpose(2, 3).flatten(1, 2)
    nearest = torch.stack([_nearest_to(networks.of([row]), tried) for row, tried in enumerate(every)])  # (n, rooms)
    setting, zone = nearest // len(DEAD_ZONES), nearest % len(DEAD_ZONES)
    place = torch.arange(len(every))[:, None] * len(SETTINGS) + setting
    kind = torch.arange(len(rooms)) * len(DEAD_ZONES) + zone
    chosen = steps[place, kind], offset[place], numbers[place, kind]
    return [Rounding(*(values[:, room] for values in chosen)) for room in range(len(rooms))]


def _settings(
    network: Networks, coder: TensorCoder, out: Float[Tensor, "s weights weights"]
) -> Int[Tensor, "s tensors"]:
    """Return the offsets of a network under each of `SETTINGS`, and write its factors by numbers in steps to `out`."""
    code = coordinates(network.layout)
    run = lambda points, x: network.run(code.inverse(points), x)  # noqa: E731
    matrices = curvatures(run, code.forward(network.vectors), _drawn(network.images, CURVED), TEMPERATURES)[0]
    means = _tensor_means(coder, matrices.diagonal(dim1=1, dim2=2))
    middle = means.log2() - (means.log2() * coder.members.mean(0)).sum(1, keepdim=True)
    offsets = (-middle + OFFSETS // 2).round().long().clamp(0, OFFSETS - 1)  # (temperatures, tensors), in halves
    offset = torch.stack([offsets[t] for t, _ in SETTINGS])
    unit = _sizes(torch.zeros(len(offset), dtype=torch.int64), offset)[:, coder.groups]
    for place, (t, damping) in enumerate(SETTINGS):
        torch.mul(factors(matrices[t : t + 1], damping)[0], unit[place, :, None], out=out[place])
    return offset


class _Fit(NamedTuple):
    """Rounding of networks, each under several settings (s: those of the first network first), to sizes and dead zones (k)."""

    coder: TensorCoder
    y: Float[Tensor, "s weights"]  # in units of a step of 1
    factors: Float[Tensor, "s weights weights"]
    bits: Float[Tensor, " k"]
    zones: list[float]

    def run(self) -> tuple[Tensor, Tensor]:
        """Return the finest steps (s, k) whose numbers fit, and the numbers (s, k, D); nothing is left where none do."""
        top = self.y.abs().amax(1, keepdim=True).clamp_min(1e-20).log2().expand(-1, len(self.bits))
        low = (FINE * (top - np.log2(self.coder.largest))).floor().long()
        high = (FINE * (top + 2)).ceil().long()
        nearest = self._search(low, high, self._nearest, (high, torch.zeros(*low.shape, self.y.shape[1])))
        return self._search(torch.maximum(low, nearest[0] - NARROW[0]), nearest[0] + NARROW[1], self._in_turn, nearest)

    def _search(
        self, low: Tensor, high: Tensor, rounded: Callable[[Tensor], Tensor], best: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return step and numbers of those between `low` and `high` that use most of the bits, else `best`.

        Several steps are tried at once: numbers rounded in turn take more or fewer bits by chance.
        """
        (steps, numbers), used = best, torch.zeros(low.shape)
        while (high - low > 1).any():
            tried = low[..., None] + (high - low)[..., None] * torch.arange(1, SECTIONS) // SECTIONS  # (s, k, tried)
            new = rounded(tried).clamp(-self.coder.largest, self.coder.largest)
            bits = self.coder.total(new.flatten(0, 2)).view_as(tried)
            fits = (bits <= self.bits[:, None]) & (tried > low[..., None])
            most, place = (bits * fits).max(2)
            chosen = tried.gather(2, place[..., None])[..., 0], new.take_along_dim(place[..., None, None], 2)[:, :, 0]
            fuller, used = most > used, torch.maximum(used, most)
            steps = torch.where(fuller, chosen[0], steps)
            numbers = torch.where(fuller[..., None], chosen[1], numbers)
            bounds = torch.cat([low[..., None], tried, high[..., None]], 2)
            upper = torch.where(fits.any(2), fits.int().argmax(2) + 1, SECTIONS)[..., None]
            low, high = bounds.gather(2, upper - 1)[..., 0], bounds.gather(2, upper)[..., 0]
        return steps, numbers

    def _nearest(self, steps: Int[Tensor, "s k tried"]) -> Float[Tensor, "s k tried weights"]:
        targets = self._targets(steps)
        return targets.sign() * (targets.abs() + 0.5 - torch.tensor(self.zones)[:, None, None]).floor()

    def _in_turn(self, steps: Int[Tensor, "s k tried"]) -> Float[Tensor, "s k tried weights"]:
        targets, squares = self._targets(steps), self.factors.diagonal(dim1=1, dim2=2).square()
        zones = torch.tensor(self.zones)[:, None] * (squares.mean(1, keepdim=True) / squares)[:, None]  # (s, k, D)
        bounds = (0.5 + zones).clamp_max(1.0)[None, :, :, None].expand(1, *targets.shape)
        return round_in_turn(targets.flatten(1, 2), self.factors, bounds.flatten(2, 3)).view_as(targets)

    def _targets(self, steps: Int[Tensor, "s k tried"]) -> Float[Tensor, "s k tried weights"]:
        return self.y[:, None, None] / (steps / FINE).exp2()[..., None]


def _tensor_means(coder: TensorCoder, values: Float[Tensor, "n weights"]) -> Float[Tensor, "n tensors"]:
    return (values @ coder.members / coder.members.sum(0)).clamp_min(1e-6)


@torch.no_grad()
def _nearest_to(network: Networks, weights: Float[Tensor, "settings k weights"]) -> Int[Tensor, " k"]:
    """Return with which setting a network keeps its outputs best, for each of k sizes; the worst are judged by few images."""
    places = torch.arange(len(weights))[:, None].expand(-1, weights.shape[1])
    for count, left in ((FIRST, BEST), (JUDGED, 1)):
        losses = _losses(network, weights.gather(0, places[..., None].expand(*places.shape, weights.shape[2])), count)
        places = places.gather(0, losses.topk(min(left, len(losses)), dim=0, largest=False).indices)
    return places[0]


def _losses(network: Networks, weights: Float[Tensor, "n k weights"], count: int) -> Float[Tensor, "n k"]:
    """Return how far other weights of a network are from it on so many images."""
    images, candidates = _drawn(network.images, count)[None], weights.flatten(0, 1)
    expected = network.run(network.vectors, images).expand(len(candidates), -1, -1)
    losses = behaviour_kl(expected, network.run(candidates, images), 0.5).view(weights.shape[:2])
    return torch.nan_to_num(losses, nan=torch.inf)


def _drawn(images: Tensor, count: int) -> Tensor:
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]]
