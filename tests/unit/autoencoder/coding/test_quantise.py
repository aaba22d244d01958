"""Steps are as fine as the bytes allow, and numbers are rounded to what costs least."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wscore.autoencoder.coding.blocks import Structure
from wscore.autoencoder.coding.coordinates import Coordinates
from wscore.autoencoder.coding.quantise import (
    COARSEST,
    PRICE,
    bits_of,
    dequantise,
    quantise,
    rows_of,
    total_bits,
    units,
)
from wscore.autoencoder.coding.table_coder import encode_numbers
from wscore.autoencoder.coding.tables import HIGH
from wscore.networks.layout import layout_of

LAYOUT = layout_of({"a.weight": torch.zeros(12, 9), "a.bias": torch.zeros(12), "b.weight": torch.zeros(4, 12)})


def coordinates(*, known: bool) -> Coordinates:
    return Coordinates(Structure(LAYOUT), {}, known=known)


def drawn(count: int, seed: int) -> torch.Tensor:
    """Coordinates of very different sizes, some of them far out."""
    generator = torch.Generator().manual_seed(seed)
    spread = (3 * torch.randn(count, 1, generator=generator)).exp()
    return spread * torch.randn(count, LAYOUT.size, generator=generator) ** 3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.3, 12), st.booleans())
def test_no_step_is_coarser_than_need_be(seed: int, bits: float, known: bool) -> None:
    code, y = coordinates(known=known), drawn(5, seed)
    room = torch.full((5,), bits * LAYOUT.size).double()
    stored = quantise(code, y, room)
    inside = stored.steps < COARSEST
    assert (total_bits(code, stored) <= room + 1e-3)[inside].all()
    much_finer = quantise(code, y, room * 1.1 + 20)
    assert (much_finer.steps < stored.steps)[inside].all()
    alone = quantise(code, y[:1], room[:1])
    assert torch.equal(alone.numbers, stored.numbers[:1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(1, 6), st.booleans())
def test_a_number_is_lowered_where_that_saves_more_bits_than_it_costs_in_networks_unlike_a_zoo(
    seed: int, bits: float, known: bool
) -> None:
    code, y = coordinates(known=known), drawn(4, seed)
    stored = quantise(code, y, torch.full((4,), bits * LAYOUT.size).double())
    rows, exact = rows_of(code, stored), (y / units(code, stored)).abs()
    families = stored.families[:, code.groups]
    near = (exact + 0.5).long()
    lower = (near - 1).clamp_min(0)
    cost = [(exact - n).square() + PRICE * bits_of(n, rows, families) for n in (near, lower)]
    narrow = rows <= HIGH  # all bits of these are coded by a table
    clear = ((cost[0] - cost[1]).abs() > 1e-3) & ((exact % 1 - 0.5).abs() > 1e-3)
    expected = near if known else torch.where(narrow & (cost[1] < cost[0]), lower, near)
    assert torch.equal(stored.numbers.abs()[clear].long(), expected[clear])
    used = clear & (expected > 0)
    assert torch.equal(stored.numbers.sign()[used], y.sign().int()[used])


@pytest.mark.parametrize("known", [True, False])
def test_estimated_bits_are_those_of_the_bytes(known: bool) -> None:
    code, y = coordinates(known=known), drawn(20, 1)
    stored = quantise(code, y, torch.full((20,), 5.0 * LAYOUT.size).double())
    sizes = torch.tensor([8.0 * len(data) for data in encode_numbers(code, stored)])
    assert ((sizes - total_bits(code, stored)).abs() < 24).all()
    assert dequantise(code, stored).shape == y.shape
