"""One name, order and orientation of the tensors of a network, whichever program and format it comes from."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from wscore.networks.records import RejectedError

WRAPPING = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module", "_forward_module"}
LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
FLAX = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}


@lru_cache(maxsize=1 << 16)  # names recur from file to file
def tensor_order(name: str) -> tuple[list[Any], int, list[Any], str]:
    """Return a key that sorts tensors by module, layer 2 before layer 10, and within it by what they are."""
    module, _, leaf = name.rpartition(".")
    place = LEAVES.index(leaf) if leaf in LEAVES else len(LEAVES)
    return [natural(word) for word in module.split(".")], place, natural(leaf), name


def natural(text: str) -> list[tuple[int, Any]]:
    """Return a key that sorts numbers in texts by value."""
    return [(0, int(piece)) if piece.isdecimal() else (1, piece) for piece in re.split(r"(\d+)", text)]


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without the names of wrappers (compiling, data parallelism, sharding, averaging) at any depth.

    Kernels of flax come with outputs first under the names of PyTorch.

    Raises:
        RejectedError: if two tensors would have one name.
    """
    named = _without_module({_without_wrapping(name): name for name in state}, state)
    if len(named) < len(state):
        seen: set[str] = set()
        double = next(new for new in map(_without_wrapping, state) if new in seen or seen.add(new))
        raise RejectedError("clash", double)
    return _from_flax({new: state[name] for new, name in named.items()})


def outputs_first(leaf: str, tensor: Tensor) -> Tensor:
    """Return a kernel (..., in, out) as (out, in, ...), one of each channel by itself (..., in, k) as (in k, 1, ...)."""
    axes = range(tensor.ndim - 2)
    if not leaf.endswith("kernel") or tensor.ndim < 2:
        return tensor
    if leaf == "depthwise_kernel":
        return tensor.permute(-2, -1, *axes).reshape(-1, 1, *tensor.shape[:-2]).contiguous()
    return tensor.permute(-1, -2, *axes).contiguous()


def native(dtype: np.dtype) -> np.dtype:
    """Return a type that torch has: its own byte order, and no extended or unsigned long numbers."""
    if dtype.kind == "f":
        return np.dtype(f"f{min(dtype.itemsize, 8)}")
    return np.dtype(bool) if dtype.kind == "b" else np.dtype(np.int64)


def _without_wrapping(name: str) -> str:
    return ".".join(module for module in name.split(".") if module not in WRAPPING) if "_" in name else name


def _without_module(named: dict[str, str], state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return names without `module` wherever nothing else lies beside it but counters."""
    if not any("module" in name for name in named):
        return named
    inner: dict[tuple[str, ...], set[str]] = {}
    paths = {name: tuple(name.split(".")) for name in named}
    for name, path in paths.items():
        for depth in range(len(path) if state[named[name]].is_floating_point() else 0):
            inner.setdefault(path[:depth], set()).add(path[depth])
    renamed: dict[str, str] = {}
    for name, path in paths.items():
        lone = [inner.get(path[:depth]) == {"module"} and depth < len(path) - 1 for depth in range(len(path))]
        new = ".".join(level for level, gone in zip(path, lone, strict=True) if not (gone and level == "module"))
        renamed[new if new not in renamed else name] = named[name]
    return renamed


def _from_flax(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return parameters of flax by PyTorch's names, kernels with outputs first; all else as it is."""
    kernels = [name for name in state if name.rpartition(".")[2] == "kernel"]
    if not kernels or not all(_fits(state, name) for name in kernels):
        return state
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        new = FLAX.get(leaf, leaf)
        renamed[f"{module}.{new}" if module else new] = outputs_first(leaf, tensor)
    return renamed if len(renamed) == len(state) else state


def _fits(state: Mapping[str, Tensor], kernel: str) -> bool:
    """Return whether the last axes of a kernel count outputs, as its bias does where there is one."""
    bias = state.get(kernel.removesuffix("kernel") + "bias")
    shape = tuple(state[kernel].shape)
    return len(shape) > 1 and (bias is None or shape[len(shape) - bias.ndim :] == tuple(bias.shape))
