"""Runs many networks of one architecture as one: `torch.func.functional_call` on weights with a network axis.

`torch.func.vmap` over a convolution gives a grouped convolution, which is slow on a CPU. The layers here are
hand-written batching rules. Activations keep their usual axes (network, batch, channel, height, width), but the
batch lies innermost in memory: a convolution is then one copy and one product of stacked matrices, and pooling and
normalisation run over contiguous numbers. Elementwise layers (activations, sums) need no change.
`benchmarks/zoo_generation.py` measures the difference.
"""

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call

from wscore.networks.architectures import Architecture, AttentionBlock, Classifier, Positions, TokenNorm, build

Context = Any


def run(
    network: Classifier,
    state: dict[str, Tensor],
    images: Float[Tensor, "*shared batch channel height width"],
    keep: Float[Tensor, "networks batch feature"] | None = None,
) -> Float[Tensor, "networks batch classes"]:
    """Return the logits of stacked networks on per-network images, or on shared images (no network axis).

    In training mode the running statistics in `state` are updated in place.
    """
    return functional_call(network, state, (_from_last(_to_last(images).contiguous()), keep))


@lru_cache(maxsize=64)
def skeleton(architecture: Architecture) -> Classifier:
    """Return a network without weights, in evaluation mode, whose layers take a leading network axis."""
    return _stacked(architecture)


@lru_cache(maxsize=64)
def mixed_skeleton(architectures: tuple[Architecture, ...], counts: tuple[int, ...]) -> Classifier:
    """Return a `skeleton` for networks of several architectures that differ in layers without weights alone.

    Args:
        architectures: of the first networks, of the next ones and so on.
        counts: of the networks of each.
    """
    network = _stacked(architectures[0])
    _mix(network, [skeleton(architecture) for architecture in architectures], counts)
    return network


def _mix(network: nn.Module, others: list[Any], counts: tuple[int, ...]) -> None:
    for name, child in list(network.named_children()):
        layers = [getattr(other, name) for other in others]
        if len({repr(layer) for layer in layers}) == 1:
            continue
        if next(child.parameters(), None) is None:
            setattr(network, name, Mixed(layers, counts))
        else:
            _mix(child, layers, counts)


def _stacked(architecture: Architecture) -> Classifier:
    with torch.device("meta"):
        network = build(architecture)
        for module in list(network.modules()):
            rules = TOKENS if isinstance(module, AttentionBlock | TokenNorm) else STACKED
            for name, child in list(module.named_children()):
                if type(child) in rules:
                    setattr(module, name, rules[type(child)](child))
    return network.eval()


class Mixed(nn.Module):
    """A layer without weights for the first networks, another for the next ones.

    Args:
        layers: for some networks each.
        counts: of these networks.
    """

    def __init__(self, layers: list[nn.Module], counts: tuple[int, ...]) -> None:
        super().__init__()
        self.layers, self.counts = nn.ModuleList(layers), counts

    def forward(self, x: Float[Tensor, "networks *shape"]) -> Float[Tensor, "networks *other"]:
        """Return the outputs, as they lie in memory."""
        parts = [layer(part) for layer, part in zip(self.layers, x.split(self.counts), strict=True)]
        order = [0, *sorted(range(1, parts[0].ndim), key=lambda axis: -parts[0].stride(axis))]
        joined = torch.cat([part.permute(order) for part in parts])
        return joined.permute([order.index(axis) for axis in range(joined.ndim)])


class StackedLinear(nn.Module):
    """y = x W^T + b for every network."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Float[Tensor, "*shared batch feature"]) -> Float[Tensor, "*networks batch out"]:
        """Return the outputs, batch innermost in memory."""
        return (self.weight @ x.mT + self.bias[..., None]).mT


class StackedConv2d(nn.Module):
    """Convolution with stride 1 that keeps height and width, with a bias or without, for every network."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        assert layer.stride == (1, 1)
        assert layer.kernel_size in ((1, 1), (3, 3))
        self.weight, self.bias = layer.weight, layer.bias

    def forward(
        self, x: Float[Tensor, "*shared batch channel height width"]
    ) -> Float[Tensor, "*networks batch out height width"]:
        """Return the feature maps."""
        maps = _Convolution.apply(_to_last(x), self.weight)
        assert isinstance(maps, Tensor)
        return _from_last(maps if self.bias is None else maps + self.bias[..., None, None, None])


