"""Imports trained networks into a zoo: read shard by shard, checked, described and written; excluded ones are listed.

A source is planned first: which pieces there are and how one is read. Pieces are read by any number of worker
processes into shards in `.cache/zoo/`, so that an interrupted reading goes on where it was. Weights pass through memory
one shard at a time; what is kept in memory of each network is a few hundred bytes.
"""

import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import pandas as pd
import torch

from wscore.config import to_plain
from wscore.errors import ConfigError, DataError, WscoreWarning, printable
from wscore.io import atomic_folder, content_hash, read_json, source_code, write_csv, write_json
from wscore.networks.architectures import parse
from wscore.networks.factories import Built, try_to_build
from wscore.networks.layout import Layout, is_convolution, layout_of
from wscore.networks.records import REASONS, RawNetwork, Rejected
from wscore.parallel import workers_here
from wscore.progress import progress_bar
from wscore.zoo.buffers import collect, set_key, write_sets
from wscore.zoo.config import HygieneConfig, ReadingConfig, ZooConfig
from wscore.zoo.readers.hygiene import (
    defect,
    join_groups,
    layer_digests,
    near_pairs,
    shared_layers,
    sketch,
    weights_hash,
)
from wscore.zoo.readers.metadata import MetadataColumns
from wscore.zoo.store import (
    EXCLUDED,
    OTHERS,
    is_whole,
    read_metadata,
    read_part,
    write_excluded,
    write_layouts,
    write_part,
)

CACHE = Path(".cache/zoo")
ROWS_PER_PART = 1024
WEIGHTS_PER_PART = 1 << 25
Reader = Callable[[Any], Iterator[RawNetwork | Rejected]]


class ReadPlan(NamedTuple):
    """What is read from a source.

    Attributes:
        read: yields the networks of one piece; importable by name, since it is called in other processes.
        pieces: its arguments, in order.
        rejected: what is excluded before anything is read.
        identity: hash of all that is read.
        origin: where it comes from, recorded in the zoo.
        empty: what to do if it turns out that there is nothing in it.
        others: paths of files in the source that are no checkpoints.
        runs: how networks are assigned to runs.
    """

    read: Reader
    pieces: list[Any]
    rejected: list[Rejected]
    identity: str
    origin: dict[str, str]
    empty: str | None = None
    others: Sequence[str] = ()
    runs: str = ""


class ReadJob(NamedTuple):
    """What a worker is given for one piece."""

    read: Reader
    piece: Any
    path: Path
    max_weight: float
    constant: bool


def ingest(plan: ReadPlan, config: ZooConfig, out: Path, factories: Mapping[str, str]) -> int:
    """Write the zoo of a plan and return how many networks were excluded.

    Args:
        plan: what is read.
        config: what is excluded.
        out: folder of the zoo.
        factories: `data.factories`, the functions that may build networks again.

    Raises:
        ConfigError: if a factory is not named there, or can't be imported.
        DataError: if no network is left.
        WscoreError: if a worker process dies; finished shards are kept.
    """
    _check_factory(config.reading, factories)
    plain = msgspec.json.encode([to_plain(config.reading), to_plain(config.hygiene), config.max_weight])
    code = source_code("hub", "networks", "zoo")
    folder = Path.cwd() / CACHE / content_hash(plan.identity, plain, code)
    limits = config.max_weight, config.hygiene.constant != "keep"
    shards = [folder / f"shard-{number:06d}.parquet" for number in range(len(plan.pieces))]
    jobs = [ReadJob(plan.read, piece, path, *limits) for piece, path in zip(plan.pieces, shards, strict=True)]
    todo = [job for job in jobs if not is_whole(job.path)]
    with progress_bar(total=len(jobs), initial=len(jobs) - len(todo), desc="reading", unit="shard") as bar:
        for _ in workers_here("zoo").map(read_shard, todo, in_order=False):
            bar.update(1)
    ingested = apply_hygiene([job.path for job in jobs], config.hygiene)
    rejected = [*plan.rejected, *ingested.rejected()]
    if not any(ingested.kept):
        shutil.rmtree(folder, ignore_errors=True)
        fix = _first(rejected) or plan.empty
        raise DataError("no network is left", where="zoo", got=_counted(rejected) or "nothing", fix=fix)
    _check_columns(ingested.columns, config)
    ingested.name_factories(config.reading, factories)
    stuck = ingested.rebuilding(factories)
    with atomic_folder(out) as temporary:
        ingested.write(temporary)
        write_csv(temporary / "rebuilding.csv", dict(stuck))
        write_json(temporary / "source.json", {**plan.origin, **({"runs": plan.runs} if plan.runs else {})})
        if plan.others:
            suffixes = [Path(path).suffix.lower() for path in plan.others]
            write_csv(temporary / OTHERS, {"file": [printable(path) for path in plan.others], "suffix": suffixes})
        write_excluded(temporary, rejected)
    shutil.rmtree(folder, ignore_errors=True)
    _warn_of(stuck)
    if rejected:
        warnings.warn(f"{len(rejected)} excluded: {_counted(rejected)}; see {EXCLUDED}", WscoreWarning, stacklevel=2)
    return len(rejected)


