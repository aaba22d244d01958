"""Gains: sizes of the blocks of a network tell how finely each of them is coded."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wscore import WeightCodec
from wscore.autoencoder.coding.codec import CONFIG, WEIGHTS
from wscore.autoencoder.coding.coordinates import FRACTION
from wscore.autoencoder.coding.fit import Population
from wscore.autoencoder.coding.gains import EXPONENT, _gains
from wscore.autoencoder.coding.roles import OCTAVE
from wscore.autoencoder.training.behaviour_loss import behaviour_kl
from wscore.errors import DataError, ModelError, WscoreError
from wscore.io import read_json, read_tensors, write_json, write_tensors
from wscore.networks.architectures import Architecture, build
from wscore.networks.inference import StackedAnswer
from wscore.networks.layout import layout_of

PERCEPTRON = Architecture(family="mlp", input=(1, 4, 4), classes=5, widths=(8,), activation="relu", pooling="max")
LAYOUT = layout_of(build(PERCEPTRON).state_dict())
ANSWER = StackedAnswer(PERCEPTRON, LAYOUT)


def perceptrons(count: int) -> Tensor:
    """Return perceptrons whose first layer is up to 16 times larger or smaller, and the last one as much smaller or larger.

    Their functions do not tell by how much, but an error of 1 costs most in the smaller of the two layers.
    """
    vectors = torch.from_numpy(np.stack([LAYOUT.flatten(build(PERCEPTRON).state_dict()) for _ in range(count)]))
    factors = (4 * torch.rand(count, 1) * torch.randn(count, 1).sign()).exp2()
    places = list(LAYOUT.slices().values())
    for place in places[:2]:
        vectors[:, place] *= factors
    vectors[:, places[2]] /= factors
    return vectors


@pytest.fixture(scope="module")
def codec() -> WeightCodec:
    torch.manual_seed(0)
    images = torch.rand(64, 1, 4, 4)
    return WeightCodec.fit([Population(LAYOUT, perceptrons(80).numpy(), ANSWER, images)], images=16)


@pytest.fixture
def folder(codec: WeightCodec, tmp_path: Path) -> Path:
    codec.save(tmp_path / "codec")
    return tmp_path / "codec"


def test_costs_that_follow_from_scales_are_predicted() -> None:
    torch.manual_seed(0)
    scales = torch.randint(-6, 19, (400, 3))
    weights = torch.tensor([[-0.5, 0.2, 0.0], [0.3, 0.0, 0.1], [0.0, 0.0, 0.0]])
    costs = torch.tensor([3.0, -1.0, 0.0]) + scales.float() @ weights.mT
    gains = _gains(scales, costs).double() / 2**FRACTION
    predicted = (gains[:, 0] + scales.double() @ gains[:, 1:].mT) / (EXPONENT * OCTAVE / 2)
    assert (predicted - (costs - costs.mean())).abs().max() < 1.0
    assert (predicted - (costs - costs.mean())).square().mean() < 0.02 * costs.var()


def test_costs_that_do_not_follow_from_scales_change_hardly_anything() -> None:
    torch.manual_seed(0)
    gains = _gains(torch.randint(-12, 13, (400, 3)), 0.5 * torch.randn(400, 3)).double() / 2**FRACTION
    assert gains[:, 1:].abs().max() * 12 < 2.0  # quarters of an octave of the step


def test_the_smaller_layer_is_coded_finer(codec: WeightCodec) -> None:
    torch.manual_seed(1)
    vectors, images = perceptrons(40), torch.rand(100, 1, 4, 4)
    without = WeightCodec(codec.config, codec.roles)
    losses = []
    for each in (codec, without):
        files = each.compress_vectors(LAYOUT, vectors, ratio=8.0)
        assert max(map(len, files)) <= 4 * LAYOUT.size / 8
        back = torch.stack([torch.from_numpy(LAYOUT.flatten(each.decompress(data))) for data in files])
        losses.append(behaviour_kl(ANSWER(vectors, images[None]), ANSWER(back, images[None]), 0.5))
    assert losses[0].mean() < 0.6 * losses[1].mean()
    assert (losses[0] < losses[1]).float().mean() > 0.7


def test_a_reader_in_another_process_gives_equal_bits(codec: WeightCodec, folder: Path) -> None:
    torch.manual_seed(2)
    vectors = perceptrons(6)
    code = codec.coordinates(LAYOUT)
    shifts = code.shifts(code.scales(code.forward(vectors)))
    assert len({tuple(row) for row in shifts.tolist()}) > 3
    reference = LAYOUT.unflatten(vectors[0])
    files = codec.compress_vectors(LAYOUT, vectors, ratio=8.0)
    files.append(codec.compress(LAYOUT.unflatten(vectors[0] * 1.1), ratio=8.0, reference=reference, search=None))
    torch.save((files, reference), folder / "files.pt")
    script = (
        "import sys, torch; from pathlib import Path; from wscore import WeightCodec\n"
        "folder = Path(sys.argv[1]); codec = WeightCodec.from_folder(folder)\n"
        "files, reference = torch.load(folder / 'files.pt')\n"
        "torch.save([codec.decompress(data, reference) for data in files], folder / 'back.pt')"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)
    for data, back in zip(files, torch.load(folder / "back.pt"), strict=True):
        here = codec.decompress(data, reference)
        assert all(torch.equal(here[name], tensor) for name, tensor in back.items())


@pytest.mark.parametrize(
    "damage",
    [lambda gains: gains.float(), lambda gains: gains[:-1], lambda gains: gains[:, 1:], lambda gains: gains.flatten(),
     lambda gains: gains[0, 0], lambda gains: gains[:-1, :-1]],
)  # fmt: skip
def test_damaged_gains_are_one_error(folder: Path, damage: Callable[[Tensor], Tensor]) -> None:
    tensors = read_tensors(folder / WEIGHTS)
    name = next(name for name in tensors if name.startswith("gains/"))
    write_tensors(folder / WEIGHTS, tensors | {name: damage(tensors[name]).contiguous()})
    with pytest.raises(DataError, match="gains"):
        WeightCodec.from_folder(folder).compress_vectors(LAYOUT, perceptrons(1), ratio=8.0)


def test_huge_gains_shift_no_further_than_is_allowed(codec: WeightCodec) -> None:
    gains = {name: torch.full_like(values, 2**31 - 1) for name, values in codec.gains.items()}
    broken = WeightCodec(codec.config, codec.roles, gains)
    data = broken.compress_vectors(LAYOUT, perceptrons(1), ratio=4.0)[0]
    assert all(tensor.isfinite().all() for tensor in broken.decompress(data).values())


@pytest.mark.parametrize(
    ("saved", "fix"), [(None, "dvc repro fit_codec"), (3, "update wscore"), ("2", "update wscore")]
)
def test_folders_of_another_format_are_refused_by_name(folder: Path, saved: object, fix: str) -> None:
    content = read_json(folder / CONFIG)
    del content["format"]
    write_json(folder / CONFIG, content if saved is None else {**content, "format": saved})
    with pytest.raises(ModelError, match=f"config.json: is of another format.*{fix}"):
        WeightCodec.from_folder(folder)


def test_a_configuration_that_is_no_object_is_refused(folder: Path) -> None:
    write_json(folder / CONFIG, [1])
    with pytest.raises(WscoreError, match="not the configuration of a codec"):
        WeightCodec.from_folder(folder)
