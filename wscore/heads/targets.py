"""Targets of property heads: encodings of metadata columns, fitted on the training split only.

There are three kinds of target: `Binary` (a building block is present or not), `Continuous` (a number, standardised,
optionally in log space) and `Discrete` (one class of a vocabulary). Each is a frozen class that is saved with its head,
encodes raw values as numbers (`encode`) and decodes numbers to raw values (`restore`). A missing raw value (null, NaN)
is masked per row; no row is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Bool, Float, Int

from wscore.config import Section
from wscore.errors import DataError
from wscore.late import pd

Scale = Literal["linear", "log", "logit", "log_error"]
FLOOR = 0.1  # zero on a log scale maps to this fraction of the smallest positive training value
EDGE = 1e-3  # offset that keeps fractions away from 0 and 1 on a logit or log-error scale
LARGEST = 30.0  # predictions on a log scale are restored as at most 1e30, so that their squares are finite
Positive = Annotated[float, msgspec.Meta(gt=0)]


class Binary(Section, tag="binary", tag_field="kind"):
    """A binary label.

    Args:
        name: as configured.
        column: of the metadata.
        value: the label is true where the column has this value (as text); null for a column of true and false.
        positive_weight: weight of the positives in the loss.
        weight: of this target in the loss of its head.
    """

    name: str
    column: str
    value: str | None
    positive_weight: Positive
    weight: float

    @property
    def width(self) -> int:
        """Count of outputs: one logit."""
        return 1

    def encode(self, table: pd.DataFrame) -> Float[np.ndarray, " rows"]:
        """Return 1 (true), 0 (false) or NaN (missing) for each row.

        Raises:
            DataError: if the column is missing, or is not boolean and no value is named.
        """
        column = _column(table, self.column, where=self.name)
        if self.value is not None:
            return np.where(column.isna(), np.nan, column.astype(str) == self.value)
        numbers = _floats(column)
        if not np.isin(numbers[column.notna().to_numpy()], (0.0, 1.0)).all():
            raise DataError(
                "is not a boolean column",
                where=self.column,
                got=_sample(column),
                fix=f"name a value: {self.column}_VALUE",
            )
        return numbers

    def restore(self, numbers: Float[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
        """Threshold probabilities at 1/2."""
        return numbers >= 0.5


class Continuous(Section, tag="continuous", tag_field="kind"):
    """A number; scaled = (f(value) - mean) / std with mean and std over the training rows.

    f is the identity (`linear`), log10 (`log`), or for fractions in [0, 1], with e = `EDGE`,
    ln((value + e) / (1 - value + e)) (`logit`) or -log10(1 - value + e) (`log_error`).

    On a log scale zero maps to `floor`, a tenth of the smallest positive training value; a prediction closer to it (in
    the logarithm) than to that smallest value is restored as 0. Zero is thus a separate value, one decade below all
    others.

    Args:
        name: column of the metadata.
        scale: choice of f.
        floor: represents zero on a log scale; null for other scales.
        mean: of f(value) over the training rows.
        std: of f(value) over the training rows.
        weight: of this target in the loss of its head.
        limits: of what is possible: 0 and 1 for a column of fractions, 0 and null for one without negative values.
    """

    name: str
    scale: Scale
    floor: Positive | None
    mean: float
    std: Positive
    weight: float
    limits: tuple[float | None, float | None] = (None, None)

    @property
    def column(self) -> str:
        """Column of the metadata."""
        return self.name

    @property
    def width(self) -> int:
        """Count of outputs: one scaled number."""
        return 1

    def encode(self, table: pd.DataFrame) -> Float[np.ndarray, " rows"]:
        """Return the scaled value of each row, NaN where it is missing.

        Raises:
            DataError: if the column is missing, not numeric, infinite, or negative on a log scale.
        """
        return (_transform(self.raw(table), self.scale, self.floor, where=self.name) - self.mean) / self.std

    def raw(self, table: pd.DataFrame) -> Float[np.ndarray, " rows"]:
        """Return the raw value of each row, NaN where it is missing.

        Raises:
            DataError: if the column is missing, not numeric or infinite.
        """
        return _numbers(table, self.name)

    def possible(self, numbers: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        """Return scaled numbers as raw values within `limits`."""
        low, high = self.limits
        return np.clip(self.restore(numbers), -np.inf if low is None else low, np.inf if high is None else high)

    def restore(self, numbers: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        """Return scaled numbers as raw values; the inverse of `encode` on the training rows.

        On a log scale, values more than half a decade below the smallest positive training value become 0; fractions
        are clipped to [0, 1].
        """
        raw = np.asarray(numbers, dtype=float) * self.std + self.mean
        if self.scale == "logit":
            odds = np.exp(np.clip(raw, -LARGEST, LARGEST))
            return np.clip((odds * (1 + EDGE) - EDGE) / (1 + odds), 0.0, 1.0)
        if self.scale == "log_error":
            return np.clip(1 + EDGE - 10.0 ** -np.clip(raw, -LARGEST, LARGEST), 0.0, 1.0)
        if self.floor is None:
            return raw
        between = np.log10(self.floor) - np.log10(FLOOR) / 2
        return np.where(raw < between, 0.0, 10.0 ** np.minimum(raw, LARGEST))


class Discrete(Section, tag="discrete", tag_field="kind"):
    """One class of the vocabulary of the training rows; a class outside it counts as missing.

    Args:
        name: column of the metadata.
        vocabulary: the classes, sorted.
        class_weights: weight of each class in the loss, 1 on average over the training rows.
        weight: of this target in the loss of its head.
    """

    name: str
    vocabulary: tuple[str, ...]
    class_weights: tuple[Positive, ...]
    weight: float

    @property
    def column(self) -> str:
        """Column of the metadata."""
        return self.name

    @property
    def width(self) -> int:
        """Count of outputs: one logit per class."""
        return len(self.vocabulary)

    def encode(self, table: pd.DataFrame) -> Float[np.ndarray, " rows"]:
        """Return the vocabulary index of each row's class, NaN where it is missing or not in the vocabulary.

        Raises:
            DataError: if the column is missing.
        """
        column = _column(table, self.name, where=self.name)
        places = {name: float(place) for place, name in enumerate(self.vocabulary)}
        return (
            column.astype(object).map(lambda value: places.get(str(value), np.nan), na_action="ignore").to_numpy(float)
        )

    def restore(self, numbers: Int[np.ndarray, " rows"]) -> Sequence[str]:
        """Return the classes at vocabulary indices."""
        return [self.vocabulary[int(number)] for number in numbers]


Target = Binary | Continuous | Discrete
Targets = tuple[Target, ...]


class Encoded(NamedTuple):
    """Targets of rows as numbers.

    Attributes:
        values: (N, T) float32, a column per target: 0 or 1, scaled value, vocabulary index; 0 where not known.
        known: (N, T), false where the raw value is missing.
    """

    values: Float[np.ndarray, "rows target"]
    known: Bool[np.ndarray, "rows target"]


def encode_targets(targets: Targets, table: pd.DataFrame) -> Encoded:
    """Return the encoded targets of the rows of a metadata table.

    Raises:
        DataError: if a column is missing or holds values that its target cannot encode.
    """
    values = np.column_stack([target.encode(table) for target in targets]).astype(np.float32)
    known = ~np.isnan(values)
    return Encoded(np.where(known, values, np.float32(0)), known)


def fit_binary(
    names: Sequence[str], train: pd.DataFrame, *, balance: bool, weights: Mapping[str, float], key: str
) -> Targets:
    """Return one binary target per name: a boolean column or `<column>_<value>`.

    Args:
        names: labels.
        train: metadata of the training rows.
        balance: weight the positives by (negatives / positives).
        weights: of single targets in the loss, 1 where not named.
        key: parameter that lists the labels, for error messages.

    Raises:
        DataError: if a column is missing or not binary, or labels have only one value.
    """
    drafts = [_parse(name, train, key=key) for name in names]
    labels = [_without_nan(draft.encode(train)) for draft in drafts]
    _refuse_constant({name: values > 0 for name, values in zip(names, labels, strict=True)}, key=key)
    return tuple(
        msgspec.structs.replace(
            draft,
            positive_weight=float((values == 0).sum() / values.sum()) if balance else 1.0,
            weight=weights.get(draft.name, 1.0),
        )
        for draft, values in zip(drafts, labels, strict=True)
    )


def fit_continuous(
    scales: Mapping[str, Scale], train: pd.DataFrame, *, weights: Mapping[str, float], key: str
) -> Targets:
    """Return one continuous target per column, scaled by the training rows.

    Args:
        scales: linear or log, by column.
        train: metadata of the training rows.
        weights: of single targets in the loss, 1 where not named.
        key: parameter that lists the columns, for error messages.

    Raises:
        DataError: if a column is missing, not numeric, infinite or negative on a log scale, or columns have only
            one value.
    """
    raw = {name: _without_nan(_numbers(train, name, key=key)) for name in scales}
    _refuse_constant(raw, key=key)
    targets = []
    for name, scale in scales.items():
        floor = FLOOR * float(raw[name][raw[name] > 0].min(initial=np.inf)) if scale == "log" else None
        values = _transform(raw[name], scale, floor, where=f"{key}: {name}")
        mean, std = float(values.mean()), float(values.std())
        targets.append(
            Continuous(
                name=name,
                scale=scale,
                floor=floor,
                mean=mean,
                std=std,
                weight=weights.get(name, 1.0),
                limits=_limits(raw[name]),
            )
        )
    return tuple(targets)


def fit_discrete(
    names: Sequence[str], train: pd.DataFrame, *, balance: bool, weights: Mapping[str, float], key: str
) -> Targets:
    """Return one discrete target per column, with the vocabulary of the training rows.

    Args:
        names: columns.
        train: metadata of the training rows.
        balance: weight each class by 1 / (its share of the rows x number of classes).
        weights: of single targets in the loss, 1 where not named.
        key: parameter that lists the columns, for error messages.

    Raises:
        DataError: if a column is missing or columns have only one value.
    """
    counts = {name: _column(train, name, where=key).dropna().astype(str).value_counts().sort_index() for name in names}
    _refuse_constant({name: np.asarray(count.index) for name, count in counts.items()}, key=key)
    return tuple(
        Discrete(
            name=name,
            vocabulary=tuple(count.index),
            class_weights=tuple((count.sum() / (len(count) * count)).tolist() if balance else [1.0] * len(count)),
            weight=weights.get(name, 1.0),
        )
        for name, count in counts.items()
    )


def _column(table: pd.DataFrame, name: str, *, where: str) -> pd.Series:
    if name not in table:
        known = ", ".join(map(str, table.columns))
        raise DataError(f"the zoo has no column {name!r}", where=where, expected=f"one of {known}", fix="leave it out")
    return pd.Series(table[name])


def _floats(column: pd.Series) -> np.ndarray:
    """Return a column as float64: true becomes 1, missing or non-numeric values become NaN."""
    return np.asarray(pd.to_numeric(column.astype(object), errors="coerce"), dtype=float)


def _numbers(table: pd.DataFrame, name: str, *, key: str | None = None) -> np.ndarray:
    where = name if key is None else f"{key}: {name}"
    column = _column(table, name, where=where)
    numbers = _floats(column)
    if np.isnan(numbers[column.notna().to_numpy()]).any():
        raise DataError("column is not numeric", where=where, got=_sample(column), fix="name it under heads.discrete")
    if np.isinf(numbers).any():
        raise DataError("column holds infinite values", where=where, expected="finite numbers")
    return numbers


def _transform(values: np.ndarray, scale: Scale, floor: float | None, *, where: str) -> np.ndarray:
    if scale in ("logit", "log_error"):
        if (values < 0).any() or (values > 1).any():
            got = [float(np.nanmin(values)), float(np.nanmax(values))]
            raise DataError(f"is not a fraction, as a {scale} scale needs", where=where, expected="0 to 1", got=got)
        above, below = values + EDGE, 1 - values + EDGE
        return np.log(above / below) if scale == "logit" else -np.log10(below)
    if scale == "linear" or floor is None:
        return values
    if (values < 0).any():
        raise DataError("negative value on a log scale", where=where, got=float(np.nanmin(values)), fix="use linear")
    return np.log10(np.where(values == 0, floor, values))


def _parse(name: str, table: pd.DataFrame, *, key: str) -> Binary:
    """Parse a label, still unweighted; if its name is ambiguous the longest column wins."""
    places = [len(name), *(place for place in reversed(range(len(name))) if name[place] == "_")]
    for place in places:
        if name[:place] in table:
            value = name[place + 1 :] if place < len(name) else None
            return Binary(name=name, column=name[:place], value=value, positive_weight=1.0, weight=1.0)
    known = ", ".join(map(str, table.columns))
    expected = f"COLUMN or COLUMN_VALUE with one of {known}"
    raise DataError(f"the zoo has no column for the label {name!r}", where=key, expected=expected)


def _limits(values: np.ndarray) -> tuple[float | None, float | None]:
    if values.min() < 0:
        return None, None
    return 0.0, 1.0 if values.max() <= 1 else None


def _without_nan(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def _refuse_constant(values: Mapping[str, np.ndarray], *, key: str) -> None:
    """Reject targets with fewer than two values in the training rows; the error lists all of them."""
    bad = {name: column for name, column in values.items() if len(np.unique(column)) < 2}
    if not bad:
        return
    rest = [name for name in values if name not in bad]
    named = ", ".join(f"{name} ({f'only {column[0]}' if len(column) else 'no value'})" for name, column in bad.items())
    raise DataError(
        "nothing to learn, one value in all training rows",
        where=key,
        expected="two values or more",
        got=named,
        fix=f"leave these out, keep: {', '.join(rest) or 'none'}",
    )


def _sample(column: pd.Series) -> list[str]:
    return column.dropna().astype(str).unique()[:5].tolist()
