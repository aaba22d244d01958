"""Training data of the sparse dictionary: rows of weights from a token cache, or latents of whole networks."""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wscore.autoencoder.latents import iterate_latents
from wscore.autoencoder.models.autoencoder import Encoder
from wscore.errors import DataError, ModelError, TrainingError, WscoreWarning
from wscore.sae.rows import UnitBatch, UnitRows
from wscore.tokens.cache import TokenCache
from wscore.tokens.normalizer import Normalizer
from wscore.training.batches import permutation
from wscore.training.model_folder import load_model, read_model_config

Input = Literal["representations", "tokens", "neurons", "weights"]
Scaling = Literal["none", "global", "columns"]
BLOCK = 4096  # rows per block outside training
FLAT = 1e-6  # columns with a smaller standard deviation relative to the pooled one count as constant


@runtime_checkable
class NetworkRows(Protocol):
    """Rows of equal length, each of which belongs to a network.

    Attributes:
        width: entries per row.
        networks: zoo row of each network.
        network: for each row, the index of its network in `networks`.
    """

    width: int
    networks: np.ndarray
    network: np.ndarray

    def rows_of(self, split: str) -> Int[np.ndarray, " row"]:
        """Return the row indices of a split, ascending."""
        ...

    def batch(self, rows: Int[np.ndarray, " batch"]) -> UnitBatch:
        """Return rows."""
        ...


class LatentRows:
    """Latents of whole networks, of the autoencoder, one row each.

    Attributes:
        width: latent dimension.
        networks: zoo row of each.
        network: 0, 1, 2, ...
    """

    def __init__(self, autoencoder: Path, cache: TokenCache) -> None:
        """Encode the networks of a cache.

        Raises:
            ModelError: if there is no autoencoder, or it was trained on other tokens.
        """
        folder = Path(autoencoder) / "encoder"
        identity = read_model_config(folder).get("tokens")
        if identity != cache.identity:
            raise ModelError(
                "was trained on other tokens", where=folder, expected=cache.identity, got=identity,
                fix="run `dvc repro train_autoencoder`",
            )  # fmt: skip
        firsts, latents = zip(*iterate_latents(load_model(folder, Encoder), cache), strict=True)
        self.latents = np.concatenate(latents)
        self.width = self.latents.shape[1]
        table = cache.table.iloc[np.concatenate(firsts)]
        self.networks = table["row"].to_numpy(int)
        self.network = np.arange(len(table))
        self._split = table["split"].to_numpy(str)

    def __len__(self) -> int:
        return len(self.network)

    def rows_of(self, split: str) -> Int[np.ndarray, " row"]:
        """Return the rows of a split."""
        return np.flatnonzero(self._split == split)

    def batch(self, rows: Int[np.ndarray, " batch"]) -> UnitBatch:
        """Return latents."""
        values = torch.from_numpy(self.latents[rows])
        return UnitBatch(values, torch.ones_like(values, dtype=torch.bool))


class ArrayRows:
    """In-memory vectors, each treated as one network: for dictionaries of other data.

    Attributes:
        width: length of the vectors.
        networks: 0, 1, 2, ... over all splits.
        network: the same.
    """

    def __init__(self, **splits: Float[np.ndarray | Tensor, "_ width"]) -> None:
        """Store arrays by split, for example `ArrayRows(train=x, validation=y, test=z)`; all have the same width."""
        arrays = {name: torch.as_tensor(array, dtype=torch.float32) for name, array in splits.items()}
        self.values = torch.cat(list(arrays.values()))
        self.width = self.values.shape[1]
        ends = np.cumsum([0, *(len(array) for array in arrays.values())])
        self.splits = {name: np.arange(ends[place], ends[place + 1]) for place, name in enumerate(arrays)}
        self.networks = self.network = np.arange(len(self.values))

    def rows_of(self, split: str) -> Int[np.ndarray, " row"]:
        """Return the rows of a split.

        Raises:
            DataError: if there is no such split.
        """
        if split not in self.splits:
            raise DataError("no such split", expected=list(self.splits), got=split)
        return self.splits[split]

    def batch(self, rows: Int[np.ndarray, " batch"]) -> UnitBatch:
        """Return vectors."""
        values = self.values[torch.from_numpy(rows)]
        return UnitBatch(values, torch.ones_like(values, dtype=torch.bool))


class Scaler(NamedTuple):
    """Statistics of the training rows, over non-padding entries.

    Attributes:
        mean: of each column.
        scale: divisor of each column.
        centre: mean that is subtracted: `mean`, or zeros without scaling.
        spread: mean over rows of |u|^2 with the scaled row u: squared error of predicting the mean.
    """

    mean: Float[Tensor, " width"]
    scale: Float[Tensor, " width"]
    centre: Float[Tensor, " width"]
    spread: float


