"""Parts of changes against projections that are there in full."""

import pytest
import torch
from torch import Tensor, nn

from wscore.forecasting.models.matrix_parts import correction, near_directions, present_parts, row_blocks, seen_tensors
from wscore.networks.layout import layout_of

LAYOUT = layout_of(nn.Sequential(nn.Conv2d(3, 30, 3), nn.Flatten(), nn.Linear(60, 40), nn.Linear(40, 5)).state_dict())
EDGES = (3, 20)
LINEAR = LAYOUT.slices()["2.weight"]


def changes(count: int = 5) -> Tensor:
    return torch.randn(count, LAYOUT.size, dtype=torch.float64)


def projected(matrices: Tensor, directions: Tensor) -> list[Tensor]:
    near, far = directions[:, :3], directions[:, 3:20]
    rest = torch.eye(len(directions)).to(directions) - directions @ directions.T
    return [matrices @ one for one in (near @ near.T, far @ far.T, rest)]


def test_inner_products_and_combinations_are_those_of_projections() -> None:
    d = changes()
    seen = seen_tensors(lambda block: d[:, block], LAYOUT, 3, EDGES)
    for spec, part, own in zip(LAYOUT.tensors, LAYOUT.slices().values(), seen, strict=True):
        assert torch.allclose(own.grams.sum(0), d[:, part] @ d[:, part].T)
        if len(spec.shape) == 1:
            continue
        matrices = d[:, part].unflatten(-1, (spec.shape[0], -1))
        parts = projected(matrices, own.directions)
        for found, one in zip(own.grams, parts, strict=True):
            assert torch.allclose(found, one.flatten(1) @ one.flatten(1).T, atol=1e-8)
        beta = torch.randn(3, 3, 2, dtype=torch.float64)
        wanted = torch.stack(
            [torch.einsum("mrc,mk->krc", one[:3], beta[index]) for index, one in enumerate(parts)]
        ).sum(0)
        whole = torch.einsum("mrc,mk->krc", matrices[:3], beta[-1])
        assert torch.allclose(whole + correction(own, beta, EDGES) @ own.directions.T, wanted)


def test_directions_are_those_of_the_present_changes_strongest_first() -> None:
    d = changes()
    d[3:] *= 100
    directions = seen_tensors(lambda block: d[:, block], LAYOUT, 3, EDGES)[2].directions
    present = d[:3, LINEAR].unflatten(-1, (40, 60))
    assert torch.allclose(directions.T @ directions, torch.eye(20, dtype=torch.float64), atol=1e-10)
    energy = (present @ directions).square().sum((0, 1))
    assert torch.allclose(energy, torch.linalg.eigvalsh((present.mT @ present).sum(0)).flip(0)[:20])


def test_directions_in_which_nothing_changes_are_left_out() -> None:
    d = changes()
    d[:, LINEAR] = 0
    d[0, LINEAR][:120] = 1  # two equal rows
    seen = seen_tensors(lambda block: d[:, block], LAYOUT, 3, EDGES)
    assert [own.directions.shape[1] for own in seen] == [20, 0, 1, 0, 15, 0]  # 3 changes of 5 outputs
    assert not seen[2].grams[1:].any()
    standing = seen_tensors(lambda block: 0 * d[:, block], LAYOUT, 3, EDGES)
    assert not any(own.directions.numel() or own.grams.any() for own in standing)


def test_vectors_and_short_rows_have_no_parts_that_are_not_there() -> None:
    d = changes()
    assert present_parts(LAYOUT, 3).sum(1).tolist() == [3, 1, 3, 1, 3, 1]
    assert not seen_tensors(lambda block: d[:, block], LAYOUT, 3, EDGES)[1].grams[:-1].any()
    narrow = layout_of(nn.Linear(7, 50).state_dict())
    weights = torch.randn(4, narrow.size, dtype=torch.float64)
    grams = seen_tensors(lambda block: weights[:, block], narrow, 3, EDGES)[0].grams
    assert not grams[-1].any()
    assert grams[:2].diagonal(dim1=-2, dim2=-1).gt(0).all()


def test_without_edges_every_tensor_is_one_part() -> None:
    d = changes()
    assert present_parts(LAYOUT, 1).sum(1).tolist() == [1] * 6
    for part, own in zip(LAYOUT.slices().values(), seen_tensors(lambda block: d[:, block], LAYOUT, 3, ()), strict=True):
        assert own.directions.numel() == 0
        assert torch.allclose(own.grams, (d[:, part] @ d[:, part].T)[None])


def test_many_inputs_show_a_drift_of_low_rank() -> None:
    d = changes()
    strong = torch.randn(3, 40, 3, dtype=torch.float64) @ torch.randn(3, 60, dtype=torch.float64)
    d[:3, LINEAR] += 10 * strong.flatten(1)
    blocks = list(row_blocks(LAYOUT.tensors[2], LINEAR, 700))
    assert len(blocks) > 1
    near = near_directions(lambda block: d[:, block], LAYOUT.tensors[2], blocks, 3, 20)
    exact = seen_tensors(lambda block: d[:, block], LAYOUT, 3, EDGES)[2].directions
    assert near.shape == exact.shape
    assert torch.allclose(near.T @ near, torch.eye(20, dtype=torch.float64), atol=1e-8)
    overlap = torch.linalg.matrix_norm(near[:, :3].T @ exact[:, :3]).square() / 3
    assert overlap.item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("at_once", [70, 700])
def test_blocks_change_nothing(at_once: int) -> None:
    d = changes()
    whole = seen_tensors(lambda block: d[:, block], LAYOUT, 3, EDGES)
    found = seen_tensors(lambda block: d[:, block], LAYOUT, 3, EDGES, at_once)
    for one, other in zip(whole, found, strict=True):
        assert torch.allclose(one.grams, other.grams)
