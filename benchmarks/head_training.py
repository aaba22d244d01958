"""Benchmark: training a head on cached latents, next to encoding them for every batch.

    python -m benchmarks.head_training [--networks 1024] [--epochs 2] [--repeats 3]

Prints CPU milliseconds per epoch (the best of the repeats, which alternate) and the speed-up by the cache, on the
latents of this pipeline's encoder only. `weights` starts from the weights of the networks, as a data set without any
cache: align, normalise, tokenize, encode. `tokens` reads the token cache and encodes. Needs the pipeline's zoo, tokens
and autoencoder (`dvc repro train_autoencoder`).
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wscore.autoencoder.models.autoencoder import Encoder
from wscore.config import load_section
from wscore.heads.losses import regression_loss
from wscore.heads.mlp_head import Head, HeadConfig
from wscore.heads.train import HeadsConfig
from wscore.tokens.batch import TokenBatch
from wscore.tokens.cache import TokenCache
from wscore.tokens.index import group_places
from wscore.training.loop import FitConfig, TensorBatches, fit
from wscore.training.model_folder import load_model
from wscore.zoo.store import Zoo

PARAMS = Path(__file__).parents[1] / "params.yaml"
Make = Callable[[np.ndarray], Tensor]


class MadeAnew:
    """Batches whose latents are encoded every time."""

    def __init__(self, make: Make, items: np.ndarray, values: Tensor, batch_size: int) -> None:
        self.make, self.items, self.values = make, items, values
        self.order = TensorBatches(torch.arange(len(values)), batch_size=batch_size)

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one epoch."""
        for (rows,) in self.order.epoch(number):
            yield self.make(self.items[rows.numpy()]), self.values[rows]


def main() -> None:
    """Time all, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("zoo", "data/zoo"), ("tokens", "data/tokens"), ("autoencoder", "models/autoencoder")):
        parser.add_argument(f"--{name}", type=Path, default=Path(value))
    for name, value in (("networks", 1024), ("epochs", 2), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    heads, cache = load_section(HeadsConfig, "heads", PARAMS), TokenCache(options.tokens)
    encoder = load_model(options.autoencoder / "encoder", Encoder)
    items = np.flatnonzero(cache.table["window"].to_numpy() == 0)[: options.networks]
    makers: dict[str, Make] = {
        "weights": from_weights(encoder, cache, Zoo(options.zoo)),
        "tokens": from_tokens(encoder, cache),
    }
    values, latents = torch.randn(len(items)), makers["tokens"](items)
    best = dict.fromkeys((*makers, "cache"), float("inf"))
    for _ in range(options.repeats):
        for name in best:
            anew = name in makers
            batches = (
                MadeAnew(makers[name], items, values, heads.batch_size)
                if anew
                else TensorBatches(latents, values, batch_size=heads.batch_size)
            )
            best[name] = min(best[name], epoch_time(batches, heads, latents.shape[1], options.epochs))
    for name, milliseconds in best.items():
        print(
            f"{name:8} {milliseconds:9.1f} ms per epoch   the cache is {milliseconds / best['cache']:6.1f} times as fast"
        )


def from_weights(encoder: Encoder, cache: TokenCache, zoo: Zoo) -> Make:
    """Return a function that encodes items from weights in memory."""
    rows = cache.table["row"].to_numpy(int)
    weights = {row: vector.copy() for row, vector in zoo.stream()}
    codes = np.unique(cache.table["layout"].to_numpy(str), return_inverse=True)[1]

    def make(items: np.ndarray) -> Tensor:
        latents = torch.zeros(len(items), encoder.latent_dim)
        for places in group_places(codes[items]):
            layout = cache.layout(int(items[places[0]]))
            vectors = np.stack([weights[row] for row in rows[items[places]].tolist()])
            ordered = cache.normalizer.normalize(layout, cache.alignment.apply(layout, vectors))
            template = cache.tokenizer.template(layout)
            tokens = torch.from_numpy(np.ascontiguousarray(cache.tokenizer.encode(layout, ordered)))
            frame = [torch.from_numpy(part).expand(len(tokens), -1, -1) for part in (template.mask, template.features)]
            batch = TokenBatch._make([tokens, *frame, cache.keys(items[places])])
            latents[places] = encode(encoder, pad(batch, cache.max_tokens))
        return latents

    return make


def from_tokens(encoder: Encoder, cache: TokenCache) -> Make:
    """Return a function that encodes items from the token cache."""
    return lambda items: encode(encoder, cache.batch(items))


def pad(batch: TokenBatch, length: int) -> TokenBatch:
    """Return a batch with sequences of equal length."""
    padded = (torch.nn.functional.pad(part, (0, 0, 0, length - part.shape[1])) for part in batch[:3])
    return TokenBatch._make([*padded, batch.layouts])


def epoch_time(batches: MadeAnew | TensorBatches, heads: HeadsConfig, latent_dim: int, epochs: int) -> float:
    """Return the CPU milliseconds of a training epoch."""
    shape = {"hidden_dim": heads.hidden_dim, "layers": heads.layers, "dropout": heads.dropout, "outputs": {"y": 1}}
    model = Head(HeadConfig(inputs=latent_dim, **shape, encoder=None, reader=None))
    config = FitConfig.of(heads, epochs=epochs, patience=epochs)
    start = time.process_time()
    fit(model, train=batches, validation=None, loss=error, config=config)
    return (time.process_time() - start) / epochs * 1e3


def error(model: Head, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Return the squared error."""
    latents, values = batch
    return {"loss": regression_loss(model(latents)["y"][:, 0], values, torch.ones_like(values, dtype=torch.bool))}


@torch.no_grad()
def encode(encoder: Encoder, tokens: TokenBatch) -> Tensor:
    """Return latents."""
    return encoder(tokens)


if __name__ == "__main__":
    main()
