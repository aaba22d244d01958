"""Configuration of the evaluation of property heads: section `evaluate_heads` of params.yaml."""

from typing import Annotated, Literal

import msgspec

from wscore.config import Count, Section


class EvaluateHeadsConfig(Section, frozen=True):
    """How property heads are evaluated on held-out runs (section `evaluate_heads:`)."""

    ood: Literal["family", "dataset"] | None
    boosting_iterations: Count
    bootstrap_samples: Annotated[int, msgspec.Meta(ge=0)]
    seed: Annotated[int, msgspec.Meta(ge=0)]
