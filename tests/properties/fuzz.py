"""Settings of the fuzz tests: the same few examples each time, or as many new ones as the variable WSCORE_FUZZ says."""

import os

from hypothesis import HealthCheck, settings


def fuzz(examples: int) -> settings:
    """Return settings for `examples` examples that are the same in each run, or for WSCORE_FUZZ random ones."""
    return settings(
        max_examples=int(os.environ.get("WSCORE_FUZZ", examples)),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        deadline=None,
        derandomize="WSCORE_FUZZ" not in os.environ,
    )
