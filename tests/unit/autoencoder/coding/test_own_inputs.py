"""A state dict of an architecture of the zoo is run on inputs that the codec keeps."""

from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from wscore import WeightCodec
from wscore.autoencoder.coding.fit import Population
from wscore.autoencoder.coding.own_inputs import COUNT, LARGEST, Inputs, kept, run_alone
from wscore.autoencoder.coding.problem import SearchConfig
from wscore.errors import DataError
from wscore.io import read_json, read_tensors, write_json, write_tensors
from wscore.networks.architectures import Architecture, build
from wscore.networks.inference import StackedAnswer
from wscore.networks.layout import Layout, layout_of

IMAGES = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(400) % 5
NAME = "1x8x8-5"


def convolutions(*widths: int, activation: str = "relu", pooling: str = "max", size: int = 8) -> Architecture:
    values = {"family": "cnn", "input": (1, size, size), "classes": 5, "widths": widths}
    return msgspec.convert({**values, "activation": activation, "pooling": pooling}, Architecture)


def tensors_of(architecture: Architecture) -> Layout:
    return layout_of(build(architecture).state_dict())


def some(architecture: Architecture, count: int) -> Tensor:
    torch.manual_seed(1)
    states = [build(architecture).state_dict() for _ in range(count)]
    return torch.stack([torch.from_numpy(layout_of(state).flatten(state)) for state in states])


def classified(codec: WeightCodec, kind: Architecture, network: Tensor) -> WeightCodec:
    """Return the codec with inputs that a network classifies without error, and its activation alone."""
    only = tuple(each for each in codec.config.architectures if each.activation == kind.activation)
    images = codec.inputs[NAME].images
    labels = StackedAnswer(kind, tensors_of(kind))(network[None], images[None])[0].argmax(-1)
    config = msgspec.structs.replace(codec.config, architectures=only)
    return WeightCodec(config, codec.roles, codec.gains, {NAME: Inputs(images, labels)})


@pytest.fixture(scope="module")
def codec() -> WeightCodec:
    populations = []
    for activation in ("relu", "tanh"):
        architecture = convolutions(6, 4, activation=activation)
        layout = tensors_of(architecture)
        answer = StackedAnswer(architecture, layout)
        populations.append(Population(layout, some(architecture, 24).numpy(), answer, IMAGES, LABELS))
    return WeightCodec.fit(populations, images=4)


def test_networks_of_any_widths_and_depth_are_known_by_their_layers(codec: WeightCodec) -> None:
    for widths in ((6, 4), (3, 9), (5,)):
        kind = convolutions(*widths)
        run = codec.run_alone(tensors_of(kind), some(kind, 2))
        assert run is not None
        assert run.answer(some(kind, 2), run.images[None]).shape == (2, COUNT, 5)
    other = convolutions(6, 4)
    for unknown in (msgspec.structs.replace(other, classes=4), msgspec.structs.replace(other, family="cnn_bn"),
                    msgspec.structs.replace(other, input=(3, 8, 8)),
                    convolutions(4, 4, 4, 4, size=16)):  # fmt: skip
        assert codec.run_alone(tensors_of(unknown), some(unknown, 1)) is None
    assert codec.run_alone(layout_of({"weight": torch.zeros(5, 3)}), torch.zeros(1, 15)) is None


def test_each_network_is_run_with_the_activation_with_which_it_classifies_best(codec: WeightCodec) -> None:
    kinds = [convolutions(6, 4, activation=name) for name in ("tanh", "relu", "tanh")]
    layout, networks = tensors_of(kinds[0]), 4 * some(kinds[0], 3)
    images = codec.inputs[NAME].images
    answers = [StackedAnswer(kind, layout) for kind in kinds]
    truth = torch.cat([answer(networks[row : row + 1], images[None]) for row, answer in enumerate(answers)])
    chosen = []
    for row in range(3):
        labelled = {NAME: Inputs(images, truth[row].argmax(-1))}
        run = run_alone(layout, networks[row : row + 1], codec.config.architectures, labelled)
        assert run is not None
        chosen.append(run.answer(networks[row : row + 1], images[None]))
    torch.testing.assert_close(torch.cat(chosen), truth)


def test_a_layout_that_fits_images_of_two_shapes_is_not_run() -> None:
    kinds = [convolutions(6, 4), convolutions(6, 4, size=12)]
    layout = tensors_of(kinds[0])
    runs = [(StackedAnswer(kind, layout), Inputs(torch.rand(20, *kind.input), torch.zeros(20))) for kind in kinds]
    known = kept(runs, torch.Generator().manual_seed(0))
    assert set(known.inputs) == {NAME, "1x12x12-5"}
    assert run_alone(layout, some(kinds[0], 1), *known) is None


