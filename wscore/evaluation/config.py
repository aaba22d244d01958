"""Configuration shared by the evaluation stages: section `evaluate:` of params.yaml."""

from typing import Annotated

import msgspec

from wscore.config import Section, load_machine

Positive = Annotated[int, msgspec.Meta(gt=0)]


class EvaluateConfig(Section, frozen=True):
    """How reconstructed held-out networks are evaluated (section `evaluate:`)."""

    max_networks: Positive | None
    probe_images: Positive
    bootstrap_samples: Annotated[int, msgspec.Meta(ge=0)]
    seed: Annotated[int, msgspec.Meta(ge=0)]

    @property
    def batch_size(self) -> int:
        """Networks decoded and compared at once on this machine."""
        return load_machine().evaluation_batch
