"""Section `codec_study:` of params.yaml."""

from typing import Annotated

import msgspec

from wscore.autoencoder.coding.search import SearchConfig
from wscore.config import Section
from wscore.networks.architectures import Width

Count = Annotated[int, msgspec.Meta(ge=1)]


class CodecStudyConfig(Section):
    """What is compared (section `codec_study:`).

    Args:
        ratios: bytes of the weights in float32 to those of a file.
        runs: of the test split, spread evenly over the families, one checkpoint of each.
        validation_runs: of the validation split, on which the learning rate of the searches is chosen.
        learning_rates: that it is chosen from, at the second ratio.
        search: all else about the searches; its `lr` is one of `learning_rates`.
        other_widths: hidden widths that the zoo does not have, by family.
        other_runs: networks of them.
        seed: of the networks drawn and of the bootstrap.
        samples: of the bootstrap.
    """

    ratios: Annotated[tuple[Annotated[float, msgspec.Meta(gt=1)], ...], msgspec.Meta(min_length=2)]
    runs: Count
    validation_runs: Count
    learning_rates: Annotated[tuple[Annotated[float, msgspec.Meta(gt=0)], ...], msgspec.Meta(min_length=1)]
    search: SearchConfig
    other_widths: dict[str, Annotated[tuple[tuple[Width, ...], ...], msgspec.Meta(min_length=1)]]
    other_runs: Count
    seed: Annotated[int, msgspec.Meta(ge=0)]
    samples: Annotated[int, msgspec.Meta(ge=0)]
