"""The layouts that a model was trained on."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
from torch import Tensor

from wscore.errors import ModelError
from wscore.io import write_json
from wscore.networks.layout import Layout, layout_of, read_layouts

LAYOUTS = "layouts.json"
NAMED = 8  # layouts that an error names


class KnownLayouts:
    """The layouts that a model was trained on.

    A file may store tensors in another order than the network (safetensors sorts them), which would look like an
    unknown layout.

    Args:
        known: by identity.
    """

    def __init__(self, known: Mapping[str, Layout]) -> None:
        self.known = dict(known)
        self._by_shapes = {_shapes(layout): layout for layout in self.known.values()}
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

    def ordered(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict in the order of the known layout with the same names and shapes, else unchanged."""
        known = self._by_shapes.get(_shapes(layout_of(state)))
        if known is None:
            return dict(state)
        return {name: state[name] for name in (*(spec.name for spec in known.tensors), *known.counters)}

    def check(self, layout: Layout) -> None:
        """Refuse a layout that the model was not trained on.

        Raises:
            ModelError: if so, with the layouts that it knows.
        """
        if layout.identity in self.known:
            return
        sizes = sorted({(known.size, len(known.tensors)) for known in self.known.values()})
        shown = ", ".join(f"{_size(*size)}" for size in sizes[:NAMED]) + (", ..." if len(sizes) > NAMED else "")
        raise ModelError(
            "the autoencoder was not trained on networks with these names and shapes of tensors",
            expected=f"one of its {len(self.known)} layouts ({shown})", got=_size(layout.size, len(layout.tensors)),
            fix="`wscore compress` takes any network",
        )  # fmt: skip


def _size(weights: int, tensors: int) -> str:
    return f"{weights:,} weights in {tensors} tensors"


def _ends(layout: Layout) -> list[tuple[int, int]]:
    """Return inputs (or channels) and outputs of each matrix and kernel."""
    return [(spec.shape[1], spec.shape[0]) for spec in layout.tensors if len(spec.shape) > 1]


def _shapes(layout: Layout) -> frozenset[tuple[str, tuple[int, ...]]]:
    return frozenset([*((spec.name, spec.shape) for spec in layout.tensors), *layout.counters.items()])
