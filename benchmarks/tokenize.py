"""Benchmark: speed of tokenizing, next to a memory copy and to loops over networks, layers and units.

    python -m benchmarks.tokenize [--only NAME] [--seconds 3]

MB of float32 weights per second on one thread. All variants alternate on the same weights for some seconds, and the
shortest time of each counts, so that other load on the machine affects them alike. The copy, into a preallocated array
as in ours, is an upper bound for any tokenizer. References:

- unit loop: the naive version: for every network, layer and output unit (neuron) or run of weights (chunk)
  gather, pad, append; and back
- layer loop: the same, but all units of a layer at once, by reshape and pad

Both make the same tokens, which is checked. Cutting tokens into windows is free, since windows are views;
`windows` joins the windows of at most 512 tokens again and decodes: two copies at least.
"""

import argparse
import time
from collections.abc import Callable
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from wscore.networks.layout import Layout, layout_of
from wscore.tokens.index import cut_windows
from wscore.tokens.tokenizer import Granularity, Tokenizer

MEGABYTES = 24  # weights per case
CHUNK = 64
ROUNDS = 3  # at least; the loops over small networks take a second per repeat
TEXT = "{:<17}{:>11} {:<13}{:>5} {:>7}{:>16}{:>16}{:>8}{:>14}{:>14}"
Way = Callable[[], object]


class Cut(NamedTuple):
    """Tensors that are tokenized together.

    Attributes:
        units: number of rows.
        slices: positions of the tensors in the flat vector.
        widths: numbers per row of each.
        tokens: tokens per row.
    """

    units: int
    slices: list[slice]
    widths: list[int]
    tokens: int


def networks() -> dict[str, nn.Module]:
    """Networks of 100 to 21 million weights."""
    block = nn.TransformerEncoderLayer(384, 6, 1536, batch_first=True)
    return {
        "MLP 8-6-6": nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 6)),
        "CNN 1-8-6-4": nn.Sequential(
            nn.Conv2d(1, 8, 5), nn.Conv2d(8, 6, 5), nn.Conv2d(6, 4, 2), nn.Linear(36, 20), nn.Linear(20, 10)
        ),
        "CNN with norms": nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.Linear(64, 10)
        ),
        "LeNet-5": nn.Sequential(
            nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5), nn.Linear(256, 120), nn.Linear(120, 84), nn.Linear(84, 10)
        ),
        "MLP 784-400-10": nn.Sequential(nn.Linear(784, 400), nn.Linear(400, 10)),
        "MLP 784-1024-512": nn.Sequential(nn.Linear(784, 1024), nn.Linear(1024, 512), nn.Linear(512, 10)),
        "ResNet-18": resnet18(),
        "transformer, 12": nn.TransformerEncoder(block, 12, enable_nested_tensor=False),
    }


