"""Which networks a checkpoint holds, and under which names, in which order and orientation their tensors come."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from wscore.networks.naming import plain_names, tensor_order
from wscore.networks.pickles import Stub
from wscore.networks.records import RejectedError
from wscore.networks.selection import AVERAGE, COPY, only, select_all

MOST = 10**6


def net(seed, hidden=6):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 2)).state_dict()


def found(content, key=None):
    return select_all(content, key=key, most=MOST)


def same(state, expected):
    return set(state) == set(expected) and all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_networks_of_one_layout_are_all_read():
    first, second = net(0), net(1)
    for content, keys in (
        ({"netG_A": first, "netG_B": second, "epoch": 3}, ["netG_A", "netG_B"]),
        ({"models": [first, second]}, ["models.0", "models.1"]),
        ([first, second], ["0", "1"]),
        (
            {"seed_0": {"state_dict": first}, "seed_1": {"state_dict": second}},
            ["seed_0.state_dict", "seed_1.state_dict"],
        ),
    ):
        networks = found(content)
        assert [network.key for network in networks] == keys
        assert same(networks[0].state, first)
        assert same(networks[1].state, second)
    assert found({"netG_A": first, "netG_B": second, "epoch": 3})[1].notes == {"epoch": 3}
    with pytest.raises(RejectedError, match=r"2 networks \(netG_A, netG_B\); name one"):
        only(select_all({"netG_A": first, "netG_B": second}, key=None, most=MOST))


def test_a_key_chooses_one_of_several_or_all():
    content = {"runs": [net(0), net(1), net(2)], "spare": net(3)}
    assert same(found(content, "runs.1")[0].state, net(1))
    assert [network.key for network in found(content, "runs.*")] == ["runs.0", "runs.1", "runs.2"]
    with pytest.raises(RejectedError, match=r"state_key 'runs\.7' is not there"):
        found(content, "runs.7")


def test_averages_and_equal_copies_are_left_out_by_name():
    own, other = net(0), net(1)
    for content, key, left_out in (
        ({"model": own, "model_ema": other}, "model", ("model_ema",)),
        ({"ema": other, "model": own}, "model", ("ema",)),
        ({"student": own, "teacher": other}, "student", ("teacher",)),
        ({"params": own, "params_ema": other, "best": own}, "params", ("best", "params_ema")),
        ({"online": own, "target_network": other}, "online", ("target_network",)),
    ):
        (network,) = found(content)
        assert network.key == key
        assert tuple(network.left_out) == left_out
        assert same(network.state, own)
    (several,) = found({"params": own, "params_ema": other, "best": own, "optimizer": {"momentum_buffer": own}})
    assert several.left_out == {"best": COPY, "params_ema": AVERAGE}
    assert several.memory == ("optimizer",)
    (alone,) = found({"params_ema": own, "step": 3})
    assert same(alone.state, own)
    flat = {f"net.{name}": tensor for name, tensor in own.items()}
    flat |= {f"net_ema.{name}": tensor for name, tensor in other.items()}
    assert found(flat)[0].left_out == {"net_ema": AVERAGE}
    assert same(found(flat)[0].state, own)


def test_averages_in_callbacks_are_named():
    state = {"fc.weight": torch.rand(3, 4), "fc.bias": torch.rand(3)}
    callbacks = {
        "EMA": {"ema_state_dict": {name: 2 * tensor for name, tensor in state.items()}},
        "Best": {"score": 0.9},
    }
    (network,) = select_all({"state_dict": state, "callbacks": callbacks}, key=None, most=100)
    assert list(network.left_out) == ["callbacks.EMA.ema_state_dict"]
    assert torch.equal(network.state["fc.weight"], state["fc.weight"])


def test_parts_of_different_shapes_are_one_network():
    parts = {"encoder": net(0), "upscaler": net(1, 7), "random_features": net(2, 8), "scheduler_head": net(3, 9)}
    (network,) = found({**parts, "optimizer": {"state": {}, "param_groups": []}})
    assert set(network.state) == {f"{part}.{name}" for part, state in parts.items() for name in state}
    (network,) = found({"model": net(0), "classifier": nn.Linear(4, 10).state_dict(), "epoch": 2})
    assert {"model.0.weight", "classifier.weight"} <= set(network.state)
    (network,) = found({"params": net(0), "means": torch.rand(3)})
    assert {"params.0.weight", "means"} <= set(network.state)


def test_layers_in_lists_and_layers_alike_are_one_network():
    layers = [{"w": torch.rand(8, 8), "b": torch.zeros(8)} for _ in range(12)]
    (network,) = found({"embed": torch.rand(10, 8), "layers": layers, "head": torch.rand(8, 2)})
    assert [name for name in network.state if name.endswith("w")] == [f"layers.{place}.w" for place in range(12)]
    blocks = {f"block_{n}": {part: {"w": torch.rand(4, 4)} for part in ("attend", "mix")} for n in range(3)}
    assert len(found({"params": blocks})) == 1
    assert len(found({"params": {"a": {"w": torch.rand(4, 4)}, "b": {"w": torch.rand(4, 4)}}})) == 1


def test_moments_of_optimizers_are_told_in_flat_files_too():
    own = net(0)
    weights = {name: tensor for name, tensor in own.items() if tensor.is_floating_point()}
    flat = {f"params/{name.replace('.', '/')}": tensor for name, tensor in weights.items()}
    flat |= {f"opt_state/0/{moment}/{name}": tensor for moment in ("mu", "nu") for name, tensor in weights.items()}
    assert same(found(flat)[0].state, weights)
    dotted = {f"model.{name}": tensor for name, tensor in weights.items()}
    dotted |= {f"optimizer.state.{n}.exp_avg": tensor for n, tensor in enumerate(weights.values())}
    assert same(found(dotted)[0].state, weights)
    slots = {f"{name}.Adam_1": tensor for name, tensor in weights.items()}
    assert same(found({**weights, **slots})[0].state, weights)
    variational = {"mu": nn.Linear(3, 2).state_dict(), "logvar": nn.Linear(3, 4).state_dict()}
    assert "mu.weight" in found(variational)[0].state


def test_states_of_random_generators_and_counters_are_no_weights():
    content = {"net": net(0), "torch_rng_state": torch.ByteTensor(8), "cuda_rng_state": [torch.ByteTensor(9)]}
    assert same(found(content)[0].state, net(0))
    assert not found(content)[0].constants


def test_what_an_agent_has_seen_is_no_part_of_it():
    agent = {"actor": net(0), "critic": net(1, 7), "replay_buffer": {"obs": torch.rand(9, 4), "act": torch.rand(9)}}
    chosen = only(select_all(agent, key=None, most=MOST))
    assert chosen.memory == ("replay_buffer",)
    assert not any("replay" in name for name in chosen.state)
    flat = {f"{part}.{name}": tensor for part, tensors in agent.items() for name, tensor in tensors.items()}
    assert only(select_all(flat, key=None, most=MOST)).state.keys() == chosen.state.keys()


def test_wrappers_go_at_every_depth_and_a_child_called_module_stays():
    state = net(0)
    for wrapped in (
        {f"encoder._fsdp_wrapped_module.{name}": tensor for name, tensor in state.items()},
        {f"encoder.module.{name}": tensor for name, tensor in state.items()},
        {f"_orig_mod.encoder._checkpoint_wrapped_module._orig_mod.{name}": tensor for name, tensor in state.items()},
        {f"module.encoder.module._orig_mod.{name}": tensor for name, tensor in state.items()},
    ):
        assert same(found(wrapped)[0].state, {f"encoder.{name}": tensor for name, tensor in state.items()})
    own = {"module.weight": torch.rand(3), "weight": torch.rand(2)}
    assert same(found(own)[0].state, own)


def test_tensors_come_in_natural_order_whatever_the_source():
    names = ["10.weight", "2.bias", "2.weight", "bn.num_batches_tracked", "bn.running_var", "bn.weight", "bn.bias"]
    expected = ["2.weight", "2.bias", "10.weight", "bn.weight", "bn.bias", "bn.running_var", "bn.num_batches_tracked"]
    assert sorted(names, key=tensor_order) == expected
    state = net(0)
    backwards = dict(reversed(list(state.items())))
    assert list(found(state)[0].state) == list(found(backwards)[0].state)


def test_flax_is_turned_and_normalisation_joins_its_layer():
    rng = np.random.default_rng(0)
    kernel = rng.random((3, 3, 2, 4), np.float32)
    content = {
        "params": {"Conv_0": {"kernel": kernel, "bias": np.zeros(4)}, "BatchNorm_0": {"scale": np.ones(4), "bias": np.zeros(4)},
                   "Dense_0": {"kernel": rng.random((4, 5)), "bias": np.zeros(5)}},
        "batch_stats": {"BatchNorm_0": {"mean": np.zeros(4), "var": np.ones(4)}},
    }  # fmt: skip
    (network,) = found(content)
    assert list(network.state) == [
        "BatchNorm_0.weight", "BatchNorm_0.bias", "BatchNorm_0.running_mean", "BatchNorm_0.running_var",
        "Conv_0.weight", "Conv_0.bias", "Dense_0.weight", "Dense_0.bias",
    ]  # fmt: skip
    assert torch.equal(network.state["Conv_0.weight"], torch.from_numpy(kernel).permute(3, 2, 0, 1))
    assert network.state["Dense_0.weight"].shape == (5, 4)
    odd = {"layer.kernel": torch.rand(4, 3), "layer.bias": torch.rand(4)}
    assert same(plain_names(odd), odd)  # outputs first already


@pytest.mark.parametrize("layer", [nn.Linear(5, 6), nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(3, 4, 3)])
@pytest.mark.parametrize("how", ["weight", "weight (old)", "spectral", "spectral (old)", "pruned"])
def test_weights_that_are_made_of_others_are_what_the_layer_computes_with(layer, how):
    import copy

    layer = copy.deepcopy(layer)
    if how == "weight":
        parametrizations.weight_norm(layer)
    elif how == "weight (old)":
        with pytest.warns(FutureWarning):
            weight_norm(layer)
    elif how == "spectral":
        parametrizations.spectral_norm(layer)
    elif how == "spectral (old)":
        spectral_norm(layer)
    else:
        prune.random_unstructured(layer, "weight", amount=0.5)
    inputs = torch.rand(2, 5) if isinstance(layer, nn.Linear) else torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        layer(inputs)
        layer.eval()
        layer(inputs)
    (network,) = found({f"net.{name}": tensor for name, tensor in layer.state_dict().items()})
    assert set(network.state) == {"net.weight", "net.bias"}
    assert torch.allclose(network.state["net.weight"], layer.weight, atol=1e-6)


def test_other_parametrisations_stay_as_they_are_stored():
    layer = parametrizations.orthogonal(nn.Linear(4, 4))
    assert "parametrizations.weight.original" in found(layer.state_dict())[0].state


def test_quantised_matrices_are_no_tables():
    whole = torch.randint(-9, 9, (4, 3)).to(torch.int8)
    for state in (
        {"a.weight": whole, "a.weight_scale": torch.rand(4), "a.bias": torch.rand(4)},
        {"a.weight": whole.to(torch.uint8), "a.weight.absmax": torch.rand(2), "a.bias": torch.rand(4)},
        {"a.qweight": whole.int(), "a.scales": torch.rand(2, 4), "a.bias": torch.rand(4)},
        {
            "a.weight": torch.rand(4, 3).to(torch.float8_e4m3fn),
            "a.weight_scale_inv": torch.rand(4),
            "a.bias": torch.rand(4),
        },
        {"weight": whole, "bias": torch.rand(4)},
    ):
        with pytest.raises(RejectedError) as caught:
            found(state)
        assert caught.value.reason == "quantised"
        assert "weight" in caught.value.detail
    swin = {"relative_position_index": torch.arange(9).reshape(3, 3), "relative_position_bias_table": torch.rand(5, 2)}
    assert set(found(swin)[0].constants) == {"relative_position_index"}


def test_settings_become_notes():
    leaf = Stub("omegaconf.nodes.AnyNode")
    leaf.build({"_val": 0.1})
    tree = Stub("omegaconf.dictconfig.DictConfig")
    tree.build({"_content": {"lr": leaf}})
    namespace = Stub("argparse.Namespace")
    namespace.build({"lr": 0.1})
    for settings in ({"lr": 0.1}, namespace, tree):
        content = {"state_dict": net(0), "epoch": 3, "hyper_parameters": settings}
        assert found(content)[0].notes == {"lr": 0.1, "epoch": 3}
    endless: dict = {"lr": 0.1}
    endless["self"] = endless
    assert found({"state_dict": net(0), "args": endless})[0].notes["lr"] == 0.1
