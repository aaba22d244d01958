"""Models that forecast the next snapshots of a training run from its last ones.

The two here, and those of `per_weight`, forecast the CHANGE from the last snapshot w(t), directly for each of
K steps ahead, and start as copy-last:

    GramPredictor   w(t + k) = w(t) + sum_i beta[i, k, part] d_i       d_i = w(t - i + 1) - w(t - i)
    PcaPredictor    w(t + k) = w(t) + V (z(t + k) - z(t))              z = V^T (w - mean), z(t + k) from a transformer

The inputs of the first are inner products of the increments d_i, so it applies to networks of any architecture and
width and is invariant to permutations of neurons. The second is limited to the directions V of its training runs.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.config import Section
from wscore.errors import ModelError
from wscore.forecasting.models.matrix_parts import correction, is_matrix, present_parts, row_blocks, seen_tensors
from wscore.networks.layout import Layout
from wscore.training.model_folder import register

Snapshots = Float[Tensor, "snapshot weights"] | Float[np.ndarray, "snapshot weights"]
TINY = 1e-30
CAUTION = 10.0  # how strongly disagreement in the ensemble of a `GramPredictor` shrinks its forecast
BOUND = 1.5  # a coefficient of horizon k lies within +-BOUND sqrt(k)
LOG_RANGE = 6.0
FEW = 8  # tokens up to which attention is computed elementwise; its memory grows with their square
FLAGGED_KINDS = ("conv", "linear")
COLUMNS_AT_ONCE = 262_144  # weights per chunk, so that memory does not grow with the network

Count = Annotated[int, msgspec.Meta(ge=1)]
Steps = int | Sequence[int]


class WeightPredictor(nn.Module):
    """Interface of all weight predictors.

    In format 1, `horizons` may be a number K for 1, .., K; since format 2 it is a list.
    """

    folder_format: ClassVar[int] = 2

    @staticmethod
    def upgraded(config: Any, format: int) -> Any:  # noqa: A002, ARG004
        """Convert the configuration of an older format to the current one."""
        horizons = config.get("horizons") if isinstance(config, dict) else None
        return {**config, "horizons": steps_of(horizons)} if isinstance(horizons, int) else config

    @abstractmethod
    def predict(self, history: Snapshots, layout: Layout, horizons: Steps) -> Float[Tensor, "horizon weights"]:
        """Return the weights some steps after the last of some equally spaced snapshots, oldest first.

        Args:
            history: w(t - c + 1), .., w(t); of a longer history, the last c snapshots and the configured lagged ones
                are used.
            layout: of the vectors.
            horizons: steps ahead, one row of the result each; a number K stands for 1, .., K.

        Raises:
            ModelError: if the history is too short or does not fit, or a horizon was not trained.
        """


class PredictorShape(Section):
    """Configuration shared by all predictors.

    Args:
        sequence_length: input snapshots c, 3 or more (an inner product needs two increments).
        horizons: K steps ahead, such as (1, 2, 3, 10).
        model_dim: hidden width H, a multiple of `heads`; 32 to 96 are reasonable.
        layers: transformer blocks.
        heads: attention heads.
        dropout: dropout probability.
    """

    sequence_length: Annotated[int, msgspec.Meta(ge=3, le=10_000)]
    horizons: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)]
    model_dim: Count
    layers: Count
    heads: Count
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)]

    def __post_init__(self) -> None:
        if self.model_dim % self.heads:
            raise ValueError(f"model_dim {self.model_dim} is not a multiple of heads {self.heads}")
        if list(self.horizons) != sorted(set(self.horizons)):
            raise ValueError(f"horizons must be ascending, got {list(self.horizons)}")

    @property
    def reach(self) -> int:
        """Largest number of snapshots used from a history."""
        return self.sequence_length


class GramPredictorConfig(PredictorShape):
    """Configuration of a `GramPredictor`.

    Args:
        lagged_snapshots: further input snapshots where the history has them, as steps back from the last one; ascending
            and `sequence_length` or more, such as (5, 6, 8) for 5.
        rank_splits: ranks at which a matrix is split into parts (see `matrix_parts`), ascending; empty: one part.
        ensemble_size: transformers whose coefficients are averaged.
    """

    lagged_snapshots: tuple[Count, ...]
    rank_splits: tuple[Count, ...]
    ensemble_size: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.lagged_snapshots) != sorted({*self.lagged_snapshots} - {*range(self.sequence_length)}):
            raise ValueError(
                f"lagged_snapshots must be ascending from {self.sequence_length} or more, got {list(self.lagged_snapshots)}"
            )
        if list(self.rank_splits) != sorted(set(self.rank_splits)):
            raise ValueError(f"rank_splits must be ascending, got {list(self.rank_splits)}")

    @property
    def reach(self) -> int:
        """Largest number of snapshots used from a history."""
        return self.back[0] + 1

    @property
    def back(self) -> tuple[int, ...]:
        """Steps back of all input snapshots, the oldest first."""
        return (*reversed(self.lagged_snapshots), *range(self.sequence_length - 1, -1, -1))


class PcaPredictorConfig(PredictorShape):
    """Configuration of a `PcaPredictor`.

    Args:
        weights: number of weights D of a network.
        rank: principal components R; null feeds whole weight vectors.
        mode: `residual` forecasts the change, `absolute` the vector itself (for comparison: far worse than copy-last).
    """

    weights: Count
    rank: Count | None
    mode: Literal["residual", "absolute"]


class GramMember(nn.Module):
    """One transformer of a `GramPredictor`: beta[i, k] = 1.5 sqrt(k) tanh(head(transformer(features)[i])).

    The tokens are the increments of one part of a tensor of the network.
    """

    def __init__(self, config: GramPredictorConfig) -> None:
        super().__init__()
        increments, parts = len(config.back) - 1, len(config.rank_splits) + 1
        self.inputs = nn.Linear(3 * increments + 6 + len(FLAGGED_KINDS) + parts, config.model_dim)
        self.recency = nn.Parameter(0.02 * torch.randn(increments, config.model_dim))
        self.blocks = transformer(config, feed_forward=2)
        self.head = zero(nn.Linear(config.model_dim, len(config.horizons)))
        self.bound: Tensor
        self.register_buffer("bound", BOUND * torch.tensor(config.horizons).float().sqrt())

    def forward(
        self, features: Float[Tensor, "window tensor increment feature"]
    ) -> Float[Tensor, "window tensor increment horizon"]:
        """Return the coefficient of every increment for each tensor and horizon."""
        tokens = self.inputs(features.flatten(0, 1)) + self.recency  # (W L, c-1, H)
        raw = self.head(self.blocks(tokens))  # (W L, c-1, K)
        return (self.bound * torch.tanh(raw)).unflatten(0, features.shape[:2])


@register
class GramPredictor(WeightPredictor):
    """w(t + k) = w(t) + s_k sum_i beta[i, k, part] d_i, beta averaged over an ensemble of transformers.

    d_i are the last c - 1 increments and those between the `lagged_snapshots` before them, zero where the history is
    too short. Increments of a weight matrix are split along their strongest input directions and the rest
    (`matrix_parts`), with separate coefficients per part. The features are inner products of increments
    (`part_features`). s_k = E / (E + 10 V) shrinks the forecast where the ensemble disagrees: E is the squared norm of
    the mean forecast change of the network, V the variance of the members' changes around it. Far from the training
    data the forecast is close to copy-last.
    """

    folder_format: ClassVar[int] = 6

    def __init__(self, config: GramPredictorConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(GramMember(config) for _ in range(config.ensemble_size))

    @staticmethod
    def upgraded(config: Any, format: int) -> None:  # noqa: A002
        """Reject folders of older formats, whose transformers had coefficients for whole tensors only."""

    def forward(
        self,
        features: Float[Tensor, "window present increment feature"],
        grams: Float[Tensor, "window present increment increment"],
    ) -> Float[Tensor, "window present increment horizon"]:
        """Return the coefficient of every increment, for each part of a tensor and horizon.

        Args:
            features: of the windows, from `part_features`.
            grams: inner products of their increments, in any unit.
        """
        return agreed(self.each(features), grams.float())

    def each(
        self, features: Float[Tensor, "window tensor increment feature"]
    ) -> Float[Tensor, "member window tensor increment horizon"]:
        """Return the coefficients of every transformer."""
        return torch.stack([member(features) for member in self.members])

    @torch.no_grad()
    def predict(self, history: Snapshots, layout: Layout, horizons: Steps) -> Float[Tensor, "horizon weights"]:
        """Return the weights some steps after the last snapshot, see `WeightPredictor.predict`.

        Besides the history and the result it needs memory for `COLUMNS_AT_ONCE` weights and some dozen numbers per
        input and output, however large the network.
        """
        history, chosen = checked(history, layout, self.config, horizons)
        rows = [max(len(history) - 1 - step, 0) for step in self.config.back]
        recent, edges = self.config.sequence_length - 1, self.config.rank_splits
        seen = seen_tensors(
            lambda block: increments(history, block, rows).double(), layout, recent, edges, COLUMNS_AT_ONCE
        )
        coefficients = self.coefficients(torch.stack([t.grams for t in seen]), layout)[..., chosen]  # (L, P, m, K)
        forecast = history.new_empty(len(chosen), layout.size)
        for number, block in blocks_of(layout):
            change = coefficients[number, -1].T @ increments(history, block, rows)
            forecast[:, block] = history[-1, block] + change
        parts = zip(layout.tensors, layout.slices().values(), seen, coefficients, strict=True)
        for spec, columns, tensor, shares in parts if edges else ():
            outer = correction(tensor, shares, edges).to(history)  # (K, R, k)
            for block in row_blocks(spec, columns, COLUMNS_AT_ONCE) if is_matrix(spec) else ():
                row = spec.size // spec.shape[0]
                lines = slice((block.start - columns.start) // row, (block.stop - columns.start) // row)
                forecast[:, block] += (outer[:, lines] @ tensor.directions.to(history).T).flatten(1)
        return forecast

    def coefficients(
        self, grams: Float[Tensor, "tensor part increment increment"], layout: Layout
    ) -> Float[Tensor, "tensor part increment horizon"]:
        """Return the coefficient of every increment of every part of a network, from their inner products."""
        features = part_features(grams[None], layout, self.config.sequence_length - 1)
        there = present_parts(layout, grams.shape[1]).bool().to(grams.device)
        unit = grams.diagonal(dim1=-2, dim2=-1).sum().clamp_min(TINY)
        predicted = self(features, (grams[there] / unit)[None])[0]  # (T, m, K)
        every = predicted.new_zeros(*grams.shape[:3], predicted.shape[-1])
        every[there] = predicted
        return every


def agreed(
    each: Float[Tensor, "member window tensor increment horizon"],
    grams: Float[Tensor, "window tensor increment increment"],
) -> Float[Tensor, "window tensor increment horizon"]:
    """Return the mean of the coefficients, shrunk by the ensemble disagreement as in `GramPredictor`."""
    mean, count = each.mean(0), len(each)
    if count == 1:
        return mean

    def squared(coefficients: Tensor) -> Tensor:
        return (coefficients * (grams @ coefficients)).sum((-3, -2))  # over tensors and increments

    variance = squared(each - mean).sum(0) / (count - 1)  # (W, K)
    length = squared(mean).clamp_min(0)
    return mean * (length / (length + CAUTION * variance.clamp_min(0)).clamp_min(TINY))[:, None, None]


@register
class PcaPredictor(WeightPredictor):
    """z(t + k) = z(t) + s head(transformer((z - z(t)) / s)), where z = V^T (w - mean).

    s is the RMS norm of the window's increments in PCA space. Dividing by it normalises early and late windows, and the
    forecast of a run that leaves the span of V shrinks to copy-last. `absolute` is
    z(t + k) = scale head(transformer(z / scale)) with one global scale, and without w(t).
    """

    def __init__(self, config: PcaPredictorConfig) -> None:
        super().__init__()
        self.config = config
        rank = config.rank or config.weights
        self.inputs = nn.Linear(rank, config.model_dim)
        self.recency = nn.Parameter(0.02 * torch.randn(config.sequence_length, config.model_dim))
        self.blocks = transformer(config, feed_forward=4)
        self.head = zero(nn.Linear(config.model_dim, len(config.horizons) * rank))
        self.mean: Tensor
        self.components: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(config.weights))
        self.register_buffer("components", torch.zeros(config.rank or 0, config.weights))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, scores: Float[Tensor, "window snapshot rank"]) -> Float[Tensor, "window horizon rank"]:
        """Return the scores z(t + 1..K) from the scores of c snapshots, oldest first."""
        last = scores[:, -1:]  # (W, 1, R)
        if self.config.mode == "absolute":
            return self.scale * self._head(scores / self.scale)
        lengths = (scores[:, 1:] - scores[:, :-1]).square().sum(-1).mean(1)  # (W,)
        size = lengths.clamp_min(TINY).sqrt()[:, None, None]
        return last + size * self._head((scores - last) / size)

    def _head(self, relative: Tensor) -> Tensor:
        tokens = self.inputs(INPUT_GAIN * relative) + self.recency  # (W, c, H)
        return self.head(self.blocks(tokens)[:, -1]).unflatten(-1, (len(self.config.horizons), -1))  # (W, K, R)

    def project(self, vectors: Float[Tensor, "snapshot weights"]) -> Float[Tensor, "snapshot rank"]:
        """Return the scores of weight vectors: V^T (w - mean), or w - mean without PCA."""
        centred = vectors - self.mean
        return centred @ self.components.T if self.config.rank else centred

    def expand(self, scores: Float[Tensor, "horizon rank"]) -> Float[Tensor, "horizon weights"]:
        """Return V z: the weights, or weight changes, of scores, without the mean."""
        return scores @ self.components if self.config.rank else scores

    @torch.no_grad()
    def predict(self, history: Snapshots, layout: Layout, horizons: Steps) -> Float[Tensor, "horizon weights"]:
        """Return the weights some steps after the last snapshot, see `WeightPredictor.predict`.

        Raises:
            ModelError: if the network differs from that of the training, or as for `WeightPredictor.predict`.
        """
        if layout.size != self.config.weights:
            raise ModelError("was trained on another network", expected=self.config.weights, got=layout.size)
        history, chosen = checked(history, layout, self.config, horizons)
        scores = self.project(history)  # (c, R)
        future = self(scores[None])[0, chosen]  # (K, R)
        if self.config.mode == "absolute":
            return self.mean + self.expand(future)
        return history[-1] + self.expand(future - scores[-1])


INPUT_GAIN = 3.0  # scales the entries of a unit vector of some dozen scores to the usual input range of a linear layer


def blocks_of(layout: Layout) -> Iterator[tuple[int, slice]]:
    """Yield the index of each tensor with slices of at most `COLUMNS_AT_ONCE` of its weights."""
    for number, columns in enumerate(layout.slices().values()):
        for start in range(columns.start, columns.stop, COLUMNS_AT_ONCE):
            yield number, slice(start, min(start + COLUMNS_AT_ONCE, columns.stop))


def increments(
    history: Float[Tensor, "snapshot weights"], block: slice, rows: list[int] | None = None
) -> Float[Tensor, "increment columns"]:
    """Return the increments of some weights between rows of the history, or between chosen rows, newest first."""
    snapshots = history[:, block] if rows is None else history[rows, block]
    return (snapshots[1:] - snapshots[:-1]).flip(0)


def increment_grams(
    history: Float[Tensor, "snapshot weights"], layout: Layout, rows: list[int] | None = None
) -> Float[Tensor, "tensor increment increment"]:
    """Return the Gram matrix of the `increments`, newest first, per tensor, in float64."""
    count = len(history if rows is None else rows) - 1
    grams = torch.zeros(len(layout.tensors), count, count, dtype=torch.float64, device=history.device)
    for number, block in blocks_of(layout):
        changes = increments(history, block, rows).double()
        grams[number] += changes @ changes.T
    return grams


def gram_features(
    grams: Float[Tensor, "window tensor increment increment"], layout: Layout, recent: int | None = None
) -> Float[Tensor, "window tensor increment feature"]:
    """Return the input features of a `GramPredictor` for each increment of each tensor, as float32.

    From G[i, j] = <d_i, d_j> of the tensor and their sum over all tensors: cosines with all increments (tensor,
    network), log length relative to the `recent` newest ones, or all (tensor, network), log RMS of these in the tensor
    relative to the network, log10 of the tensor's size, and flags for convolutional and linear weights. All are
    scale-free and invariant to permutations of neurons.
    """
    sizes = grams.new_tensor([spec.size for spec in layout.tensors])
    network = grams.sum(1, keepdim=True)  # (W, 1, m, m)
    power = grams.diagonal(dim1=-2, dim2=-1)[..., :recent].mean(-1) / sizes  # (W, L)
    overall = network.diagonal(dim1=-2, dim2=-1)[..., :recent].mean(-1) / sizes.sum()  # (W, 1)
    flags = grams.new_tensor([[spec.kind == kind for kind in FLAGGED_KINDS] for spec in layout.tensors])
    columns = [
        _cosines(grams),
        _cosines(network),
        _log_lengths(grams, recent)[..., None],
        _log_lengths(network, recent)[..., None],
        _log_ratio(power, overall)[..., None, None],
        sizes.log10()[None, :, None, None],
        flags[None, :, None],
    ]
    lead = grams.shape[:3]
    return torch.cat([column.expand(*lead, column.shape[-1]) for column in columns], dim=-1).float()


def part_features(
    grams: Float[Tensor, "window tensor part increment increment"], layout: Layout, recent: int
) -> Float[Tensor, "window present increment feature"]:
    """Return the input features of a `GramPredictor` for each increment of each part of each tensor, as float32.

    In addition to the `gram_features` of the tensor, for the part: cosines with all increments, log length relative to
    the `recent` newest ones, log RMS of these relative to the tensor, and a one-hot index of the part. Parts that a
    tensor does not have are omitted.
    """
    tensors, there = grams.sum(2), present_parts(layout, grams.shape[2]).bool().to(grams.device)
    power = grams.diagonal(dim1=-2, dim2=-1)[..., :recent].mean(-1)  # (W, L, P)
    columns = [
        gram_features(tensors, layout, recent)[:, :, None],
        _cosines(grams),
        _log_lengths(grams, recent)[..., None],
        _log_ratio(power, power.sum(2, keepdim=True))[..., None, None],
        torch.eye(grams.shape[2], device=grams.device)[None, None, :, None],
    ]
    lead = grams.shape[:4]
    return torch.cat([column.float().expand(*lead, column.shape[-1]) for column in columns], dim=-1)[:, there]


def _cosines(grams: Tensor) -> Tensor:
    lengths = grams.diagonal(dim1=-2, dim2=-1).clamp_min(TINY).sqrt()
    return grams / (lengths[..., :, None] * lengths[..., None, :])


def _log_lengths(grams: Tensor, recent: int | None) -> Tensor:
    squares = grams.diagonal(dim1=-2, dim2=-1)
    return _log_ratio(squares, squares[..., :recent].mean(-1, keepdim=True))


def _log_ratio(squares: Tensor, reference: Tensor) -> Tensor:
    return (0.5 * (squares.clamp_min(TINY) / reference.clamp_min(TINY)).log()).clamp(-LOG_RANGE, LOG_RANGE)


def steps_of(horizons: Steps) -> list[int]:
    """Return steps ahead as a list; a number K stands for 1, .., K."""
    return list(range(1, horizons + 1)) if isinstance(horizons, int) else list(horizons)


def checked(
    history: Snapshots, layout: Layout, config: PredictorShape, horizons: Steps
) -> tuple[Float[Tensor, "last weights"], list[int]]:
    """Return the used snapshots as float32, and the indices of the requested horizons among the trained ones.

    Raises:
        ModelError: if the history is too short, the vectors don't fit the layout, or a horizon was not trained.
    """
    history = torch.as_tensor(history)
    if history.shape[1] != layout.size:
        raise ModelError("weight vectors do not fit the layout", expected=layout.size, got=history.shape[1])
    if len(history) < config.sequence_length:
        raise ModelError("too few snapshots to forecast from", expected=config.sequence_length, got=len(history))
    wanted = steps_of(horizons)
    unknown = [step for step in wanted if step not in config.horizons]
    if unknown:
        raise ModelError("horizons were not trained", expected=f"some of {list(config.horizons)}", got=unknown)
    return history[-config.reach :].float(), [config.horizons.index(step) for step in wanted]


class ShortBlock(nn.TransformerEncoderLayer):
    """A block whose training is faster for a handful of tokens: attention in elementwise products, not in tiny matrices.

    Entries of a head are summed, and attention is spread over them, by one product with a matrix of zeros and ones.
    """

    def _sa_block(
        self,
        x: Float[Tensor, "batch token dim"],
        attn_mask: Tensor | None,
        key_padding_mask: Tensor | None,
        is_causal: bool = False,
    ) -> Float[Tensor, "batch token dim"]:
        heads, attention = self.self_attn.num_heads, self.self_attn
        if x.shape[1] > FEW or attn_mask is not None or key_padding_mask is not None:
            return super()._sa_block(x, attn_mask, key_padding_mask, is_causal)
        projected = nn.functional.linear(x, attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = projected.chunk(3, dim=-1)  # (B, T, h d)
        width = query.shape[-1] // heads
        spread = torch.eye(heads).to(projected).repeat_interleave(width, dim=1)  # (h, h d)
        scores = (query[:, :, None] * key[:, None]) @ (spread.T * width**-0.5)  # (B, T, T, h)
        weights = nn.functional.dropout(scores.softmax(2), attention.dropout, self.training)
        mixed = ((weights @ spread) * value[:, None]).sum(2)  # (B, T, h d)
        return self.dropout1(attention.out_proj(mixed))


def transformer(config: PredictorShape, *, feed_forward: int) -> nn.TransformerEncoder:
    """Return pre-norm transformer blocks with a final norm."""
    width = config.model_dim
    block = ShortBlock(
        width, config.heads, feed_forward * width, config.dropout, "gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(block, config.layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)


def zero(layer: nn.Linear) -> nn.Linear:
    """Zero a linear layer, so that a model that ends in it starts as copy-last."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
