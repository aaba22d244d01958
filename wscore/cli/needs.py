"""What the stages after `fetch_zoo` will miss in a zoo, and the settings that answer it."""

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from wscore.autoencoder.training.train import AeConfig
from wscore.config import PARAMS, load_section
from wscore.heads.train import HeadsConfig
from wscore.tokens.config import TokensConfig
from wscore.zoo.store import Zoo

FEW = 10  # test runs below which figures say little
KNOWN = ("model_id", "run_id", "checkpoint", "layout", "architecture", "factory", "group", "constants")  # no targets


class Need(NamedTuple):
    """Something that a later stage will miss.

    Attributes:
        parameter: that asks for it.
        missing: what is missing.
        set: the setting that answers it.
    """

    parameter: str
    missing: str
    set: str


def needs_of(zoo: Zoo) -> list[Need]:
    """Return what the stages after `fetch_zoo` will miss with the parameters in the current folder; empty without any.

    Raises:
        ConfigError: if the parameters are malformed.
    """
    if not PARAMS.is_file():
        return []
    table, heads = zoo.table, load_section(HeadsConfig, "heads")
    return [*_columns(table, heads), *_architectures(table, load_section(AeConfig, "ae")),
            *_runs(table, load_section(TokensConfig, "tokens"))]  # fmt: skip


def _columns(table: pd.DataFrame, heads: HeadsConfig) -> Iterator[Need]:
    numbers = [name for name in table if name not in KNOWN and _is_numeric(table, name)]
    texts = [name for name in table if name not in (*KNOWN, *numbers)]
    options = f"one of {', '.join(map(str, numbers)) or 'none in this zoo'}"
    if "accuracy" in heads.tasks and heads.accuracy_target not in numbers:
        yield Need("heads.accuracy_target", f"no column {heads.accuracy_target} of numbers", options)
    if "hyperparameters" in heads.tasks:
        for name in (name for name in heads.continuous if name not in numbers):
            yield Need("heads.continuous", f"no column {name} of numbers", f"{options}; or {{}}")
        for name in (name for name in heads.discrete if name not in table):
            yield Need("heads.discrete", f"no column {name}", f"some of {', '.join(map(str, texts)) or 'none'}; or []")
    labels = [name for name in heads.patterns if not any(name == at or name.startswith(f"{at}_") for at in table)]
    if "patterns" in heads.tasks and labels:
        tasks = [task for task in heads.tasks if task != "patterns"]
        yield Need("heads.patterns", f"no columns for {', '.join(labels)}", f"heads.tasks: [{', '.join(tasks)}]")


def _architectures(table: pd.DataFrame, ae: AeConfig) -> Iterator[Need]:
    columns = [table[name].astype(str).to_numpy() for name in ("architecture", "factory") if name in table]
    if all((texts == "").all() for texts in columns) and ae.behaviour.share > 0:
        missing = "no network has a known architecture, so none can be run"
        yield Need("ae.behaviour.share", missing, "0, with ae.select: loss; or data.factories, see docs/zoos.md")


def _runs(table: pd.DataFrame, tokens: TokensConfig) -> Iterator[Need]:
    runs = len(set(table["run_id"]))
    test = round(runs * tokens.test_fraction)
    if test < FEW:
        share = min(0.5, FEW / max(runs, 1))
        yield Need("tokens.test_fraction", f"{test} of {runs} runs in the test split: figures will say little",
                   f"{share:.2g}, or more runs; zoo.run_pattern if runs are not told apart as you meant")  # fmt: skip


def _is_numeric(table: pd.DataFrame, name: object) -> bool:
    numbers = pd.Series(pd.to_numeric(table[name], errors="coerce"))
    return bool(numbers.notna().any()) and not pd.api.types.is_bool_dtype(table[name])
