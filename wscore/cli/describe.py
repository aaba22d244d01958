"""Describes a network, a zoo, a recorded run or a published model."""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wscore.autoencoder.coding.codec import WEIGHTS as CODEC_WEIGHTS
from wscore.autoencoder.coding.codec import WeightCodec
from wscore.cli.accuracy import RunnableNetwork
from wscore.cli.networks import LoadedNetwork, read_one, zoo_folder
from wscore.cli.output import print_json, print_table
from wscore.errors import DataError, ModelError, WscoreError, printable
from wscore.forecasting.trajectories.store import Trajectory
from wscore.hub.checksums import CHECKSUMS, read_checksums, verify
from wscore.hub.fetch import fetch, parse_source
from wscore.networks.layout import is_convolution
from wscore.publish.pretrained import PublishedEncoder
from wscore.symmetry.spec import PermutationSpec
from wscore.symmetry.trace import derive_spec
from wscore.symmetry.verify import verify_spec
from wscore.training.model_folder import CONFIG, read_model_config
from wscore.zoo.store import Zoo

COUNTED = ("family", "dataset", "optimizer", "activation")


def inspect(options: argparse.Namespace) -> None:
    """Show a network, a zoo, a recorded run or a model."""
    facts = describe_path(options.path)
    if facts is None:
        facts = inspect_network(read_one(options.path, architecture=options.architecture), options.model)
    if options.json:
        print_json(facts)
        return
    tables = {name: value for name, value in facts.items() if isinstance(value, list)}
    print_table([{"": name, "value": value} for name, value in facts.items() if name not in tables])
    for name, rows in tables.items():
        print_table(rows, title=f"\n{name}") if rows else None


def describe_path(text: str) -> dict[str, Any] | None:
    """Return the content of a folder as facts and tables; None for a network.

    Raises:
        WscoreError: if it is a zoo, run or model that can't be read.
    """
    folder = zoo_folder(text)
    if not folder.is_dir():
        if folder.exists() or "#" in text or text.count("/") != 1 or folder.suffix:
            return None
        source = parse_source(text)
        folder = fetch(source.name, source.revision)
    if (folder / "rows").is_dir():
        return _zoo(folder)
    if (folder / "weights.npy").is_file():
        return _run(folder)
    if (folder / CODEC_WEIGHTS).is_file():
        return _codec(folder)
    if (folder / CONFIG).is_file():
        return _model(folder)
    return _publication(folder) if (folder / CHECKSUMS).is_file() else None


def inspect_network(network: LoadedNetwork, model: str) -> dict[str, Any]:
    """Return size, layers, statistics and symmetry of one network.

    Args:
        network: to describe.
        model: whose encoder may have the symmetry of networks of unknown architecture.
    """
    layout = network.layout
    tied = {name: tensor.data_ptr() if tensor.numel() else name for name, tensor in network.state.items()}
    rows = []
    for spec in layout.tensors:
        tensor = network.state[spec.name].detach()
        kind = "other" if spec.kind == "conv" and not is_convolution(spec) else spec.kind
        same = [name for name, other in tied.items() if name != spec.name and other == tied[spec.name]]
        rows.append({
            "tensor": printable(spec.name), "layer": spec.layer, "kind": kind, "shape": "x".join(map(str, spec.shape)),
            "dtype": str(tensor.dtype).removeprefix("torch."), "weights": spec.size, **_statistics(tensor.double()),
            **({"same memory as": ", ".join(same)} if same else {}),
        })  # fmt: skip
    vector = torch.from_numpy(layout.flatten(network.state)).double()
    facts: dict[str, Any] = {
        "network": network.name, "weights": layout.size, "tensors": len(layout.tensors),
        "layers": len({spec.layer for spec in layout.tensors}), "layout": layout.identity, "norm": float(vector.norm()),
        "architecture": network.architecture or "not known",
    }  # fmt: skip
    spec, origin = _symmetry(network, model)
    facts["symmetry"] = origin
    groups = []
    if spec is not None:
        orders = sum(math.lgamma(units + 1) for units in spec.units.values()) / math.log(10)
        facts["equivalent orders of the units"] = f"10^{orders:.1f}"
        for group, units in spec.units.items():
            bound = [f"{item.tensor}[{item.axis}]" for item in spec.bindings(group)]
            groups.append({"group": group, "units": units, "axes": ", ".join(bound)})
    return {**facts, **_source(network), "layers and tensors": rows, "units that can change places": groups}


def _source(network: LoadedNetwork) -> dict[str, Any]:
    """Return where a network lies in its file, and what else is there."""
    source = network.source
    if source is None:
        return {}
    masks = [
        {
            "tensor": printable(name),
            "shape": "x".join(map(str, tensor.shape)),
            "dtype": str(tensor.dtype).removeprefix("torch."),
        }
        for name, tensor in source.constants.items()
    ]
    others = [{"entry": printable(place), "what": why} for place, why in source.left_out.items()]
    others += [
        {"entry": printable(place), "what": "state of the training, such as an optimizer's"} for place in source.memory
    ]
    others += [{"entry": printable(name), "what": "object that was not made"} for name in source.stubbed]
    return {"read from": printable(source.key) or "all of the file", "masks and tables": masks, "left out": others}


