"""Wrong types and shapes are noticed wherever a function of wscore is called in a test."""

from typing import Any

import jaxtyping
import numpy as np
import pytest
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float

from wscore.networks.layout import Layout, TensorSpec

LAYOUT = Layout(tensors=(TensorSpec(name="w", shape=(3,), kind="bias", layer=0),))


def product(a: Float[np.ndarray, "row inner"], b: Float[np.ndarray, "inner column"]) -> Float[np.ndarray, "row column"]:
    return a @ b if a.shape[0] < 4 else b


def half(number: int) -> int:
    return number // 2 if number % 2 == 0 else number / 2  # pyright: ignore


def checked(function: Any) -> Any:
    return jaxtyping.jaxtyped(function, typechecker=beartype)


def test_axes_of_a_call_fit_each_other_and_calls_do_not_share_them() -> None:
    assert checked(product)(np.ones((2, 3)), np.ones((3, 4))).shape == (2, 4)
    assert checked(product)(np.ones((3, 5)), np.ones((5, 1))).shape == (3, 1)
    for a, b in (((2, 3), (4, 5)), ((2,), (2, 1)), ((5, 4), (4, 3))):  # an axis, a dimension, the result
        with pytest.raises(BeartypeCallHintViolation):
            checked(product)(np.ones(a), np.ones(b))


def test_types_without_shapes() -> None:
    assert checked(half)(4) == 2
    for wrong in ("4", 3):
        with pytest.raises(BeartypeCallHintViolation):
            checked(half)(wrong)


def test_functions_of_wscore_are_checked() -> None:
    with pytest.raises(BeartypeCallHintViolation):
        LAYOUT.unflatten("text")  # pyright: ignore
    with pytest.raises(BeartypeCallHintViolation):
        LAYOUT.flatten(3)  # pyright: ignore
