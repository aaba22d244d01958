"""Alignment of a zoo: permutes the hidden units of every network to match a reference network of its layout.

Networks with the same function can differ in the order of their hidden units, which an autoencoder would have to encode.
One reference per layout is chosen among the training runs. The last checkpoint of every run is matched to it
(`wscore.symmetry.matching`), and all checkpoints of the run are permuted by the same order, so that a run remains one
trajectory. Alignment does not change the function of a network.
"""

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wscore.config import Section, convert, to_plain
from wscore.errors import DataError, ModelError, WscoreWarning
from wscore.io import read_json, read_tensors, write_json, write_tensors
from wscore.networks.architectures import build, parse
from wscore.networks.layout import Layout
from wscore.parallel import Workers
from wscore.symmetry.matching import match_weights
from wscore.symmetry.spec import PermutationSpec
from wscore.symmetry.trace import derive_spec
from wscore.symmetry.verify import verify_spec
from wscore.tokens.unit_orders import Orders, Placed, Placing, Reference, compact, join_orders, permuted
from wscore.zoo.store import Weights, Zoo

ADVICE = "set tokens.align to none"
TOGETHER = 512  # networks matched at once
HERE = Workers("tokens.parallel")  # this process


class Matching(NamedTuple):
    """Networks of one layout that are matched together.

    Attributes:
        weights: reader of the networks.
        layout: of the networks.
        reference: to match them to.
        rows: their rows in the zoo.
        runs: their runs.
        path: file of the result; None does not save it.
    """

    weights: Weights
    layout: Layout
    reference: Reference
    rows: np.ndarray
    runs: np.ndarray
    path: Path | None

    def find(self) -> Orders:
        """Return the orders of the networks."""
        return compact(_match(self.layout, self.reference, _finite(self.weights, self.rows)))


def match_part(job: Matching) -> Orders:
    """Return the orders of the networks of a job; an existing result at its path is reused."""
    if job.path is None:
        return job.find()
    if not job.path.is_file():
        write_tensors(job.path, {group: torch.from_numpy(order) for group, order in job.find().items()})
    return {group: order.numpy() for group, order in read_tensors(job.path).items()}


