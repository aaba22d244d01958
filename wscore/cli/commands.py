"""Implements the commands: read input, call the library, print."""

import argparse
import math
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from wscore.cli.accuracy import Judge
from wscore.cli.networks import LoadedNetwork, read_networks, read_one
from wscore.cli.output import print_json, print_table, progress
from wscore.encoder.weight_encoder import OUTSIDE, UNLIKE, Encoding, WeightEncoder
from wscore.errors import DataError, WscoreWarning
from wscore.forecasting.trajectories.store import Trajectory
from wscore.io import atomic_folder, read_tensors, write_tensors
from wscore.networks.layout import Layout
from wscore.publish.pretrained import PublishedEncoder, PublishedHead, PublishedPredictor
from wscore.publish.pretrained import head_parts as find_heads
from wscore.publish.weight_autoencoder import WeightAutoencoder

TINY = 1e-30
SHOWN = 6  # numbers of a latent in a table
INTERVAL = ("_low", "_high")
ABOUT = ("test_accuracy", "family", "optimizer", "activation", "lr", "epoch")


def encode(options: argparse.Namespace) -> None:
    """Print the latents of networks, and whether they are like the training networks; optionally write them."""
    if options.autoencoder:
        _encode_windows(options)
        return
    encoder = WeightEncoder.from_pretrained(options.model)
    rows: list[dict[str, Any]] = []
    for network in _networks(options):
        encoding = encoder.encode_network(network.state)
        rows.append({"network": network.name, "weights": network.layout.size, "inside": float(encoding.inside),
                      "basis": encoding.basis, "latent": encoding.latents.tolist()})  # fmt: skip
    if options.out:
        latents = {row["network"]: torch.tensor(row["latent"]) for row in rows}
        _write_latents(Path(options.out), latents, {}, encoder.identity)
    _print_latents(options, encoder.identity, rows)


def _encode_windows(options: argparse.Namespace) -> None:
    """Print the latents of networks by the autoencoder, for `decode`."""
    encoder = PublishedEncoder.from_pretrained(options.model)
    rows: list[dict[str, Any]] = []
    latents: dict[str, Tensor] = {}
    layouts: dict[str, Layout] = {}
    for network in _networks(options):
        windows, layout, _ = encoder.encode(network.state)
        rows.append({"network": network.name, "weights": layout.size, "windows": len(windows),
                      "latent": windows.mean(dim=0).tolist()})  # fmt: skip
        latents[network.name], layouts[network.name] = windows, layout
    if options.out:
        _write_latents(Path(options.out), latents, layouts, encoder.identity)
    _print_latents(options, encoder.identity, rows)


def _print_latents(options: argparse.Namespace, identity: str, rows: Sequence[dict[str, Any]]) -> None:
    if options.json:
        print_json({"encoder": identity, "networks": rows})
        return
    print_table([{**row, "latent": _short(row["latent"])} for row in rows])


def decode(options: argparse.Namespace) -> None:
    """Rebuild networks from latents."""
    model = WeightAutoencoder.from_pretrained(options.model, side="decoder")
    latents, layouts = _read_latents(Path(options.latents))
    if options.like:
        layouts = dict.fromkeys(latents, read_one(options.like).layout)
    states: dict[str, dict[str, Tensor]] = {}
    for name, windows in progress(latents.items(), total=len(latents)):
        if name not in layouts:
            raise DataError(
                "the latents were stored without a layout", where=f"{options.latents}: {name}", fix="use --like"
            )
        states[name] = model.decode(windows, layouts[name])
    files = _write_states(Path(options.out), states)
    rows = [{"network": name, "weights": layouts[name].size, "file": str(files[name])} for name in states]
    print_json({"networks": rows}) if options.json else print_table(rows)


def predict(options: argparse.Namespace) -> None:
    """Predict properties of networks."""
    encoder = WeightEncoder.from_pretrained(options.model)
    heads = _heads(options.model, encoder, options.heads)
    networks: list[dict[str, Any]] = []
    for network in _networks(options):
        known = encoder.read(network.state, more={name for head in heads.values() for name in head.features})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WscoreWarning)  # once for all heads
            predicted = {name: head.predict(known, architecture=network.architecture) for name, head in heads.items()}
        encoding = known.encoding
        _warn_if_unlike(network.name, encoding, "predictions may be far off and have no intervals")
        networks.append({"network": network.name, "inside": float(encoding.inside), "basis": encoding.basis,
                      "heads": predicted})  # fmt: skip
    if options.json:
        print_json({"networks": networks})
        return
    print_table([
        row | {"inside": network["inside"], "basis": network["basis"]}
        for network in networks for row in _properties(network["network"], network["heads"])
    ])  # fmt: skip


