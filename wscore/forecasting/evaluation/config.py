"""Section `forecast:` of params.yaml: how weight forecasts are evaluated."""

from typing import Annotated

import msgspec

from wscore.config import Section

Positive = Annotated[int, msgspec.Meta(gt=0)]


class ForecastConfig(Section):
    """Evaluation of weight forecasts (section `forecast:`)."""

    window_step: Positive
    scored_windows: Annotated[int, msgspec.Meta(ge=0)]
    probe_images: Positive
    recovery_steps: tuple[Positive, ...]

    def __post_init__(self) -> None:
        if list(self.recovery_steps) != sorted(set(self.recovery_steps)):
            raise ValueError(f"must be ascending, got {list(self.recovery_steps)} - at `$.recovery_steps`")
