"""Allowed permutations leave every network's function alone, whatever its widths; inverse orders undo each other."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wscore.networks.architectures import FAMILIES, TRAITS, Architecture, build
from wscore.symmetry.spec import permute, random_orders
from wscore.symmetry.trace import derive_spec

widths = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)


@settings(max_examples=15, deadline=None)
@given(family=st.sampled_from(sorted(FAMILIES)), widths=widths, seed=st.integers(0, 10_000))
def test_allowed_permutations_leave_the_function_and_can_be_undone(
    family: str, widths: tuple[int, ...], seed: int
) -> None:
    pooling = "max" if TRAITS[family].has_conv_layers else "none"
    description = Architecture(
        family=family, input=(1, 8, 8), classes=4, widths=widths, activation="gelu", pooling=pooling
    )
    network, images = build(description).eval(), torch.rand(3, 1, 8, 8)
    spec = derive_spec(network, images)
    state = {name: tensor[None] for name, tensor in network.state_dict().items()}
    orders = random_orders(spec, 1, torch.Generator().manual_seed(seed))
    moved = permute(spec, state, orders)
    back = permute(spec, moved, {group: torch.argsort(order, dim=1) for group, order in orders.items()})
    assert all(torch.equal(back[name], state[name]) for name in state)
    other = build(description).eval()
    other.load_state_dict({name: tensor[0] for name, tensor in moved.items()})
    with torch.no_grad():
        assert torch.allclose(network(images), other(images), atol=1e-5)
