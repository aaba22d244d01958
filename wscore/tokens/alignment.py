"""Every network of a zoo in the order of units in which it lies closest to one reference of its layout.

Networks that compute the same function differ by the order of their hidden units, which an autoencoder would have to
remember. One reference per layout is chosen among the runs that are trained on; the last checkpoint of every run is
matched to it (`wscore.symmetry.matching`) and all checkpoints of the run take the order that was found, so that a run
stays one trajectory. Aligned networks compute what they computed before.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.config import convert, to_plain
from wscore.errors import DataError, ModelError, WscoreWarning
from wscore.io import read_json, read_tensors, write_json, write_tensors
from wscore.networks.architectures import build, parse
from wscore.networks.datasets import Tasks
from wscore.networks.layout import Layout
from wscore.parallel import Workers
from wscore.symmetry.activations import Activations, match_activations
from wscore.symmetry.matching import match_weights
from wscore.symmetry.spec import PermutationSpec
from wscore.symmetry.trace import derive_spec
from wscore.symmetry.verify import verify_spec
from wscore.tokens.unit_orders import (
    Matched,
    PerArchitecture,
    Placed,
    Placing,
    Reference,
    Scaling,
    Signs,
    example_of,
    permuted,
)
from wscore.zoo.store import Weights, Zoo

ADVICE = "set tokens.align to none"
TOGETHER = 512  # networks matched at once
HERE = Workers("tokens.parallel")  # this process


class Answers(NamedTuple):
    """What it takes to tell orders from the answers of units to images.

    Attributes:
        reference: (row of the reference, its architecture).
        architectures: of the networks that are matched.
        images: inputs (N, channels, height, width).
    """

    reference: tuple[int, str]
    architectures: np.ndarray
    images: Tensor


class Matching(NamedTuple):
    """Networks of one layout that are matched together, by whatever process.

    Attributes:
        weights: reads them.
        layout: of the networks.
        reference: what they are matched to.
        rows: their rows in the zoo.
        runs: their runs.
        symmetry: further symmetries of their architectures that are used up.
        answers: None tells orders from the weights.
        path: where the result is kept; None keeps it nowhere.
    """

    weights: Weights
    layout: Layout
    reference: Reference
    rows: np.ndarray
    runs: np.ndarray
    symmetry: PerArchitecture | None
    answers: Answers | None
    path: Path | None

    def find(self) -> Matched:
        """Return the orders, and signs where they are matched."""
        if self.answers is not None:
            return Matched.of(_match_answers(self, self.answers))
        vectors = _scaled(self.weights, self.layout, self.rows, self.runs, self.symmetry)
        if isinstance(self.symmetry, Signs):
            return self.symmetry.match(self.layout, self.reference, vectors, self.runs)
        return Matched.of(_match(self.layout, self.reference, vectors))


def match_part(job: Matching) -> Matched:
    """Return what is found for the networks of a job; what lies at its path already is read, not found again."""
    if job.path is None:
        return job.find()
    if not job.path.is_file():
        found = job.find()
        names = {f"{kind}/{group}": torch.from_numpy(part) for kind in found._fields
                 for group, part in getattr(found, kind).items()}  # fmt: skip
        write_tensors(job.path, names)
        return found
    parts: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in Matched._fields}
    for name, tensor in read_tensors(job.path).items():
        kind, _, group = name.partition("/")
        parts[kind][group] = tensor.numpy()
    return Matched(**parts)


class Alignment:
    """References by layout identity, and the orders that were found for the runs of one zoo.

    Attributes:
        references: reference of each layout; empty means that nothing is aligned.
        specs: which units of each layout may be reordered, known also of layouts that are not aligned.
    """

    def __init__(self, references: dict[str, Reference], specs: Mapping[str, PermutationSpec] | None = None) -> None:
        self.references = references
        self.specs = {**(specs or {}), **{name: reference.spec for name, reference in references.items()}}
        self.placed = Placed({}, None)

    @classmethod
    def fit(
        cls,
        zoo: Zoo,
        trained: np.ndarray,
        *,
        images: Tensor | Tasks | None = None,
        balanced: bool = False,
        signed: bool = False,
        workers: Workers = HERE,
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
            workers: match the networks, `TOGETHER` at once; what is found does not depend on them.

        Raises:
            ModelError: if the symmetry of a network can't be derived, naming the layer.
        """
        symmetry = Scaling(zoo) if balanced else Signs(zoo) if signed else None
        references, unknown = _references(zoo, trained, symmetry)
        alignment = cls({name: one for name, (one, _) in references.items()})
        jobs: list[Matching] = []
        for name, (_, row) in references.items():
            answers = None if images is None else _inputs(zoo, row, images)
            jobs += _matchings(zoo, name, (alignment.references[name], row, answers), symmetry)
        alignment.placed = Placed(_placings(jobs, workers), symmetry)
        if unknown:
            reason = "networks of unknown architecture can't be built again, so their symmetry is not known"
            warnings.warn(
                f"{unknown} of {len(zoo.layouts)} layouts are not aligned: {reason}", WscoreWarning, stacklevel=2
            )
        return alignment

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
        return _match(layout, self._reference(layout), vectors)

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
        assert set(self.references) == set(self.placed.placings), "orders of runs are known after `fit` only"
        return self.placed.apply_runs(layout, vectors, runs)

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
        return permuted(layout, self._reference(layout).spec, vectors, orders)

    def _reference(self, layout: Layout) -> Reference:
        if layout.identity not in self.references:
            known = sorted(self.references)
            raise DataError("no network of this layout was aligned", expected=known, got=layout.identity, fix=ADVICE)
        return self.references[layout.identity]