class StackedDepthwise(nn.Module):
    """3x3 depthwise convolution, as nine shifted products, for every network."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        assert (layer.kernel_size, layer.stride, layer.bias) == ((3, 3), (1, 1), None)
        self.weight = layer.weight

    def forward(
        self, x: Float[Tensor, "*networks batch channel height width"]
    ) -> Float[Tensor, "*networks batch channel height width"]:
        """Return the feature maps."""
        maps = _Depthwise.apply(_to_last(x), self.weight[..., 0, :, :])
        assert isinstance(maps, Tensor)
        return _from_last(maps)


class StackedPatches(nn.Module):
    """Convolution whose stride is its kernel: one matrix product per patch, for every network."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        assert layer.kernel_size == layer.stride
        self.weight, self.bias, self.size = layer.weight, layer.bias, layer.kernel_size

    def forward(
        self, x: Float[Tensor, "*shared batch channel height width"]
    ) -> Float[Tensor, "*networks batch out rows columns"]:
        """Return one vector per patch."""
        high, wide = self.size
        rows, columns = x.shape[-2] // high, x.shape[-1] // wide
        x = x[..., : rows * high, : columns * wide]
        patches = x.unflatten(-1, (columns, wide)).unflatten(-3, (rows, high))  # (..., B, C, rows, high, columns, wide)
        patches = patches.movedim((-4, -2), (-5, -4)).flatten(-3)  # (..., B, rows, columns, C high wide)
        flat = patches.flatten(-4, -2)  # (..., B rows columns, C high wide)
        maps = self.weight.flatten(-3) @ flat.mT  # (..., out, B rows columns)
        assert self.bias is not None
        maps = maps + self.bias[..., None]
        return maps.unflatten(-1, (-1, rows, columns)).movedim(-3, -4)


class StackedPositions(nn.Module):
    """y = x + weight for every network."""

    def __init__(self, layer: Positions) -> None:
        super().__init__()
        self.weight = layer.weight

    def forward(
        self, x: Float[Tensor, "*networks batch token feature"]
    ) -> Float[Tensor, "*networks batch token feature"]:
        """Return tokens with position embeddings."""
        return x + self.weight[..., None, :, :]


class StackedTokenLinear(nn.Module):
    """y = x W^T + b of each token, for every network."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Float[Tensor, "*networks batch token feature"]) -> Float[Tensor, "*networks batch token out"]:
        """Return the outputs."""
        return _per_token(x, self.weight, self.bias)


class StackedLayerNorm(nn.Module):
    """Normalisation over features with weight and bias of each network."""

    def __init__(self, layer: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps

    def forward(
        self, x: Float[Tensor, "*networks batch token feature"]
    ) -> Float[Tensor, "*networks batch token feature"]:
        """Return normalised tokens."""
        normal = nn.functional.layer_norm(x, x.shape[-1:], eps=self.eps)
        return normal * self.weight[..., None, None, :] + self.bias[..., None, None, :]


class StackedAttention(nn.Module):
    """softmax(q k^T / sqrt(d)) v with several heads, for every network, as `nn.MultiheadAttention` does."""

    def __init__(self, layer: nn.MultiheadAttention) -> None:
        super().__init__()
        self.in_proj_weight, self.in_proj_bias, self.heads = layer.in_proj_weight, layer.in_proj_bias, layer.num_heads
        self.out_proj = StackedTokenLinear(layer.out_proj)

    def forward(
        self,
        query: Float[Tensor, "*networks batch token feature"],
        key: Tensor,
        value: Tensor,
        *,
        need_weights: bool,
    ) -> tuple[Float[Tensor, "*networks batch token feature"], None]:
        """Return the attention output; query, key and value are the same."""
        assert query is key is value
        assert not need_weights
        mixed = _per_token(query, self.in_proj_weight, self.in_proj_bias)
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for x in mixed.chunk(3, dim=-1))
        # Written out: PyTorch's own checks for rows without a key, which costs a fifth of the step with so few tokens.
        shares = (query * query.shape[-1] ** -0.5 @ key.mT).softmax(-1)  # (..., B, heads, T, T)
        attended = shares @ value  # (..., B, heads, T, d)
        return self.out_proj(attended.transpose(-2, -3).flatten(-2)), None


class StackedBatchNorm2d(nn.Module):
    """y = (x - mean) / sqrt(var + eps) * weight + bias for every network; running statistics as in `nn.BatchNorm2d`."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.momentum = layer.weight, layer.bias, layer.eps, layer.momentum or 0.0
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", layer.running_mean)
        self.register_buffer("running_var", layer.running_var)
        self.register_buffer("num_batches_tracked", layer.num_batches_tracked)

    def forward(
        self, x: Float[Tensor, "*shared batch channel height width"]
    ) -> Float[Tensor, "*networks batch channel height width"]:
        """Return normalised maps: with batch statistics in training mode, else with the running ones."""
        maps = _to_last(x)
        if not self.training:
            scale = self.weight * torch.rsqrt(self.running_var + self.eps)
            shift = self.bias - self.running_mean * scale
            return _from_last(maps * scale[..., None, None, None] + shift[..., None, None, None])
        result: Any = _Normalisation.apply(maps, self.weight, self.bias, self.eps)
        normal, mean, var = result
        count = maps.shape[-3:].numel()
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / max(1, count - 1)), self.momentum)
        return _from_last(normal)