def test_inputs_are_a_draw_of_every_data_set_and_few() -> None:
    layout, kind = tensors_of(convolutions(6, 4)), convolutions(6, 4)
    data = [Inputs(IMAGES, LABELS), Inputs(IMAGES + 10, LABELS + 10), Inputs(IMAGES, LABELS)]
    runs = [(StackedAnswer(kind, layout), inputs) for inputs in data]
    images, labels = kept(runs, torch.Generator().manual_seed(0)).inputs[NAME]
    second = images.flatten(1).amin(1) >= 10
    assert len(images) == COUNT
    assert int(second.sum()) == COUNT // 2
    assert torch.equal(labels >= 10, second)
    large = StackedAnswer(convolutions(6, 4, size=64), layout)
    drawn = kept([(large, Inputs(torch.rand(50, 1, 64, 64), torch.zeros(50)))], torch.Generator().manual_seed(0))
    assert len(drawn.inputs["1x64x64-5"].images) == LARGEST // 64**2


def test_a_state_dict_alone_keeps_its_outputs_better_than_rounded(codec: WeightCodec) -> None:
    kind = convolutions(7, 5)  # of widths that the zoo does not have
    layout, networks = tensors_of(kind), 3 * some(kind, 4)
    answer, fresh = StackedAnswer(kind, layout), torch.rand(1, 200, 1, 8, 8)
    original, errors = answer(networks, fresh).softmax(-1), []
    for search in (None, SearchConfig(steps=60)):
        files = [
            classified(codec, kind, network).compress(layout.unflatten(network), ratio=12, search=search)
            for network in networks
        ]
        back = torch.stack([torch.from_numpy(layout.flatten(codec.decompress(data))) for data in files])
        assert max(map(len, files)) <= 4 * layout.size / 12
        errors.append((answer(back, fresh).softmax(-1) - original).square().mean())
    assert errors[1] < 0.7 * errors[0]


def test_a_network_that_does_not_classify_the_inputs_is_rounded(codec: WeightCodec) -> None:
    kind = convolutions(7, 5)
    layout, network = tensors_of(kind), 3 * some(kind, 1)[0]
    right = classified(codec, kind, network)
    images, labels = right.inputs[NAME]
    wrong = WeightCodec(right.config, codec.roles, codec.gains, {NAME: Inputs(images, (labels + 1) % 5)})
    files = [
        each.compress(layout.unflatten(network), ratio=12, search=SearchConfig(steps=20)) for each in (right, wrong)
    ]
    assert files[0] != files[1] == codec.compress(layout.unflatten(network), ratio=12, search=None)


def test_inputs_are_saved(codec: WeightCodec, tmp_path: Path) -> None:
    codec.save(tmp_path)
    back = WeightCodec.from_folder(tmp_path)
    assert back.identity == codec.identity
    assert torch.equal(back.inputs[NAME].images, codec.inputs[NAME].images)
    assert torch.equal(back.inputs[NAME].labels, codec.inputs[NAME].labels)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (None, torch.zeros(2).int()),
        (torch.zeros(2, 1, 8, 7), torch.zeros(2).int()),
        (torch.zeros(0, 1, 8, 8), torch.zeros(0).int()),
        (torch.full((2, 1, 8, 8), float("nan")), torch.zeros(2).int()),
        (torch.zeros(2, 1, 8, 8), torch.zeros(3).int()),
        (torch.zeros(2, 1, 8, 8), torch.zeros(2)),
        (torch.zeros(2, 1, 8, 8), torch.full((2,), 5).int()),
    ],
)
def test_a_codec_without_its_inputs_is_refused(
    codec: WeightCodec, tmp_path: Path, images: Tensor | None, labels: Tensor
) -> None:
    codec.save(tmp_path)
    tensors = read_tensors(tmp_path / "codec.safetensors")
    del tensors[f"inputs/{NAME}"]
    changed = {f"labels/{NAME}": labels} | ({} if images is None else {f"inputs/{NAME}": images})
    write_tensors(tmp_path / "codec.safetensors", tensors | changed)
    with pytest.raises(DataError, match=f"inputs/{NAME}: holds no inputs"):
        WeightCodec.from_folder(tmp_path)


def test_a_codec_without_inputs_reads_the_same_files_and_rounds(codec: WeightCodec, tmp_path: Path) -> None:
    codec.save(tmp_path)
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {name: value for name, value in config.items() if name != "architectures"})
    old, state = WeightCodec.from_folder(tmp_path), build(convolutions(6, 4)).state_dict()
    layout = layout_of(state)
    assert old.run_alone(layout, torch.zeros(1, layout.size)) is None
    assert old.decompress(codec.compress(state, ratio=6, search=SearchConfig(steps=2))).keys() == state.keys()
    assert old.compress(state, ratio=6) == codec.compress(state, ratio=6, search=None)


def test_a_known_architecture_is_not_guessed(codec: WeightCodec) -> None:
    kinds = [convolutions(3, 9, activation=activation) for activation in ("relu", "gelu")]
    network = some(kinds[0], 1)
    for kind in kinds:  # gelu is none of those that the codec keeps
        run = codec.run_alone(tensors_of(kind), network, kind.to_json())
        assert run is not None
        expected = StackedAnswer(kind, tensors_of(kind))(network, run.images[None])
        assert torch.allclose(run.answer(network, run.images[None]), expected, atol=1e-6)
    assert codec.run_alone(tensors_of(kinds[0]), network, convolutions(4, 4)) is None
