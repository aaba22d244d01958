"""Rebuilds imported networks with functions listed in params.yaml, and resolves how to run any network of a zoo.

`data.factories: {NAME: "package.module:function"}` is the list of all functions that may be imported. The column
`factory` of a zoo selects the one for each row: a name, or JSON `{"name": NAME, "arguments": {...}}` whose arguments are
passed to the function, which returns an `nn.Module` that maps images to logits.
"""

import importlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from wscore.errors import ConfigError, DataError
from wscore.networks.architectures import build, parse
from wscore.networks.checkpoints import BROKEN, shown
from wscore.networks.images import Images
from wscore.networks.inference import Answer, ModuleAnswer, StackedAnswer, differentiable, logits
from wscore.networks.layout import Layout
from wscore.networks.selection import is_weight

EXAMPLES = 2  # images and networks used to test an imported network


class Built(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parsed value of the column `factory`: a key of `data.factories` and keyword arguments of that function."""

    name: str
    arguments: dict[str, Any] = {}

    def to_json(self) -> str:
        """Return the JSON stored in the column `factory`."""
        return msgspec.json.encode(self, order="sorted").decode()


class NetworkRunner(NamedTuple):
    """How to run networks that differ only in their weights.

    Attributes:
        answer: runs them with gradients; None if they cannot be run.
        reason: why they cannot be run, or empty.
    """

    answer: Answer | None
    reason: str = ""

    def logits(self, weights: Tensor, images: Tensor) -> Tensor:
        """Return the logits (n, I, C) of networks (n, D) on shared images (I, ...), without gradients."""
        assert self.answer is not None
        return logits(self.answer, weights, images)


UNKNOWN = NetworkRunner(None, "the architecture is unknown")


def import_factory(name: str, target: str, *, where: str | None = None) -> Callable[..., nn.Module]:
    """Return a function listed in `data.factories`, or named elsewhere.

    Raises:
        ConfigError: with key and module if it cannot be imported.
    """
    module, _, function = target.partition(":")
    fix = "name a function that can be imported from the root of the repository"
    where = where or f"data.factories.{name}"
    try:
        factory: Any = getattr(importlib.import_module(module), function)
    except BROKEN as error:
        raise ConfigError("cannot be imported", where=where, got=f"{target}: {shown(error)}", fix=fix) from error
    if not isinstance(factory, Callable):
        raise ConfigError("is not a function", where=where, got=f"{target}: {type(factory).__name__}", fix=fix)
    return factory


def named(text: str) -> Built:
    """Parse a cell of the column `factory`: JSON, or a plain name.

    Raises:
        DataError: if it is malformed JSON.
    """
    if not text.lstrip().startswith("{"):
        return Built(name=text)
    try:
        return msgspec.json.decode(text, type=Built)
    except (ValueError, RecursionError) as error:
        expected = 'a name or {"name": ..., "arguments": {...}}'
        raise DataError("does not specify a factory", where="factory", expected=expected, got=text[:80]) from error


def find_way(
    architecture: str, factory: str, layout: Layout, images: Images, factories: Mapping[str, str]
) -> NetworkRunner:
    """Return how networks of a layout are run on some images.

    Args:
        architecture: JSON for `parse`, or empty.
        factory: cell of the column `factory`, or empty; used if there is no architecture.
        layout: of their weights.
        images: input images.
        factories: all that may be imported.

    Raises:
        ConfigError: if a factory cannot be imported.
    """
    made, reason = try_to_build(architecture, factory, layout, factories)
    if made is None:
        return NetworkRunner(None, reason)
    return _known_way(architecture, layout, images) if architecture else _tried(differentiable(made), layout, images)


def try_to_build(
    architecture: str, factory: str, layout: Layout, factories: Mapping[str, str]
) -> tuple[nn.Module | None, str]:
    """Return a network whose state dict matches a layout, or why there is none.

    Raises:
        ConfigError: if a factory cannot be imported.
    """
    if not architecture and not factory:
        return None, UNKNOWN.reason
    try:
        if architecture:
            module: nn.Module = build(architecture)
        else:
            made = named(factory)
            if made.name not in factories:
                return None, f"data.factories does not list {made.name!r}"
            module = build_foreign(made.to_json(), factories[made.name])
    except DataError as error:
        return None, str(error)
    reason = misfit(module.state_dict(), layout)
    return (None, reason) if reason else (module, "")


@lru_cache(maxsize=64)
def build_foreign(text: str, target: str) -> nn.Module:
    """Return the network built by the function `target` with the arguments in `text`.

    Raises:
        ConfigError: if the function cannot be imported.
        DataError: if it fails, or returns something else.
    """
    made = named(text)
    function = import_factory(made.name, target)
    try:
        with torch.random.fork_rng(devices=[]):
            module = function(**made.arguments)
    except BROKEN as error:
        raise DataError(f"{target} fails", where=text, got=shown(error)) from error
    if not isinstance(module, nn.Module):
        raise DataError(f"{target} returns no network", where=text, expected="nn.Module", got=type(module).__name__)
    return module


def misfit(state: Mapping[str, Tensor], layout: Layout) -> str:
    """Describe how a layout fails to match a state dict; empty if it matches.

    Masks and index tables may be missing from the layout: they belong to the architecture.
    """
    expected = {spec.name: spec.shape for spec in layout.tensors}
    actual = {name: tuple(tensor.shape) for name, tensor in state.items() if tensor.is_floating_point()}
    foreign = [name for name in expected if name not in actual]
    if foreign:
        return f"the network has no {foreign[0]}"
    missing = [name for name in actual if name not in expected and is_weight(name, state[name])]
    if missing:
        return f"{missing[0]} of the network is not among the weights"
    differing = next((name for name, shape in expected.items() if actual[name] != shape), None)
    if differing is None:
        return ""
    return f"{differing} has the shape {expected[differing]}, that of the network {actual[differing]}"


def _known_way(text: str, layout: Layout, images: Images) -> NetworkRunner:
    known, shape = parse(text), tuple(images.x_train.shape[1:])
    if known.input != shape or known.classes != images.classes:
        got = f"{shape} in {images.classes} classes"
        return NetworkRunner(
            None, f"made for images {known.input} in {known.classes} classes, those of {images.name} are {got}"
        )
    return NetworkRunner(StackedAnswer(known, layout))


def _tried(module: nn.Module, layout: Layout, images: Images) -> NetworkRunner:
    """Return how an imported network is run: vectorised, or one by one where that fails."""
    weights = torch.from_numpy(layout.flatten(module.state_dict()))
    examples, reason = images.x_train[:EXAMPLES][None], ""
    for alone in (False, True):
        answer = ModuleAnswer(module, layout, alone=alone)
        try:
            with torch.no_grad():
                outputs = answer(weights.expand(EXAMPLES, -1), examples)
        except BROKEN as error:
            reason = f"fails on the images of {images.name}: {shown(error)}"
            continue
        if outputs.ndim != 3 or outputs.shape[:2] != (EXAMPLES, len(examples[0])) or outputs.shape[2] < images.classes:
            got = tuple(outputs.shape[1:])
            return NetworkRunner(
                None,
                f"returns {got} for {len(examples[0])} images of {images.name}, not logits of {images.classes} classes",
            )
        return NetworkRunner(answer)
    return NetworkRunner(None, reason)