def resnet18() -> nn.Module:
    """Return the convolutions and norms of a ResNet-18 for 1,000 classes in the order of its state dict."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, bias=False), nn.BatchNorm2d(64)]
    inputs = 64
    for outputs in (64, 128, 256, 512):
        for block in range(2):
            for before in (inputs, outputs):
                layers += [nn.Conv2d(before, outputs, 3, bias=False), nn.BatchNorm2d(outputs)]
            if block == 0 and inputs != outputs:
                layers += [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
            inputs = outputs
    return nn.Sequential(*layers, nn.Linear(512, 1000))


def encode_units(cuts: list[Cut], dim: int, vectors: np.ndarray) -> np.ndarray:
    """Return tokens made network by network, layer by layer and unit by unit."""
    networks = []
    for vector in vectors:
        tokens = []
        for cut in cuts:
            matrices = [vector[where].reshape(cut.units, -1) for where in cut.slices]
            for unit in range(cut.units):
                row = np.concatenate([matrix[unit] for matrix in matrices])
                for start in range(0, len(row), dim):
                    token = np.zeros(dim, np.float32)
                    part = row[start : start + dim]
                    token[: len(part)] = part
                    tokens.append(token)
        networks.append(np.stack(tokens))
    return np.stack(networks)


def decode_units(cuts: list[Cut], tokens: np.ndarray) -> np.ndarray:
    """Return flat weights put together network by network, layer by layer and unit by unit."""
    vectors = []
    for network in tokens:
        tensors, start = [], 0
        for cut in cuts:
            rows = []
            for _ in range(cut.units):
                rows.append(np.concatenate(list(network[start : start + cut.tokens]))[: sum(cut.widths)])
                start += cut.tokens
            matrix, column = np.stack(rows), 0
            for where, width in zip(cut.slices, cut.widths, strict=True):
                tensors.append((where.start, matrix[:, column : column + width].reshape(-1)))
                column += width
        vectors.append(np.concatenate([tensor for _, tensor in sorted(tensors, key=lambda pair: pair[0])]))
    return np.stack(vectors)


def encode_layers(cuts: list[Cut], dim: int, vectors: np.ndarray) -> np.ndarray:
    """Return tokens made network by network and layer by layer."""
    networks = []
    for vector in vectors:
        parts = []
        for cut in cuts:
            matrix = np.concatenate([vector[where].reshape(cut.units, -1) for where in cut.slices], axis=1)
            padding = cut.tokens * dim - matrix.shape[1]
            parts.append(np.pad(matrix, ((0, 0), (0, padding))).reshape(-1, dim))
        networks.append(np.concatenate(parts))
    return np.stack(networks)


def decode_layers(cuts: list[Cut], tokens: np.ndarray) -> np.ndarray:
    """Return flat weights put together network by network and layer by layer."""
    vectors = np.empty((len(tokens), sum(cut.units * sum(cut.widths) for cut in cuts)), np.float32)
    for network, vector in zip(tokens, vectors, strict=True):
        start = 0
        for cut in cuts:
            count = cut.units * cut.tokens
            matrix, column = network[start : start + count].reshape(cut.units, -1), 0
            for where, width in zip(cut.slices, cut.widths, strict=True):
                vector[where] = matrix[:, column : column + width].reshape(-1)
                column += width
            start += count
    return vectors


def cuts_of(tokenizer: Tokenizer, layout: Layout) -> list[Cut]:
    """Return the tensors that are tokenized together; computed once, outside of the timed loops."""
    slices, cuts = layout.slices(), []
    for units, names in unit_groups(tokenizer, layout):
        widths = [(slices[name].stop - slices[name].start) // units for name in names]
        cuts.append(Cut(units, [slices[name] for name in names], widths, -(-sum(widths) // tokenizer.token_dim)))
    return cuts


def unit_groups(tokenizer: Tokenizer, layout: Layout) -> list[tuple[int, list[str]]]:
    """Return the tensors that are tokenized together and their unit counts; computed once, outside of the timed loops."""
    if tokenizer.granularity == "chunk":
        return [(1, [spec.name]) for spec in layout.tensors]
    groups: list[tuple[int, list[str]]] = []
    for _, layer in groupby(layout.tensors, key=lambda spec: spec.layer):
        specs = list(layer)
        units, names = specs[0].shape[0], [spec.name for spec in specs]
        if groups and specs[0].kind == "norm_weight" and groups[-1][0] == units:
            groups[-1][1].extend(names)
        else:
            groups.append((units, names))
    return groups


def shortest(ways: dict[str, Way], seconds: float) -> dict[str, float]:
    """Return the shortest time of each variant; they alternate."""
    best, end, rounds = dict.fromkeys(ways, float("inf")), time.perf_counter() + seconds, 0
    while time.perf_counter() < end or rounds < ROUNDS:
        for name, work in ways.items():
            if rounds >= ROUNDS and best[name] > seconds / 10:
                continue  # slow ones are done
            start = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - start)
        rounds += 1
    return best


def measure(layout: Layout, granularity: Granularity, seconds: float) -> tuple[Tokenizer, dict[str, float]]:
    """Return the tokenizer of a layout and the MB of weights per second of each variant."""
    count = max(int(MEGABYTES * 1e6 / 4 / layout.size), 1)
    vectors = np.random.default_rng(0).standard_normal((count, layout.size)).astype(np.float32)
    tokenizer = Tokenizer.fit(granularity, CHUNK, [layout])
    cuts, dim = cuts_of(tokenizer, layout), tokenizer.token_dim
    tokens, back = tokenizer.encode(layout, vectors), np.zeros_like(vectors)
    few = slice(max(1, count // 50))  # the time per network of the loops does not depend on the number of networks
    for encode, decode in ((encode_units, decode_units), (encode_layers, decode_layers)):
        assert np.array_equal(encode(cuts, dim, vectors[few]), tokens[few])
        assert np.array_equal(decode(cuts, tokens[few]), vectors[few])
    assert np.array_equal(tokenizer.decode(layout, tokens).view(np.uint32), vectors.view(np.uint32))
    windows = [tokens[:, start : start + length] for start, length in cut_windows(tokens.shape[1], 512)]
    windows, whole = [np.ascontiguousarray(window) for window in windows], np.empty_like(tokens)
    ways: dict[str, Way] = {
        "copy": lambda: np.copyto(back, vectors),
        "encode": lambda: tokenizer.encode(layout, vectors, tokens),
        "decode": lambda: tokenizer.decode(layout, tokens, back),
        "windows": lambda: from_windows(tokenizer, layout, windows, (whole, back)),
        "encode by unit": lambda: encode_units(cuts, dim, vectors[few]),
        "decode by unit": lambda: decode_units(cuts, tokens[few]),
        "encode by layer": lambda: encode_layers(cuts, dim, vectors[few]),
        "decode by layer": lambda: decode_layers(cuts, tokens[few]),
    }
    found = shortest(ways, seconds)
    sizes = {name: vectors[few].nbytes if " by " in name else vectors.nbytes for name in ways}
    return tokenizer, {name: sizes[name] / 1e6 / found[name] for name in ways}


def from_windows(
    tokenizer: Tokenizer, layout: Layout, windows: list[np.ndarray], into: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return the weights of tokens that come in windows (networks, length, dim); into given arrays for tokens and weights."""
    whole, back = into
    if len(windows) == 1:
        return tokenizer.decode(layout, windows[0], back)
    np.concatenate(windows, axis=1, out=whole)
    return tokenizer.decode(layout, whole, back)


