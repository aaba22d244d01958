"""Weight matching finds a hidden order again and never changes a function."""

import pytest
import torch

from wscore.networks.architectures import Architecture, build
from wscore.networks.inference import StackedAnswer, logits
from wscore.networks.layout import layout_of
from wscore.symmetry.matching import match_weights
from wscore.symmetry.spec import permute, random_orders
from wscore.symmetry.trace import derive_spec

RESNET = Architecture(family="resnet", input=(1, 8, 8), classes=10, widths=(5, 6), activation="relu", pooling="max")
MLP = Architecture(family="mlp", input=(1, 4, 4), classes=3, widths=(9, 7), activation="tanh", pooling="none")


@pytest.mark.parametrize("architecture", [MLP, RESNET], ids=["mlp", "resnet"])
def test_a_hidden_order_is_found_again_exactly(architecture: Architecture) -> None:
    network = build(architecture)
    spec = derive_spec(network, torch.rand(2, *architecture.input))
    stacked = {name: tensor.expand(5, *tensor.shape).clone() for name, tensor in network.state_dict().items()}
    hidden = permute(spec, stacked, random_orders(spec, 5, torch.Generator().manual_seed(1)))
    found = permute(spec, hidden, match_weights(spec, network.state_dict(), hidden))
    assert not all(torch.equal(hidden[name], stacked[name]) for name in stacked)
    assert all(torch.equal(found[name], stacked[name]) for name in stacked)


def test_alignment_brings_networks_closer_and_keeps_their_function() -> None:
    networks = [build(RESNET) for _ in range(4)]
    layout = layout_of(networks[0].state_dict())
    spec = derive_spec(networks[0], torch.rand(2, 1, 8, 8))
    state = {name: torch.stack([n.state_dict()[name] for n in networks]) for name in networks[0].state_dict()}
    reference = networks[0].state_dict()
    aligned = permute(spec, state, match_weights(spec, reference, state))
    before = torch.stack([torch.from_numpy(layout.flatten({k: v[i] for k, v in state.items()})) for i in range(4)])
    after = torch.stack([torch.from_numpy(layout.flatten({k: v[i] for k, v in aligned.items()})) for i in range(4)])
    images = torch.rand(20, 1, 8, 8)
    assert torch.allclose(
        logits(StackedAnswer(RESNET, layout), before, images),
        logits(StackedAnswer(RESNET, layout), after, images),
        atol=1e-5,
    )
    assert torch.equal(after[0], before[0])
    assert bool(((after[1:] - before[0]).norm(dim=1) < (before[1:] - before[0]).norm(dim=1)).all())
