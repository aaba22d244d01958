"""Batches for the training loop, in an order that is a pure function of (seed, epoch)."""

import hashlib
import math
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from wscore.errors import TrainingError


@runtime_checkable
class Batches(Protocol):
    """One pass over a data set per epoch; the same epoch number always gives the same batches."""

    def epoch(self, number: int) -> Iterator[Any]:
        """Return the batches of epoch `number` (1, 2, ...): tensors or nested tuples of them, item axis first."""
        ...

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        ...


class TensorBatches:
    """Batches of tensors that fit in memory: tuples of slices of equal length, the last one possibly shorter.

    Args:
        tensors: tensors with the same number of items along the first axis.
        batch_size: items per batch.
        seed: determines the order, together with the epoch number.
        shuffle: whether to reshuffle every epoch.

    Raises:
        TrainingError: if there are no items, or the tensors differ in their number of items.
    """

    def __init__(self, *tensors: Shaped[Tensor, "..."], batch_size: int, seed: int = 0, shuffle: bool = True) -> None:
        counts = {len(tensor) for tensor in tensors}
        if len(counts) != 1 or 0 in counts:
            raise TrainingError("cannot make batches", expected="tensors of equal length", got=sorted(counts))
        self.tensors = tensors
        self.items = counts.pop()
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle

    def __len__(self) -> int:
        return math.ceil(self.items / self.batch_size)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batches of one epoch."""
        if not self.shuffle:
            yield from zip(*(tensor.split(self.batch_size) for tensor in self.tensors), strict=True)
            return
        for indices in permutation(self.items, self.seed, number).split(self.batch_size):
            yield tuple(tensor[indices.to(tensor.device)] for tensor in self.tensors)


def permutation(count: int, seed: int, epoch: int) -> Int[Tensor, " count"]:
    """Return an order of `count` items that depends only on the seed and the epoch number."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


def derive_seed(*parts: int | str) -> int:
    """Hash several numbers or strings to a 32-bit seed."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "little")