def _check_factory(reading: ReadingConfig, factories: Mapping[str, str]) -> None:
    if reading.factory is not None and reading.factory not in factories:
        expected = ", ".join(factories) or "an entry in data.factories"
        raise ConfigError("unknown factory", where="zoo.reading.factory", expected=expected, got=reading.factory)


def _check_columns(columns: MetadataColumns, config: ZooConfig) -> None:
    """Refuse parameters that name columns which no network has."""
    reading = config.reading
    named = {f"factory_columns[{place}]": name for place, name in enumerate(reading.factory_columns)}
    if config.source == "folder":
        named |= {"run_column": reading.run_column or "", "checkpoint_column": reading.checkpoint_column or ""}
    for key, name in named.items():
        if name and name not in columns.kinds and name not in ("run_id", "checkpoint"):
            expected = f"one of {', '.join(columns.kinds) or 'none: there is no metadata'}"
            raise ConfigError("no network has this column", where=f"zoo.reading.{key}={name}", expected=expected)


def read_shard(job: ReadJob) -> int:
    """Read one piece of a source, check each of its networks, write the shard and return its count of rows."""
    rows, vectors, layouts, constants = [], [], {}, {}
    for item in job.read(job.piece):
        row, vector = _checked(item, job, layouts) if isinstance(item, RawNetwork) else (_refused_row(item), NOTHING)
        if row["constants"] and isinstance(item, RawNetwork):
            constants[row["constants"]] = item.constants
        rows.append(row)
        vectors.append(vector)
    write_sets(_constants_of(job.path), constants)
    write_json(job.path.with_suffix(".json"), {name: msgspec.to_builtins(layout) for name, layout in layouts.items()})
    write_part(job.path, pd.DataFrame(rows, columns=list(EMPTY)), vectors)
    return len(rows)


NOTHING = np.zeros(0, np.float32)
EMPTY: dict[str, Any] = {
    "model_id": "", "run_id": "", "number": np.nan, "layout": "", "architecture": "", "metadata": "{}", "reason": "",
    "detail": "", "digest": "", "layers": (), "sketch": (), "dtype": "", "constants": "",
}  # fmt: skip


def _constants_of(shard: Path) -> Path:
    return shard.with_suffix(".constants.safetensors")


def _refused_row(item: Rejected) -> dict[str, Any]:
    return {**EMPTY, "model_id": item.model_id, "reason": item.reason, "detail": item.detail}


def _checked(item: RawNetwork, job: ReadJob, layouts: dict[str, Layout]) -> tuple[dict[str, Any], np.ndarray]:
    """Return the row of a network and its weights; none if it is unfit."""
    layout = layout_of(item.state)
    vector = layout.flatten(item.state)
    reason, detail = defect(layout, vector, limit=job.max_weight, constant=job.constant)
    if reason:
        return _refused_row(Rejected(item.model_id, reason, detail)), NOTHING
    layouts[layout.identity] = layout
    row = {
        "model_id": item.model_id,
        "run_id": item.run,
        "number": np.nan if item.checkpoint is None else float(item.checkpoint),
        "layout": layout.identity,
        "architecture": item.architecture,
        "metadata": msgspec.json.encode(item.metadata).decode(),
        "digest": weights_hash(layout, vector),
        "layers": layer_digests(layout, vector),
        "sketch": sketch(vector),
        "dtype": _precision(item),
        "constants": set_key(item.constants),
    }
    return {**EMPTY, **row}, vector


def _precision(item: RawNetwork) -> str:
    kinds = Counter(str(t.dtype).removeprefix("torch.") for t in item.state.values() if t.is_floating_point())
    return kinds.most_common(1)[0][0]


