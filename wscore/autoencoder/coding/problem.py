"""What a search for whole numbers is given: networks, how numbers become weights, what numbers cost, and what is compared."""

from collections.abc import Callable
from typing import Annotated, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from msgspec import Meta
from torch import Tensor

from wscore.autoencoder.training.behaviour_loss import behaviour_kl
from wscore.config import Section
from wscore.networks.inference import Answer, answer_of_rows

HELD = 256  # images by which results are compared
Outputs = Callable[[Tensor, Tensor], Tensor]


class SearchConfig(Section):
    """How numbers are searched.

    Args:
        steps: of the optimizer.
        batch: training images in each.
        lr: of Adam at the start, in steps of the code; falls along a cosine.
        temperature: of the divergence, in spreads of the original's logits.
        noise: standard deviation of what is added to the images.
        seed: of draws.
    """

    steps: Annotated[int, Meta(ge=0)] = 300
    batch: Annotated[int, Meta(ge=1)] = 32
    lr: Annotated[float, Meta(gt=0)] = 0.1
    temperature: Annotated[float, Meta(gt=0)] = 0.5
    noise: Annotated[float, Meta(ge=0)] = 0.05
    seed: Annotated[int, Meta(ge=0)] = 0


@runtime_checkable
class Prices(Protocol):
    """What numbers cost."""

    def bits(self, numbers: Float[Tensor, "n weights"]) -> Float[Tensor, "n weights"]:
        """Return the bits of whole numbers."""
        ...

    def learn(self, numbers: Float[Tensor, "n weights"]) -> None:
        """Learn from the numbers of the moment, where prices depend on them."""
        ...


class Originals(NamedTuple):
    """Networks of one layout that are to be compressed.

    Attributes:
        vectors: their weights.
        base: weights of a network from which differences are coded; None codes the weights.
        answer: runs all of them; None if they can't be run.
        images: training images that they are run on.
    """

    vectors: Float[Tensor, "n weights"]
    base: Float[Tensor, "1 weights"] | None = None
    answer: Answer | None = None
    images: Float[Tensor, "images ..."] | None = None

    def of(self, rows: Int[Tensor, " some"]) -> "Originals":
        """Return some of the networks."""
        return self._replace(vectors=self.vectors[rows], answer=self._answer_of(rows.tolist()))

    def _answer_of(self, rows: list[int]) -> Answer | None:
        return None if self.answer is None else answer_of_rows(self.answer, rows)

    def chosen(self, count: int, seed: int) -> Float[Tensor, "images ..."]:
        """Return at most so many of the images, drawn by a seed."""
        assert self.images is not None, "networks that are run have images"
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
        return self.images[order[:count]]

    def problem(self, decoder: "Decoder", prices: Prices, budget: Tensor) -> "SearchProblem":
        """Return the search for numbers that `decoder` turns into weights; equal originals are run once."""
        answer, images = self.answer, self.images
        assert answer is not None, "networks are run"
        assert images is not None, "networks are run"
        rows, places = distinct(self.vectors)
        alone = answer_of_rows(answer, rows)
        return SearchProblem(
            of=lambda rows: _runner(answer_of_rows(answer, rows), decoder.of(rows)),
            originals=lambda x: alone(self.vectors[rows], x[None])[places],
            images=images,
            prices=prices,
            budget=budget,
        )

    @torch.no_grad()
    def judge(self, config: SearchConfig) -> "Judge":
        """Return what compares networks that came back with these on a fixed draw of images; equal originals are run once."""
        assert self.answer is not None, "networks are run"
        images, (rows, places) = self.chosen(HELD, config.seed)[None], distinct(self.vectors)
        expected = answer_of_rows(self.answer, rows)(self.vectors[rows], images)
        return Judge(self, images, expected, places, config.temperature)


class Judge(NamedTuple):
    """Tells how far networks that came back are from their originals.

    Attributes:
        originals: the networks.
        images: on which they are compared.
        expected: logits of those that differ.
        places: of each network among these.
        temperature: of the divergence.
    """

    originals: Originals
    images: Float[Tensor, "1 images ..."]
    expected: Float[Tensor, "different images classes"]
    places: Int[Tensor, " n"]
    temperature: float

    @torch.no_grad()
    def divergence(
        self, back: Float[Tensor, "some weights"], rows: Int[Tensor, " some"] | None = None
    ) -> Float[Tensor, " some"]:
        """Return the divergence of all networks that came back, or of those of some rows."""
        rows = torch.arange(len(self.places)) if rows is None else rows
        answer = self.originals.of(rows).answer
        assert answer is not None, "networks are run"
        divergences = behaviour_kl(self.expected[self.places[rows]], answer(back, self.images), self.temperature)
        return torch.nan_to_num(divergences, nan=torch.inf)


def distinct(vectors: Float[Tensor, "n weights"]) -> tuple[list[int], Int[Tensor, " n"]]:
    """Return rows that differ from one another, and for each row the place among them of its like."""
    if len(vectors) == 1:
        return [0], torch.zeros(1, dtype=torch.int64)
    _, places = vectors.unique(dim=0, return_inverse=True)
    return [int((places == place).nonzero()[0]) for place in range(int(places.max()) + 1)], places


class Decoder(NamedTuple):
    """Turns numbers into weights.

    Attributes:
        inverse: weights (n, D) of coordinates; differentiable.
        units: what a number of 1 is as a coordinate, of each network or of all.
        base: coordinates of a network from which differences are coded.
    """

    inverse: Callable[[Tensor], Tensor]
    units: Float[Tensor, "n weights"]
    base: Float[Tensor, "1 weights"] | None = None

    def __call__(self, numbers: Float[Tensor, "n weights"]) -> Float[Tensor, "n weights"]:
        """Return weights of numbers."""
        y = numbers * self.units
        return self.inverse(y if self.base is None else self.base + y)

    def of(self, rows: list[int]) -> "Decoder":
        """Return the decoder of some networks, or of copies of one."""
        return self._replace(units=self.units[rows])


def _runner(answer: Answer, decoder: Decoder) -> Outputs:
    return lambda numbers, images: answer(decoder(numbers), images)


class SearchProblem(NamedTuple):
    """Networks that differ in their weights alone, as functions of numbers.

    Attributes:
        of: what runs the networks of some rows, or copies of one of them: logits (m, I, C) of numbers (m, D), whole or not, on
            images of each (m, I, ...) or of all (1, I, ...); differentiable.
        originals: logits (n, I, C) of the original networks.
        images: training images.
        prices: of numbers.
        budget: bits for each network.
    """

    of: Callable[[list[int]], Outputs]
    originals: Callable[[Tensor], Tensor]
    images: Float[Tensor, "images ..."]
    prices: Prices
    budget: Float[Tensor, " n"]
