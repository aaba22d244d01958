"""Numbers rounded in turn make up for the errors of those before."""

import torch
from torch import Tensor

from wscore.autoencoder.coding.curvature import curvatures, factors, round_in_turn
from wscore.autoencoder.training.behaviour_loss import behaviour_kl


def half(targets: Tensor) -> Tensor:
    return torch.full((1, *targets.shape), 0.5)


def test_rounding_in_turn_lowers_the_form_and_is_plain_where_nothing_is_coupled() -> None:
    random = torch.Generator().manual_seed(0)
    targets = 3 * torch.randn(1, 1, 150, generator=random)
    rows = torch.randn(40, 150, generator=random)
    form = rows.mT @ rows
    lower = factors(form[None], 0.1)
    torch.testing.assert_close(lower[0] @ lower[0].mT, form + 0.1 * torch.eye(150), rtol=1e-4, atol=1e-3)
    cost = lambda numbers: float((numbers - targets)[0, 0] @ form @ (numbers - targets)[0, 0])  # noqa: E731
    assert cost(round_in_turn(targets, lower, half(targets))) < 0.3 * cost(targets.round())
    assert torch.equal(round_in_turn(targets, torch.eye(150)[None], half(targets)), targets.round())


def test_bounds_belong_to_magnitudes_and_networks_share_factors() -> None:
    targets = torch.tensor([[[0.7, -0.7, 1.7, 2.7, -5.7]], [[0.9, 0.2, -1.9, 2.2, 5.2]]])
    bounds = torch.tensor([0.8, 0.6, 0.9])[:, None, None, None].expand(3, *targets.shape)
    numbers = round_in_turn(targets, torch.eye(5)[None], bounds, torch.tensor([0, 0]))
    assert numbers.tolist() == [[[0, 0, 2, 2, -5]], [[1, 0, -2, 2, 5]]]


def test_the_matrix_is_the_curvature_of_the_divergence() -> None:
    random = torch.Generator().manual_seed(0)
    point, images = torch.randn(1, 12, generator=random), torch.randn(20, 3, generator=random)

    def run(weights: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(x @ weights.view(-1, 3, 4)) * 2

    (matrix,) = curvatures(run, point, images, [0.5])[0]
    small = 1e-2 * torch.randn(200, 12, generator=random)
    expected = run(point.expand(200, -1), images[None].expand(200, -1, -1))
    lost = behaviour_kl(expected, run(point + small, images[None].expand(200, -1, -1)), 0.5)
    form = torch.einsum("ni,ij,nj->n", small, matrix, small)
    ratio = lost / form
    assert float(ratio.std() / ratio.mean()) < 0.1
    torch.testing.assert_close(matrix.diagonal().mean(), torch.tensor(1.0))
