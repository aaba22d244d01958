import msgspec
import pytest
import torch

from wscore.errors import DataError
from wscore.networks.architectures import FAMILIES, TRAITS, Architecture, build, parse
from wscore.networks.inference import StackedAnswer, logits, scores
from wscore.networks.layout import layout_of
from wscore.zoo.store import Zoo


def architecture(family, **changes):
    plain = {
        "family": family, "input": (1, 8, 8), "classes": 10, "widths": (5, 6), "activation": "gelu",
        "pooling": "max" if TRAITS[family].has_conv_layers else "none",
    }  # fmt: skip
    return Architecture(**{**plain, **changes})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(1, 8, 8), (3, 32, 32), (2, 13, 9)])
def test_every_family_takes_any_image_and_comes_back_from_its_text(family, size):
    known = architecture(family, input=size, classes=7)
    network = build(known.to_json())
    assert network(torch.rand(4, *size)).shape == (4, 7)
    assert parse(known.to_json()) == known


@pytest.mark.parametrize("family", FAMILIES)
def test_traits_are_those_of_the_modules(family):
    kinds = {type(module).__name__ for module in build(architecture(family)).modules()}
    traits = TRAITS[family]
    skipping = kinds & {"ResidualBlock", "ResidualLinear", "AttentionBlock"}
    assert ("Conv2d" in kinds and "Patches" not in kinds, "BatchNorm2d" in kinds, bool(skipping)) == (
        traits.has_conv_layers, traits.has_batch_norm, traits.has_residual,
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_stacked_networks_give_the_logits_of_each_alone(family, pooling):
    known = architecture(family, pooling=pooling if TRAITS[family].has_conv_layers else "none")
    networks = [build(known).eval() for _ in range(3)]
    for network in networks:
        for name, value in network.state_dict().items():
            if "running" in name:
                value.copy_(torch.rand_like(value) + 0.5)
    layout = layout_of(networks[0].state_dict())
    vectors = torch.stack([torch.from_numpy(layout.flatten(network.state_dict())) for network in networks])
    images = torch.rand(700, 1, 8, 8)
    together = logits(StackedAnswer(known, layout), vectors, images)
    alone = torch.stack([network(images) for network in networks]).detach()
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_scores_count_right_answers():
    table = torch.tensor([[[2.0, 1.0], [0.0, 3.0]], [[0.0, 1.0], [0.0, 3.0]]])
    accuracy, loss = scores(table, torch.tensor([0, 1]))
    assert accuracy.tolist() == [1.0, 0.5]
    assert loss[0] < loss[1]


def test_bad_descriptions_are_refused():
    with pytest.raises(DataError, match="is unknown"):
        build("")
    with pytest.raises(DataError, match="lacks fields"):
        build('{"family": "mlp"}')
    with pytest.raises(DataError, match=r"unknown family.*gnn"):
        build(msgspec.structs.replace(architecture("mlp"), family="gnn"))
    with pytest.raises(DataError, match="too small"):
        build(architecture("cnn", input=(1, 3, 3)))
    with pytest.raises(DataError, match="pooling"):
        build(architecture("cnn", pooling="none"))


def test_tiny_zoo_holds_true_accuracies(tiny_zoo, digits):
    zoo = Zoo(tiny_zoo)
    assert len(zoo) == 24
    assert zoo.table["test_accuracy"].std() > 0.05
    for text, layout, rows in zoo.families():
        found, _ = scores(
            logits(StackedAnswer(text, layout), torch.from_numpy(zoo.weights(rows)), digits.x_test), digits.y_test
        )
        assert found.numpy() == pytest.approx(zoo.table.loc[rows, "test_accuracy"].to_numpy(), abs=1e-6)