def main() -> None:
    """Print one line per network and granularity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--seconds", type=float, default=3.0, help="per line of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "copy: GB/s; encode, decode, windows: GB/s of weights (share of the copy); loops: encode / decode, times faster\n"
    )
    heads = ("network", "weights", "tokens", "pad", "copy", "encode", "decode", "windows", "unit loop", "layer loop")
    print(TEXT.format(*heads))
    for name, network in networks().items():
        if options.only not in name:
            continue
        layout = layout_of(network.state_dict())
        for granularity in ("chunk", "neuron"):
            tokenizer, mb = measure(layout, granularity, options.seconds)
            mask = tokenizer.template(layout).mask
            cells = [f"{mb[way] / 1e3:.1f} ({mb[way] / mb['copy']:.0%})" for way in ("encode", "decode")]
            cells.append(f"{mb['windows'] / mb['copy']:.0%}")
            cells += [
                " / ".join(f"{mb[way] / mb[f'{way} by {loop}']:,.3g}" for way in ("encode", "decode"))
                for loop in ("unit", "layer")
            ]
            shape, padding = f"{granularity} {len(mask)}", f"{1 - mask.mean():.0%}"
            print(TEXT.format(name, f"{layout.size:,}", shape, padding, f"{mb['copy'] / 1e3:.1f}", *cells), flush=True)


if __name__ == "__main__":
    main()