class StackedPool2d(nn.Module):
    """2x2 pooling, or adaptive pooling to 2x2, by the largest or the mean value."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.largest = isinstance(layer, nn.MaxPool2d | nn.AdaptiveMaxPool2d)
        self.adaptive = isinstance(layer, nn.AdaptiveMaxPool2d | nn.AdaptiveAvgPool2d)

    def forward(
        self, x: Float[Tensor, "*shared batch channel height width"]
    ) -> Float[Tensor, "*networks batch channel small_height small_width"]:
        """Return the pooled maps."""
        height, width = x.shape[-2:]
        if self.adaptive and (height, width) != (4, 4):
            return self.layer(x.flatten(0, -4)).unflatten(0, x.shape[:-3])
        maps = _to_last(x[..., : height // 2 * 2, : width // 2 * 2]).contiguous()
        if self.largest:
            return _from_last(_MaxPooling.apply(maps))  # pyright: ignore[reportArgumentType]
        return _from_last(_MeanPooling.apply(maps))  # pyright: ignore[reportArgumentType]


class StackedFlatten(nn.Module):
    """Channels, height and width as one axis."""

    def __init__(self, layer: nn.Flatten) -> None:
        super().__init__()
        assert (layer.start_dim, layer.end_dim) == (1, -1)

    def forward(
        self, x: Float[Tensor, "*shared batch channel height width"]
    ) -> Float[Tensor, "*networks batch feature"]:
        """Return the flattened maps."""
        return x.flatten(-3)


def stacked_convolution(layer: nn.Conv2d) -> nn.Module:
    """Return the rule for a convolution: by channel, by patch, or in full."""
    if layer.groups > 1:
        return StackedDepthwise(layer)
    return StackedConv2d(layer) if layer.stride == (1, 1) else StackedPatches(layer)


TOKENS: dict[type[nn.Module], Any] = {
    nn.Linear: StackedTokenLinear,
    nn.LayerNorm: StackedLayerNorm,
    nn.MultiheadAttention: StackedAttention,
}
STACKED: dict[type[nn.Module], Any] = {
    nn.Linear: StackedLinear,
    nn.Conv2d: stacked_convolution,
    Positions: StackedPositions,
    nn.BatchNorm2d: StackedBatchNorm2d,
    nn.MaxPool2d: StackedPool2d,
    nn.AvgPool2d: StackedPool2d,
    nn.AdaptiveMaxPool2d: StackedPool2d,
    nn.AdaptiveAvgPool2d: StackedPool2d,
    nn.Flatten: StackedFlatten,
}


class _Convolution(Function):
    """maps (..., O, H, W, B) = weight (..., O, C, k, k) * x (..., C, H, W, B), as products of matrices.

    The gradient of x is the convolution of the maps' gradient with the mirrored weights.
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor) -> Tensor:
        columns = _columns(x, weight.shape[-1])
        ctx.save_for_backward(columns, weight)
        return (weight.flatten(-3) @ columns).unflatten(-1, x.shape[-3:])

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, Tensor]:
        columns, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        of_weight = (gradient.flatten(-3) @ columns.mT).view(weight.shape)
        if not ctx.needs_input_grad[0]:
            return None, of_weight
        mirrored = weight.flip(-1, -2).transpose(-4, -3).flatten(-3)  # (..., C, O k k)
        of_x = mirrored @ _columns(gradient, weight.shape[-1])
        return of_x.unflatten(-1, gradient.shape[-3:]), of_weight


