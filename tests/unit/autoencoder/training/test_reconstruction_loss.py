import math

import pytest
import torch

from wscore.autoencoder.training.reconstruction_loss import (
    RECONSTRUCTION,
    combined,
    masked_cosine,
    masked_mae,
    masked_mse,
    network_cosine,
    network_mae,
    network_mse,
    reconstruction_loss,
)
from wscore.errors import ConfigError

# Two networks of two tokens of two entries: the first has three weights, the second one.
MASK = torch.tensor([[[True, True], [True, False]], [[True, False], [False, False]]])
TARGET = torch.tensor([[[1.0, 2.0], [2.0, 9.0]], [[3.0, 9.0], [9.0, 9.0]]])
PREDICTION = torch.tensor([[[2.0, 2.0], [-1.0, -9.0]], [[1.0, -9.0], [-9.0, -9.0]]])
PER_NETWORK = {"mse": network_mse, "mae": network_mae, "cosine": network_cosine}
# First network: differences 1, 0, -3; <p, t> = 2 + 4 - 2, both of length 3. Second network: difference -2.
BY_HAND = {
    "mse": [10 / 3, 4.0],
    "mae": [4 / 3, 2.0],
    "cosine": [1 - 4 / 9, 0.0],
}


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_by_hand(name):
    torch.testing.assert_close(PER_NETWORK[name](PREDICTION, TARGET, MASK), torch.tensor(BY_HAND[name]))
    mean_of_networks = sum(BY_HAND[name]) / 2
    assert RECONSTRUCTION[name](PREDICTION, TARGET, MASK).item() == pytest.approx(mean_of_networks, rel=1e-6)


def test_every_network_counts_the_same():
    pooled = (1 + 0 + 9 + 4) / 4
    assert masked_mse(PREDICTION, TARGET, MASK).item() != pytest.approx(pooled)


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_a_perfect_reconstruction_costs_nothing(name):
    assert RECONSTRUCTION[name](TARGET, TARGET, MASK).item() == pytest.approx(0, abs=1e-6)


def test_cosine_of_opposite_and_of_zero_networks():
    full = torch.ones_like(MASK)
    assert masked_cosine(-TARGET, TARGET, full).item() == pytest.approx(2)
    assert masked_cosine(torch.zeros_like(TARGET), TARGET, full).item() == pytest.approx(1)
    assert masked_cosine(3 * TARGET, TARGET, full).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", RECONSTRUCTION)
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30])
def test_padding_reaches_neither_loss_nor_gradient(name, garbage):
    prediction = torch.where(MASK, PREDICTION, garbage).requires_grad_()
    loss = RECONSTRUCTION[name](prediction, torch.where(MASK, TARGET, garbage), MASK)
    assert loss.item() == pytest.approx(sum(BY_HAND[name]) / 2, rel=1e-6)
    loss.backward()
    assert (prediction.grad[~MASK] == 0).all()
    assert torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_a_network_of_padding_does_not_count(name):
    mask = MASK.clone()
    mask[1] = False
    prediction = PREDICTION.clone().requires_grad_()
    loss = RECONSTRUCTION[name](prediction, TARGET, mask)
    assert loss.item() == pytest.approx(BY_HAND[name][0], rel=1e-6)
    loss.backward()
    assert torch.isfinite(prediction.grad).all()
    assert RECONSTRUCTION[name](PREDICTION, TARGET, torch.zeros_like(MASK)).item() == 0


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_gradients_are_those_of_the_formula(name):
    prediction = PREDICTION.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: RECONSTRUCTION[name](p, TARGET.double(), MASK), prediction)


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_gradients_are_finite_at_zero(name):
    prediction = torch.zeros_like(PREDICTION).requires_grad_()
    RECONSTRUCTION[name](prediction, TARGET, MASK).backward()
    assert torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize("name", RECONSTRUCTION)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_summed_in_float32(name, dtype):
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(2, 64, 64, generator=generator).to(dtype)
    target = (300 + torch.randn(2, 64, 64, generator=generator)).to(dtype)  # squares overflow float16
    mask = torch.ones_like(target, dtype=torch.bool)
    loss = RECONSTRUCTION[name](prediction, target, mask)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(
        RECONSTRUCTION[name](prediction.double(), target.double(), mask).item(), rel=1e-4
    )


def test_combined_by_hand():
    weights = {"mse": 1.0, "mae": 0.0, "cosine": 0.5}
    expected = sum(BY_HAND["mse"]) / 2 + 0.5 * sum(BY_HAND["cosine"]) / 2
    assert combined(PREDICTION, TARGET, MASK, weights=weights).item() == pytest.approx(expected)
    assert reconstruction_loss("combined", weights)(PREDICTION, TARGET, MASK).item() == pytest.approx(expected)


def test_one_loss_by_name():
    assert reconstruction_loss("mae", {"mse": 1.0}) is masked_mae


@pytest.mark.parametrize("weights", [{}, {"mse": 0.0}, {"mse": 1.0, "huber": 1.0}, {"mse": 1.0, "mae": -1.0}])
def test_weights_that_make_no_loss_are_refused(weights):
    with pytest.raises(ConfigError, match="cannot combine losses"):
        combined(PREDICTION, TARGET, MASK, weights=weights)


def test_an_unknown_loss_is_refused():
    with pytest.raises(ConfigError, match="expected mse, mae, cosine, combined; got huber"):
        reconstruction_loss("huber", {})
