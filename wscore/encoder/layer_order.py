"""Finds the order in which the layers of a network follow each other, whatever the order of the tensors in its file.

Files list tensors by module, or by name as safetensors does. Modules are ordered by the numbers in their names, and of the
same number a matrix comes before its normalisation and both before modules that hold others: `conv1`, `bn1`, `layer1.0`,
`layer2.0`, `fc`. Where these are no chain of layers, one is searched for whose shapes fit, in about this order, and that
enters no module twice.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from wscore.encoder.chain import NORMS, read_chains
from wscore.networks.layout import Kind, Layout, TensorSpec, layout_of
from wscore.networks.naming import natural, tensor_order

FIRST, LAST = (
    ("stem", "embed", "input", "patch", "encoder"),
    ("head", "classifier", "logits", "output", "final", "last"),
)
NUMBERED = re.compile(r"^(.*?)_?(\d+(?:_\d+)*)$")
MATRICES = ("linear", "conv")
MOST_STEPS = 2000  # of a search
MOST_MODULES = 400  # that are searched


class Module(NamedTuple):
    """The tensors of one layer.

    Attributes:
        path: components of its name.
        specs: its tensors.
        place: sorts modules by their names.
    """

    path: tuple[str, ...]
    specs: tuple[TensorSpec, ...]
    place: list[Any]

    @property
    def number(self) -> tuple[float, ...]:
        """Numbers at the end of its name."""
        return self.place[-1][1] if self.place else ()

    @property
    def is_norm(self) -> bool:
        """Whether it is a normalisation."""
        return all(spec.kind in NORMS for spec in self.specs)

    @property
    def outputs(self) -> int:
        """Number of units."""
        return self.specs[0].shape[0]


class Path(NamedTuple):
    """Layers that follow each other.

    Attributes:
        done: in order.
        rest: those that are left.
        layers: those that are done, without normalisation and shortcuts.
        last: the last of all that is no normalisation.
    """

    done: tuple[Module, ...]
    rest: tuple[Module, ...]
    layers: tuple[Module, ...]
    last: Module

    def to(self, module: Module, *, is_shortcut: bool = False) -> "Path":
        """Return the path with one more layer."""
        layers = self.layers if is_shortcut or module.is_norm else (*self.layers, module)
        rest = tuple(other for other in self.rest if other is not module)
        return Path((*self.done, module), rest, layers, self.last if module.is_norm else module)


def in_layer_order(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with its layers in the order of the network; equal for all orders of the given one.

    >>> import torch
    >>> state = {"head.weight": torch.ones(3, 8), "linear1.weight": torch.ones(8, 5), "linear1.bias": torch.ones(8)}
    >>> list(in_layer_order(state))
    ['linear1.weight', 'linear1.bias', 'head.weight']
    """
    tensors = sorted(layout_of(state).tensors, key=lambda spec: tensor_order(spec.name))
    kinds = tuple((spec.name, spec.shape, spec.kind) for spec in tensors)
    names = [*_names(kinds), *sorted(state.keys() - {spec.name for spec in tensors}, key=tensor_order)]
    return {name: state[name] for name in names}


@lru_cache(maxsize=256)  # networks of a folder are of few layouts
def _names(tensors: tuple[tuple[str, tuple[int, ...], Kind], ...]) -> list[str]:
    specs = [TensorSpec(name=name, shape=shape, kind=kind, layer=0) for name, shape, kind in tensors]
    return [spec.name for module in _modules(specs) for spec in module.specs]


def _modules(tensors: Sequence[TensorSpec]) -> Sequence[Module]:
    """Return the modules of a network in order."""
    specs: dict[tuple[str, ...], list[TensorSpec]] = {}
    for spec in tensors:
        specs.setdefault(tuple(spec.name.split(".")[:-1]), []).append(spec)
    children: dict[tuple[str, ...], set[str]] = {}
    for path in specs:
        for depth in range(len(path)):
            children.setdefault(path[:depth], set()).add(path[depth])
    modules = [Module(path, tuple(kept), _place(path, kept, children)) for path, kept in specs.items()]
    modules.sort(key=lambda module: module.place)
    return modules if _is_chain(modules) else _searched(modules) or modules


