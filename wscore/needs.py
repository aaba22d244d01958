"""What the stages after `fetch_zoo` will miss in a zoo, and the settings that answer it."""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from msgspec.structs import replace
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from wscore.autoencoder.training.train import AeConfig
from wscore.config import PARAMS, load_section
from wscore.errors import ConfigError, DataError, WscoreWarning, printable
from wscore.heads.train import HeadsConfig, fit_targets
from wscore.tokens.config import TokensConfig
from wscore.tokens.index import FEW, split_rows
from wscore.zoo.store import Zoo

KNOWN = ("model_id", "run_id", "checkpoint", "layout", "architecture", "factory", "group", "constants")  # no targets


class Need(NamedTuple):
    """Something that a later stage will miss.

    Attributes:
        parameter: that requires it.
        missing: what is missing.
        fix: what to set or to add.
    """

    parameter: str
    missing: str
    fix: str


def needs_of(zoo: Zoo) -> list[Need]:
    """Return what the stages after `fetch_zoo` will miss with the parameters in the current folder; empty without any.

    Columns are checked by the functions that fit the heads' targets, on the networks that will be the training split.
    """
    if not PARAMS.is_file():
        return []
    try:
        tokens, heads, ae = (
            load_section(TokensConfig, "tokens"), load_section(HeadsConfig, "heads"), load_section(AeConfig, "ae")
        )  # fmt: skip
    except ConfigError as error:
        return [Need(str(PARAMS), str(error), "correct it")]
    try:
        with warnings.catch_warnings(action="ignore", category=WscoreWarning):
            splits = split_rows(zoo, tokens)
    except DataError as error:
        train, runs = zoo.table, [Need("tokens", error.what, error.fix or "")]
    else:
        train, runs = zoo.table[splits == "train"], _few_runs(zoo.table, splits, tokens.test_fraction)
    return [*_columns(train, heads), *_architectures(zoo.table, ae), *runs]


def describe_needs(needs: Sequence[Need]) -> str:
    """Return needs as lines after the summary of a stage, each with its parameter; empty without needs."""
    if not needs:
        return ""
    width = max(len(need.parameter) for need in needs)
    head = "\nLater stages will stop, or their results will say little, unless params.yaml is changed:"
    lines = (f"  {need.parameter:{width}}  {need.missing}; {need.fix}" for need in needs)
    return "\n".join([head, *map(printable, lines)])


def _columns(train: pd.DataFrame, heads: HeadsConfig) -> Iterator[Need]:
    """Yield the parameters with columns from which heads can't learn, and those from which they can."""
    varied = [name for name in train if name not in KNOWN and train[name].nunique() > 1]
    numbers = [str(name) for name in varied if is_numeric_dtype(train[name]) and not is_bool_dtype(train[name])]
    texts = [str(name) for name in varied if str(name) not in numbers]
    targets = pd.DataFrame(_targets(heads), columns=["task", "parameter", "name", "config"])
    targets["reason"] = [_unfit(*row, train) for row in targets[["task", "name", "config"]].itertuples(index=False)]
    hopeless = targets.groupby("task")["reason"].transform(all)
    for parameter, rows in targets[targets["reason"] != ""].groupby("parameter", sort=False):
        columns = texts if parameter in ("heads.discrete", "heads.patterns") else numbers
        drop = rows["task"].iloc[0] if hopeless[rows.index].all() else ""
        options = [f"set it to some of {', '.join(columns)}"] if columns else []
        options += [f"take {drop} out of heads.tasks" if drop else f"leave out {', '.join(rows['name'])}"]
        reasons = [f"{', '.join(alike['name'])}: {reason}" for reason, alike in rows.groupby("reason", sort=False)]
        yield Need(str(parameter), "; ".join(reasons), ", or ".join(options))


def _targets(heads: HeadsConfig) -> Iterator[tuple[str, str, str, HeadsConfig]]:
    """Yield task, parameter and column of each target, and the configuration with this target alone in its task."""
    lone = replace(heads, target_weights={})
    if "accuracy" in heads.tasks:
        yield "accuracy", "heads.accuracy_target", heads.accuracy_target, lone
    if "patterns" in heads.tasks:
        for name in heads.patterns:
            yield "patterns", "heads.patterns", name, replace(lone, patterns=(name,))
    if "hyperparameters" in heads.tasks:
        for name, scale in heads.continuous.items():
            yield "hyperparameters", "heads.continuous", name, replace(lone, continuous={name: scale}, discrete=())
        for name in heads.discrete:
            yield "hyperparameters", "heads.discrete", name, replace(lone, continuous={}, discrete=(name,))


def _unfit(task: str, name: str, config: HeadsConfig, train: pd.DataFrame) -> str:
    """Return why the head of a task can't learn a column; empty if it can."""
    try:
        fit_targets(task, config, train)
    except DataError as error:
        return error.what.replace(repr(name), "of this name")
    return ""


def _architectures(table: pd.DataFrame, ae: AeConfig) -> Iterator[Need]:
    columns = [table[name].astype(str).to_numpy() for name in ("architecture", "factory") if name in table]
    if all((texts == "").all() for texts in columns) and ae.behaviour.share > 0:
        missing = "no network has a known architecture, so none can be run"
        yield Need(
            "ae.behaviour.share", missing, "set it to 0, and ae.select to loss; or name data.factories (docs/zoos.md)"
        )


def _few_runs(table: pd.DataFrame, splits: np.ndarray, share: float) -> list[Need]:
    """Return the need of a zoo with so few test runs that results are imprecise."""
    runs = len(set(table["run_id"]))
    test = table["run_id"][splits == "test"].nunique()
    if test >= FEW:
        return []
    options = f"set it to {FEW / runs:.2g}" if runs >= 3 * FEW else f"add runs: {math.ceil(FEW / share)} are enough"
    return [Need("tokens.test_fraction", f"{test} of {runs} runs in the test split: results will be imprecise",
                 f"{options}; or set zoo.run_pattern if these are not your runs")]  # fmt: skip