class IngestedZoo:
    """All that was read, and what is kept of it.

    Attributes:
        paths: of the shards.
        table: one row per network that was read, with its shard and its place in it.
    """

    def __init__(self, paths: Sequence[Path], table: pd.DataFrame) -> None:
        self.paths, self.table = list(paths), table
        self.ids = table["model_id"].astype(str).to_numpy(object)
        self.runs = table["run_id"].astype(str).to_numpy(object)
        self.reasons = table["reason"].astype(str).to_numpy(object)
        self.details = table["detail"].astype(str).to_numpy(object)
        self.groups = self.runs.copy()
        self.checkpoints = np.zeros(len(table), np.int64)
        self.relations: set[tuple[str, str]] = set()
        self.columns = MetadataColumns()
        texts = table["architecture"].astype(str)
        described = texts.str.lstrip().str.startswith("{").to_numpy(bool)
        self.architectures = np.where(described, texts, "").astype(object)
        self.names = np.where(described, "", texts).astype(object)  # of external architectures
        self.factories = np.full(len(table), "", object)

    @property
    def kept(self) -> np.ndarray:
        """True for networks that are not excluded."""
        return self.reasons == ""

    def reject(self, row: int, reason: str, detail: str) -> None:
        """Exclude a network."""
        self.reasons[row], self.details[row] = reason, detail

    def rejected(self) -> list[Rejected]:
        """Return what is excluded."""
        return [Rejected(self.ids[row], self.reasons[row], self.details[row]) for row in np.flatnonzero(~self.kept)]

    def metadata(self, row: int) -> dict[str, Any]:
        """Return the metadata of one network."""
        known = msgspec.json.decode(self.table["metadata"].iloc[row])
        return {**known, "architecture_name": self.names[row]} if self.names[row] else known

    def name_factories(self, reading: ReadingConfig, factories: Mapping[str, str]) -> None:
        """Note for each network of unknown architecture what builds it."""
        for row in np.flatnonzero(self.kept & (self.architectures == "")).tolist():
            known = self.metadata(row)
            text = str(known.get("factory") or "")
            if not text:
                stated = str(self.names[row])
                name = stated if stated in factories else reading.factory or ""
                given = {key: known[key] for key in reading.factory_columns if known.get(key) is not None}
                text = Built(name=name, arguments=_whole(given)).to_json() if name else ""
            self.factories[row] = text

    def rebuilding(self, factories: Mapping[str, str]) -> pd.DataFrame:
        """Return which networks can be built again, by architecture, factory and layout, and why others can't."""
        rows = np.flatnonzero(self.kept)
        table = pd.DataFrame({
            "model_id": self.ids[rows], "architecture": self.architectures[rows], "factory": self.factories[rows],
            "layout": self.table["layout"].to_numpy(object)[rows], "shard": self.table["shard"].to_numpy()[rows],
        })  # fmt: skip
        groups: list[dict[str, Any]] = []
        for key, networks in table.groupby(["architecture", "factory", "layout"], sort=True):
            architecture, factory, name = (str(text) for text in cast(tuple[str, str, str], key))
            layout = _layout(read_json(self.paths[int(networks["shard"].iloc[0])].with_suffix(".json"))[name])
            made, reason = try_to_build(architecture, factory, layout, factories)
            groups.append({
                "architecture": architecture, "factory": factory, "layout": name, "networks": len(networks),
                "first": networks["model_id"].iloc[0], "built": made is not None, "reason": reason,
            })  # fmt: skip
        return pd.DataFrame(groups)

    def vector(self, row: int) -> np.ndarray:
        """Return the weights of one network."""
        shard, place = int(self.table["shard"].iloc[row]), int(self.table["place"].iloc[row])
        return self._weights(shard)[place]

    def write(self, folder: Path) -> None:
        """Write rows and layouts of what is kept, some `WEIGHTS_PER_PART` weights at once."""
        layouts: dict[str, Any] = {}
        rows: list[int] = []
        vectors: list[np.ndarray] = []
        part = size = 0
        shards = self.table["shard"].to_numpy()
        for shard, path in enumerate(self.paths):
            members = np.flatnonzero((shards == shard) & self.kept)
            if not len(members):
                continue
            layouts |= read_json(path.with_suffix(".json"))
            weights = read_part(path)[1]
            for row in members.tolist():
                rows.append(row)
                vectors.append(weights[int(self.table["place"].iloc[row])].copy())
                size += vectors[-1].size
                if len(rows) == ROWS_PER_PART or size >= WEIGHTS_PER_PART:
                    write_part(folder / "rows" / f"part-{part:05d}.parquet", self._described(rows, layouts), vectors)
                    rows, vectors, size, part = [], [], 0, part + 1
        if rows:
            write_part(folder / "rows" / f"part-{part:05d}.parquet", self._described(rows, layouts), vectors)
        used = set(self.table["layout"][self.kept])
        write_layouts(folder, [_layout(layouts[name]) for name in sorted(used)])
        keys = self.table["constants"].to_numpy(object)[self.kept]
        collect([_constants_of(path) for path in self.paths], map(str, keys), folder)

    @lru_cache(maxsize=3)  # noqa: B019
    def _weights(self, shard: int) -> list[np.ndarray]:
        return read_part(self.paths[shard])[1]

    def _described(self, rows: list[int], layouts: dict[str, Any]) -> pd.DataFrame:
        records = self.table.iloc[rows]
        needed = {name: _layout(layouts[name]) for name in set(records["layout"])}
        kinds = {name: {spec.kind for spec in layout.tensors} for name, layout in needed.items()}
        table = pd.DataFrame({
            "model_id": self.ids[rows],
            "run_id": self.runs[rows],
            "checkpoint": self.checkpoints[rows],
            "layout": records["layout"].to_numpy(object),
            "architecture": self.architectures[rows],
            "group": self.groups[rows],
            "dtype": records["dtype"].to_numpy(object),
            "n_weights": [needed[name].size for name in records["layout"]],
            "has_conv_layers": [any(is_convolution(spec) for spec in needed[name].tensors) for name in records["layout"]],
            "has_batch_norm": ["running_mean" in kinds[name] for name in records["layout"]],
        })  # fmt: skip
        if any(self.factories):
            table["factory"] = self.factories[rows]
        if any(self.table["constants"]):
            table["constants"] = records["constants"].to_numpy(object)
        given = self.columns.table([self.metadata(row) for row in rows])
        table = table.drop(columns=[name for name in ("has_conv_layers", "has_batch_norm") if name in given])
        return pd.concat([table, given.drop(columns=[name for name in table if name in given])], axis=1)


