"""Configuration of the evaluation of property heads: section `evaluate_heads` of params.yaml."""

from typing import Annotated, Literal

import msgspec

from wscore.config import Count, Section


class EvaluateHeadsConfig(Section, frozen=True):
    """How property heads are evaluated on held-out runs (section `evaluate_heads:`).

    Args:
        ood: hold out each family or each data set in turn and evaluate heads trained without it; null = skip.
        boosting_iterations: trees of the weight-statistics baseline.
        bootstrap_samples: bootstrap resamplings of the runs for each 95% interval; 0 omits the intervals.
        seed: for the baseline and the bootstrap.
    """

    ood: Literal["family", "dataset"] | None
    boosting_iterations: Count
    bootstrap_samples: Annotated[int, msgspec.Meta(ge=0)]
    seed: Annotated[int, msgspec.Meta(ge=0)]
