"""Memory that a zoo takes while it passes through tokens, batches and latents: little per network, whatever they weigh.

Networks of 3,300 weights are 13 kB each; what may grow with their number is a table of names and numbers.
"""

import tracemalloc

import numpy as np
import pandas as pd

from wscore.autoencoder.latents import iterate_latents
from wscore.autoencoder.models.autoencoder import AutoencoderConfig, Encoder
from wscore.autoencoder.models.mlp import MlpConfig
from wscore.autoencoder.training.train import CacheBatches
from wscore.encoder.weight_statistics import statistics_table
from wscore.networks.architectures import Architecture, build
from wscore.networks.layout import layout_of
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo, write_layouts, write_part

FEW, MANY = 600, 2400
PER_NETWORK = 3_000  # bytes: less than a quarter of a network's weights
KNOWN = Architecture(family="mlp", input=(1, 8, 8), classes=10, widths=(44,), activation="relu", pooling="none")
SIZES = {
    "tokens.writer.BLOCK": 1 << 18, "tokens.writer.PART": 1 << 16, "tokens.writer.ENTRIES": 1 << 18,
    "tokens.alignment.TOGETHER": 64, "autoencoder.latents.BLOCK": 64,
}  # fmt: skip
CONFIG = TokensConfig(
    granularity="neuron", chunk_size=80, max_tokens=64, align="weights", normalization="layer",
    unseen_widths={}, validation_fraction=0.2, test_fraction=0.2, seed=0,
)  # fmt: skip


def write_zoo(folder, count):
    """Random networks, four checkpoints per run, in parts of a few."""
    layout, rng = layout_of(build(KNOWN).state_dict()), np.random.default_rng(0)
    for part, start in enumerate(range(0, count, FEW)):
        numbers = np.arange(start, start + FEW)
        table = pd.DataFrame({"model_id": [f"m{n}" for n in numbers], "run_id": [f"run-{n // 4}" for n in numbers]})
        table = table.assign(checkpoint=numbers % 4, layout=layout.identity, architecture=KNOWN.to_json())
        vectors = list(rng.standard_normal((FEW, layout.size)).astype(np.float32))
        write_part(folder / "rows" / f"part-{part:05d}.parquet", table, vectors)
    write_layouts(folder, [layout])


def traced(work):
    """Return the most memory that a call held at once, in bytes, and what it returned."""
    tracemalloc.start()
    try:
        found = work()
        return tracemalloc.get_traced_memory()[1], found
    finally:
        tracemalloc.stop()


def last(passed):
    """Go through an iterator and forget what it yields."""
    for _ in passed:
        pass


def stages(folder, count):
    """Return the peak of each step on a zoo of so many networks."""
    write_zoo(folder / "zoo", count)
    zoo = Zoo(folder / "zoo")
    peaks = {"tokens": traced(lambda: build_cache(zoo, CONFIG, folder / "tokens"))[0]}
    cache = TokenCache(folder / "tokens")
    sizes = MlpConfig(
        token_dim=cache.token_dim, max_tokens=cache.max_tokens, latent_dim=8, hidden_dim=8, layers=0, pooling="mean",
        positions="sinusoidal", dropout=0.0,
    )  # fmt: skip
    encoder = Encoder(AutoencoderConfig(network=sizes)).eval()
    batches = CacheBatches(cache, cache.indices("train"), batch_size=64, seed=0, shuffle=True)
    peaks["batches"] = traced(lambda: last(batches.epoch(1)))[0]
    peaks["latents"] = traced(lambda: last(iterate_latents(encoder, cache)))[0]
    peaks["statistics"] = traced(lambda: statistics_table(zoo))[0]
    return peaks


def test_memory_hardly_grows_with_the_zoo(tmp_path, monkeypatch):
    for name, size in SIZES.items():  # small, so that a few hundred networks fill them
        monkeypatch.setattr(f"wscore.{name}", size)
    stages(tmp_path / "warm", FEW)  # what is imported and remembered once belongs to no zoo
    few, many = stages(tmp_path / "few", FEW), stages(tmp_path / "many", MANY)
    growth = {name: (many[name] - few[name]) / (MANY - FEW) for name in few}
    assert max(growth.values()) < PER_NETWORK, growth


def test_it_would_tell(tmp_path):
    """A step that holds all weights is found out by the same measure."""
    write_zoo(tmp_path, FEW)
    zoo = Zoo(tmp_path)
    peak, held = traced(lambda: [vector.copy() for _, vector in zoo.stream()])
    assert peak / len(held) > PER_NETWORK