def _match(layout: Layout, reference: Reference, vectors: np.ndarray) -> dict[str, Tensor]:
    state = layout.unflatten(torch.from_numpy(np.ascontiguousarray(vectors)))
    return match_weights(reference.spec, layout.unflatten(torch.from_numpy(reference.vector)), state)


def _references(
    zoo: Zoo, trained: np.ndarray, symmetry: PerArchitecture | None
) -> tuple[dict[str, tuple[Reference, int]], int]:
    """Return reference and its row by layout, and the count of layouts of unknown architecture."""
    found: dict[str, tuple[Reference, int]] = {}
    unknown = 0
    for name in sorted(set(zoo.table["layout"].astype(str))):
        last = _last_rows(zoo, name)
        candidates = last[trained[last]]
        if not len(candidates):
            continue  # nothing to learn an order from: these networks stay as they are
        row = _choose(zoo, candidates)
        if not zoo.table["architecture"].iloc[row]:
            unknown += 1
            continue
        runs = zoo.table["run_id"].iloc[[row]].astype(str).to_numpy()
        vector = _scaled(zoo.reader, zoo.layouts[name], np.array([row]), runs, symmetry)[0]
        found[name] = Reference(_spec(zoo, name, row), vector), row
    return found, unknown


def _matchings(
    zoo: Zoo, layout: str, goal: tuple[Reference, int, Tensor | None], symmetry: PerArchitecture | None
) -> Iterator[Matching]:
    """Yield the jobs of one layout: the last checkpoints of its runs, `TOGETHER` at once."""
    reference, row, images = goal
    last = _last_rows(zoo, layout)
    names = zoo.table["architecture"]
    for rows in np.array_split(last, -(-len(last) // TOGETHER)):
        runs = zoo.table["run_id"].iloc[rows].astype(str).to_numpy()
        own = None if symmetry is None else symmetry.only(runs)
        known = names.iloc[rows].astype(str).to_numpy()
        answers = None if images is None else Answers((row, str(names.iloc[row])), known, images)
        yield Matching(zoo.reader, zoo.layouts[layout], reference, rows, runs, own, answers, None)


def _placings(jobs: list[Matching], workers: Workers) -> dict[str, Placing]:
    """Return what workers find, by layout."""
    if workers.shards is not None:
        jobs = [job._replace(path=workers.shards / f"orders-{n:05d}.safetensors") for n, job in enumerate(jobs)]
    parts: dict[str, list[Matched]] = {}
    runs: dict[str, list[str]] = {}
    for job, found in zip(jobs, workers.map(match_part, jobs), strict=True):
        parts.setdefault(job.layout.identity, []).append(found)
        runs.setdefault(job.layout.identity, []).extend(job.runs.tolist())
    specs = {job.layout.identity: job.reference.spec for job in jobs}
    return {
        name: Placing(specs[name], {run: row for row, run in enumerate(runs[name])}, Matched.join(some))
        for name, some in parts.items()
    }


def _finite(weights: Weights, rows: np.ndarray) -> np.ndarray:
    """Return weights for matching; values that are not finite count as zero here and are refused when they are cached."""
    return np.nan_to_num(weights.weights(rows), nan=0.0, posinf=0.0, neginf=0.0)


def _scaled(
    weights: Weights, layout: Layout, rows: np.ndarray, runs: np.ndarray, symmetry: PerArchitecture | None
) -> np.ndarray:
    vectors = _finite(weights, rows)
    return symmetry.apply(layout, vectors, runs) if isinstance(symmetry, Scaling) else vectors


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


def _match_answers(job: Matching, asked: Answers) -> dict[str, Tensor]:
    """Return the orders of networks of one layout, told from the answers of their units to images."""
    (reference, architecture), images, spec = asked.reference, asked.images, job.reference.spec
    own, shape = parse(architecture).input, tuple(images.shape[1:])
    if own != shape:
        fix = "set data to the images of the zoo, or tokens.align to weights"
        raise DataError("images do not fit the networks", where="tokens.align", expected=own, got=shape, fix=fix)

    def answers(name: str, members: np.ndarray) -> dict[str, Tensor]:
        state = job.layout.unflatten(torch.from_numpy(_finite(job.weights, members)))
        return Activations(build(name), spec, images).of(state)

    goal = answers(architecture, np.array([reference]))
    orders = {group: torch.zeros(len(job.rows), units, dtype=torch.int64) for group, units in spec.units.items()}
    for name in np.unique(asked.architectures).tolist():
        places = np.flatnonzero(asked.architectures == name)
        for group, order in match_activations(goal, answers(name, job.rows[places])).items():
            orders[group][torch.from_numpy(places)] = order
    return orders


def _last_rows(zoo: Zoo, layout: str) -> np.ndarray:
    """Return the row of the last checkpoint of each run of a layout."""
    return zoo.last_checkpoints(np.flatnonzero(zoo.table["layout"].astype(str) == layout))


def _choose(zoo: Zoo, rows: np.ndarray) -> int:
    """Return the row of the reference: of the runs that are trained on, the one with the best training accuracy."""
    if "train_accuracy" not in zoo.table:
        return int(rows[0])
    return int(rows[int(zoo.table["train_accuracy"].iloc[rows].fillna(-1).to_numpy().argmax())])


def _spec(zoo: Zoo, layout: str, row: int) -> PermutationSpec:
    """Return the spec of a layout, proven on one network."""
    text = str(zoo.table["architecture"].iloc[row])
    network = build(text)
    state = zoo.layouts[layout].unflatten(torch.from_numpy(_finite(zoo.reader, np.array([row]))[0]))
    network.load_state_dict(state)
    example = example_of(text)
    spec = derive_spec(network, example)
    verdict = verify_spec(network, spec, example, tolerance=1e-3)
    if not verdict.coupled < verdict.uncoupled:
        raise ModelError("the symmetry found does not couple its layers", where=text, got=verdict, fix=ADVICE)
    return spec
