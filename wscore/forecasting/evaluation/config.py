"""Section `forecast:` of params.yaml: how thoroughly weight forecasts are judged."""

from typing import Annotated

import msgspec

from wscore.config import Section

Positive = Annotated[int, msgspec.Meta(gt=0)]


class ForecastConfig(Section):
    """How weight forecasts are judged (section `forecast:`).

    Args:
        window_step: snapshots from one tested window of a run to the next; every window costs a forecast by each method.
        scored_windows: of these, how many of a run, evenly spread, are run as networks; likewise of its beginning.
        probe_images: test images on which networks are run; all if there are fewer.
        recovery_steps: optimiser steps after which forecasts are judged again, rising.
    """

    window_step: Positive
    scored_windows: Annotated[int, msgspec.Meta(ge=0)]
    probe_images: Positive
    recovery_steps: tuple[Positive, ...]

    def __post_init__(self) -> None:
        if list(self.recovery_steps) != sorted(set(self.recovery_steps)):
            raise ValueError(f"must rise, got {list(self.recovery_steps)} - at `$.recovery_steps`")
