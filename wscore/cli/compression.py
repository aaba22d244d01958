"""The commands `compress` and `decompress`."""

import argparse
from pathlib import Path

import torch

from wscore.autoencoder.coding.codec import WEIGHTS, WeightCodec
from wscore.cli.accuracy import Judge, is_json
from wscore.cli.main import MODEL
from wscore.cli.networks import read_one
from wscore.cli.output import print_json, print_table
from wscore.errors import DataError, WscoreError
from wscore.hub.checksums import CHECKSUMS, verify
from wscore.hub.fetch import fetch
from wscore.io import atomic_file, write_tensors

FITTED = Path("models/codec")  # of the pipeline


def compress(options: argparse.Namespace) -> None:
    """Write a network as a small file; report its size and, where it can be run, what it still does."""
    codec = read_codec(options.model)
    network = read_one(options.network, architecture=options.architecture)
    reference = read_one(options.reference).state if options.reference else None
    judge = Judge(options.images, network) if options.images else None
    architecture = (
        network.architecture if is_json(network.architecture) else None if judge is None else judge.network.module
    )
    data = codec.compress(
        network.state,
        ratio=options.ratio,
        reference=reference,
        images=None if judge is None else judge.training,
        architecture=architecture,
    )
    back = codec.decompress(data, reference)
    row = {"network": network.name, "file": options.out, "bytes": len(data)}
    row["ratio"] = 4 * network.layout.size / len(data)
    run = codec.run_alone(network.layout, torch.from_numpy(network.layout.flatten(network.state))[None], architecture)
    inputs = (
        f"{len(run.images)} inputs of the codec" if run is not None and bool(run.alike) else "nothing: weights rounded"
    )
    row["run on"] = inputs if judge is None else f"{len(judge.training)} training images"
    if judge is not None:
        original, decoded = judge.logits(network.state), judge.logits(back)
        row["agreement"] = float((original.argmax(-1) == decoded.argmax(-1)).float().mean())
        row |= {"accuracy": judge.accuracy(back), "original accuracy": judge.accuracy(network.state)}
    with atomic_file(Path(options.out)) as temporary:
        temporary.write_bytes(data)
    print_json(row) if options.json else print_table([row])


def decompress(options: argparse.Namespace) -> None:
    """Write the network in a file of `compress` as a state dict."""
    path, out = Path(options.file), Path(options.out)
    if out.suffix != ".safetensors":
        raise DataError("is no .safetensors file", where=out, fix="name the output something.safetensors")
    if not path.is_file():
        raise DataError("no such file", where=path, expected="a file that `wscore compress` wrote")
    reference = read_one(options.reference).state if options.reference else None
    data = path.read_bytes()
    try:
        state = read_codec(options.model).decompress(data, reference)
    except WscoreError as error:
        raise type(error)(str(error), where=path) from error
    write_tensors(out, {name: tensor.clone() for name, tensor in state.items()})
    weights = sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())
    row = {"file": options.out, "tensors": len(state), "weights": weights, "ratio": 4 * weights / len(data)}
    print_json(row) if options.json else print_table([row])


def read_codec(model: str) -> WeightCodec:
    """Return the codec in a folder or its subfolder `codec`, or on the Hub; by default also the pipeline's, or one without a zoo.

    Raises:
        DataError: if another folder has none.
        ModelError: if it was altered after it was published.
    """
    places = (Path(model), Path(model) / "codec", *([FITTED] if model == MODEL else []))
    folder = next((place for place in places if (place / WEIGHTS).is_file()), None)
    if folder is None and model == MODEL:
        return WeightCodec()
    if folder is None and not Path(model).is_dir():
        folder = fetch(model, part="codec")
    if folder is None or not (folder / WEIGHTS).is_file():
        raise DataError("holds no codec", where=model, expected=f"a folder with {WEIGHTS}")
    if (folder / CHECKSUMS).is_file():
        verify(folder)
    return WeightCodec.from_folder(folder)
