"""Configuration of tokens: section `tokens` of params.yaml."""

from typing import Annotated, Literal

from msgspec import Meta

from wscore.config import Section
from wscore.tokens.normalizer import Normalization
from wscore.tokens.tokenizer import Granularity

Fraction = Annotated[float, Meta(gt=0, lt=1)]


class TokensConfig(Section, frozen=True):
    """How a zoo becomes tokens.

    Args:
        granularity: `neuron` or `chunk`, see `wscore.tokens.tokenizer.Tokenizer`.
        chunk_size: weights per token for `chunk`, most weights per token for `neuron`.
        max_tokens: longest sequence; longer networks are cut into windows of nearly equal length.
        align: `weights` puts the hidden units of every network into the order that fits a reference best, see
            `wscore.tokens.alignment`; `none` takes networks as they are.
        normalization: see `wscore.tokens.normalizer.Normalizer`.
        validation_fraction: share of the runs, in expectation.
        test_fraction: share of the runs, in expectation.
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
