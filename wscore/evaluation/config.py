"""Configuration shared by the evaluation stages: section `evaluate:` of params.yaml."""

from typing import Annotated

import msgspec

from wscore.config import Section, load_machine

Positive = Annotated[int, msgspec.Meta(gt=0)]


class EvaluateConfig(Section, frozen=True):
    """How reconstructed held-out networks are evaluated (section `evaluate:`).

    Args:
        max_networks: maximum number of held-out networks to reconstruct and run, randomly sampled; null uses all.
        probe_images: test images on which original and reconstructed networks are compared; all if there are fewer.
        bootstrap_samples: bootstrap resamplings of the runs for each 95% interval; 0 omits the intervals.
        seed: for sampled networks, the noise control and the bootstrap.
    """

    max_networks: Positive | None
    probe_images: Positive
    bootstrap_samples: Annotated[int, msgspec.Meta(ge=0)]
    seed: Annotated[int, msgspec.Meta(ge=0)]

    @property
    def batch_size(self) -> int:
        """Networks decoded and compared at once on this machine."""
        return load_machine().evaluation_batch