class Alignment:
    """References by layout identity, and the matched unit orders of the runs of one zoo.

    Attributes:
        references: reference of each layout; empty without alignment.
        specs: permutation spec of each layout, also of layouts that are not aligned.
    """

    def __init__(self, references: dict[str, Reference], specs: Mapping[str, PermutationSpec] | None = None) -> None:
        self.references = references
        self.specs = {**(specs or {}), **{name: reference.spec for name, reference in references.items()}}
        self.placed = Placed()

    @classmethod
    def fit(cls, zoo: Zoo, trained: np.ndarray, *, workers: Workers = HERE) -> "Alignment":
        """Return the alignment of a zoo; references are chosen among the rows marked in `trained` (one flag per row).

        Layouts without a training run are not aligned, only their symmetry is derived; with a warning, nor are those of
        unknown architecture.

        Args:
            zoo: the networks.
            trained: flags of the rows in the training split.
            workers: that match the networks, `TOGETHER` at once; they do not affect the result.

        Raises:
            ModelError: if the symmetry of a network can't be derived, naming the layer.
        """
        references, unknown = _references(zoo, trained)
        alignment = cls(references, _symmetries(zoo, known=references))
        jobs = [job for name, reference in references.items() for job in _matchings(zoo, name, reference)]
        alignment.placed = _placings(jobs, workers)
        if unknown:
            reason = "networks of unknown architecture can't be rebuilt, so their symmetry is not known"
            warnings.warn(
                f"{unknown} of {len(zoo.layouts)} layouts are not aligned: {reason}", WscoreWarning, stacklevel=2
            )
        return alignment

    @classmethod
    def symmetries(cls, zoo: Zoo) -> "Alignment":
        """Return an alignment without references: networks stay unaligned, with their symmetry where it can be derived."""
        return cls({}, _symmetries(zoo))

    def match(self, layout: Layout, vectors: Float[np.ndarray, "networks weights"]) -> dict[str, Tensor]:
        """Return the orders (networks, units) by group that bring networks closest to the reference of their layout.

        Raises:
            DataError: if there is no reference for the layout.
        """
        return _match(layout, self._reference(layout), vectors)

    def apply(
        self, layout: Layout, vectors: Float[np.ndarray, "networks weights"]
    ) -> Float[np.ndarray, "networks weights"]:
        """Return networks individually matched to the reference; unchanged if their layout has none."""
        known = layout.identity in self.references and len(vectors) > 0
        return self.permute(layout, vectors, self.match(layout, vectors)) if known else vectors

    def apply_runs(
        self, layout: Layout, vectors: Float[np.ndarray, "networks weights"], runs: np.ndarray
    ) -> Float[np.ndarray, "networks weights"]:
        """Return networks of the zoo permuted by the orders of their runs."""
        assert set(self.references) == set(self.placed), "orders of runs are known after `fit` only"
        return self.placed.apply_runs(layout, vectors, runs)

    def save(self, folder: Path) -> None:
        """Write references.safetensors and symmetry.json."""
        vectors = {name: torch.from_numpy(reference.vector) for name, reference in self.references.items()}
        write_tensors(folder / "references.safetensors", vectors)
        write_json(folder / "symmetry.json", {name: to_plain(spec) for name, spec in self.specs.items()})

    @classmethod
    def load(cls, folder: Path) -> "Alignment":
        """Return the alignment saved in a folder; it can match other networks of the same layouts.

        Raises:
            DataError: if a file is missing or unreadable.
            ConfigError: if symmetry.json describes something else.
            ModelError: if the two files do not belong together, or a reference is no vector of finite weights.
        """
        where, path = folder / "symmetry.json", folder / "references.safetensors"
        specs = convert({"specs": read_json(where)}, SavedSpecs, where=str(where)).specs
        references: dict[str, Reference] = {}
        for name, vector in read_tensors(path).items():
            if name not in specs or vector.ndim != 1 or not vector.is_floating_point() or not vector.isfinite().all():
                raise ModelError(
                    "is no reference network", where=f"{path}: {name}", expected="finite weights and a spec"
                )
            references[name] = Reference(specs[name], vector.float().numpy())
        return cls(references, specs)

    def permute(
        self, layout: Layout, vectors: Float[np.ndarray, "networks weights"], orders: dict[str, Tensor]
    ) -> Float[np.ndarray, "networks weights"]:
        """Return networks permuted by orders (networks, units) of each group.

        Raises:
            DataError: if there is no reference for the layout.
        """
        return permuted(layout, self._reference(layout).spec, vectors, orders)

    def _reference(self, layout: Layout) -> Reference:
        if layout.identity not in self.references:
            known = sorted(self.references)
            raise DataError("no network of this layout was aligned", expected=known, got=layout.identity, fix=ADVICE)
        return self.references[layout.identity]


class SavedSpecs(Section):
    """Content of symmetry.json."""

    specs: dict[str, PermutationSpec]


def _match(layout: Layout, reference: Reference, vectors: np.ndarray) -> dict[str, Tensor]:
    reference.spec.check({spec.name: spec.shape for spec in layout.tensors})
    state = layout.unflatten(torch.from_numpy(np.ascontiguousarray(vectors)))
    return match_weights(reference.spec, layout.unflatten(torch.from_numpy(reference.vector)), state)


