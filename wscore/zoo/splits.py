"""Assignment of runs to splits: training, validation and test by a hash of the run id, unseen by the widths of a network."""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from wscore.errors import ConfigError, DataError
from wscore.networks.architectures import parse

SPLITS = ("train", "validation", "test")
UNSEEN = "unseen"  # networks of widths that nothing is fitted, selected or tested on
ALL_SPLITS = (*SPLITS, UNSEEN)
Widths = Mapping[str, Sequence[Sequence[int]]]  # hidden widths by family


def assign_splits(
    run_ids: Sequence[str] | np.ndarray, *, validation_fraction: float, test_fraction: float, seed: int
) -> np.ndarray:
    """Return "train", "validation" or "test" for each run id, in order.

    Runs are ranked by the SHA-256 of `seed/run id`: the first are the test split, the next the validation split. The
    counts of runs are exact (largest remainder). All checkpoints of a run share a split, and of added or removed runs only
    those next to the edges of a split change it.

    Raises:
        ConfigError: if a fraction is negative or no training data is left.

    >>> runs = ["run-0", "run-1", "run-0", "run-2", "run-3"]
    >>> print(assign_splits(runs, validation_fraction=0.25, test_fraction=0.25, seed=0))
    ['train' 'train' 'train' 'test' 'validation']
    """
    if validation_fraction < 0 or test_fraction < 0 or validation_fraction + test_fraction >= 1:
        raise ConfigError(
            "nothing is left to train on",
            where="tokens.validation_fraction + tokens.test_fraction",
            expected="two fractions from 0 that add up to less than 1",
            got=f"{validation_fraction} + {test_fraction}",
        )
    unique, places = np.unique(np.asarray(run_ids, dtype=str), return_inverse=True)
    rank = np.argsort([_position(run, seed) for run in unique.tolist()], kind="stable")
    fractions = (test_fraction, validation_fraction, 1 - test_fraction - validation_fraction)
    ranked = np.repeat(["test", "validation", "train"], largest_remainder(len(unique), fractions))
    splits = np.empty_like(ranked)
    splits[rank] = ranked
    return splits[places]


def largest_remainder(total: int, fractions: Sequence[float]) -> list[int]:
    """Return whole numbers that add up to `total` in the given fractions, which add up to 1; ties go to the largest.

    >>> largest_remainder(10, (0.25, 0.15, 0.6))
    [3, 1, 6]
    >>> largest_remainder(4, (0.2, 0.15, 0.65))
    [1, 0, 3]
    """
    exact = np.round(total * np.asarray(fractions, float), 9)
    counts = np.floor(exact).astype(int)
    remainders = np.round(exact - counts, 9)  # without the last bits, which would order ties
    counts[np.lexsort((-np.asarray(fractions), -remainders))[: total - counts.sum()]] += 1
    return counts.tolist()


def have_widths(architectures: Sequence[str] | np.ndarray, widths: Widths) -> Bool[np.ndarray, " network"]:
    """Return which networks, given by their architecture as JSON, have one of the widths.

    Networks of unknown architecture have none.
    """
    texts, places = np.unique(np.asarray(architectures, dtype=str), return_inverse=True)
    wanted = {(family, tuple(width)) for family, choices in widths.items() for width in choices}
    return np.array([_width(text) in wanted for text in texts.tolist()], bool)[places]


def absent_widths(architectures: Sequence[str] | np.ndarray, widths: Widths) -> dict[str, list[list[int]]]:
    """Return the widths that no network has, of families that some network has."""
    texts = set(np.asarray(architectures, dtype=str).tolist())
    present = {known for text in texts if (known := _width(text)) is not None}
    families = {family for family, _ in present}
    missing = {
        family: [list(width) for width in choices if (family, tuple(width)) not in present]
        for family, choices in widths.items()
        if family in families
    }
    return {family: choices for family, choices in missing.items() if choices}


def _width(architecture: str) -> tuple[str, tuple[int, ...]] | None:
    """Return family and hidden widths of an architecture; None if it is unknown or built by a factory."""
    with contextlib.suppress(DataError):
        known = parse(architecture)
        return known.family, known.widths
    return None


def _position(run: str, seed: int) -> float:
    """Return a number in [0, 1) from the run id and the seed (53 bits of SHA-256)."""
    digest = hashlib.sha256(f"{seed}/{run}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