class _Depthwise(Function):
    """maps (..., C, H, W, B) = sum over the 3 x 3 places of weight (..., C, 3, 3) * shifted x (..., C, H, W, B).

    Sums are gathered in place; autograd of the same would keep and add nine maps in each direction.
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _nine(x, weight)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        flat = gradient.flatten(-3)
        products = [torch.linalg.vecdot(flat, shifted.flatten(-3)) for shifted in _shifts(x)]
        of_weight = torch.stack(products, dim=-1).view(weight.shape)
        return (_nine(gradient, weight.flip(-1, -2)) if ctx.needs_input_grad[0] else None), of_weight


class _Normalisation(Function):
    """y = (x - mean) r weight + bias with r = 1 / sqrt(var + eps) over height, width and batch; mean and var too.

    With g the gradient of y and n the count: dx = weight r (g - mean(g) - xhat mean(g xhat)), dweight = sum(g xhat),
    dbias = sum(g).
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        flat = x.flatten(-3)  # (..., C, n)
        mean = flat.mean(-1)
        centred = flat - mean[..., None]
        var = torch.linalg.vecdot(centred, centred) / flat.shape[-1]
        inverse = torch.rsqrt(var + eps)
        normal = (centred * (weight * inverse)[..., None]).add_(bias[..., None])
        ctx.mark_non_differentiable(mean, var)
        ctx.save_for_backward(centred, weight, inverse)
        return normal.view(x.shape), mean, var

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        centred, weight, inverse = ctx.saved_tensors
        gradient = gradients[0]
        flat = gradient.flatten(-3)
        count = flat.shape[-1]
        of_bias = flat.sum(-1)
        of_weight = torch.linalg.vecdot(flat, centred) * inverse
        scale = weight * inverse
        of_x = flat * scale[..., None]
        of_x -= centred * (scale * inverse * of_weight / count)[..., None]
        of_x -= (scale * of_bias / count)[..., None]
        return of_x.view(gradient.shape), of_weight, of_bias, None


class _MaxPooling(Function):
    """Largest value of each 2x2 window of (..., H, W, B); ties pass the gradient to the first (upper left) entry."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> Tensor:
        windows = x.unflatten(-2, (-1, 2)).unflatten(-4, (-1, 2))  # (..., H/2, 2, W/2, 2, B)
        left, right = windows.unbind(-2)
        rows = torch.maximum(left, right)  # (..., H/2, 2, W/2, B)
        upper, lower = rows.unbind(-3)
        ctx.save_for_backward(left >= right, upper >= lower)
        return torch.maximum(upper, lower)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> Tensor:
        to_left, to_upper = ctx.saved_tensors
        gradient = gradients[0]
        *lead, width, batch = gradient.shape
        rows = gradient.new_empty(*lead, 2, width, batch)
        torch.mul(gradient, to_upper, out=rows[..., 0, :, :])
        torch.sub(gradient, rows[..., 0, :, :], out=rows[..., 1, :, :])
        windows = gradient.new_empty(*lead, 2, width, 2, batch)
        torch.mul(rows, to_left, out=windows[..., 0, :])
        torch.sub(rows, windows[..., 0, :], out=windows[..., 1, :])
        return windows.flatten(-3, -2).flatten(-4, -3)


def _shifts(x: Tensor) -> list[Tensor]:
    """Return x (..., H, W, B) seen from each of the 3 x 3 neighbours of every pixel, zeros outside."""
    height, width = x.shape[-3:-1]
    padded = nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
    return [padded[..., row : row + height, column : column + width, :] for row in range(3) for column in range(3)]


def _nine(x: Tensor, weight: Tensor) -> Tensor:
    """Return the sum of the shifts of x (..., C, H, W, B), each times its weight (..., C, 3, 3)."""
    factors = weight.flatten(-2)[..., None, None, None].unbind(-4)
    total: Tensor | None = None
    for shifted, factor in zip(_shifts(x), factors, strict=True):
        total = shifted * factor if total is None else total.addcmul_(shifted, factor)
    assert total is not None
    return total


def _per_token(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x W^T + b for x (..., B, T, C), batch and tokens taken together."""
    flat = x.flatten(-3, -2)
    return (flat @ weight.mT + bias[..., None, :]).unflatten(-2, x.shape[-3:-1])


def _to_last(x: Tensor) -> Tensor:
    return x.movedim(-4, -1)  # (..., B, C, H, W) -> (..., C, H, W, B)


def _from_last(x: Tensor) -> Tensor:
    return x.movedim(-1, -4)


class _MeanPooling(Function):
    """Mean of every 2x2 window of (..., H, W, B), as two sums of slices: a mean over strided axes is thirty times slower."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> Tensor:  # noqa: ARG004
        rows = x[..., 0::2, :, :] + x[..., 1::2, :, :]
        return (rows[..., 0::2, :] + rows[..., 1::2, :]) * 0.25

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        *lead, height, width, batch = gradients[0].shape
        share = (gradients[0] * 0.25)[..., :, None, :, None, :]
        return share.expand(*lead, height, 2, width, 2, batch).reshape(*lead, 2 * height, 2 * width, batch)


def _columns(x: Tensor, kernel: int) -> Tensor:
    """Return the k x k neighbourhood of every pixel, (..., C, H, W, B) -> (..., C k k, H W B), zeros outside."""
    if kernel == 1:
        return x.flatten(-3)
    *lead, channels, height, width, batch = x.shape
    padded = nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
    *outer, row, column, item = padded.stride()
    shape = (*lead, channels, 3, 3, height, width, batch)
    neighbours = padded.as_strided(shape, (*outer, row, column, row, column, item))
    return neighbours.reshape(*lead, channels * 9, height * width * batch)
