"""Configuration of the tokens (section `tokens` of params.yaml)."""

from typing import Annotated, Literal

from msgspec import Meta

from wscore.config import Section
from wscore.errors import ConfigError
from wscore.networks.architectures import FAMILIES, Width
from wscore.tokens.normalizer import Normalization
from wscore.tokens.tokenizer import Granularity

Fraction = Annotated[float, Meta(gt=0, lt=1)]


class TokensConfig(Section, frozen=True):
    """How a zoo is split, aligned, tokenized and normalized (section `tokens:`)."""

    granularity: Granularity
    chunk_size: Annotated[int, Meta(ge=1, le=65536)]
    max_tokens: Annotated[int, Meta(ge=1)]
    align: Literal["none", "weights"]
    normalization: Normalization
    unseen_widths: dict[str, tuple[Annotated[tuple[Width, ...], Meta(min_length=1)], ...]]
    validation_fraction: Fraction
    test_fraction: Fraction
    seed: Annotated[int, Meta(ge=0)]

    def __post_init__(self) -> None:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("Expected `validation_fraction` + `test_fraction` < 1: nothing is left to train on")
        for family in self.unseen_widths:
            if family not in FAMILIES:
                known = ", ".join(FAMILIES)
                raise ConfigError("unknown family", where="tokens.unseen_widths", expected=known, got=family)
