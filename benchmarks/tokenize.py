"""Speed of tokenising beside a copy of the same bytes and beside a loop over networks and layers.

    python -m benchmarks.tokenize

Prints MB of float32 weights per second on one thread, the best of several runs. The copy is the bound that no tokenizer
can beat. The loop is what one would write first: for every network and layer reshape, pad and append; it makes the same
tokens, which is checked. Networks too long for a sequence are also cut into windows (views of the tokens) and joined
again; the last column says how fast that is. Takes about a minute.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from wscore.tokens.items import cut_windows
from wscore.tokens.tokenizer import Granularity, Tokenizer
from wscore.zoo.layout import Layout, layers_of, layout_of

MEGABYTES = 24  # of weights per case
SECONDS = 0.4  # per measurement
CHUNK = 64


class Speeds(NamedTuple):
    """MB of weights per second."""

    copy: float
    encode: float
    decode: float
    loop_encode: float
    loop_decode: float
    windows: float


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


def loop_encode(tokenizer: Tokenizer, layout: Layout, vectors: np.ndarray) -> np.ndarray:
    """Return tokens made network by network and layer by layer."""
    groups, slices = unit_groups(tokenizer, layout), layout.slices()
    networks = []
    for vector in vectors:
        parts = []
        for units, names in groups:
            matrix = np.concatenate([vector[slices[name]].reshape(units, -1) for name in names], axis=1)
            padding = -matrix.shape[1] % tokenizer.token_dim
            parts.append(np.pad(matrix, ((0, 0), (0, padding))).reshape(-1, tokenizer.token_dim))
        networks.append(np.concatenate(parts))
    return np.stack(networks)


def loop_decode(tokenizer: Tokenizer, layout: Layout, tokens: np.ndarray) -> np.ndarray:
    """Return flat weights put together network by network and layer by layer."""
    groups, slices = unit_groups(tokenizer, layout), layout.slices()
    vectors = np.empty((len(tokens), layout.size), np.float32)
    for network, vector in zip(tokens, vectors, strict=True):
        start = 0
        for units, names in groups:
            widths = [(slices[name].stop - slices[name].start) // units for name in names]
            count = units * -(-sum(widths) // tokenizer.token_dim)
            matrix, column = network[start : start + count].reshape(units, -1), 0
            for name, width in zip(names, widths, strict=True):
                vector[slices[name]] = matrix[:, column : column + width].reshape(-1)
                column += width
            start += count
    return vectors


def unit_groups(tokenizer: Tokenizer, layout: Layout) -> list[tuple[int, list[str]]]:
    """Return which tensors are cut together, and into how many units: found once, not in the loops that are timed."""
    if tokenizer.granularity == "chunk":
        return [(1, [spec.name]) for spec in layout.tensors]
    groups: list[tuple[int, list[str]]] = []
    for specs in layers_of(layout).values():
        units, names = specs[0].shape[0], [spec.name for spec in specs]
        if groups and specs[0].kind == "norm_weight" and groups[-1][0] == units:
            groups[-1][1].extend(names)
        else:
            groups.append((units, names))
    return groups


def seconds(work: Callable[[], object]) -> float:
    """Return the shortest time that a call took."""
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def measure(layout: Layout, granularity: Granularity) -> tuple[Tokenizer, Speeds]:
    """Return the tokenizer of a layout and how fast it is."""
    count = max(int(MEGABYTES * 1e6 / 4 / layout.size), 1)
    vectors = np.random.default_rng(0).standard_normal((count, layout.size)).astype(np.float32)
    few = vectors[: max(count // 20, 1)]  # the loop is slow: a part of the networks says enough
    tokenizer = Tokenizer.fit(granularity, CHUNK, [layout])
    tokens = tokenizer.encode(layout, vectors)
    assert np.array_equal(loop_encode(tokenizer, layout, few), tokens[: len(few)])
    assert np.array_equal(loop_decode(tokenizer, layout, tokens[: len(few)]), few)
    assert np.array_equal(tokenizer.decode(layout, tokens), vectors)
    return tokenizer, Speeds(
        copy=vectors.nbytes / 1e6 / seconds(vectors.copy),
        encode=vectors.nbytes / 1e6 / seconds(lambda: tokenizer.encode(layout, vectors)),
        decode=vectors.nbytes / 1e6 / seconds(lambda: tokenizer.decode(layout, tokens)),
        loop_encode=few.nbytes / 1e6 / seconds(lambda: loop_encode(tokenizer, layout, few)),
        loop_decode=few.nbytes / 1e6 / seconds(lambda: loop_decode(tokenizer, layout, tokens[: len(few)])),
        windows=vectors.nbytes / 1e6 / seconds(lambda: in_windows(tokenizer, layout, vectors)),
    )


def in_windows(tokenizer: Tokenizer, layout: Layout, vectors: np.ndarray) -> np.ndarray:
    """Return weights after tokens were cut into windows of at most 512 and joined again."""
    tokens = tokenizer.encode(layout, vectors)
    windows = [tokens[:, start : start + length] for start, length in cut_windows(tokens.shape[1], 512)]
    whole = np.concatenate(windows, axis=1) if len(windows) > 1 else windows[0]
    return tokenizer.decode(layout, whole)


def main() -> None:
    """Print one line per network and granularity."""
    torch.set_num_threads(1)
    print("MB of weights per second; in brackets times the loop, and share of the speed of a copy\n")
    print(
        f"{'network':<18}{'weights':>10}  {'tokens':<14}{'padding':>8}{'copy':>9}{'encode':>26}{'decode':>26}{'windows':>9}"
    )
    for name, network in networks().items():
        layout = layout_of(network.state_dict())
        for granularity in ("chunk", "neuron"):
            tokenizer, found = measure(layout, granularity)
            mask = tokenizer.template(layout).mask
            ways = ((found.encode, found.loop_encode), (found.decode, found.loop_decode))
            cells = "".join(
                f"{f'{ours:,.0f} ({ours / loop:.1f}x, {ours / found.copy:.0%})':>26}" for ours, loop in ways
            )
            shape = f"{granularity} {len(mask)}x{tokenizer.token_dim}"
            start = f"{name:<18}{layout.size:>10,}  {shape:<14}{1 - mask.mean():>8.0%}"
            print(f"{start}{found.copy:>9,.0f}{cells}{found.windows:>9,.0f}")


if __name__ == "__main__":
    main()
