"""The symmetric covariance is the plain one averaged over every order of the hidden units."""

from itertools import permutations, product

import numpy as np
import pytest
import torch

from wscore.autoencoder.training.fit_linear_path import damped_root
from wscore.autoencoder.training.symmetric_covariance import Exchangeable, symmetric_pca, unit_axes
from wscore.networks.architectures import Architecture, build
from wscore.networks.layout import Layout, TensorSpec, layout_of


def network(family: str, widths: tuple[int, ...]) -> Layout:
    pooling = "none" if family == "mlp" else "max"
    architecture = Architecture(
        family=family, input=(1, 4, 4), classes=3, widths=widths, activation="relu", pooling=pooling
    )
    return layout_of(build(architecture).state_dict())


def all_orders(layout: Layout, vectors: np.ndarray, hidden: dict[str, tuple[str, ...]]) -> np.ndarray:
    """Return the vectors in every order of the units; `hidden` names the tensors whose rows, then columns, they are."""
    found = []
    sizes = [layout.tensors[[spec.name for spec in layout.tensors].index(rows[0])].shape[0] for rows in hidden.values()]
    for orders in product(*(permutations(range(size)) for size in sizes)):
        state = {name: value.clone() for name, value in layout.unflatten(torch.from_numpy(vectors)).items()}
        for order, (column, rows) in zip(orders, hidden.items(), strict=True):
            for name in rows:
                state[name] = state[name][:, list(order)]
            tensor = state[column]
            grouped = tensor.reshape(len(tensor), tensor.shape[1], len(order), -1)
            state[column] = grouped[:, :, list(order)].reshape(tensor.shape)
        found.append(torch.cat([state[spec.name].reshape(len(vectors), -1) for spec in layout.tensors], dim=1).numpy())
    return np.concatenate(found)


CASES = {
    "mlp": ((3, 4), {"linear2.weight": ("linear1.weight", "linear1.bias"), "head.weight": ("linear2.weight", "linear2.bias")}),
    "cnn": ((2, 3), {"conv2.weight": ("conv1.weight", "conv1.bias"), "head.weight": ("conv2.weight", "conv2.bias")}),
    "cnn_bn": (
        (2, 3),
        {
            "conv2.weight": ("conv1.weight", *(f"norm1.{name}" for name in ("weight", "bias", "running_mean", "running_var"))),
            "head.weight": ("conv2.weight", *(f"norm2.{name}" for name in ("weight", "bias", "running_mean", "running_var"))),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", CASES)
def test_it_is_the_average_over_all_orders(family: str) -> None:
    widths, hidden = CASES[family]
    layout = network(family, widths)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5, layout.size)) * np.linspace(0.5, 2, layout.size) + 1
    mean = rng.standard_normal(layout.size)
    units = Exchangeable(layout)
    mean = units.average(mean)
    every = all_orders(layout, vectors, hidden)
    assert np.allclose(units.average(vectors.mean(0)), every.mean(0))
    expected = (every - mean).T @ (every - mean) / len(every)
    found = units.covariance(iter(np.array_split(vectors, 2)), mean)(np.eye(layout.size))
    assert np.allclose(found, expected, atol=1e-10)
    plain = (vectors - mean).T @ (vectors - mean) / len(vectors)
    assert not np.allclose(found, plain, atol=0.1)


def test_a_metric_is_averaged_over_all_orders_after_it_is_damped() -> None:
    widths, hidden = CASES["mlp"]
    layout = network("mlp", widths)
    rows = np.random.default_rng(0).standard_normal((7, layout.size))
    metric = rows.T @ rows / 7
    damped = metric + (0.01 * np.trace(metric) / layout.size + 1e-12) * np.eye(layout.size)
    every = all_orders(layout, rows, hidden)
    averaged = every.T @ every / len(every) + damped - metric  # orders leave the damping as it is
    for share in (0.0, 0.25, 1.0):
        root = damped_root(metric, layout, share)
        assert np.allclose(root @ root.T, (1 - share) * damped + share * averaged, atol=1e-8)


def test_classes_and_inputs_are_no_hidden_units() -> None:
    layout = network("mlp", (3, 4))
    axes = dict(zip([spec.name for spec in layout.tensors], unit_axes(layout), strict=True))
    assert axes["linear1.weight"].column_units == -1
    assert axes["head.weight"].row_units == axes["head.bias"].row_units == -1
    assert axes["head.weight"].column_units == axes["linear2.weight"].row_units == axes["linear2.bias"].row_units >= 0


def test_residual_networks_and_foreign_tensors_keep_the_variance() -> None:
    scale = TensorSpec(name="scale", shape=(), kind="other", layer=9)
    table = TensorSpec(name="table", shape=(5, 2), kind="other", layer=10)
    for layout in (network("resnet", (2, 3)), Layout(tensors=(scale, table)), Layout(tensors=(table,))):
        vectors = np.random.default_rng(0).standard_normal((4, layout.size))
        product = Exchangeable(layout).covariance(iter([vectors]), np.zeros(layout.size))(np.eye(layout.size))
        assert np.allclose(product, product.T)
        assert np.linalg.eigvalsh(product).min() > -1e-10
        assert np.trace(product) == pytest.approx(np.square(vectors).sum() / 4)


def test_a_symmetric_basis_is_the_better_one_for_unseen_networks() -> None:
    layout = network("mlp", (6, 5))
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(16)
    vectors = 0.3 * rng.standard_normal((60, layout.size)).astype(np.float32)
    first = vectors[:, : 6 * 16].reshape(60, 6, 16)
    first += rng.standard_normal((60, 6, 1)).astype(np.float32) * direction.astype(np.float32)
    train, test = vectors[:12], vectors[12:]
    errors = {}
    for symmetry in (0.0, 1.0):
        found = symmetric_pca(lambda: iter([train]), 6, seed=0, units=Exchangeable(layout), symmetry=symmetry)
        errors[symmetry] = np.square(test - found.project(test)).sum()
    assert errors[1.0] < 0.6 * errors[0.0]
