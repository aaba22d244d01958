"""Writes the zoo and its representations as Hugging Face data sets for `datasets.load_dataset`, from a folder or the Hub.

zoo/
  rows/<networks>-<split>-00000-of-00001.parquet   the rows of one layout: weights as fixed-length lists, names as
                                                   class labels
  layouts.json                                     positions of the tensors in `weights`
  README.md                                        card; configuration `all` and one per layout
representations/
  data/<split>-00000-of-00001.parquet              one latent per network, with its metadata
  manifest.json                                    encoder that made them

`Zoo` and `zoo.source: hub` read the published zoo.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from wscore.errors import DataError, PublishError
from wscore.hub.checksums import write_checksums
from wscore.io import read_json, write_json, write_text
from wscore.networks.architectures import parse
from wscore.publish.config import PublishConfig
from wscore.publish.provenance import Provenance
from wscore.zoo.splits import ALL_SPLITS
from wscore.zoo.store import ROW_GROUP, Zoo, write_layouts

EVERYTHING = "all"
MOST_NAMES = 64  # of a column that becomes class labels
TEXTS = ("model_id", "run_id", "layout", "architecture", "path", "file")
TAGS = ("wscore", "weight-space-learning", "neural-network-weights")
CARD = """\
---
{data}
---

# {title}

{summary}

## Load it

```python
from datasets import load_dataset

table = load_dataset("{place}"{config})
print(table["train"][0]["model_id"])
```

It also streams (`load_dataset(..., streaming=True)`).{more}

## What is in it

| split | rows | training runs |
|---|---:|---:|
{splits}

All checkpoints of a training run are in the same split.{configs}

| column | |
|---|---|
{columns}

## How it was made

Zoo with hash `{zoo}`, {networks:,} networks of {runs:,} training runs; git revision `{revision}`, dvc.lock
`{lock}`.

## Licence