def apply_hygiene(paths: Sequence[Path], hygiene: HygieneConfig) -> IngestedZoo:
    """Return what was read into shards with everything excluded that is unfit beside the others."""
    tables = [read_metadata(path).assign(shard=number) for number, path in enumerate(paths)]
    tables = [table.assign(place=np.arange(len(table))) for table in tables]
    if not tables:
        tables = [pd.DataFrame({name: [] for name in (*EMPTY, "shard", "place")})]
    ingested = IngestedZoo(paths, pd.concat(tables, ignore_index=True))
    for text in sorted(set(ingested.architectures[ingested.kept]) - {""}):
        parse(text)
    _check_metadata(ingested, hygiene)
    _number(ingested)
    _find_duplicates(ingested, hygiene)
    _find_near_duplicates(ingested, hygiene)
    if hygiene.lineage:
        rows = np.flatnonzero(ingested.kept)
        layers = [ingested.table["layers"].iloc[row] for row in rows]
        ingested.relations |= set(shared_layers(list(ingested.runs[rows]), layers))
        _warn_of_shared(list(ingested.runs[rows]), layers)
    rows = np.flatnonzero(ingested.kept)
    for row in rows.tolist():
        known = ingested.metadata(row)
        ingested.columns.add(known)
        if known.get("group") is not None:  # runs that their author declares related
            ingested.relations.add((str(known["group"]), ingested.runs[row]))
    ingested.groups[rows] = join_groups(list(ingested.runs[rows]), ingested.relations)
    return ingested


def _warn_of_shared(runs: Sequence[str], layers: Sequence[Iterable[str]]) -> None:
    """Name the tensor that joins most runs, where it joins more than two: it may be a table that nothing trains."""
    holders: dict[str, set[str]] = {}
    for run, names in zip(runs, layers, strict=True):
        for layer in names:
            holders.setdefault(layer, set()).add(run)
    layer, joined = max(holders.items(), key=lambda item: len(item[1]), default=("", set()))
    if len(joined) > 2:
        name = printable(layer.partition(" ")[2])
        message = (
            f"{len(joined)} runs share their split because `{name}` is the same in all of them; if it is a table that"
        )
        warnings.warn(f"{message} nothing trains, set zoo.hygiene.lineage to false", WscoreWarning, stacklevel=4)


def _check_metadata(ingested: IngestedZoo, hygiene: HygieneConfig) -> None:
    if not hygiene.required and not hygiene.minimum:
        return
    for row in np.flatnonzero(ingested.kept).tolist():
        known = ingested.metadata(row)
        missing = [name for name in dict.fromkeys((*hygiene.required, *hygiene.minimum)) if known.get(name) is None]
        text = next((name for name in hygiene.minimum if isinstance(known.get(name), str | list)), None)
        if text is not None:
            got = f"{ingested.ids[row]}: {str(known[text])[:40]!r}"
            raise ConfigError("is no column of numbers", where=f"zoo.hygiene.minimum.{text}", got=got)
        low = [name for name, least in hygiene.minimum.items() if name not in missing and not known[name] >= least]
        if missing:
            ingested.reject(row, "missing_metadata", ", ".join(missing))
        elif low:
            ingested.reject(row, "below_minimum", ", ".join(f"{name} {known[name]:.4g}" for name in low))


