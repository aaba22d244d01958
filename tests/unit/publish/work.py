"""A tiny zoo with tokens, encoders and representations, from which heads are trained within a second."""

from pathlib import Path
from typing import Any

import torch

from wscore.autoencoder.models.autoencoder import AutoencoderConfig, Encoder
from wscore.autoencoder.models.mlp import MlpConfig
from wscore.config import convert, read_yaml
from wscore.encoder.config import EncoderConfig
from wscore.encoder.weight_encoder import WeightEncoder
from wscore.heads.dataset import HeadData, read_head_data
from wscore.heads.representations import cache_representations
from wscore.heads.train import HeadsConfig, PropertyHead, Task, train_head
from wscore.hub.checksums import write_checksums
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.training.model_folder import load_model, save_model
from wscore.zoo.store import Zoo

PARAMS = Path(__file__).parents[3] / "params.yaml"
SMALL = {
    "epochs": 2, "hidden_dim": 8, "layers": 1, "copies": 1, "boosting_rounds": 2,
    "batch_size": 8,
}  # fmt: skip


class Work:
    """A tiny zoo with tokens, an autoencoder's encoder (`encoder`), a weight encoder and representations."""

    def __init__(self, zoo: Path, folder: Path) -> None:
        self.zoo, self.folder = Zoo(zoo), folder
        tokens = TokensConfig(
            granularity="neuron", chunk_size=64, max_tokens=512, align="weights",
            normalization="layer", unseen_widths={}, validation_fraction=0.3, test_fraction=0.2, seed=0,
        )  # fmt: skip
        build_cache(self.zoo, tokens, folder / "tokens")
        self.cache = TokenCache(folder / "tokens")
        network = MlpConfig(
            token_dim=self.cache.token_dim, max_tokens=self.cache.max_tokens, latent_dim=6, hidden_dim=8, layers=1,
            pooling="flatten", positions="sinusoidal", dropout=0.0,
        )  # fmt: skip
        torch.manual_seed(0)
        encoder = Encoder(AutoencoderConfig(network=network))
        save_model(folder / "encoder", encoder, extra={"tokens": self.cache.identity})
        self.cache.copy_codec(folder / "encoder")
        write_checksums(folder / "encoder")
        small = read_yaml(PARAMS)["encoder"] | {"probes": 10, "probe_steps": 2, "hidden_dim": 8, "epochs": 1}
        fitted, _ = WeightEncoder.fit(
            self.zoo, self.cache.splits(len(self.zoo)), convert(small, EncoderConfig, where="encoder"), latent_dim=8
        )
        fitted.save(folder / "weight_encoder")
        write_checksums(folder / "weight_encoder")
        self.weight_encoder = WeightEncoder.from_folder(folder / "weight_encoder")
        cache_representations(self.cache, self.zoo, self.weight_encoder, folder / "representations")

    def data(self) -> HeadData:
        return read_head_data(self.folder / "representations", self.zoo, self.cache)

    def train(self, task: Task = "accuracy", **changes: Any) -> PropertyHead:
        config = convert(read_yaml(PARAMS)["heads"] | SMALL | changes, HeadsConfig, where="heads")
        encoder = load_model(self.folder / "encoder", Encoder)
        return train_head(task, config, self.data(), encoder=encoder)[0]
