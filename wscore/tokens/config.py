"""Configuration of the tokens (section `tokens` of params.yaml)."""

from typing import Annotated, Literal

from msgspec import Meta

from wscore.config import Section
from wscore.tokens.normalizer import Normalization
from wscore.tokens.tokenizer import Granularity

Fraction = Annotated[float, Meta(gt=0, lt=1)]


class TokensConfig(Section, frozen=True):
    """How a zoo is split, aligned, tokenized and normalized.

    Args:
        granularity: `neuron` or `chunk`, see `wscore.tokens.tokenizer.Tokenizer`.
        chunk_size: weights per token for `chunk`, maximum weights per token for `neuron`.
        max_tokens: maximum sequence length; longer networks are split into windows of nearly equal length.
        align: `weights` permutes the hidden units of every network to match a reference, see `wscore.tokens.alignment`;
            `none` leaves networks unaligned.
        normalization: see `wscore.tokens.normalizer.Normalizer`.
        validation_fraction: expected fraction of the runs.
        test_fraction: expected fraction of the runs.
        seed: of the split.
    """

    granularity: Granularity
    chunk_size: Annotated[int, Meta(ge=1, le=65536)]
    max_tokens: Annotated[int, Meta(ge=1)]
    align: Literal["none", "weights"]
    normalization: Normalization
    validation_fraction: Fraction
    test_fraction: Fraction
    seed: Annotated[int, Meta(ge=0)]

    def __post_init__(self) -> None:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("Expected `validation_fraction` + `test_fraction` < 1: nothing is left to train on")
