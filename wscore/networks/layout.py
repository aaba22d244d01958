"""Layout of a network: the ordered tensors of its state dict and their positions in one flat float32 vector."""

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.errors import DataError
from wscore.io import content_hash, read_json

Size = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
Kind = Literal["linear", "conv", "bias", "norm_weight", "norm_bias", "running_mean", "running_var", "other"]
KINDS: tuple[str, ...] = get_args(Kind)


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor of a state dict.

    Args:
        name: key in the state dict.
        shape: its shape; the first axis indexes output units for layer weights.
        kind: role of the tensor.
        layer: index of the layer it belongs to; tensors of one module (weight, bias, running statistics) share it.
    """

    name: str
    shape: tuple[Size, ...]
    kind: Kind
    layer: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """The tensors of one network in state-dict order.

    Args:
        tensors: floating-point tensors, in the order of the flat vector.
        counters: names of integer tensors (such as `num_batches_tracked`); they carry no weights and are restored
            as zeros.

    >>> layout = layout_of({"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
    >>> layout.flatten({"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
    array([1., 1., 0.], dtype=float32)
    >>> layout.unflatten(torch.tensor([1.0, 2.0, 3.0]))
    {'weight': tensor([[1., 2.]]), 'bias': tensor([3.])}
    """

    tensors: tuple[TensorSpec, ...]
    counters: dict[str, tuple[Size, ...]] = {}

    @cached_property
    def size(self) -> int:
        """Number of weights D."""
        return sum(spec.size for spec in self.tensors)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Offset of each tensor in the flat vector."""
        ends = np.cumsum([0, *(spec.size for spec in self.tensors)])
        return tuple(int(end) for end in ends[:-1])

    @cached_property
    def identity(self) -> str:
        """Hash of names, shapes, kinds and layers; equal layouts have equal identities."""
        return content_hash(msgspec.json.encode(self))

    def slices(self) -> dict[str, slice]:
        """Return the slice of each tensor in the flat vector, by name."""
        pairs = zip(self.tensors, self.offsets, strict=True)
        return {spec.name: slice(offset, offset + spec.size) for spec, offset in pairs}

    def flatten(self, state: Mapping[str, Tensor]) -> Float[np.ndarray, " weights"]:
        """Return a state dict of this layout as one float32 vector (D,).

        Raises:
            DataError: if a tensor is missing or has another shape (the error names it).
        """
        vectors = []
        for spec in self.tensors:
            if spec.name not in state:
                raise DataError("tensor is missing from the state dict", where=spec.name, got=sorted(state))
            if tuple(state[spec.name].shape) != spec.shape:
                raise DataError("wrong shape", where=spec.name, expected=spec.shape, got=tuple(state[spec.name].shape))
            vectors.append(state[spec.name].detach().to("cpu", torch.float32).reshape(-1))
        return torch.cat(vectors).numpy()

    def unflatten(self, vector: Float[Tensor, "*batch weights"]) -> dict[str, Tensor]:
        """Return views of flat vectors (*batch, D) as a state dict of tensors (*batch, *shape), counters as zeros.

        Raises:
            DataError: if the vector does not have D entries.
        """
        if vector.shape[-1] != self.size:
            raise DataError("weight vector does not match the layout", expected=self.size, got=vector.shape[-1])
        lead = vector.shape[:-1]
        state = {
            spec.name: vector[..., offset : offset + spec.size].reshape((*lead, *spec.shape))
            for spec, offset in zip(self.tensors, self.offsets, strict=True)
        }
        for name, shape in self.counters.items():
            state[name] = torch.zeros((*lead, *shape), dtype=torch.long, device=vector.device)
        return state


def layout_of(state: Mapping[str, Tensor]) -> Layout:
    """Return the layout of a state dict: layers are numbered by module name, kinds are inferred from names and shapes.

    A one-dimensional `weight` belongs to a normalisation layer, as does a bias next to it; two-dimensional weights are
    linear, those with more axes convolutional.

    >>> layout = layout_of(torch.nn.Linear(3, 2).state_dict())
    >>> [(spec.name, spec.shape, spec.kind) for spec in layout.tensors]
    [('weight', (2, 3), 'linear'), ('bias', (2,), 'bias')]
    >>> layout.size
    8
    """
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in state))
    floating = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    specs = tuple(
        TensorSpec(
            name=name,
            shape=tuple(tensor.shape),
            kind=_kind(name, tensor, floating),
            layer=modules.index(name.rpartition(".")[0]),
        )
        for name, tensor in floating.items()
    )
    counters = {name: tuple(tensor.shape) for name, tensor in state.items() if not tensor.is_floating_point()}
    return Layout(tensors=specs, counters=counters)


def read_layouts(path: Path) -> dict[str, Layout]:
    """Return the layouts in a file layouts.json by their identities.

    Raises:
        DataError: if it is missing or holds something else.
    """
    try:
        return msgspec.convert(read_json(path), dict[str, Layout], strict=False)
    except msgspec.ValidationError as error:
        raise DataError("does not describe layouts", where=path, got=error) from error


def is_convolution(spec: TensorSpec) -> bool:
    """Return whether a tensor is the kernel of a convolution: a weight of three axes or more, not an embedding or a token."""
    leaf = spec.name.rpartition(".")[2]
    return spec.kind == "conv" and spec.shape[0] > 0 and (leaf == "weight" or leaf.endswith("kernel"))


def _kind(name: str, tensor: Tensor, state: Mapping[str, Tensor]) -> Kind:
    module, _, leaf = name.rpartition(".")
    sibling = state.get(f"{module}.weight" if module else "weight")
    normalises = sibling is not None and sibling.ndim == 1
    if leaf == "running_mean":
        return "running_mean"
    if leaf == "running_var":
        return "running_var"
    if leaf.endswith("bias") or leaf.startswith("bias_"):
        return "norm_bias" if normalises else "bias"
    if leaf == "weight" and tensor.ndim == 1:
        return "norm_weight"
    if tensor.ndim == 2:
        return "linear"
    return "conv" if tensor.ndim > 2 else "other"
