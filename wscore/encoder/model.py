"""Network of the encoder: features in, latents and a score of unfamiliarity out.

    u = clip((sign(x) log(1 + |x|) - mean) / std), 0 where x is missing, with flags of missing features         (n, F)
    z = [ (u - centre) e basis / stds, (h(u) - m) / s ]                                                       (n, Z)

The first part of the latent are principal components of the features. The second part are hidden numbers of a network h that
was trained to predict the outputs of the networks from these features. Both have mean 0 and variance 1 in training. The factors
e stress outputs under the likely hypothesis (`wscore.encoder.chain_outputs`) and features of updates (`wscore.encoder.updates`),
so that they are among the principal components; they are 1 for all else.

Unfamiliar are networks that the discriminator d takes for damaged ones, and those with features that the principal components
do not explain: |(u - centre) e|^2 - |(u - centre) e basis|^2.
"""

from itertools import pairwise
from typing import Annotated

import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor, nn

from wscore.config import Section
from wscore.encoder.chain_outputs import LIKELY
from wscore.encoder.updates import PREFIX
from wscore.training.model_folder import register

EMPHASIS = {f".{LIKELY}": 8.0, f".{PREFIX}": 2.0}  # of features with such names; 1 for all others
CLIP = 6.0  # standard deviations
TAIL = 8  # calibration networks, or a tenth of them, whose mean excess is the scale of the tail
SHARES = (0.8, 0.2)  # of the error rate that the discriminator and the residual may use up
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]


class EncoderShape(Section):
    """Shape of the network.

    Args:
        features: names of the features.
        optional: places of features that a network may lack, one of each set that it lacks together.
        components: latent numbers that are principal components.
        distilled: latent numbers that are distilled from outputs.
        hidden_dim: hidden width.
        layers: hidden layers.
        dropout: rate in training.
        calibration: networks on which scores were calibrated.
    """

    features: tuple[str, ...]
    optional: tuple[Count, ...]
    components: Positive
    distilled: Count
    hidden_dim: Positive
    layers: Positive
    dropout: Annotated[float, Meta(ge=0, lt=1)]
    calibration: Positive

    def __post_init__(self) -> None:
        """Reject places that are no feature."""
        if any(place >= len(self.features) for place in self.optional):
            raise ValueError(f"optional names a place beyond the {len(self.features)} features")

    @property
    def inputs(self) -> int:
        """Number of inputs: features and flags."""
        return len(self.features) + len(self.optional)


@register
class EncoderNetwork(nn.Module):
    """See the module docstring."""

    mean: Tensor
    std: Tensor
    optional: Tensor
    emphasis: Tensor
    centre: Tensor
    basis: Tensor
    stds: Tensor
    calibration: Tensor

    def __init__(self, config: EncoderShape) -> None:
        super().__init__()
        self.config = config
        features = len(config.features)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("optional", torch.tensor(config.optional, dtype=torch.int64), persistent=False)
        emphasis = [*map(_emphasis, config.features), *[1.0] * len(config.optional)]
        self.register_buffer("emphasis", torch.tensor(emphasis), persistent=False)
        self.register_buffer("centre", torch.zeros(config.inputs))
        self.register_buffer("basis", torch.zeros(config.inputs, config.components))
        self.register_buffer("stds", torch.ones(config.components))
        self.register_buffer("calibration", torch.zeros(2, config.calibration))  # sorted scores
        self.hidden = _perceptron(config, config.layers, config.distilled) if config.distilled else None
        self.scale = nn.BatchNorm1d(config.distilled, affine=False) if config.distilled else None
        self.discriminator = _perceptron(config, 1, 1)

    def forward(self, features: Float[Tensor, "network feature"]) -> Float[Tensor, "network latent"]:
        """Return the latents of raw features; NaN marks a missing one."""
        return self.latents(self.inputs(features))

    def inputs(self, features: Float[Tensor, "network feature"]) -> Float[Tensor, "network input"]:
        """Return standardised features, 0 where they are missing, and flags of missing ones."""
        missing = features.isnan()
        log = features.sign() * features.abs().log1p()
        u = ((log - self.mean) / self.std).clamp(-CLIP, CLIP)
        return torch.cat([u.masked_fill(missing, 0), missing[:, self.optional].float()], 1)

    def centred(self, u: Float[Tensor, "network input"]) -> Float[Tensor, "network input"]:
        """Return standardised features as the principal components read them."""
        return (u - self.centre) * self.emphasis

    def latents(self, u: Float[Tensor, "network input"]) -> Float[Tensor, "network latent"]:
        """Return the latents of standardised features."""
        components = self.centred(u) @ self.basis / self.stds
        if self.hidden is None or self.scale is None:
            return components
        return torch.cat([components, self.scale(self.hidden(u))], 1)

    def scores(self, u: Float[Tensor, "network input"]) -> Float[Tensor, "2 network"]:
        """Return the logit of being damaged, and the squared residual of the principal components."""
        centred = self.centred(u)
        residual = centred.square().sum(1) - (centred @ self.basis).square().sum(1)
        return torch.stack([self.discriminator(u)[:, 0], residual])

    def inside(self, u: Float[Tensor, "network input"]) -> Float[Tensor, " network"]:
        """Return the p-value of the hypothesis that networks come from the population of the training networks.

        Split conformal p-values of both scores, p = (1 + calibration networks with a score at least as high) /
        (1 + calibration networks), combined by a weighted Bonferroni correction. Beyond all calibration networks, of which
        there may be few, the tail of a score is taken for exponential.
        """
        scores, count = self.scores(u).contiguous(), self.calibration.shape[1]
        below = torch.searchsorted(self.calibration, scores)  # (2, n)
        tail = min(max(TAIL, count // 10), count - 1)
        threshold = self.calibration[:, count - 1 - tail, None]
        scale = (self.calibration[:, count - 1 - tail :] - threshold).mean(1, keepdim=True).clamp_min(1e-6)
        beyond = (-(scores - self.calibration[:, -1:]).clamp_min(0) / scale).exp()
        shares = torch.tensor(SHARES, device=u.device)[:, None]
        return ((1 + count - below) * beyond / (count + 1) / shares).amin(0).clamp_max(1.0)


def _emphasis(feature: str) -> float:
    return next((factor for named, factor in EMPHASIS.items() if named in feature), 1.0)


def _perceptron(config: EncoderShape, layers: int, outputs: int) -> nn.Sequential:
    widths = [config.inputs, *[config.hidden_dim] * layers]
    blocks: list[nn.Module] = []
    for before, after in pairwise(widths):
        blocks += [nn.Linear(before, after), nn.LayerNorm(after), nn.GELU(), nn.Dropout(config.dropout)]
    return nn.Sequential(*blocks, nn.Linear(widths[-1], outputs))