def _number(ingested: IngestedZoo) -> None:
    """Number the checkpoints of each run: as they were given where that is whole and complete, else by their order."""
    numbers = ingested.table["number"].to_numpy(float)
    first: dict[tuple[str, float | None], int] = {}
    for row in np.flatnonzero(ingested.kept).tolist():
        keys: list[tuple[str, float | None]] = [(f"id/{ingested.ids[row]}", None)]
        if np.isfinite(numbers[row]):
            keys.append((f"run/{ingested.runs[row]}", float(numbers[row])))
        other = next((first[key] for key in keys if key in first), None)
        if other is not None:
            ingested.reject(row, "same_checkpoint", f"as {ingested.ids[other]}")
        else:
            first.update(dict.fromkeys(keys, row))
    rows = np.flatnonzero(ingested.kept)
    for _, places in pd.Series(range(len(rows))).groupby(pd.Index(ingested.runs[rows]), sort=False):
        members = rows[places.to_numpy()]
        given = numbers[members]
        usable = np.isfinite(given).all() and (given == np.floor(given)).all() and (given >= 0).all()
        order = np.argsort(np.where(np.isfinite(given), given, np.inf), kind="stable")
        ranks = np.empty(len(members), np.int64)
        ranks[order] = np.arange(len(members))
        ingested.checkpoints[members] = given.astype(np.int64) if usable else ranks


def _find_duplicates(ingested: IngestedZoo, hygiene: HygieneConfig) -> None:
    first: dict[str, int] = {}
    for row in np.flatnonzero(ingested.kept).tolist():
        other = first.setdefault(str(ingested.table["digest"].iloc[row]), row)
        if other != row:
            ingested.relations.add((ingested.runs[other], ingested.runs[row]))
            if hygiene.duplicates == "exclude":
                ingested.reject(row, "duplicate", f"of {ingested.ids[other]}")


def _find_near_duplicates(ingested: IngestedZoo, hygiene: HygieneConfig) -> None:
    if hygiene.near_duplicates == "keep" or hygiene.near == 0:
        return
    rows = np.flatnonzero(ingested.kept)
    layouts = ingested.table["layout"].to_numpy(object)
    for name in sorted(set(layouts[rows])):
        members = rows[layouts[rows] == name]
        sketches = np.stack([np.asarray(ingested.table["sketch"].iloc[row]) for row in members])
        rounding = [_rounding(str(kind)) for kind in ingested.table["dtype"].iloc[members]]
        for first, second, apart in near_pairs(
            sketches, lambda place, members=members: ingested.vector(int(members[place])), hygiene.near, rounding
        ):
            a, b = int(members[first]), int(members[second])
            ingested.relations.add((ingested.runs[a], ingested.runs[b]))
            if hygiene.near_duplicates == "exclude" and ingested.kept[a] and ingested.kept[b]:
                ingested.reject(b, "near_duplicate", f"of {ingested.ids[a]}, relative distance {apart:.2g}")


def _rounding(dtype: str) -> float:
    """Return the largest relative error of a number rounded to a type: 0.004 for bfloat16, 0.06 for float8_e4m3fn."""
    return torch.finfo(getattr(torch, dtype)).eps / 2


def _whole(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with whole numbers as integers, which tables may hold as fractions."""
    return {
        key: int(value) if isinstance(value, float) and value.is_integer() else value for key, value in given.items()
    }


def _warn_of(table: pd.DataFrame) -> None:
    """Say how many networks of a known architecture or factory can't be built again, and why the first of them can't."""
    rows = [row for row in table.to_dict("records") if not row["built"] and (row["architecture"] or row["factory"])]
    if rows:
        first, count = f"{rows[0]['first']}: {rows[0]['reason']}", sum(row["networks"] for row in rows)
        message = f"{count} networks can't be built again, see rebuilding.csv; the first is {first}"
        warnings.warn(message, WscoreWarning, stacklevel=3)


def _layout(plain: Any) -> Layout:
    return msgspec.convert(plain, Layout, strict=False)


def _counted(rejected: Sequence[Rejected]) -> str:
    counts = Counter(item.reason for item in rejected)
    return ", ".join(f"{count:,} {name} ({REASONS[name]})" for name, count in counts.most_common())


def _first(rejected: Sequence[Rejected]) -> str | None:
    return printable(f"the first is {rejected[0].model_id}: {rejected[0].detail}") if rejected else None