{license}
"""
MEANINGS = {
    "model_id": "name of the network (one checkpoint of one training run)",
    "run_id": "training run; checkpoints of one run share it",
    "checkpoint": "number of the snapshot within its run",
    "layout": "key of `layouts.json`, which has the positions of the tensors in `weights`",
    "architecture": "JSON from which `wscore.build` builds the network",
    "family": "architecture family",
    "widths": "units or channels of the hidden layers",
    "lr": "learning rate",
    "init_scale": "factor on the default initialisation",
    "train_fraction": "share of the training images used by the run",
    "step": "optimiser steps before the snapshot",
    "epoch": "passes over the training images before the snapshot",
    "train_accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
    "generalization_gap": "training accuracy minus test accuracy",
    "weights": "all weights as one float32 vector",
    "inside": "p-value: near 0 for networks unlike those that the encoder was trained on",
    "latent": "latent of the network by the weight encoder, float32",
}


class FileGroup(NamedTuple):
    """Rows of one set of files.

    Attributes:
        name: of the configuration.
        length: number of weights.
    """

    name: str
    length: int


def write_zoo(folder: Path, zoo: Zoo, splits: Mapping[str, str], origin: Provenance, config: PublishConfig) -> None:
    """Write a zoo as a data set: files per layout and split, layouts.json, card and checksums.

    Args:
        folder: output folder.
        zoo: the networks.
        splits: train, validation, test or unseen by `model_id`.
        origin: for the card.
        config: for the card.

    Raises:
        PublishError: if the split of a network is not known.
    """
    from datasets import Features, List, Value

    named = np.array([splits.get(str(name), "") for name in zoo.table["model_id"]])
    if not set(named) <= set(ALL_SPLITS):
        raise PublishError("networks are in no split", where=zoo.folder, got=int((~np.isin(named, ALL_SPLITS)).sum()))
    groups = _groups(zoo)
    known = _features(zoo.table)
    ragged = Features({**known, "weights": List(Value("float32"))})
    fixed = {key: Features({**known, "weights": List(Value("float32"), length=group.length)})
             for key, group in groups.items()}  # fmt: skip
    (folder / "rows").mkdir(parents=True)
    _stream_rows(folder / "rows", zoo, named, groups, fixed)
    write_layouts(folder, zoo.layouts.values())
    names = sorted({group.name for group in groups.values()})
    present = [split for split in ALL_SPLITS if split in named]
    configs = [_config(EVERYTHING, "rows/*-", present, default=True)]
    if len(names) == 1:
        ragged = next(iter(fixed.values()))
    else:
        layouts = zoo.table["layout"].astype(str).to_numpy()
        configs += [
            _config(group.name, f"rows/{group.name}-", [s for s in present if bool((named[layouts == key] == s).any())])
            for key, group in sorted(groups.items(), key=lambda item: item[1].name)
        ]
    table = zoo.table.assign(split=named)
    text = ZooText(names, [*known, "weights"])
    write_text(folder / "README.md", _zoo_card(table, text, configs, ragged, origin, config))
    write_checksums(folder)


class ZooText(NamedTuple):
    """Names for the card of a zoo.

    Attributes:
        configs: configurations other than `all`.
        columns: all columns.
    """

    configs: Sequence[str]
    columns: Sequence[str]


def write_representations(folder: Path, source: Path, zoo: Zoo, origin: Provenance, config: PublishConfig) -> None:
    """Write representations as a data set, each with the metadata of its network.

    Args:
        folder: output folder.
        source: folder written by `cache_representations`; its manifest names the encoder.
        zoo: whose networks they are.
        origin: for the card.
        config: for the card.

    Raises:
        DataError: if a network is unknown to the zoo.
    """
    from datasets import Features, List, Value

    table, manifest = read_representations(source), read_json(source / "manifest.json")
    facts = zoo.table.drop(columns=["architecture", "layout", "checkpoint", "run_id"]).set_index("model_id")
    if not set(table["model_id"]) <= set(facts.index):
        raise DataError("the representations are those of another zoo", where=zoo.folder)
    rows = facts.reindex(table["model_id"]).reset_index(drop=True)
    joined = pd.concat([table.reset_index(drop=True), rows[[name for name in rows if name not in table]]], axis=1)
    lists = {str(name): len(joined[name].iloc[0]) for name in joined if isinstance(joined[name].iloc[0], np.ndarray)}
    plain = _features(joined.drop(columns=["split", *lists]))
    features = Features({**plain, **{name: List(Value("float32"), length=size) for name, size in lists.items()}})
    present = [split for split in ALL_SPLITS if split in set(joined["split"])]
    for split in present:
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = joined[joined["split"] == split]
        with pq.ParquetWriter(path, features.arrow_schema, **_options(plain)) as writer:
            for start in range(0, len(part), 4096):
                writer.write_table(_table(part.iloc[start : start + 4096], features))
    text = CARD.format(
        data=_data([_config("default", "data/", present)], None, config),
        title=f"Representations of {config.name}",
        summary="Each row is one trained network: its latent, with the "
        "metadata of the network. Heads, probes and maps of the zoo can be made from it without the encoder.",
        place=config.repository("representations") or f"{origin.tables}/representations",
        config="",
        more="",
        configs="",
        **_common(joined, list(features), origin, config),
    )
    write_text(folder / "README.md", text)
    write_json(folder / "manifest.json", manifest)
    write_checksums(folder)


def read_representations(folder: Path) -> pd.DataFrame:
    """Return the table of representations in a folder.

    Raises:
        DataError: if it is missing or unreadable.
    """
    path = folder / "representations.parquet"
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        fix = "run `dvc repro cache_representations`"
        raise DataError("is not a readable table", where=path, got=" ".join(str(error).split()), fix=fix) from error


def _groups(zoo: Zoo) -> dict[str, FileGroup]:
    """Return a readable name for each layout that has rows."""
    groups = {}
    rows = zoo.table.drop_duplicates("layout")
    for key, architecture in zip(rows["layout"].astype(str), rows["architecture"].astype(str), strict=True):
        name = "networks"
        if architecture:
            known = parse(architecture)
            name = f"{known.family}-{'-'.join(map(str, known.widths))}"
        groups[key] = FileGroup(f"{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}-{key[:8]}", zoo.layouts[key].size)
    return groups


def _stream_rows(
    folder: Path, zoo: Zoo, splits: np.ndarray, groups: Mapping[str, FileGroup], features: Mapping[str, Any]
) -> None:
    """Write all rows in one pass over the zoo, with a few hundred networks of each file in memory."""
    layouts = zoo.table["layout"].astype(str).to_numpy()
    remaining = Counter(zip(layouts.tolist(), splits.tolist(), strict=True))
    waiting: dict[tuple[str, str], list[tuple[int, np.ndarray]]] = {key: [] for key in remaining}
    with ExitStack() as stack:
        writers = {}
        for layout, split in remaining:
            path = folder / f"{groups[layout].name}-{split}-00000-of-00001.parquet"
            schema = features[layout].arrow_schema
            writer = pq.ParquetWriter(path, schema, **_options(features[layout]))
            writers[layout, split] = stack.enter_context(writer)
        for row, vector in zoo.stream():
            key = layouts[row], splits[row]
            remaining[key] -= 1
            waiting[key].append((row, vector))
            if len(waiting[key]) == ROW_GROUP or not remaining[key]:
                rows, vectors = zip(*waiting[key], strict=True)
                content = zoo.table.iloc[list(rows)].assign(weights=list(vectors))
                writers[key].write_table(_table(content, features[key[0]]))
                waiting[key] = []


def _features(table: pd.DataFrame) -> dict[str, Any]:
    """Return the type of each plain column: class labels for columns with few names."""
    from datasets import ClassLabel, Value

    types: dict[str, Any] = {}
    for name in map(str, table.columns):
        column = table[name]
        if pd.api.types.is_bool_dtype(column):
            types[name] = Value("bool")
        elif pd.api.types.is_integer_dtype(column):
            types[name] = Value("int64")
        elif pd.api.types.is_float_dtype(column):
            types[name] = Value("float64")
        else:
            names = sorted({str(value) for value in column.dropna()})
            few = 0 < len(names) <= MOST_NAMES and name not in TEXTS and "" not in names
            types[name] = ClassLabel(names=names) if few else Value("string")
    return types


def _table(rows: pd.DataFrame, features: Any) -> pa.Table:
    from datasets import ClassLabel

    columns = []
    for field in features.arrow_schema:
        values, kind = rows[field.name], features[field.name]
        if isinstance(kind, ClassLabel):
            values = values.map(lambda value, kind=kind: None if pd.isna(value) else kind.str2int(str(value)))
            columns.append(pa.array(values.astype("Int64"), field.type, from_pandas=True))
        elif pa.types.is_fixed_size_list(field.type):
            flat = pa.array(np.stack(values.to_list()).astype(np.float32).reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, type=field.type))
        else:
            if pa.types.is_string(field.type):
                values = values.map(lambda value: None if pd.isna(value) else str(value))
            columns.append(pa.array(values, field.type, from_pandas=True))
    return pa.Table.from_arrays(columns, schema=features.arrow_schema)


def _options(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parquet options: no dictionaries for weights, which do not repeat."""
    from datasets import Value

    texts = [name for name, kind in features.items() if isinstance(kind, Value) and kind.dtype == "string"]
    return {"compression": "zstd", "use_dictionary": texts}


