"""Networks that differ in activation and pooling are run together as each of them alone."""

import pytest
import torch

from wscore.networks.architectures import FAMILIES, TRAITS, Architecture, build
from wscore.networks.inference import MixedAnswer, StackedAnswer, answer_of_rows, logits
from wscore.networks.layout import layout_of

KINDS = [("tanh", "avg"), ("relu", "max"), ("tanh", "avg"), ("gelu", "max"), ("relu", "avg")]


def mixed(family: str) -> tuple[list[Architecture], MixedAnswer, torch.Tensor]:
    convolves = TRAITS[family].has_conv_layers
    architectures = [
        Architecture(family=family, input=(1, 8, 8), classes=5, widths=(4, 6), activation=activation,
                     pooling=pooling if convolves else "none")
        for activation, pooling in KINDS
    ]  # fmt: skip
    networks = [build(architecture).state_dict() for architecture in architectures]
    layout = layout_of(networks[0])
    vectors = torch.stack([torch.from_numpy(layout.flatten(state)) for state in networks])
    return architectures, MixedAnswer(architectures, layout), vectors


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("own", [False, True])
def test_each_is_run_as_alone(family: str, own: bool) -> None:
    architectures, answer, vectors = mixed(family)
    images = torch.rand(len(KINDS) if own else 1, 3, 1, 8, 8)
    vectors.requires_grad_()
    outputs = answer(vectors, images)
    (gradient,) = torch.autograd.grad(outputs.square().sum(), vectors)
    for place, architecture in enumerate(architectures):
        alone = vectors.detach()[place : place + 1].requires_grad_()
        expected = StackedAnswer(architecture, answer.layout)(alone, images[place : place + 1] if own else images)
        torch.testing.assert_close(outputs[place : place + 1], expected, rtol=1e-4, atol=1e-5)
        (slope,) = torch.autograd.grad(expected.square().sum(), alone)
        torch.testing.assert_close(gradient[place : place + 1], slope, rtol=1e-3, atol=1e-4)


def test_some_of_them_are_run_in_their_order() -> None:
    architectures, answer, vectors = mixed("cnn")
    images = torch.rand(1, 4, 1, 8, 8)
    rows = [4, 0, 2, 0]
    expected = torch.cat([
        StackedAnswer(architectures[row], answer.layout)(vectors[row : row + 1], images) for row in rows
    ])  # fmt: skip
    torch.testing.assert_close(answer_of_rows(answer, rows)(vectors[rows], images), expected, rtol=1e-4, atol=1e-5)
    alone = answer_of_rows(answer, [3])
    assert len(alone(vectors[3].expand(7, -1), images)) == 7
    torch.testing.assert_close(
        logits(answer, vectors, images[0], chunk=2), answer(vectors, images), rtol=1e-4, atol=1e-5
    )
