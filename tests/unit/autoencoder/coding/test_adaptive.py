"""Adaptive coding of matrices: round trip, size beside the entropy, hostile bytes."""

from contextlib import suppress

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wscore.autoencoder.coding.adaptive import decode_matrix, encode_matrix
from wscore.errors import DataError

SHAPES = st.tuples(st.integers(0, 9), st.integers(0, 40))
NUMBERS = st.one_of(st.integers(-2, 2), st.integers(-(2**33), 2**33))


@settings(max_examples=50, deadline=None)
@given(st.lists(SHAPES.flatmap(lambda shape: arrays(np.int64, shape, elements=NUMBERS)), max_size=3))
def test_matrices_come_back(matrices: list[np.ndarray]) -> None:
    back = decode_matrix(encode_matrix(matrices), [matrix.shape for matrix in matrices])  # pyright: ignore[reportArgumentType]
    assert all(np.array_equal(one, other) for one, other in zip(matrices, back, strict=True))


def laplace(rows: np.ndarray, columns: np.ndarray, seed: int) -> np.ndarray:
    scale = rows[:, None] * columns
    return np.rint(np.random.default_rng(seed).laplace(size=scale.shape) * scale).astype(np.int64)


def entropy_bytes(matrix: np.ndarray) -> float:
    counts = np.unique(matrix, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def test_size_is_near_the_entropy_of_equal_numbers() -> None:
    matrix = laplace(np.full(120, 0.6), np.ones(400), 0)
    assert len(encode_matrix([matrix])) < 1.01 * entropy_bytes(matrix)


def test_strong_rows_and_columns_save_bytes() -> None:
    random = np.random.default_rng(1)
    matrix = laplace(0.3 * np.exp(random.normal(size=120)), np.exp(random.normal(size=400)), 2)
    assert len(encode_matrix([matrix])) < 0.85 * entropy_bytes(matrix)


def test_zeros_take_next_to_nothing() -> None:
    assert len(encode_matrix([np.zeros((200, 300), np.int64)])) < 60


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_end_in_matrices_or_an_error(payload: bytes) -> None:
    with suppress(DataError):
        assert decode_matrix(payload, [(3, 4)])[0].shape == (3, 4)
