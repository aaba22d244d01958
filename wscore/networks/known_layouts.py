"""The layouts that a model was trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.errors import ModelError
from wscore.io import write_json
from wscore.networks.layout import Layout, layout_of, read_layouts
from wscore.networks.naming import tensor_order

LAYOUTS = "layouts.json"
NAMED = 8  # layouts that an error names


class Match(NamedTuple):
    """A network whose layout a model knows, maybe by other names.

    Attributes:
        known: the layout.
        names: of each of its tensors, the name in the network.
    """

    known: Layout
    names: Mapping[str, str]

    def flatten(self, state: Mapping[str, Tensor]) -> Float[np.ndarray, " weights"]:
        """Return the weights of a network in the order of the known layout."""
        return self.known.flatten({known: state[name] for known, name in self.names.items()})

    def unflatten(self, vector: Float[Tensor, " weights"], layout: Layout) -> dict[str, Tensor]:
        """Return weights in the order of the known layout as a state dict in the names and the order of `layout`."""
        state = self.known.unflatten(vector)
        named = {name: state[known] for known, name in self.names.items()}
        counters = {name: torch.zeros(shape, dtype=torch.long) for name, shape in layout.counters.items()}
        return {**{spec.name: named[spec.name] for spec in layout.tensors}, **counters}


class KnownLayouts:
    """The layouts that a model was trained on.

    A file may store tensors in another order than the network (safetensors sorts them) or under other names, which would
    look like an unknown layout.

    Args:
        known: by identity.
    """

    def __init__(self, known: Mapping[str, Layout]) -> None:
        self.known = dict(known)
        self._by_shapes = {_shapes(layout): layout for layout in self.known.values()}
        self._by_sequence: dict[tuple[tuple[int, ...], ...], list[Layout]] = {}
        for _, layout in sorted(self.known.items()):
            self._by_sequence.setdefault(tuple(spec.shape for spec in layout.tensors), []).append(layout)
        self._ends = {
            (matrices[0][0], matrices[-1][1]) for layout in self.known.values() if (matrices := _ends(layout))
        }

    @classmethod
    def read(cls, folder: Path) -> "KnownLayouts":
        """Return the layouts in the layouts.json of a model folder; none without the file.

        Raises:
            DataError: if it holds something else.
        """
        path = Path(folder) / LAYOUTS
        return cls(read_layouts(path) if path.is_file() else {})

    def write(self, folder: Path) -> None:
        """Write them as layouts.json."""
        write_json(folder / LAYOUTS, {name: msgspec.to_builtins(self.known[name]) for name in sorted(self.known)})

    def __contains__(self, layout: Layout) -> bool:
        return _shapes(layout) in self._by_shapes

    def may_share_ends(self, layout: Layout) -> bool:
        """Return whether a network may take as many inputs and give as many outputs as one of known layout.

        Tensors may be in any order: it is enough that some matrices have these sizes.
        """
        matrices = _ends(layout)
        inputs, outputs = {first for first, _ in matrices}, {last for _, last in matrices}
        return any(first in inputs and last in outputs for first, last in self._ends)

    def match(self, layout: Layout) -> Match | None:
        """Return the known layout of the same names and shapes, or else of the same shapes and kinds in the same order.

        Tensors of other names are tried as they come, in natural order of their names, and with the matrix of each layer first.
        """
        known = self._by_shapes.get(_shapes(layout))
        if known is not None:
            return Match(known, {spec.name: spec.name for spec in known.tensors})
        given = {spec.name: spec for spec in layout.tensors}
        matrices_first = sorted(given, key=lambda name: (given[name].layer, -len(given[name].shape)))
        for names in (list(given), sorted(given, key=tensor_order), matrices_first):
            sequence = [given[name] for name in names]
            for other in self._by_sequence.get(tuple(spec.shape for spec in sequence), ()):
                pairs = list(zip(other.tensors, sequence, strict=True))
                if all(spec.kind in ("other", role.kind) for role, spec in pairs):
                    return Match(other, {role.name: spec.name for role, spec in pairs})
        return None

    def ordered(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict in the names and the order of the known layout of its shapes, else unchanged."""
        match = self.match(layout_of(state))
        if match is None:
            return dict(state)
        rest = [name for name, tensor in state.items() if not tensor.is_floating_point()]
        order = [name for name in match.known.counters if name in rest]
        counters = {name: state[name] for name in dict.fromkeys([*order, *rest])}
        return {**{known: state[name] for known, name in match.names.items()}, **counters}

    def require(self, layout: Layout) -> Match:
        """Return the known layout of the same shapes.

        Raises:
            ModelError: if there is none, with the layouts that are known.
        """
        match = self.match(layout)
        if match is not None:
            return match
        sizes = sorted({(known.size, len(known.tensors)) for known in self.known.values()})
        shown = ", ".join(f"{_size(*size)}" for size in sizes[:NAMED]) + (", ..." if len(sizes) > NAMED else "")
        raise ModelError(
            "the autoencoder was not trained on networks with these shapes of tensors",
            expected=f"one of its {len(self.known)} layouts ({shown})", got=_size(layout.size, len(layout.tensors)),
            fix="`wscore compress` takes any network",
        )  # fmt: skip


def _size(weights: int, tensors: int) -> str:
    return f"{weights:,} weights in {tensors} tensors"


def _ends(layout: Layout) -> list[tuple[int, int]]:
    """Return inputs (or channels) and outputs of each matrix and kernel."""
    return [(spec.shape[1], spec.shape[0]) for spec in layout.tensors if len(spec.shape) > 1]


def _shapes(layout: Layout) -> frozenset[tuple[str, tuple[int, ...]]]:
    return frozenset((spec.name, spec.shape) for spec in layout.tensors)
