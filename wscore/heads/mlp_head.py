"""MLP property head: predicts named properties from features of a network, its tokens, or both."""

from itertools import pairwise
from typing import Annotated

import msgspec
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.autoencoder.models.autoencoder import AutoencoderConfig, Encoder
from wscore.config import Section
from wscore.heads.token_attention import ReaderConfig, TokenReader
from wscore.tokens.batch import TokenBatch
from wscore.training.model_folder import register

Positive = Annotated[int, msgspec.Meta(gt=0)]
LIMIT = 6.0  # standardised inputs are clipped here to limit the effect of outliers
AT_ONCE = 1 << 24  # entries whose mean and deviation are computed together


class HeadConfig(Section):
    """Shape of a head.

    Args:
        inputs: features per network, without those of an encoder or a reader.
        hidden_dim: units of each hidden layer.
        layers: hidden layers; 0 makes it a linear probe.
        dropout: dropout rate of the hidden units.
        outputs: numbers predicted for each property, by name: 1 for a logit or a scalar, one per class otherwise.
        encoder: token encoder trained jointly with the head, or none.
        reader: attention over tokens trained jointly with the head, or none.
    """

    inputs: Annotated[int, msgspec.Meta(ge=0)]
    hidden_dim: Positive
    layers: Annotated[int, msgspec.Meta(ge=0, le=1000)]
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)]
    outputs: Annotated[dict[str, Positive], msgspec.Meta(min_length=1)]
    encoder: AutoencoderConfig | None
    reader: ReaderConfig | None

    def __post_init__(self) -> None:
        """Reject a head without inputs."""
        if not self.inputs and self.encoder is None and self.reader is None:
            raise ValueError("a head needs inputs, an encoder or a reader")


@register
class Head(nn.Module):
    """outputs = W h_L + c with h_l = dropout(gelu(W_l h_(l-1) + b_l)), split by property.

    h_0 = [clip((inputs - mean) / std), LN(encoder(tokens)), reader(tokens)], limited to the configured parts. Missing
    inputs (NaN) are replaced by the mean. `mean` and `std` are buffers: they are saved with the weights and set from the
    training networks by `standardise`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.inputs))
        self.register_buffer("std", torch.ones(config.inputs))
        self.encoder = None if config.encoder is None else Encoder(config.encoder)
        self.encoder_norm = None if self.encoder is None else nn.LayerNorm(self.encoder.latent_dim)
        self.reader = None if config.reader is None else TokenReader(config.reader)
        first = config.inputs + (0 if self.encoder is None else self.encoder.latent_dim)
        first += 0 if config.reader is None else config.reader.outputs
        widths = [first, *[config.hidden_dim] * config.layers]
        hidden: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            hidden += [nn.Linear(inputs, outputs), nn.GELU(), nn.Dropout(config.dropout)]
        self.body = nn.Sequential(*hidden)
        self.out = nn.Linear(widths[-1], sum(config.outputs.values()))

    @property
    def reads_tokens(self) -> bool:
        """Whether it needs tokens."""
        return self.encoder is not None or self.reader is not None

    @torch.no_grad()
    def standardise(self, inputs: Float[Tensor, "networks input"]) -> None:
        """Set mean and standard deviation from training networks; constant inputs are only centred."""
        width = max(1, AT_ONCE // max(1, len(inputs)))
        for columns, mean, std in zip(*(x.split(width, -1) for x in (inputs, self.mean, self.std)), strict=True):
            known = columns.isfinite()
            count = known.sum(dim=0).clamp(min=1)
            clean = torch.where(known, columns, 0.0).double()
            middle = clean.sum(dim=0) / count
            spread = (torch.where(known, clean - middle, 0.0).square().sum(dim=0) / count).sqrt()
            mean.copy_(middle)
            std.copy_(torch.where(spread > 1e-6 * (1 + middle.abs()), spread, torch.ones_like(spread)))

    def forward(
        self, inputs: Float[Tensor, "batch input"], tokens: TokenBatch | None = None
    ) -> dict[str, Float[Tensor, "batch _"]]:
        """Return the raw outputs (batch, width) of each property: logits, or numbers in the scaled space."""
        parts = [((inputs - self.mean) / self.std).nan_to_num(0.0, LIMIT, -LIMIT).clamp(-LIMIT, LIMIT)]
        if tokens is not None and self.encoder is not None and self.encoder_norm is not None:
            parts.append(self.encoder_norm(self.encoder(tokens)))
        if tokens is not None and self.reader is not None:
            parts.append(self.reader(tokens))
        outputs = self.out(self.body(torch.cat(parts, dim=1)))  # (B, sum of widths)
        return dict(zip(self.config.outputs, outputs.split(list(self.config.outputs.values()), dim=1), strict=True))
