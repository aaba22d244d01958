import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from wscore.networks import stacked
from wscore.networks.architectures import FAMILIES, TRAITS, Architecture, build

COUNT = 3


def networks(family, size=(1, 8, 8), pooling="max", activation="tanh"):
    pooling = pooling if TRAITS[family].has_conv_layers else "none"
    known = Architecture(family=family, input=size, classes=7, widths=(4, 5), activation=activation, pooling=pooling)
    return known, [build(known) for _ in range(COUNT)]


def state_of(nets):
    states = [net.state_dict() for net in nets]
    return {name: torch.stack([state[name] for state in states]).clone() for name in states[0]}


def with_gradients(state):
    return {name: value.requires_grad_() if value.is_floating_point() and "running" not in name else value
            for name, value in state.items()}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["max", "avg"])
@pytest.mark.parametrize("size", [(1, 8, 8), (2, 11, 14)])
def test_a_training_step_of_stacked_networks_is_that_of_each_alone(family, pooling, size):
    known, nets = networks(family, size, pooling)
    images, keep = torch.rand(COUNT, 6, *size), torch.rand(COUNT, 6, nets[0].head.in_features)
    state = with_gradients(state_of(nets))
    network = stacked.skeleton(known).train()
    together = stacked.run(network, state, images, keep)
    together.square().sum().backward()
    network.eval()
    for place, net in enumerate(nets):
        alone = net.train()(images[place], keep[place])
        torch.testing.assert_close(together[place], alone, rtol=1e-4, atol=1e-5)
        alone.square().sum().backward()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(state[name].grad[place], parameter.grad, rtol=2e-3, atol=2e-4)
        for name, buffer in net.named_buffers():
            if "running" in name:
                torch.testing.assert_close(state[name][place], buffer, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of vmap over attention
@pytest.mark.parametrize("family", FAMILIES)
def test_it_computes_what_vmap_computes(family):
    known, nets = networks(family, activation="gelu")
    images = torch.rand(COUNT, 6, 1, 8, 8)
    plain = nets[0].train()
    by_vmap = vmap(lambda state, x: functional_call(plain, state, (x,)))(state_of(nets), images)
    network = stacked.skeleton(known).train()
    together = stacked.run(network, state_of(nets), images)
    network.eval()
    torch.testing.assert_close(together, by_vmap, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_network_does_not_see_the_others(family):
    known, nets = networks(family)
    images = torch.rand(COUNT, 6, 1, 8, 8)
    state = state_of(nets)
    before = stacked.run(stacked.skeleton(known), state, images)
    for value in state.values():
        value[1] = torch.nan if value.is_floating_point() else 0
    after = stacked.run(stacked.skeleton(known), state, images)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert after[1].isnan().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_images_give_the_same_as_copies(family):
    known, nets = networks(family)
    images = torch.rand(5, 1, 8, 8)
    network = stacked.skeleton(known)
    shared = stacked.run(network, state_of(nets), images)
    copied = stacked.run(network, state_of(nets), images.expand(COUNT, -1, -1, -1, -1))
    torch.testing.assert_close(shared, copied)


def test_equal_values_in_a_window_give_the_gradient_to_one_of_them():
    x = torch.zeros(1, 2, 3, 4, 4, requires_grad=True)
    stacked.StackedPool2d(nn.MaxPool2d(2))(x).sum().backward()
    expected = torch.zeros(4, 4)
    expected[::2, ::2] = 1
    assert torch.equal(x.grad, expected.expand(1, 2, 3, 4, 4))
