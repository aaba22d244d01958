"""Every network of a zoo in the order of units in which it lies closest to one reference of its layout.

Networks that compute the same function differ by the order of their hidden units, which an autoencoder would have to
remember. One reference per layout is chosen among the runs that are trained on; the last checkpoint of every run is
matched to it (`wscore.symmetry.matching`) and all checkpoints of the run take the order that was found, so that a run
stays one trajectory. Aligned networks compute what they computed before.
"""

import contextlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from wscore.config import convert, to_plain
from wscore.errors import DataError, ModelError, WscoreWarning
from wscore.io import read_json, read_tensors, write_json, write_tensors
from wscore.symmetry.activations import Activations, match_activations
from wscore.symmetry.matching import match_weights
from wscore.symmetry.scaling import ScalingSpec, balance, derive_scaling
from wscore.symmetry.signs import derive_signs, flip, match_signed
from wscore.symmetry.spec import PermutationSpec, permute
from wscore.symmetry.trace import derive_spec
from wscore.symmetry.verify import verify_spec
from wscore.zoo.architectures import build, parse
from wscore.zoo.layout import Layout
from wscore.zoo.store import Zoo
from wscore.zoo.tasks import Tasks

ADVICE = "set tokens.align to none"
TOGETHER = 512  # networks matched at once
State = dict[str, Tensor]
Derive = Callable[[nn.Module, PermutationSpec, Tensor], ScalingSpec | None]


class Reference(NamedTuple):
    """What networks of one layout are matched to.

    Attributes:
        spec: which units may be reordered.
        vector: flat weights of the reference network.
    """

    spec: PermutationSpec
    vector: Float32[np.ndarray, " weights"]


class _Orders(NamedTuple):
    """The orders found for the runs of one layout, in two bytes per unit where that is enough.

    Attributes:
        places: row of each run in the arrays.
        orders: by group, (runs, units).
    """

    places: dict[str, int]
    orders: dict[str, np.ndarray]

    @classmethod
    def of(cls, runs: list[str], parts: list[dict[str, Tensor]]) -> "_Orders":
        """Gather the orders of parts of the runs, one after the other."""
        kinds = {group: np.int16 if order.shape[1] < 1 << 15 else np.int64 for group, order in parts[0].items()}
        orders = {
            group: np.concatenate([part[group].numpy().astype(kind) for part in parts]) for group, kind in kinds.items()
        }
        return cls({run: place for place, run in enumerate(runs)}, orders)

    def find(self, runs: np.ndarray) -> dict[str, Tensor]:
        """Return the orders (networks, units) of some runs by group."""
        rows = [self.places[str(run)] for run in runs]
        return {group: torch.from_numpy(order[rows].astype(np.int64)) for group, order in self.orders.items()}


class PerArchitecture(ABC):
    """What networks of one layout share that differ in their architecture: of a zoo, told by run.

    Args:
        zoo: the networks; their architectures are told by run.
        derive: what is looked for in a network, from (network, permutation symmetry, example inputs).
    """

    def __init__(self, zoo: Zoo, derive: Derive) -> None:
        table = zoo.table.drop_duplicates(subset="run_id")
        names = table["run_id"].astype(str), table["architecture"].astype(str)
        self.architectures = dict(zip(*names, strict=True))
        self.derive, self.specs = derive, dict[str, ScalingSpec | None]({"": None})

    def groups(self, runs: np.ndarray) -> Iterator[tuple[np.ndarray, ScalingSpec | None]]:
        """Yield for each architecture the places of its networks, told by their runs, and what was found in it."""
        names = np.array([self.architectures[str(run)] for run in runs])
        for name in np.unique(names).tolist():
            if name not in self.specs:
                network, example = build(name), _example(name)
                self.specs[name] = self.derive(network, derive_spec(network, example), example)
            yield np.flatnonzero(names == name), self.specs[name]

    def apply(
        self, layout: Layout, vectors: Float[np.ndarray, "networks weights"], runs: np.ndarray
    ) -> Float[np.ndarray, "networks weights"]:
        """Return networks of one layout, those moved in whose architecture something was found."""
        result = np.array(vectors, np.float32)
        for places, spec in self.groups(runs):
            if spec is not None:
                state = layout.unflatten(torch.from_numpy(result[places]))
                result[places] = _flat(layout, self.moved(layout, spec, state, runs[places]))
        return result

    @abstractmethod
    def moved(self, layout: Layout, spec: Any, state: State, runs: np.ndarray) -> State:
        """Return stacked networks (networks, *shape) of one architecture with the symmetry that was found used up."""


