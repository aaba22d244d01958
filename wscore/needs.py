"""What the stages after `fetch_zoo` will miss in a zoo, and the settings that answer it."""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
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


class LoneTarget(NamedTuple):
    """A column that a head learns.

    Attributes:
        task: of the head.
        parameter: that names the column.
        name: of the column.
        config: with this target alone in its task.
    """

    task: str
    parameter: str
    name: str
    config: HeadsConfig


Unfit = Sequence[tuple[LoneTarget, str]]  # with the reason why it can't be learned


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
        train, runs = (
            zoo.table.loc[splits == "train"],
            _few_runs(zoo.table["run_id"].tolist(), splits, tokens.test_fraction),
        )
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
    varied = [str(name) for name in train if name not in KNOWN and len(set(train[name].dropna())) > 1]
    numbers = [name for name in varied if is_numeric_dtype(train[name]) and not is_bool_dtype(train[name])]
    texts = [name for name in varied if name not in numbers]
    targets = list(_targets(heads))
    unfit = [(target, reason) for target in targets if (reason := _unfit(target, train))]
    useful = Counter(target.task for target in targets) - Counter(target.task for target, _ in unfit)
    for parameter, pairs in groupby(unfit, key=lambda pair: pair[0].parameter):
        columns = texts if parameter in ("heads.discrete", "heads.patterns") else numbers
        yield _need_of_columns(parameter, list(pairs), columns, useful)


def _need_of_columns(parameter: str, unfit: Unfit, columns: Sequence[str], useful: Counter[str]) -> Need:
    """Return the need of a parameter: its columns by reason, and the columns that it may name instead."""
    task, names = unfit[0][0].task, [target.name for target, _ in unfit]
    options = [f"set it to some of {', '.join(columns)}"] if columns else []
    options += [f"leave out {', '.join(names)}" if useful[task] else f"take {task} out of heads.tasks"]
    alike = {reason: [target.name for target, other in unfit if other == reason] for _, reason in unfit}
    missing = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in alike.items())
    return Need(parameter, missing, ", or ".join(options))


def _targets(heads: HeadsConfig) -> Iterator[LoneTarget]:
    """Yield the targets of the heads."""
    lone = replace(heads, target_weights={})
    if "accuracy" in heads.tasks:
        yield LoneTarget("accuracy", "heads.accuracy_target", heads.accuracy_target, lone)
    if "patterns" in heads.tasks:
        for name in heads.patterns:
            yield LoneTarget("patterns", "heads.patterns", name, replace(lone, patterns=(name,)))
    if "hyperparameters" in heads.tasks:
        for name, scale in heads.continuous.items():
            config = replace(lone, continuous={name: scale}, discrete=())
            yield LoneTarget("hyperparameters", "heads.continuous", name, config)
        for name in heads.discrete:
            config = replace(lone, continuous={}, discrete=(name,))
            yield LoneTarget("hyperparameters", "heads.discrete", name, config)


def _unfit(target: LoneTarget, train: pd.DataFrame) -> str:
    """Return why a head can't learn a target; empty if it can."""
    try:
        fit_targets(target.task, target.config, train)
    except DataError as error:
        return error.what.replace(repr(target.name), "of this name")
    return ""


def _architectures(table: pd.DataFrame, ae: AeConfig) -> Iterator[Need]:
    columns = [table[name].astype(str).to_numpy() for name in ("architecture", "factory") if name in table]
    if all((texts == "").all() for texts in columns) and ae.behaviour.share > 0:
        missing = "no network has a known architecture, so none can be run"
        yield Need(
            "ae.behaviour.share", missing, "set it to 0, and ae.select to loss; or name data.factories (docs/zoos.md)"
        )


def _few_runs(runs: Sequence[str], splits: np.ndarray, share: float) -> list[Need]:
    """Return the need of a zoo with so few test runs that results are imprecise."""
    total, test = len(set(runs)), len({run for run, split in zip(runs, splits, strict=True) if split == "test"})
    if test >= FEW:
        return []
    options = f"set it to {FEW / total:.2g}" if total >= 3 * FEW else f"add runs: {math.ceil(FEW / share)} are enough"
    return [Need("tokens.test_fraction", f"{test} of {total} runs in the test split: results will be imprecise",
                 f"{options}; or set zoo.run_pattern if these are not your runs")]  # fmt: skip
