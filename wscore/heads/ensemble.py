"""Ensemble heads: networks and boosted trees, mixed with weights per property."""

from typing import Annotated, Literal

import msgspec
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wscore.config import Section
from wscore.heads.mlp_head import Head, HeadConfig
from wscore.heads.trees import Forest, ForestConfig
from wscore.tokens.batch import TokenBatch
from wscore.training.model_folder import register

Kind = Literal["binary", "continuous", "discrete"]
Predictions = dict[str, Float[Tensor, "batch _"]]


class BlendConfig(Section):
    """Members of an ensemble.

    Args:
        kinds: kind of each property: a logit, a number, or class logits.
        network: shape of the networks, or none.
        copies: networks of that shape, with different seeds.
        forests: shapes of boosted trees; may be empty.
    """

    kinds: Annotated[dict[str, Kind], msgspec.Meta(min_length=1)]
    network: HeadConfig | None
    copies: Annotated[int, msgspec.Meta(ge=1)]
    forests: tuple[ForestConfig, ...]

    @property
    def members(self) -> tuple[HeadConfig | ForestConfig, ...]:
        """Shapes of the networks and of each forest."""
        return (*([] if self.network is None else [self.network]), *self.forests)

    def __post_init__(self) -> None:
        """Reject an empty ensemble, and members of different inputs."""
        if not self.members:
            raise ValueError("a blend needs networks or trees")
        if len({member.inputs for member in self.members}) > 1:
            raise ValueError("networks and trees need the same inputs")


@register
class Blend(nn.Module):
    """output = sum over members m of s_m output_m, with weights s_m >= 0 that sum to 1, separately for each property.

    All networks together are one member (their mean output), and so is each forest. An output is a probability (of true,
    or of each class) or a number in the scaled space.
    """

    share: Tensor

    def __init__(self, config: BlendConfig) -> None:
        super().__init__()
        self.config = config
        copies = 0 if config.network is None else config.copies
        self.networks = nn.ModuleList(Head(config.network) for _ in range(copies) if config.network is not None)
        self.forests = nn.ModuleList(Forest(forest) for forest in config.forests)
        members = bool(copies) + len(config.forests)
        self.register_buffer("share", torch.full((len(config.kinds), members), 1 / members))

    @property
    def inputs(self) -> int:
        """Input features per network."""
        return self.config.members[0].inputs

    @property
    def reads_tokens(self) -> bool:
        """Whether it needs tokens."""
        return any(network.reads_tokens for network in self.networks if isinstance(network, Head))

    def members(self, inputs: Float[Tensor, "batch input"], tokens: TokenBatch | None = None) -> list[Predictions]:
        """Return the outputs of each member: of the networks together, then of each forest."""
        outputs: list[Predictions] = []
        if len(self.networks):
            each = [to_predictions(network(inputs, tokens), self.config.kinds) for network in self.networks]
            outputs.append({name: torch.stack([p[name] for p in each]).mean(dim=0) for name in self.config.kinds})
        return [*outputs, *(to_predictions(forest(inputs), self.config.kinds) for forest in self.forests)]

    def forward(self, inputs: Float[Tensor, "batch input"], tokens: TokenBatch | None = None) -> Predictions:
        """Return the outputs (batch, width) of each property."""
        outputs = self.members(inputs, tokens)
        mixed = {}
        for name, shares in zip(self.config.kinds, self.share.unbind(), strict=True):
            mixed[name] = torch.stack([s * each[name] for s, each in zip(shares, outputs, strict=True)]).sum(dim=0)
        return mixed


def to_predictions(raw: Predictions, kinds: dict[str, Kind]) -> Predictions:
    """Map logits to probabilities and leave numbers unchanged; float32."""
    functions = {"binary": torch.sigmoid, "continuous": lambda x: x, "discrete": lambda x: x.softmax(dim=1)}
    return {name: functions[kind](raw[name]).float() for name, kind in kinds.items()}
