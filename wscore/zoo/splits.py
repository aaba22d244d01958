"""Assignment of runs to the training, validation and test split by a hash of the run id."""

import hashlib
from collections.abc import Sequence

import numpy as np

from wscore.errors import ConfigError

SPLITS = ("train", "validation", "test")


def assign_splits(
    run_ids: Sequence[str] | np.ndarray, *, validation_fraction: float, test_fraction: float, seed: int
) -> np.ndarray:
    """Return "train", "validation" or "test" for each run id, in order.

    The SHA-256 of `seed/run id` maps a run to u in [0, 1): test if u < test_fraction, validation if u <
    test_fraction + validation_fraction, else train. So all checkpoints of a run share a split, a run keeps its split
    when others are added or removed, and the fractions hold in expectation.

    Raises:
        ConfigError: if a fraction is negative or no training data is left.

    >>> print(assign_splits(["run-0", "run-1", "run-0"], validation_fraction=0.2, test_fraction=0.2, seed=0))
    ['validation' 'train' 'validation']
    """
    if validation_fraction < 0 or test_fraction < 0 or validation_fraction + test_fraction >= 1:
        raise ConfigError(
            "nothing is left to train on",
            where="tokens.validation_fraction + tokens.test_fraction",
            expected="two fractions from 0 that add up to less than 1",
            got=f"{validation_fraction} + {test_fraction}",
        )
    unique, places = np.unique(np.asarray(run_ids, dtype=str), return_inverse=True)
    position = np.array([_position(run, seed) for run in unique.tolist()])
    edges = np.array([test_fraction, test_fraction + validation_fraction])
    names = np.array(["test", "validation", "train"])
    return (
        names[np.searchsorted(edges, position, side="right")][places]
        if len(unique)
        else np.array([], dtype=names.dtype)
    )


def _position(run: str, seed: int) -> float:
    """Return a number in [0, 1) from the run id and the seed (53 bits of SHA-256)."""
    digest = hashlib.sha256(f"{seed}/{run}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