class Scaling(PerArchitecture):
    """Balances the ReLU networks of a zoo; the others, and those of unknown architecture, stay as they are.

    Args:
        zoo: the networks.
    """

    def __init__(self, zoo: Zoo) -> None:
        super().__init__(zoo, derive_scaling)

    def moved(self, layout: Layout, spec: Any, state: State, runs: np.ndarray) -> State:  # noqa: ARG002
        """Return networks with balanced units."""
        return balance(spec, state)


class Signs(PerArchitecture):
    """Matches the signs of hidden units along with their order, where activations are odd (`wscore.symmetry.signs`).

    Args:
        zoo: the networks.
    """

    def __init__(self, zoo: Zoo) -> None:
        super().__init__(zoo, derive_signs)
        self._found: dict[tuple[str, str], dict[str, Tensor]] = {}

    def match(
        self, layout: Layout, reference: Reference, vectors: Float[np.ndarray, "networks weights"], runs: np.ndarray
    ) -> dict[str, Tensor]:
        """Return the orders (networks, units) by group of networks of one layout; signs are kept for their runs."""
        orders = {group: torch.zeros(len(runs), units).long() for group, units in reference.spec.units.items()}
        goal = layout.unflatten(torch.from_numpy(reference.vector))
        for places, flips in self.groups(runs):
            found = match_signed(reference.spec, flips, goal, layout.unflatten(torch.from_numpy(vectors[places])))
            for group, order in found.orders.items():
                orders[group][torch.from_numpy(places)] = order
            for number, place in enumerate(places):
                self._found[layout.identity, str(runs[place])] = {g: s[number] for g, s in found.signs.items()}
        return orders

    def moved(self, layout: Layout, spec: Any, state: State, runs: np.ndarray) -> State:
        """Return networks, already in their order, with the signs that were found for their runs."""
        found = [self._found[layout.identity, str(run)] for run in runs]
        return flip(spec, state, {group: torch.stack([sign[group] for sign in found]) for group in spec.units})