def _place(
    path: tuple[str, ...], specs: Sequence[TensorSpec], children: Mapping[tuple[str, ...], set[str]]
) -> list[Any]:
    """Return a key that sorts modules: by words for first and last, numbers, matrix before norm, and names."""
    key: list[Any] = []
    for depth, word in enumerate(path):
        has_matrix = any(spec.kind in MATRICES for spec in specs)
        holds = 2 if depth < len(path) - 1 else 1 - has_matrix
        key.append((_rank(word.lower()), _numbers(word, children[path[:depth]]), holds, natural(word)))
    return key


def _rank(word: str) -> int:
    """Return 0 for names of first layers, 2 for those of last ones, else 1."""
    return 0 if any(part in word for part in FIRST) else 1 + any(part in word for part in LAST)


def _numbers(word: str, siblings: set[str]) -> tuple[float, ...]:
    """Return the numbers at the end of a name: (0,) for `dense` beside `dense_1`, infinity without any."""
    match = NUMBERED.match(word)
    if match:
        return tuple(float(number) for number in match[2].split("_"))
    stems = {match[1] for name in siblings if (match := NUMBERED.match(name))}
    return (0.0,) if word in stems else (math.inf,)


def _is_chain(modules: Sequence[Module]) -> bool:
    tensors = [
        TensorSpec(name=spec.name, shape=spec.shape, kind=spec.kind, layer=number)
        for number, module in enumerate(modules)
        for spec in module.specs
    ]
    return bool(read_chains(Layout(tensors=tuple(tensors))))


def _searched(modules: Sequence[Module]) -> Sequence[Module] | None:
    """Return the modules as a chain, found depth first; None if there is none or none within a number of steps."""
    if len(modules) > MOST_MODULES or not all(module.is_norm or _is_layer(module) for module in modules):
        return None
    starts = [module for module in modules if not module.is_norm]
    produced = {module.outputs for module in starts}
    starts.sort(key=lambda start: (start.specs[0].shape[1] in produced, len(start.specs[0].shape) == 2, start.place))
    stack = [Path((), tuple(modules), (), start).to(start) for start in reversed(starts)]
    for _ in range(MOST_STEPS):
        if not stack:
            break
        path = stack.pop()
        if not path.rest and _is_chain(path.done):
            return path.done
        stack += reversed(list(_followed(path)))
    return None


def _is_layer(module: Module) -> bool:
    weight = module.specs[0]
    return weight.kind in MATRICES and len(weight.shape) in (2, 4) and all(s.kind == "bias" for s in module.specs[1:])


def _followed(path: Path) -> Iterator[Path]:
    """Yield the path with each layer that may come next, the likeliest first."""
    near = {module.path: _shared(path.last.path, module.path) for module in path.rest}
    if path.done[-1] is path.last:
        norms = [module for module in path.rest if module.is_norm and module.outputs == path.last.outputs]
        norms.sort(key=lambda norm: (-near[norm.path], norm.number != path.last.number, norm.place))
        yield from (path.to(norm) for norm in norms)
    layers = [module for module in path.rest if not module.is_norm]
    nearest = max((near[module.path] for module in layers), default=0)
    layers = [module for module in layers if near[module.path] == nearest]  # of the module that is not yet complete
    yield from (path.to(layer, is_shortcut=True) for layer in layers if _is_shortcut(path, layer.specs[0]))
    yield from (path.to(layer) for layer in layers if _takes(path.layers[-1].specs[0], layer.specs[0]))


def _shared(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """Return how many modules hold both."""
    depth = 0
    for one, other in zip(first[:-1], second[:-1], strict=False):
        if one != other:
            break
        depth += 1
    return depth


def _is_shortcut(path: Path, weight: TensorSpec) -> bool:
    """Return whether a 1 x 1 convolution leads from the input to the output of the last two layers, of other widths."""
    if len(path.layers) < 2:
        return False
    inputs, outputs = path.layers[-2].specs[0].shape[1], path.layers[-1].outputs
    return weight.shape[2:] == (1, 1) and weight.shape[:2] == (outputs, inputs) and inputs != outputs


def _takes(lower: TensorSpec, upper: TensorSpec) -> bool:
    """Return whether a layer may read the outputs of another."""
    units, inputs = lower.shape[0], upper.shape[1]
    if len(upper.shape) == 2:
        grid = inputs // units if len(lower.shape) == 4 else 1
        return inputs == units * grid and math.isqrt(grid) ** 2 == grid > 0
    return len(lower.shape) == 4 and (inputs == units or (inputs == 1 and upper.shape[0] == units))