class RowBatches:
    """Batches of rows, reshuffled every epoch if `shuffle` is set.

    Args:
        rows: source.
        chosen: indices of the rows in use.
        batch_size: rows per batch.
        seed: determines the order, together with the epoch number.
        shuffle: whether to reshuffle every epoch.
    """

    def __init__(self, rows: NetworkRows, chosen: np.ndarray, *, batch_size: int, seed: int, shuffle: bool) -> None:
        self.rows, self.chosen, self.batch_size, self.seed, self.shuffle = rows, chosen, batch_size, seed, shuffle

    def __len__(self) -> int:
        return math.ceil(len(self.chosen) / self.batch_size)

    def epoch(self, number: int) -> Iterator[UnitBatch]:
        """Yield the batches of one epoch, of nearly equal size."""
        order = self.chosen
        if self.shuffle:
            order = order[permutation(len(order), self.seed, number).numpy()]
        for indices in np.array_split(order, len(self)):
            yield self.rows.batch(indices)


def open_rows(kind: Input, cache: TokenCache, autoencoder: Path, normalizer: Normalizer | None = None) -> NetworkRows:
    """Return the rows selected by `sae.input`, weights scaled by the given normaliser or by that of the cache.

    Raises:
        DataError: if hidden units are unknown.
        ModelError: if the autoencoder is missing or was trained on other tokens.
    """
    if kind == "representations":
        return LatentRows(autoencoder, cache)
    return UnitRows(cache, kind, normalizer)


def stream(rows: NetworkRows, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, UnitBatch]]:
    """Yield rows in blocks: indices and contents."""
    for start in range(0, len(chosen), BLOCK):
        block = chosen[start : start + BLOCK]
        yield block, rows.batch(block)


def fit_scaler(rows: NetworkRows, chosen: np.ndarray, how: Scaling) -> Scaler:
    """Return the statistics of rows, computed in two passes over blocks, in float64.

    Args:
        rows: source.
        chosen: training rows.
        how: `none`; `global`: columns are centred and divided by a common factor, so that their pooled variance is 1;
            `columns`: each has mean 0 and variance 1.

    Raises:
        TrainingError: if there are no rows, or some are not finite (reports the count).
    """
    if not len(chosen):
        raise TrainingError("there are no training rows", where="sae", expected="at least one training network")
    count, total = np.zeros(rows.width), np.zeros(rows.width)
    for block, batch in stream(rows, chosen):
        _check_finite(block, batch, rows)
        count += batch.mask.sum(0).numpy()
        total += batch.values.double().sum(0).numpy()
    mean = total / np.maximum(count, 1)
    squares = np.zeros(rows.width)
    for _, batch in stream(rows, chosen):
        squares += ((batch.values.double() - torch.from_numpy(mean)) * batch.mask).square().sum(0).numpy()
    return _scaler(mean, squares, count, len(chosen), how)


def _scaler(mean: np.ndarray, squares: np.ndarray, count: np.ndarray, rows: int, how: Scaling) -> Scaler:
    pooled = float(np.sqrt(squares.sum() / max(count.sum(), 1)))
    deviation = np.sqrt(squares / np.maximum(count, 1))
    flat = (count > 0) & (deviation <= FLAT * pooled)
    if flat.all() or pooled == 0:
        raise TrainingError(
            "all columns of the input are constant", where="sae.input", expected="training rows that differ"
        )
    if flat.any():
        warnings.warn(
            f"{int(flat.sum())} of {len(flat)} input columns are constant (first: column {int(flat.argmax())})",
            WscoreWarning, stacklevel=3,
        )  # fmt: skip
    scale = np.full(len(mean), pooled) if how == "global" else np.where(flat | (count == 0), 1.0, deviation)
    if how == "none":
        scale, centre = np.ones(len(mean)), np.zeros(len(mean))
        spread = float((squares + count * mean**2).sum() / rows)
    else:
        centre, spread = mean, float((squares / scale**2).sum() / rows)
    tensors = [torch.from_numpy(values.astype(np.float32)) for values in (mean, scale, centre)]
    return Scaler(tensors[0], tensors[1], tensors[2], spread)


def _check_finite(block: np.ndarray, batch: UnitBatch, rows: NetworkRows) -> None:
    wrong = (~batch.values.isfinite()).any(dim=1).numpy()
    if wrong.any():
        network = int(rows.networks[rows.network[block[int(wrong.argmax())]]])
        raise TrainingError(
            "rows are not finite", where="sae.input", expected="finite numbers",
            got=f"{int(wrong.sum())} of {len(wrong)} rows with NaN or infinite entries, first in row {network} of the zoo",
            fix="remove that network from the zoo",
        )  # fmt: skip