def neighbours(options: argparse.Namespace) -> None:
    """Find the nearest networks of a zoo."""
    from wscore.publish.neighbours import Neighbours

    encoder = WeightEncoder.from_pretrained(options.model)
    network = read_one(options.network)
    among = Neighbours.load(options.among, encoder.identity)
    encoding = encoder.encode_network(network.state)
    rows = among.nearest(encoding.latents.numpy(), options.k)
    _warn_if_unlike(network.name, encoding, "no network is near")
    if options.json:
        print_json({"network": network.name, "inside": float(encoding.inside), "basis": encoding.basis,
                    "among": len(among.table), "neighbours": rows})  # fmt: skip
        return
    shown = ("model_id", "distance", "split", *ABOUT)
    print_table(
        [{name: row[name] for name in shown if name in row} for row in rows],
        title=f"nearest to {network.name} of {len(among.table):,} networks; basis: {encoding.basis}",
    )


def interpolate(options: argparse.Namespace) -> None:
    """Interpolate two networks in latent space: of one layout by the autoencoder, of two by the weight encoder."""
    first, second = (read_one(name, architecture=options.architecture) for name in (options.first, options.second))
    encoder = WeightEncoder.from_pretrained(options.model)
    judge = Judge(options.images, first) if options.images else None
    path = _same_layout if first.layout == second.layout else _decoded
    rows, states = [], {}
    for step, (state, row) in enumerate(path(options, encoder, first, second, judge)):
        name = f"step-{step}"
        rows.append({"share": step / (options.steps - 1), "network": name, **row, "inside": encoder.inside(state)})
        states[name] = state
    if options.out:
        _write_states(Path(options.out), states)
    print_json({"first": first.name, "second": second.name, "path": rows}) if options.json else print_table(rows)


def _same_layout(
    options: argparse.Namespace,
    encoder: WeightEncoder,  # noqa: ARG001
    first: LoadedNetwork,
    second: LoadedNetwork,
    judge: Judge | None,
) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """Yield networks decoded by the autoencoder, with distances of weights, next to linear interpolation of the weights."""
    model, layout = WeightAutoencoder.from_pretrained(options.model), first.layout
    ends = [model.encode(network.state).latents for network in (first, second)]
    straight = [model.align(network.state) for network in (first, second)]
    lines = [torch.from_numpy(layout.flatten(state)) for state in straight]
    for share in progress(np.linspace(0, 1, options.steps).tolist(), unit="step"):
        state = model.decode(torch.lerp(ends[0], ends[1], share), layout)
        row = {f"distance to {name}": _distance(layout, state, end)
               for name, end in zip(("first", "second"), straight, strict=True)}  # fmt: skip
        if judge is not None:
            control = layout.unflatten(torch.lerp(lines[0], lines[1], share))
            row |= {"accuracy": judge.accuracy(state), "accuracy, straight line": judge.accuracy(control)}
        yield state, row


def _decoded(
    options: argparse.Namespace,
    encoder: WeightEncoder,
    first: LoadedNetwork,
    second: LoadedNetwork,
    judge: Judge | None,
) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """Yield networks in the layout of the first, decoded by the weight encoder, with distances of latents."""
    ends = [encoder.encode(network.state) for network in (first, second)]
    for share in progress(np.linspace(0, 1, options.steps).tolist(), unit="step"):
        state = encoder.decode(torch.lerp(ends[0], ends[1], share), first.layout)
        latent = encoder.encode(state)
        row = {f"latent distance to {name}": float((latent - end).norm())
               for name, end in zip(("first", "second"), ends, strict=True)}  # fmt: skip
        if judge is not None:
            row["accuracy"] = judge.accuracy(state)
        yield state, row


def forecast(options: argparse.Namespace) -> None:
    """Forecast the next snapshots of a training."""
    predictor = PublishedPredictor.from_pretrained(options.model)
    history, future = _history(options, predictor)
    layout = history[0].layout
    steps = [*(step for step in predictor.model.config.horizons if step < options.steps), options.steps]
    states = predictor.forecast([network.state for network in history], steps)
    last = layout.flatten(history[-1].state)
    rows = []
    for step, state in zip(steps, states, strict=True):
        vector = layout.flatten(state)
        change = _norm(vector - last)
        row: dict[str, Any] = {"step": step, "change": change, "relative change": change / max(_norm(last), TINY)}
        if step <= len(future):
            truth = layout.flatten(future[step - 1].state)
            row |= {"error": _norm(vector - truth), "error of copying": _norm(last - truth)}
            row["skill"] = 1 - (row["error"] / max(row["error of copying"], TINY)) ** 2
        rows.append(row)
    if options.out:
        _write_states(Path(options.out), {f"step-{step}": state for step, state in zip(steps, states, strict=True)})
    names = [network.name for network in history]
    if options.json:
        print_json({"snapshots": names, "steps": rows})
        return
    print_table(rows, title=f"after {', '.join(names)}")


def _warn_if_unlike(name: str, encoding: Encoding, so: str) -> None:
    inside = float(encoding.inside)
    if inside <= OUTSIDE:
        warnings.warn(f"{name}: {UNLIKE.format(inside=inside)}: {so}", WscoreWarning, stacklevel=2)


def _networks(options: argparse.Namespace) -> Iterator[LoadedNetwork]:
    networks = read_networks(options.networks, architecture=options.architecture, limit=options.limit)
    seen: set[str] = set()
    for network in progress(networks):
        if network.name in seen:
            raise DataError("two networks have the same name", where=network.name, fix="pass them one at a time")
        seen.add(network.name)
        yield network


