"""What every evaluation stage reads from params.yaml (section `evaluate:`)."""

from typing import Annotated

import msgspec

from wscore.config import Section, load_machine

Positive = Annotated[int, msgspec.Meta(gt=0)]


class EvaluateConfig(Section, frozen=True):
    """How held-out networks are rebuilt and compared (section `evaluate:`).

    Args:
        max_networks: at most so many held-out networks are rebuilt and run, drawn at random; null takes all.
        probe_images: test images on which original and rebuilt networks are compared; all if there are fewer.
        bootstrap_samples: resamplings of the runs behind each 95% interval; 0 leaves the intervals out.
        seed: of the drawn networks, of the noise control and of the bootstrap.
    """

    max_networks: Positive | None
    probe_images: Positive
    bootstrap_samples: Annotated[int, msgspec.Meta(ge=0)]
    seed: Annotated[int, msgspec.Meta(ge=0)]

    @property
    def batch_size(self) -> int:
        """Networks that are decoded and compared at once on this machine."""
        return load_machine().evaluation_batch