def _statistics(values: Tensor) -> dict[str, float | None]:
    """Return statistics of a tensor; empty for an empty tensor."""
    if not values.numel():
        return dict.fromkeys(("mean", "std", "min", "max", "zeros"))
    statistics = {"mean": values.mean(), "std": values.std(correction=0), "min": values.min(), "max": values.max()}
    return {**{name: float(value) for name, value in statistics.items()}, "zeros": float((values == 0).double().mean())}


def _symmetry(network: LoadedNetwork, model: str) -> tuple[PermutationSpec | None, str]:
    """Return which units can be permuted, and the source of this information."""
    if network.architecture:
        built = RunnableNetwork(network)
        example = built.example()
        spec = derive_spec(built.module, example)
        verify_spec(built.module, spec, example, tolerance=1e-3)
        return spec, "derived from the architecture"
    try:
        encoder = PublishedEncoder.from_pretrained(model)
        match = encoder.layouts.match(network.layout)
        reference = None if match is None else encoder.alignment.references.get(match.known.identity)
    except WscoreError:
        reference = None
    if reference is not None:
        return reference.spec, f"from networks of this layout in {model}"
    return None, f"unknown: no --architecture, and {model} has no network of this layout"


def _zoo(folder: Path) -> dict[str, Any]:
    zoo = Zoo(folder)
    table = zoo.table
    facts = {"zoo": str(folder), "hash": zoo.identity, "networks": len(table), "training runs": table["run_id"].nunique(),
             "layouts": len(zoo.layouts), "weights": sum(zoo.layouts[str(name)].size for name in table["layout"])}  # fmt: skip
    rows = []
    for name in (name for name in COUNTED if name in table):
        for value, count in table[name].value_counts(sort=True).items():
            chosen = table[table[name] == value]
            row: dict[str, Any] = {"column": name, "value": str(value), "networks": int(count)}
            if "test_accuracy" in table:
                row |= {"mean test accuracy": float(np.mean(np.asarray(chosen["test_accuracy"], float)))}
            rows.append(row)
    from wscore.needs import needs_of  # of the training: loads slowly

    missed = [need._asdict() for need in needs_of(zoo)]
    return {**facts, "columns": ", ".join(map(str, table.columns)), "networks by": rows,
            "missed by later stages, with params.yaml as it is": missed}  # fmt: skip


def _run(folder: Path) -> dict[str, Any]:
    run = Trajectory(folder)
    columns = run.manifest.snapshots
    return {
        "run": run.name, "snapshots": len(run), "weights": run.layout.size, "steps": int(columns.step[-1]),
        "first test accuracy": _last(columns.test_accuracy[:1]), "last test accuracy": _last(columns.test_accuracy),
    }  # fmt: skip


def _last(values: Any) -> float | None:
    return float(values[-1]) if len(values) and values[-1] is not None else None


def _model(folder: Path) -> dict[str, Any]:
    content = read_model_config(folder)
    facts: dict[str, Any] = {"model": str(folder), "class": content["class"], "format": content["format"],
                             "SHA-256 of the weights": content["sha256"]}  # fmt: skip
    facts["files"] = _checked(folder)
    known = {key: content[key] for key in ("task", "encoder", "tokens", "zoo", "kind") if key in content}
    plain = {key: value for key, value in _flat(content["config"]).items() if not isinstance(value, list | dict)}
    return {**facts, **known, "configuration": [{"key": key, "value": value} for key, value in plain.items()]}


def _codec(folder: Path) -> dict[str, Any]:
    codec = WeightCodec.from_folder(folder)
    return {"model": str(folder), "class": WeightCodec.__name__, "hash": codec.identity.hex(), "files": _checked(folder),
            "layouts that files name by number": len(codec.config.layouts), "roles": len(codec.roles)}  # fmt: skip


def _checked(folder: Path) -> str:
    if not (folder / CHECKSUMS).is_file():
        return "not published, not checked"
    verify(folder)
    return f"{len(read_checksums(folder))}, all as published"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _class_name(folder: Path) -> str:
    return WeightCodec.__name__ if (folder / CODEC_WEIGHTS).is_file() else read_model_config(folder)["class"]


def _publication(folder: Path) -> dict[str, Any]:
    rows = []
    for path in sorted(folder.rglob(CONFIG)):
        where = path.parent.relative_to(folder).as_posix()
        try:
            verify(path.parent)
            state = "as published"
        except (ModelError, DataError) as error:
            state = str(error)
        rows.append({"part": where, "class": _class_name(path.parent), "files": state})
    if not rows:
        raise DataError("holds no model", where=folder, expected="folders with config.json")
    return {"published": str(folder), "models": len(rows), "parts": rows}
