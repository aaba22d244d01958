"""Index of a token cache: networks, their split, and the windows of long networks."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
from jaxtyping import Int

from wscore.errors import DataError, WscoreWarning
from wscore.late import pd
from wscore.tokens.config import TokensConfig
from wscore.tokens.tokenizer import Tokenizer
from wscore.zoo.splits import SPLITS, UNSEEN, assign_splits, have_widths
from wscore.zoo.store import Zoo

FEW = 10  # held-out runs below which a warning says that intervals are wide


def cut_windows(tokens: int, longest: int) -> list[tuple[int, int]]:
    """Return (start, length) of the fewest windows of at most `longest` tokens, of nearly equal length.

    >>> cut_windows(10, longest=4)
    [(0, 3), (3, 3), (6, 4)]
    """
    count = -(-tokens // longest)
    edges = [tokens * number // count for number in range(count + 1)]
    return [(start, end - start) for start, end in itertools.pairwise(edges)]


def make_index(zoo: Zoo, tokenizer: Tokenizer, config: TokensConfig, splits: np.ndarray) -> pd.DataFrame:
    """Return the table of items (see `wscore.tokens.cache.TokenCache`): the windows of each row of the zoo.

    Args:
        zoo: the networks.
        tokenizer: determines their number of tokens.
        config: its `max_tokens` is the maximum length of an item.
        splits: split of each row of the zoo.
    """
    names = zoo.table["layout"].astype(str).to_numpy()
    lengths = {name: tokenizer.count(zoo.layouts[name]) for name in np.unique(names).tolist()}
    windows = {name: np.array(cut_windows(length, config.max_tokens)) for name, length in lengths.items()}
    counts = np.array([len(windows[name]) for name in names])
    rows = np.repeat(np.arange(len(zoo)), counts)
    spans = np.concatenate([windows[name] for name in names])  # (items, 2)
    return pd.DataFrame({
        "row": rows,
        "model_id": zoo.table["model_id"].astype(str).to_numpy()[rows],
        "run_id": zoo.table["run_id"].astype(str).to_numpy()[rows],
        "split": splits[rows].astype(str),
        "layout": names[rows],
        "window": np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts),
        "start": spans[:, 0],
        "offset": np.cumsum(spans[:, 1]) - spans[:, 1],
        "length": spans[:, 1],
    })  # fmt: skip


def split_rows(zoo: Zoo, config: TokensConfig) -> np.ndarray:
    """Return the split of every row of the zoo, assigned by group: its run, or all runs related to it.

    Groups with a network of `config.unseen_widths` are the split `unseen`; the fractions are those of the others.

    Raises:
        DataError: if a split other than `unseen` gets no run, naming the fraction and the number of runs.
    """
    groups = zoo.table["group" if "group" in zoo.table else "run_id"].astype(str).to_numpy()
    architectures = zoo.table["architecture"].astype(str).to_numpy()
    unseen = np.isin(groups, groups[have_widths(architectures, config.unseen_widths)])
    fractions = {"validation_fraction": config.validation_fraction, "test_fraction": config.test_fraction}
    splits = np.full(len(groups), UNSEEN, dtype="<U10")
    splits[~unseen] = assign_splits(groups[~unseen], **fractions, seed=config.seed)
    for name in SPLITS:
        if name not in splits:
            keys = [key for key in fractions if key.startswith(name)] or list(fractions)
            raise DataError(
                f"no run falls in the {name} split",
                where=", ".join(f"tokens.{key} = {fractions[key]}" for key in keys),
                expected="at least one run in each split",
                got=f"{len(set(groups[~unseen]))} runs in {zoo.folder}",
                fix="add runs (zoo.n_runs), or change the fractions or tokens.unseen_widths",
            )
    tested = len(set(groups[splits == "test"]))
    if tested < FEW:
        message = f"only {tested} runs in the test split: results on held-out networks will be imprecise"
        warnings.warn(message, WscoreWarning, stacklevel=2)
    return splits


def group_places(*codes: Int[np.ndarray, " place"]) -> list[np.ndarray]:
    """Return the ascending indices of each distinct combination of codes."""
    if not codes[0].size:
        return []
    order = np.lexsort(codes)
    changes = np.any([np.diff(code[order]) != 0 for code in codes], axis=0)
    return np.split(order, np.flatnonzero(changes) + 1)