class Alignment:
    """References by layout identity, and the orders that were found for the runs of one zoo.

    Attributes:
        references: reference of each layout; empty means that nothing is aligned.
        specs: which units of each layout may be reordered, known also of layouts that are not aligned.
    """

    def __init__(self, references: dict[str, Reference], specs: Mapping[str, PermutationSpec] | None = None) -> None:
        self.references = references
        self.specs = {**(specs or {}), **{name: reference.spec for name, reference in references.items()}}
        self._orders: dict[str, _Orders] = {}
        self._scaling: Scaling | None = None
        self._signs: Signs | None = None

    @classmethod
    def fit(
        cls,
        zoo: Zoo,
        trained: np.ndarray,
        *,
        images: Tensor | Tasks | None = None,
        balanced: bool = False,
        signed: bool = False,
    ) -> "Alignment":
        """Return the alignment of a zoo; references come from the rows marked in `trained` (one flag per row).

        Layouts without a run to train on stay as they are, and so, with a warning, do those of unknown architecture.

        Args:
            zoo: the networks.
            trained: flags of the rows that are trained on.
            images: orders are told from the answers to these inputs (N, channels, height, width) instead of the weights;
                of several data sets those of the reference are asked, for all networks of its layout.
            balanced: whether the scales of ReLU networks are balanced first (`wscore.symmetry.scaling`).
            signed: whether the signs of units with odd activations are matched too (`wscore.symmetry.signs`).

        Raises:
            ModelError: if the symmetry of a network can't be derived, naming the layer.
        """
        alignment, unknown = cls({}), 0
        alignment._scaling, alignment._signs = Scaling(zoo) if balanced else None, Signs(zoo) if signed else None
        for name in sorted(set(zoo.table["layout"].astype(str))):
            layout = zoo.layouts[name]
            last = _last_rows(zoo, name)
            candidates = last[trained[last]]
            if not len(candidates):
                continue  # nothing to learn an order from: these networks stay as they are
            reference = _choose(zoo, candidates)
            if not zoo.table["architecture"].iloc[reference]:
                unknown += 1
                continue
            alignment.specs[name] = spec = _spec(zoo, name, reference)
            vector = _scaled(zoo, layout, np.array([reference]), alignment._scaling)[0]
            alignment.references[name] = Reference(spec, vector)
            parts = []
            for rows in np.array_split(last, -(-len(last) // TOGETHER)):
                answers = None if images is None else (reference, _inputs(zoo, reference, images))
                parts.append(alignment._find_orders(zoo, layout, rows, answers))
            alignment._orders[name] = _Orders.of(zoo.table["run_id"].iloc[last].astype(str).tolist(), parts)
        if unknown:
            reason = "networks of unknown architecture can't be built again, so their symmetry is not known"
            warnings.warn(
                f"{unknown} of {len(zoo.layouts)} layouts are not aligned: {reason}", WscoreWarning, stacklevel=2
            )
        return alignment

    def _find_orders(
        self, zoo: Zoo, layout: Layout, rows: np.ndarray, answers: tuple[int, Tensor] | None
    ) -> dict[str, Tensor]:
        """Return the orders of the runs of these rows, the last ones of theirs, by weights or (reference row, images)."""
        reference = self.references[layout.identity]
        if answers is not None:
            return _match_answers(zoo, layout, reference.spec, answers[0], rows, answers[1])
        vectors = _scaled(zoo, layout, rows, self._scaling)
        if self._signs is None:
            return self.match(layout, vectors)
        return self._signs.match(layout, reference, vectors, zoo.table["run_id"].iloc[rows].astype(str).to_numpy())

    @classmethod
    def symmetries(cls, zoo: Zoo) -> "Alignment":
        """Return an alignment that leaves networks as they are and knows their symmetry, where that can be derived."""
        specs: dict[str, PermutationSpec] = {}
        for architecture, layout, rows in zoo.families():
            if architecture and layout.identity not in specs:
                with contextlib.suppress(ModelError):
                    specs[layout.identity] = _spec(zoo, layout.identity, int(rows[0]))
        return cls({}, specs)

    def match(self, layout: Layout, vectors: Float[np.ndarray, "networks weights"]) -> dict[str, Tensor]:
        """Return the orders (networks, units) by group that bring networks closest to the reference of their layout.

        Raises:
            DataError: if there is no reference for the layout.
        """
        reference = self._reference(layout)
        state = layout.unflatten(torch.from_numpy(np.ascontiguousarray(vectors)))
        return match_weights(reference.spec, layout.unflatten(torch.from_numpy(reference.vector)), state)

    def apply(
        self, layout: Layout, vectors: Float[np.ndarray, "networks weights"]
    ) -> Float[np.ndarray, "networks weights"]:
        """Return networks matched to the reference one by one; those of a layout without reference as they are."""
        known = layout.identity in self.references and len(vectors) > 0
        return self.permute(layout, vectors, self.match(layout, vectors)) if known else vectors

    def apply_runs(
        self, layout: Layout, vectors: Float[np.ndarray, "networks weights"], runs: np.ndarray
    ) -> Float[np.ndarray, "networks weights"]:
        """Return networks of the zoo, each in the order (and with the signs) found for its run."""
        if layout.identity not in self.references or not len(vectors):
            return vectors
        if self._scaling is not None:
            vectors = self._scaling.apply(layout, vectors, runs)
        ordered = self.permute(layout, vectors, self._orders[layout.identity].find(runs))
        return ordered if self._signs is None else self._signs.apply(layout, ordered, runs)

    def save(self, folder: Path) -> None:
        """Write references.safetensors and symmetry.json."""
        vectors = {name: torch.from_numpy(one.vector) for name, one in self.references.items()}
        write_tensors(folder / "references.safetensors", vectors)
        write_json(folder / "symmetry.json", {name: to_plain(spec) for name, spec in self.specs.items()})

    @classmethod
    def load(cls, folder: Path) -> "Alignment":
        """Return the alignment saved in a folder; it can match other networks of the same layouts.

        Raises:
            DataError: if a file is missing or unreadable.
        """
        where = folder / "symmetry.json"
        specs = {name: convert(plain, PermutationSpec, where=str(where)) for name, plain in read_json(where).items()}
        vectors = read_tensors(folder / "references.safetensors")
        return cls({name: Reference(specs[name], vector.numpy()) for name, vector in vectors.items()}, specs)

    def permute(
        self, layout: Layout, vectors: Float[np.ndarray, "networks weights"], orders: dict[str, Tensor]
    ) -> Float[np.ndarray, "networks weights"]:
        """Return networks in given orders (networks, units) by group.

        Raises:
            DataError: if there is no reference for the layout.
        """
        spec = self._reference(layout).spec
        return _flat(layout, permute(spec, layout.unflatten(torch.from_numpy(np.ascontiguousarray(vectors))), orders))

    def _reference(self, layout: Layout) -> Reference:
        if layout.identity not in self.references:
            known = sorted(self.references)
            raise DataError("no network of this layout was aligned", expected=known, got=layout.identity, fix=ADVICE)
        return self.references[layout.identity]


def _flat(layout: Layout, state: Mapping[str, Tensor]) -> np.ndarray:
    """Return stacked state dicts as vectors (networks, weights)."""
    return torch.cat([state[tensor.name].flatten(1) for tensor in layout.tensors], dim=1).numpy()


def _finite(zoo: Zoo, rows: np.ndarray) -> np.ndarray:
    """Return weights for matching; values that are not finite count as zero here and are refused when they are cached."""
    return np.nan_to_num(zoo.weights(rows), nan=0.0, posinf=0.0, neginf=0.0)


def _scaled(zoo: Zoo, layout: Layout, rows: np.ndarray, scaling: Scaling | None) -> np.ndarray:
    runs = zoo.table["run_id"].astype(str).to_numpy()[rows]
    return _finite(zoo, rows) if scaling is None else scaling.apply(layout, _finite(zoo, rows), runs)


def _inputs(zoo: Zoo, reference: int, images: Tensor | Tasks) -> Tensor:
    """Return the training images of the reference."""
    if isinstance(images, Tensor):
        return images
    name = str(zoo.table["dataset"].iloc[reference]) if "dataset" in zoo.table else ""
    found = images.of(images.key(name))
    if found is None:
        expected = ", ".join(one.name for one in images.images)
        fix = "name it in data.dataset, or set tokens.align to weights"
        raise DataError(
            "no images of the data set of a network", where="tokens.align", expected=expected, got=name, fix=fix
        )
    return found.x_train


def _match_answers(
    zoo: Zoo, layout: Layout, spec: PermutationSpec, reference: int, rows: np.ndarray, images: Tensor
) -> dict[str, Tensor]:
    """Return the orders of rows of one layout, told from the answers of their units to images."""
    names = zoo.table["architecture"].astype(str).to_numpy()
    own, shape = parse(names[reference]).input, tuple(images.shape[1:])
    if own != shape:
        fix = "set data to the images of the zoo, or tokens.align to weights"
        raise DataError("images do not fit the networks", where="tokens.align", expected=own, got=shape, fix=fix)

    def answers(name: str, members: np.ndarray) -> dict[str, Tensor]:
        state = layout.unflatten(torch.from_numpy(_finite(zoo, members)))
        return Activations(build(name), spec, images).of(state)

    goal = answers(names[reference], np.array([reference]))
    orders = {group: torch.zeros(len(rows), units, dtype=torch.int64) for group, units in spec.units.items()}
    for name in np.unique(names[rows]).tolist():
        places = np.flatnonzero(names[rows] == name)
        for group, order in match_activations(goal, answers(name, rows[places])).items():
            orders[group][torch.from_numpy(places)] = order
    return orders


def _example(architecture: str) -> Tensor:
    return torch.rand(4, *parse(architecture).input, generator=torch.Generator().manual_seed(0))


def _last_rows(zoo: Zoo, layout: str) -> np.ndarray:
    """Return the row of the last checkpoint of each run of a layout."""
    table = zoo.table[zoo.table["layout"].astype(str) == layout]
    return np.sort(table.groupby("run_id", sort=False)["checkpoint"].idxmax().to_numpy())


def _choose(zoo: Zoo, rows: np.ndarray) -> int:
    """Return the row of the reference: of the runs that are trained on, the one with the best training accuracy."""
    if "train_accuracy" not in zoo.table:
        return int(rows[0])
    return int(rows[int(zoo.table["train_accuracy"].iloc[rows].fillna(-1).to_numpy().argmax())])


def _spec(zoo: Zoo, layout: str, row: int) -> PermutationSpec:
    """Return the spec of a layout, proven on one network."""
    text = str(zoo.table["architecture"].iloc[row])
    network = build(text)
    state = zoo.layouts[layout].unflatten(torch.from_numpy(_finite(zoo, np.array([row]))[0]))
    network.load_state_dict(state)
    example = _example(text)
    spec = derive_spec(network, example)
    verdict = verify_spec(network, spec, example, tolerance=1e-3)
    if not verdict.coupled < verdict.uncoupled:
        raise ModelError("the symmetry found does not couple its layers", where=text, got=verdict, fix=ADVICE)
    return spec
