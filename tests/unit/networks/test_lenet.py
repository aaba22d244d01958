import pytest
import torch
from torch.func import functional_call

from wscore.errors import ConfigError
from wscore.networks.lenet import (
    NETWORKS,
    HalvingMaxPool,
    NetworkSpec,
    accuracy_and_loss,
    build_network,
    network_layout,
)

SPECS = {name: NetworkSpec(name=name, channels=1, size=28, classes=10) for name in NETWORKS}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_seed_decides_the_weights_and_nothing_else_is_touched(name: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (build_network(SPECS[name], seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for key, tensor in first.items():
        assert torch.equal(tensor, again[key])
    assert any(not torch.equal(tensor, other[key]) for key, tensor in first.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_judging_a_vector_is_running_the_network(name: str) -> None:
    spec, images, labels = SPECS[name], torch.rand(30, 1, 28, 28), torch.arange(30) % 10
    network = build_network(spec, 3).eval()
    vector = torch.from_numpy(network_layout(spec).flatten(network.state_dict()))
    found = accuracy_and_loss(spec, torch.stack([vector, 2 * vector]), images, labels)
    with torch.no_grad():
        logits = functional_call(network, network_layout(spec).unflatten(2 * vector), (images,))
    assert found.loss[1].item() == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-5)
    assert found.accuracy[1].item() == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert found.loss[0] != found.loss[1]


@pytest.mark.parametrize(
    ("channels", "size", "classes", "weights"), [(1, 28, 10, 61_706), (1, 32, 10, 61_706), (3, 32, 10, 62_006)]
)
def test_lenet5_has_the_weights_of_the_classic(channels: int, size: int, classes: int, weights: int) -> None:
    spec = NetworkSpec(name="lenet5", channels=channels, size=size, classes=classes)
    assert network_layout(spec).size == weights
    assert build_network(spec)(torch.zeros(2, channels, size, size)).shape == (2, classes)
    assert [tensor.kind for tensor in network_layout(spec).tensors[::2]] == ["conv"] * 2 + ["linear"] * 3


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(
        ConfigError,
        match=r"base\.network: unknown network; expected lenet5, mlp, cnn_bn, vit or a custom module:function; got lenet",
    ):
        build_network(NetworkSpec(name="lenet", channels=1, size=28, classes=10))
    with pytest.raises(ConfigError, match=r"base\.size.*expected 28 or 32; got 8"):
        build_network(NetworkSpec(name="lenet5", channels=1, size=8, classes=10))


@pytest.mark.parametrize("shape", [(2, 6, 8, 10), (2, 6, 7, 8)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pooling_without_gradients_is_that_of_torch(shape: tuple[int, ...], memory_format: torch.memory_format) -> None:
    images = torch.randn(shape).contiguous(memory_format=memory_format)
    with torch.no_grad():
        assert torch.equal(HalvingMaxPool()(images), torch.nn.functional.max_pool2d(images, 2))