def _config(name: str, prefix: str, splits: Iterable[str], *, default: bool = False) -> dict[str, Any]:
    files = [{"split": split, "path": f"{prefix}{split}-*.parquet"} for split in splits]
    return {"config_name": name, **({"default": True} if default else {}), "data_files": files}


def _data(configs: list[dict[str, Any]], ragged: Any, config: PublishConfig) -> str:
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(license=config.license, tags=list(TAGS), pretty_name=config.name, configs=configs)
    if ragged is not None:  # files of this configuration differ in type, so it must be given
        infos = {EVERYTHING: DatasetInfo(features=ragged, config_name=EVERYTHING)}
        DatasetInfosDict(infos).to_dataset_card_data(data)
    return data.to_yaml()


def _zoo_card(
    table: pd.DataFrame, text: ZooText, configs: list[dict[str, Any]], ragged: Any, origin: Provenance,
    config: PublishConfig,
) -> str:  # fmt: skip
    several = len(text.configs) > 1
    named = ", ".join(f"`{name}`" for name in text.configs)
    place = config.repository("zoo") or f"{origin.tables}/zoo"
    return CARD.format(
        data=_data(configs, ragged, config),
        title=f"Zoo {config.name}",
        summary="Trained neural networks as data: each row is one checkpoint of a network, with all weights, "
        "training hyperparameters and accuracies.",
        place=place,
        config=f', "{text.configs[0]}"' if several else "",
        more="\n\nIn wscore, `zoo.source: hub` with `zoo.path: "
        f"{place}` runs the whole pipeline on it, and\n`wscore.Zoo` opens the folder.",
        configs=f"\n\nEach layout has a configuration, with weights of fixed length: {named}.\n"
        "The default, `all`, holds every network, with weights of different lengths." if several else "",
        **_common(table, text.columns, origin, config),
    )  # fmt: skip


def _common(table: pd.DataFrame, columns: Sequence[str], origin: Provenance, config: PublishConfig) -> dict[str, Any]:
    counts = table.groupby("split")["run_id"].agg(["size", "nunique"])
    plain = [name for name in columns if name not in MEANINGS]
    rows = [f"| `{name}` | {MEANINGS[name]} |" for name in columns if name in MEANINGS]
    if plain:
        rows.append(f"| {', '.join(f'`{name}`' for name in plain)} | see the names |")
    return {
        "splits": "\n".join(
            f"| {split} | {counts.loc[split, 'size']:,} | {counts.loc[split, 'nunique']:,} |"
            for split in ALL_SPLITS
            if split in counts.index
        ),
        "columns": "\n".join(rows),
        "zoo": origin.zoo,
        "networks": origin.networks,
        "runs": origin.runs,
        "revision": origin.revision,
        "lock": origin.lock,
        "license": config.license,
    }
