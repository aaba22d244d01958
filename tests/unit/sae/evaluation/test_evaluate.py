"""Figures of sparse codes, against values worked out by hand."""

import numpy as np
import pytest
import torch

from wscore.sae.dataset import ArrayRows
from wscore.sae.evaluation.evaluate import (
    Dictionary,
    RowMean,
    RowPca,
    TopEntries,
    add_recovered,
    code_statistics,
    density_histogram,
)
from wscore.sae.model import SparseAutoencoder


class FixedRows(ArrayRows):
    """Two splits of fixed rows."""

    def __init__(self, train: list[list[float]], test: list[list[float]]) -> None:
        super().__init__(train=torch.tensor(train), test=torch.tensor(test))


def exact(shift: float = 0.0) -> SparseAutoencoder:
    """Return a dictionary that gives positive rows of two numbers back, plus a shift of the second one."""
    model = SparseAutoencoder(2, 3).eval()
    with torch.no_grad():
        model.encoder_weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
        model.decoder_weight.copy_(model.encoder_weight)
        model.decoder_bias[1] = shift
    return model


def test_fvu_by_hand() -> None:
    """x = [[2, 0], [0, 4]], x^ = [[2, 1], [0, 3]]: explained variance 0.8, with the mean of x as the training mean."""
    rows = FixedRows([[2.0, 0.0], [0.0, 4.0]], [[2.0, 0.0], [0.0, 4.0]])
    model = exact()
    with torch.no_grad():  # the second atom's code is 1 and 3 in place of 0 and 4
        model.encoder_weight[1] = torch.tensor([0.0, 0.5])
        model.encoder_bias[1] = 1.0
    codes = model.encode(rows.values[:2])
    assert model.decode(codes).tolist() == [[2.0, 1.0], [0.0, 3.0]]
    found = code_statistics(Dictionary(model, rows, "tokens"), rows.rows_of("test"), RowMean.fit(rows))
    assert found.figures["fvu"] == pytest.approx(1 - 0.8)
    assert found.errors.tolist() == pytest.approx([0.5, 0.5])


def test_a_constant_shift_hurts() -> None:
    """The ratio of variances, which some use, calls this a perfect reconstruction."""
    values = (torch.rand(200, 2) + 0.5).tolist()
    rows = FixedRows(values[:100], values[100:])
    mean, chosen = RowMean.fit(rows), rows.rows_of("test")
    good, shifted = (
        code_statistics(Dictionary(exact(shift), rows, "tokens"), chosen, mean).figures["fvu"] for shift in (0.0, 5.0)
    )
    assert good < 1e-9
    assert shifted > 20


def test_fvu_is_against_the_training_mean_over_the_whole_split() -> None:
    rows = FixedRows([[0.0, 0.0], [0.0, 0.0]], [[3.0, 0.0], [0.0, 1.0]])
    model = exact()
    with torch.no_grad():
        model.encoder_bias.fill_(-100)
    found = code_statistics(Dictionary(model, rows, "tokens"), rows.rows_of("test"), RowMean.fit(rows)).figures
    assert found["fvu"] == pytest.approx(
        1.0
    )  # answering the training mean explains nothing, though the test mean differs


def test_sparsity_by_hand() -> None:
    rows = FixedRows([[1.0, 1.0]], [[3.0, 4.0], [2.0, 0.0]])
    found = code_statistics(Dictionary(exact(), rows, "tokens"), rows.rows_of("test"), RowMean.fit(rows))
    assert found.counts.tolist() == [2, 1]
    assert found.density.tolist() == [1.0, 0.5, 0.0]
    assert found.activation.tolist() == [2.5, 2.0, 0.0]
    assert found.active.tolist() == [2.5, 4.0, 0.0]
    figures = found.figures
    assert figures["l0"] == 1.5
    assert figures["sparsity_level"] == pytest.approx(0.5)
    assert figures["dead_fraction"] == pytest.approx(1 / 3)
    hoyer = (3**0.5 - 7 / 5) / (3**0.5 - 1)
    assert figures["hoyer"] == pytest.approx((hoyer + 1) / 2, abs=1e-6)
    assert density_histogram(found.density)["latents"].sum() == 2


def test_pca_of_full_rank_is_exact_and_of_rank_one_is_the_best_line() -> None:
    values = (torch.randn(300, 3) * torch.tensor([5.0, 1.0, 0.1]) + 2).tolist()
    rows = FixedRows(values[:200], values[200:])
    dictionary = Dictionary(SparseAutoencoder(3, 4), rows, "tokens")
    batch, kinds = rows.batch(rows.rows_of("test")), np.zeros(100, int)
    assert torch.allclose(RowPca(dictionary, 3, by_kind=True)(batch, kinds), batch.values, atol=1e-4)
    rest = RowPca(dictionary, 1, by_kind=False)(batch, kinds) - batch.values
    assert rest[:, 0].abs().mean() < 0.3
    assert rest[:, 1].std() > 0.8


def test_top_entries_keeps_the_farthest_from_the_mean() -> None:
    rows = FixedRows([[0.0, 10.0, 0.0]], [[2.0, 9.0, -3.0]])
    rebuilt = TopEntries(RowMean.fit(rows), 1)(rows.batch(rows.rows_of("test")), np.zeros(1, int))
    assert rebuilt.tolist() == [[0.0, 10.0, -3.0]]


def test_recovered_accuracy_is_zero_for_the_mean_network_and_one_for_the_originals() -> None:
    found = {
        "ours": {"accuracy_original": 0.9, "accuracy": 0.7},
        "mean_network": {"accuracy_original": 0.9, "accuracy": 0.1},
        "networks": 3.0,
    }
    add_recovered(found)
    assert found["ours"]["accuracy_recovered"] == pytest.approx(0.75)
    assert found["mean_network"]["accuracy_recovered"] == 0
    equal = {"mean_network": {"accuracy_original": 0.9, "accuracy": 0.9}}
    add_recovered(equal)
    assert "accuracy_recovered" not in equal["mean_network"]