def _references(zoo: Zoo, trained: np.ndarray) -> tuple[dict[str, Reference], int]:
    """Return the reference of each layout, and the number of layouts of unknown architecture."""
    references: dict[str, Reference] = {}
    unknown = 0
    for name in sorted(set(zoo.table["layout"].astype(str))):
        last = _last_rows(zoo, name)
        candidates = last[trained[last]]
        if not len(candidates):
            continue  # no training run to choose a reference from
        row = _choose(zoo, candidates)
        if not zoo.table["architecture"].iloc[row]:
            unknown += 1
            continue
        references[name] = Reference(_spec(zoo, name, row), _finite(zoo.reader, np.array([row]))[0])
    return references, unknown


def _symmetries(zoo: Zoo, *, known: Collection[str] = ()) -> dict[str, PermutationSpec]:
    """Return the spec of each layout that is not `known`, where it can be derived."""
    specs: dict[str, PermutationSpec] = {}
    for architecture, layout, rows in zoo.families():
        if architecture and layout.identity not in {*specs, *known}:
            with contextlib.suppress(ModelError):
                specs[layout.identity] = _spec(zoo, layout.identity, int(rows[0]))
    return specs


def _matchings(zoo: Zoo, layout: str, reference: Reference) -> Iterator[Matching]:
    """Yield the jobs of one layout: the last checkpoints of its runs, `TOGETHER` at once."""
    last = _last_rows(zoo, layout)
    for rows in np.array_split(last, -(-len(last) // TOGETHER)):
        runs = zoo.table["run_id"].iloc[rows].astype(str).to_numpy()
        yield Matching(zoo.reader, zoo.layouts[layout], reference, rows, runs, None)


def _placings(jobs: list[Matching], workers: Workers) -> Placed:
    """Return the orders computed by the workers."""
    if workers.shards is not None:
        jobs = [job._replace(path=workers.shards / f"orders-{n:05d}.safetensors") for n, job in enumerate(jobs)]
    parts: dict[str, list[Orders]] = {}
    runs: dict[str, list[str]] = {}
    for job, orders in zip(jobs, workers.map(match_part, jobs), strict=True):
        parts.setdefault(job.layout.identity, []).append(orders)
        runs.setdefault(job.layout.identity, []).extend(job.runs.tolist())
    specs = {job.layout.identity: job.reference.spec for job in jobs}
    return Placed(
        {
            name: Placing(specs[name], {run: row for row, run in enumerate(runs[name])}, join_orders(pieces))
            for name, pieces in parts.items()
        }
    )


def _finite(weights: Weights, rows: np.ndarray) -> np.ndarray:
    """Return weights for matching; values that are not finite are set to zero here and raise an error when tokenized."""
    return np.nan_to_num(weights.weights(rows), nan=0.0, posinf=0.0, neginf=0.0)


def _last_rows(zoo: Zoo, layout: str) -> np.ndarray:
    """Return the row of the last checkpoint of each run of a layout."""
    return zoo.last_checkpoints(np.flatnonzero(zoo.table["layout"].astype(str) == layout))


def _choose(zoo: Zoo, rows: np.ndarray) -> int:
    """Return the row of the reference: the training run with the best training accuracy."""
    if "train_accuracy" not in zoo.table:
        return int(rows[0])
    return int(rows[int(zoo.table["train_accuracy"].iloc[rows].fillna(-1).to_numpy().argmax())])


def _spec(zoo: Zoo, layout: str, row: int) -> PermutationSpec:
    """Return the spec of a layout, verified on one network."""
    text = str(zoo.table["architecture"].iloc[row])
    network = build(text)
    state = zoo.layouts[layout].unflatten(torch.from_numpy(_finite(zoo.reader, np.array([row]))[0]))
    network.load_state_dict(state)
    example = torch.rand(4, *parse(text).input, generator=torch.Generator().manual_seed(0))
    spec = derive_spec(network, example)
    verdict = verify_spec(network, spec, example, tolerance=1e-3)
    if not verdict.coupled < verdict.uncoupled:
        raise ModelError("the symmetry found does not couple its layers", where=text, got=verdict, fix=ADVICE)
    return spec
