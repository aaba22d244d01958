"""Weights that a state dict holds in other form: pruned, normalised, or as small integers with scales."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from wscore.networks.records import RejectedError

SCALES = re.compile(r"scales?|scb|absmax|zero_points?|zeros|qzeros|quant\w*|g_idx")
MATRICES = ("weight", "qweight", "kernel", "weight_packed", "in_proj_weight", "weight_quantized", "w")
MADE_OF = ("_mask", "_g", ".original0", "_u")  # ends of names that may be a part of a weight
EIGHTHS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


def effective(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the weights that its network computes with, in evaluation mode.

    `weight_orig` and `weight_mask` of pruning become their product; weight norm and spectral norm, old and new, become the
    weight that they make. Other parametrisations stay as they are stored.
    """
    result = dict(state)
    for name in (name for name in state if name.endswith(MADE_OF)):
        made = _pruned(result, name) or _weight_norm(result, name) or _spectral_norm(result, name)
        if made is not None:
            target, weight, sources = made
            for source in sources:
                result.pop(source, None)
            result[target] = weight
    return result


Made = tuple[str, Tensor, Iterable[str]]


def _pruned(state: Mapping[str, Tensor], name: str) -> Made | None:
    base = name.removesuffix("_mask")
    original, mask = state.get(f"{base}_orig"), state.get(name)
    if base == name or original is None or mask is None or original.shape != mask.shape or base in state:
        return None
    return base, original * mask.to(original.dtype), (name, f"{base}_orig")


def _weight_norm(state: Mapping[str, Tensor], name: str) -> Made | None:
    if name.endswith("_g"):
        target, sources = name.removesuffix("_g"), (name, name.removesuffix("_g") + "_v")
    elif name.endswith(".original0"):
        prefix = name.removesuffix(".original0")
        target, sources = _unwrapped(prefix), (name, f"{prefix}.original1")
    else:
        return None
    size, direction = (state.get(source) for source in sources)
    if size is None or direction is None or target in state or not target:
        return None
    long = [axis for axis, count in enumerate(size.shape) if count > 1]
    shape = tuple(size.shape)
    fits = size.ndim == 0 or (
        size.ndim == direction.ndim and len(long) < 2 and all(shape[axis] == direction.shape[axis] for axis in long)
    )
    if not fits or not direction.is_floating_point():
        return None
    axes = [axis for axis in range(direction.ndim) if axis not in (long or [0])] if size.ndim else None
    norm = torch.linalg.vector_norm(direction.float(), dim=axes, keepdim=bool(size.ndim))
    return target, (direction.float() * (size.float() / norm)).to(direction.dtype), sources


def _spectral_norm(state: Mapping[str, Tensor], name: str) -> Made | None:
    if name.endswith("_u") and not name.endswith("._u"):
        target = name.removesuffix("_u")
        sources = (f"{target}_orig", name, f"{target}_v")
    elif name.endswith(".0._u"):
        prefix = name.removesuffix(".0._u")
        target, sources = _unwrapped(prefix), (f"{prefix}.original", name, f"{prefix}.0._v")
    else:
        return None
    weight, u, v = (state.get(source) for source in sources)
    if weight is None or u is None or v is None or target in state or not target or weight.ndim < 2:
        return None
    matrix = weight.float() if u.numel() == weight.shape[0] else weight.float().transpose(0, 1)
    matrix = matrix.flatten(1)
    if matrix.shape != (u.numel(), v.numel()):
        return None
    largest = torch.dot(u.float(), matrix @ v.float())
    return target, (weight.float() / largest).to(weight.dtype), sources


def _unwrapped(prefix: str) -> str:
    """Return the name of the tensor that a parametrisation stands for; empty for another prefix."""
    module, marker, leaf = prefix.rpartition("parametrizations.")
    return f"{module}{leaf}" if marker and "." not in leaf else ""


def check_not_quantised(state: Mapping[str, Tensor]) -> None:
    """Refuse a state dict whose matrices are integers, or eight-bit numbers with scales.

    Raises:
        RejectedError: naming the tensor.
    """
    for name, tensor in state.items():
        if (
            tensor.ndim < 2
            or (tensor.is_floating_point() and tensor.dtype not in EIGHTHS)
            or tensor.dtype == torch.bool
            or tensor.is_complex()
        ):
            continue
        module, _, leaf = name.rpartition(".")
        prefix = f"{module}." if module else ""
        beside = [other[len(prefix) :] for other in state if other != name and other.startswith(prefix)]
        scaled = any(SCALES.search(other.lower()) for other in beside if other.count(".") < 2 and _belongs(leaf, other))
        if scaled or (leaf in MATRICES and not tensor.is_floating_point()):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise RejectedError("quantised", f"{name} is {kind}; save the network after dequantizing it")


def _belongs(leaf: str, other: str) -> bool:
    """Return whether a tensor lies in the module of a matrix, or below its name."""
    return "." not in other or other.startswith(f"{leaf}.")
