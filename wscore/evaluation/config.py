"""What every evaluation stage reads from params.yaml (section `evaluate:`)."""

from typing import Annotated, Literal

import msgspec

from wscore.config import Section

Positive = Annotated[int, msgspec.Meta(gt=0)]


class EvaluateConfig(Section, frozen=True):
    """How held-out networks, heads and forecasts are judged (section `evaluate:`).

    Args:
        max_networks: at most so many held-out networks are rebuilt and run, drawn at random; null takes all.
        probe_images: test images on which original and rebuilt networks are compared; all if there are fewer.
        batch_size: networks that are decoded and compared at once.
        bootstrap_samples: resamplings of the runs behind each 95% interval; 0 leaves the intervals out.
        ood: hold out each family or each data set in turn and judge heads that never saw it, trained anew; null = don't.
        boosting_iterations: trees of the weight-statistics control of the heads.
        seed: of the drawn networks, of the noise control and of the bootstrap.
    """

    max_networks: Positive | None
    probe_images: Positive
    batch_size: Positive
    bootstrap_samples: Annotated[int, msgspec.Meta(ge=0)]
    ood: Literal["family", "dataset"] | None
    boosting_iterations: Positive
    seed: Annotated[int, msgspec.Meta(ge=0)]