def _heads(model: str, encoder: WeightEncoder, names: Sequence[str] | None) -> dict[str, PublishedHead]:
    heads = {name: PublishedHead(folder, encoder) for name, folder in find_heads(model, names).items()}
    if any(head.head.model.reads_tokens for head in heads.values()):
        autoencoder = PublishedEncoder.from_pretrained(model)
        for head in heads.values():
            head.autoencoder = autoencoder
    return heads


def _properties(network: str, predicted: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for head, values in predicted.items():
        ends = {f"{name}{end}" for name in values for end in INTERVAL if f"{name}{end}" in values}
        for name, value in values.items():
            if name in ends:
                continue
            low, high = (values.get(f"{name}{end}") for end in INTERVAL)
            interval = "" if low is None else f"[{low:.4g}, {high:.4g}]"
            shown = f"{value:.4g}" if isinstance(value, float) else {True: "yes", False: "no"}.get(value, value)
            yield {"network": network, "head": head, "property": name, "value": shown, "interval": interval}


def _history(
    options: argparse.Namespace, predictor: PublishedPredictor
) -> tuple[list[LoadedNetwork], list[LoadedNetwork]]:
    """Return the input snapshots and, for a recorded run, those that follow."""
    texts, config = options.snapshots, predictor.model.config
    if len(texts) > 1 or not (Path(texts[0]) / "weights.npy").is_file():
        if options.at is not None:
            raise DataError("--at is for a recorded run", got=", ".join(texts))
        return list(deque(read_networks(texts), maxlen=config.reach)), []
    run, stride = Trajectory(Path(texts[0])), int(predictor.facts.get("training", {}).get("stride", 1))
    at = len(run) - 1 if options.at is None else options.at
    least = stride * (config.sequence_length - 1)
    if not least <= at < len(run):
        expected = f"from {least} to {len(run) - 1}"
        raise DataError("the snapshot has no such history", where=f"{texts[0]}: --at", expected=expected, got=at)

    def snapshot(index: int) -> LoadedNetwork:
        state = run.layout.unflatten(torch.from_numpy(run.weights[index].copy()))
        return LoadedNetwork(f"{run.name}@{run.manifest.snapshots.step[index]}", state, "")

    ahead = range(at + stride, min(len(run), at + stride * options.steps + 1), stride)
    first = max(at - stride * (config.reach - 1), at % stride)
    return [snapshot(index) for index in range(first, at + 1, stride)], [snapshot(index) for index in ahead]


def _write_latents(path: Path, latents: Mapping[str, Tensor], layouts: Mapping[str, Layout], identity: str) -> None:
    if path.suffix != ".safetensors":
        raise DataError("is no .safetensors file", where=path, fix="use an output name with .safetensors")
    notes = {name: layout.identity for name, layout in layouts.items()}
    kinds = {layout.identity: msgspec.to_builtins(layout) for layout in layouts.values()}
    metadata = {"encoder": identity, "networks": msgspec.json.encode(notes).decode()}
    metadata["layouts"] = msgspec.json.encode(kinds).decode()
    write_tensors(path, latents, metadata)


def _read_latents(path: Path) -> tuple[dict[str, Tensor], dict[str, Layout]]:
    from safetensors import safe_open

    latents = read_tensors(path)
    if not latents or any(one.ndim != 2 or not one.is_floating_point() for one in latents.values()):
        raise DataError(
            "holds no latents of the autoencoder", where=path, expected="one (windows, numbers) tensor per network",
            fix="write them with `wscore encode --autoencoder --out`",
        )  # fmt: skip
    with safe_open(path, "pt") as content:
        metadata = content.metadata() or {}
    try:
        notes = msgspec.json.decode(metadata.get("networks", "{}"), type=dict[str, str])
        kinds = msgspec.json.decode(metadata.get("layouts", "{}"), type=dict[str, Layout], strict=False)
    except (ValueError, RecursionError) as error:
        raise DataError("metadata of the latents can't be read", where=path, got=error) from error
    return latents, {name: kinds[layout] for name, layout in notes.items() if layout in kinds}


def _write_states(folder: Path, states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Path]:
    """Write networks as files of a new folder, atomically."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError("already exists and is not empty", where=folder, fix="choose a new folder")
    files = {name: f"{name.removesuffix('.safetensors').replace('/', '_')}.safetensors" for name in states}
    if len(set(files.values())) < len(files):
        raise DataError("two networks would have the same file name", where=folder, fix="write them one at a time")
    with atomic_folder(folder) as temporary:
        for name, state in states.items():
            write_tensors(temporary / files[name], {key: tensor.clone() for key, tensor in state.items()})
    return {name: folder / file for name, file in files.items()}


def _distance(layout: Layout, state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return _norm(layout.flatten(state) - layout.flatten(other))


def _norm(vector: np.ndarray) -> float:
    return math.sqrt(float(np.square(vector, dtype=np.float64).sum()))


def _short(latent: Sequence[float]) -> str:
    more = f" ... ({len(latent)} numbers)" if len(latent) > SHOWN else ""
    return " ".join(f"{number:+.3f}" for number in latent[:SHOWN]) + more
