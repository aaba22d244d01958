"""Any state dict comes back in the bytes that were asked for; whatever is no file of the codec is refused."""

import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wscore import WeightCodec
from wscore.autoencoder.coding import one_step, own_steps
from wscore.autoencoder.coding.blocks import Structure
from wscore.autoencoder.coding.fit import Population
from wscore.autoencoder.coding.format import MAGIC, VERSION, Content, Mode, pack_file, sealed
from wscore.autoencoder.coding.layouts import LayoutTable
from wscore.autoencoder.coding.problem import Originals, SearchConfig
from wscore.autoencoder.coding.rotation import rotate, unrotate
from wscore.autoencoder.coding.state import TensorEntry, entries_of, exact_values, weights_of
from wscore.errors import DataError, ModelError, WscoreError
from wscore.networks.architectures import Architecture, build
from wscore.networks.inference import ModuleAnswer, StackedAnswer
from wscore.networks.layout import layout_of


def architecture(*widths: int, family: str = "cnn_bn") -> Architecture:
    return Architecture(family=family, input=(1, 8, 8), classes=5, widths=widths, activation="relu", pooling="max")


def trained(*widths: int, family: str = "cnn_bn") -> nn.Module:
    """Return a network none of whose tensors holds one value throughout."""
    network = build(architecture(*widths, family=family))
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape))
    return network


def networks(count: int, *widths: int, family: str = "cnn_bn") -> np.ndarray:
    states = [trained(*widths, family=family).state_dict() for _ in range(count)]
    return np.stack([layout_of(state).flatten(state) for state in states])


@pytest.fixture(scope="module")
def codec() -> WeightCodec:
    torch.manual_seed(0)
    images = torch.rand(32, 1, 8, 8)
    populations = []
    for widths in ((6, 6), (8, 4)):
        layout = layout_of(build(architecture(*widths)).state_dict())
        populations.append(
            Population(layout, networks(24, *widths), StackedAnswer(architecture(*widths), layout), images)
        )
    return WeightCodec.fit(populations, images=4, temperature=0.5, seed=0)


def described(state: dict[str, torch.Tensor]) -> list[tuple[str, torch.Size, torch.dtype]]:
    return [(name, tensor.shape, tensor.dtype) for name, tensor in state.items()]


def odd_state() -> dict[str, torch.Tensor]:
    return {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "ones": torch.ones(5),
        "index": torch.arange(6),
        "mask": torch.tensor([True, False, True]),
        "layer.weight": torch.randn(7, 5).half(),
        "layer.bias": torch.randn(7).double(),
    }


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2))
def test_rotation_is_orthonormal_and_undone(units: int, axis: int) -> None:
    shape = [2, 3, 2]
    shape[axis] = units
    x = torch.randn(shape, dtype=torch.float64)
    y = rotate(x, axis)
    torch.testing.assert_close(y.square().sum(), x.square().sum())
    torch.testing.assert_close(unrotate(y, axis), x)


def test_the_first_number_of_a_rotation_is_the_mean_of_the_units() -> None:
    x = torch.randn(6, 3)
    torch.testing.assert_close(rotate(x, 0)[0], x.mean(0) * 6**0.5)
    assert rotate(torch.ones(6, 3), 0)[1:].abs().max() < 1e-6


@pytest.mark.parametrize("family", ["mlp", "cnn", "cnn_bn", "resnet", "vit", "depthwise_cnn", "residual_mlp"])
def test_blocks_are_an_orthonormal_map_of_every_family(family: str) -> None:
    state = build(architecture(6, 4, family=family)).state_dict()
    structure = Structure(layout_of(state))
    w = torch.randn(2, structure.size)
    blocks = structure.split(w)
    torch.testing.assert_close(sum(part.square().sum() for part in blocks), w.square().sum())
    torch.testing.assert_close(structure.join(blocks), w)


def test_structures_do_not_depend_on_widths() -> None:
    first, second, deeper = (
        Structure(layout_of(build(architecture(*widths)).state_dict())) for widths in ((6, 4), (9, 7), (6, 4, 4))
    )
    assert first.signature == second.signature != deeper.signature


def test_a_seen_structure_of_another_width_is_coded_without_its_own_statistics(codec: WeightCodec) -> None:
    network = trained(7, 5)
    assert codec.coordinates(layout_of(network.state_dict())).known
    data = codec.compress(network, ratio=8.0, search=None)
    back = codec.decompress(data)
    assert len(data) <= 4 * layout_of(network.state_dict()).size / 8
    network.load_state_dict(back)


def test_each_network_gets_the_bytes_that_it_asks_for(codec: WeightCodec) -> None:
    layout = layout_of(build(architecture(8, 4)).state_dict())
    vectors = torch.from_numpy(networks(3, 8, 4))
    together = codec.compress_vectors(layout, vectors, ratio=[5.0, 10.0, 20.0])
    assert together == [codec.compress_vectors(layout, vectors[row : row + 1], ratio=ratio)[0]
                        for row, ratio in enumerate((5.0, 10.0, 20.0))]  # fmt: skip


@pytest.mark.parametrize("ratio", [4.0, 10.0, 25.0])
def test_files_are_as_small_as_asked_and_hardly_smaller(codec: WeightCodec, ratio: float) -> None:
    vectors = torch.from_numpy(networks(6, 8, 4))
    layout = layout_of(build(architecture(8, 4)).state_dict())
    budget = int(4 * layout.size / ratio)
    sizes = [len(data) for data in codec.compress_vectors(layout, vectors, ratio=ratio)]
    assert all(size <= budget for size in sizes)
    assert np.mean(sizes) >= 0.95 * budget


def test_more_bytes_keep_more(codec: WeightCodec) -> None:
    state = trained(6, 6).state_dict()
    layout = layout_of(state)
    original = layout.flatten(state)
    errors = [
        np.square(layout.flatten(codec.decompress(codec.compress(state, ratio=ratio, search=None))) - original).sum()
        for ratio in (3.0, 6.0, 12.0)
    ]
    assert errors == sorted(errors)
    assert errors[0] < 0.02 * np.square(original).sum()


def test_one_call_for_many_writes_the_same_numbers_but_for_rounding_as_one_for_each(codec: WeightCodec) -> None:
    vectors = torch.from_numpy(networks(3, 6, 6))
    layout = layout_of(build(architecture(6, 6)).state_dict())
    together = codec.compress_vectors(layout, vectors, ratio=8.0)
    for vector, data in zip(vectors, together, strict=True):
        alone = codec.compress(layout.unflatten(vector), ratio=8.0, search=None)
        first, second = (torch.from_numpy(layout.flatten(codec.decompress(file))) for file in (data, alone))
        assert abs(len(data) - len(alone)) <= 8
        assert (first - second).norm() < 0.3 * (first - vector).norm()


def test_types_shapes_integers_and_constants_come_back(codec: WeightCodec) -> None:
    state = odd_state()
    back = codec.decompress(codec.compress(state, ratio=0.8))
    assert described(back) == described(state)
    for name in ("empty", "ones", "index", "mask"):
        assert torch.equal(back[name], state[name]), name


def test_names_come_back_in_the_order_of_the_network(codec: WeightCodec) -> None:
    state = trained(6, 6).state_dict()
    shuffled = dict(reversed(state.items()))
    seen = codec.compress(state, ratio=6.0, search=None)
    other = codec.compress(shuffled, ratio=4.0)
    assert described(codec.decompress(seen)) == described(state)
    assert described(codec.decompress(other)) == described(shuffled)


def test_counters_that_are_not_zero_come_back(codec: WeightCodec) -> None:
    network = trained(6, 6)
    state = network.state_dict()
    counter = next(name for name in state if name.endswith("num_batches_tracked"))
    state[counter] = torch.tensor(77)
    assert codec.decompress(codec.compress(state, search=None))[counter] == 77


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([0, 1, 3])), min_size=1, max_size=4),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    st.integers(0, 99),
)
def test_chains_of_any_layers_come_back_or_are_refused_by_name(
    layers: list[tuple[int, int, int]], dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    made = {f"{n}": nn.Conv2d(a, b, k) if k else nn.Linear(a, b) for n, (a, b, k) in enumerate(layers)}
    state = {
        f"{n}.{name}": tensor.to(dtype) for n, layer in made.items() for name, tensor in layer.state_dict().items()
    }
    plain = WeightCodec()
    try:
        back = plain.decompress(plain.compress(state, ratio=2.0))
    except ModelError:
        assert sum(tensor.numel() for tensor in state.values()) < 400  # names and shapes alone take half of it
        return
    assert described(back) == described(state)
    assert all(tensor.isfinite().all() for tensor in back.values())


def test_blocks_are_given_up_where_steps_for_each_tensor_are_better() -> None:
    torch.manual_seed(0)
    rows = torch.zeros(64, 64)
    rows[3] = 5 * torch.randn(64)  # rotating units would smear it over all of them
    state = {
        "a.weight": torch.randn(64, 16),
        "b.weight": rows + 0.01 * torch.randn(64, 64),
        "c.weight": torch.randn(4, 64),
    }
    plain = WeightCodec()
    back = plain.decompress(plain.compress(state, ratio=6.0))
    error = ((back["b.weight"] - state["b.weight"]).norm() / state["b.weight"].norm()).item()
    assert error < 0.1


def test_a_difference_needs_its_reference(codec: WeightCodec) -> None:
    torch.manual_seed(0)
    state = trained(6, 6).state_dict()
    near = {
        name: tensor + 0.01 * torch.randn(tensor.shape) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    data = codec.compress(near, ratio=15.0, reference=state, search=None)
    alone = codec.decompress(codec.compress(near, ratio=15.0, search=None))
    back = codec.decompress(data, reference=state)
    layout = layout_of(state)
    error = lambda found: np.square(layout.flatten(found) - layout.flatten(near)).sum()  # noqa: E731
    assert error(back) < 0.1 * error(alone)
    with pytest.raises(ModelError, match="difference from another network"):
        codec.decompress(data)
    with pytest.raises(ModelError, match="another network"):
        codec.decompress(data, reference=near)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"w": torch.tensor([1.0, float("nan")])}, "w: holds numbers that are not finite"),
        ({"w": torch.tensor([1.0, -float("inf")])}, "w: holds numbers that are not finite"),
        ({"w": torch.tensor([1.0, 1e30])}, "w: holds numbers that are not finite, or beyond"),
        ({"w": torch.ones(3, dtype=torch.complex64)}, "w: type is not kept"),
        ({"w": torch.ones(3).to_sparse()}, "w: type is not kept"),
        ({"w": "text"}, "w: is no tensor"),
        ({"w": torch.zeros(0, 3), "n": torch.arange(3)}, "has no weights"),
        ({}, "has no weights"),
    ],
)
def test_what_cannot_be_compressed_is_refused_by_name(state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(DataError, match=message):
        WeightCodec().compress(state)


def test_a_ratio_that_cannot_be_met_names_the_least_size(codec: WeightCodec) -> None:
    state = trained(6, 6).state_dict()
    with pytest.raises(ModelError, match=r"expected at most [\d.]+ \(\d+ bytes\)") as error:
        codec.compress(state, ratio=1000.0, search=None)
    most = float(str(error.value).split("at most ")[1].split(" ")[0])
    assert codec.compress(state, ratio=most, search=None)
    with pytest.raises(ModelError, match="above 0"):
        codec.compress(state, ratio=0.0)


def test_damaged_files_are_refused(codec: WeightCodec) -> None:
    data = codec.compress(trained(6, 6), ratio=8.0, search=None)
    for place in range(0, len(data), 7):
        broken = bytearray(data)
        broken[place] ^= 0x10
        with pytest.raises(WscoreError):
            codec.decompress(bytes(broken))
    for size in (0, 1, 2, 5, len(data) - 1):
        with pytest.raises(DataError):
            codec.decompress(data[:size])
    with pytest.raises(DataError, match="another codec"):
        WeightCodec().decompress(data)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(Mode))
def test_hostile_bytes_end_in_an_error(body: bytes, mode: Mode) -> None:
    plain = WeightCodec()
    head = bytes([MAGIC, VERSION << 6 | mode << 4])
    with pytest.raises(WscoreError):
        plain.decompress(sealed(head, plain.identity[:2] + body))


@pytest.fixture(scope="module")
def honest() -> list[bytes]:
    """Return a file of each mode."""
    torch.manual_seed(0)
    codec, state = WeightCodec(), {**nn.Linear(12, 9).state_dict(), "index": torch.arange(7)}
    layout, entries, files = layout_of(state), entries_of(state), []
    for mode, way in ((Mode.BLOCKS, one_step), (Mode.OWN, own_steps)):
        code, originals = codec.coordinates(layout, plain=mode == Mode.OWN), Originals(weights_of(layout, state))
        content = Content(mode, entries, b"", exact_values(state), 0, b"")
        frame = partial(_file, content, codec.identity)
        files += way.compress(code, originals, torch.tensor([250]), frame, SearchConfig())[0]
    assert all(described(codec.decompress(data)) == described(state) for data in files)
    return files


def _file(content: Content, codec: bytes, step: int, payload: bytes) -> bytes:
    return pack_file(content._replace(step=step, payload=payload), codec, LayoutTable(()))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_flips_cuts_and_splices_behind_a_right_checksum_end_in_networks_or_errors(
    honest: list[bytes], data: st.DataObject
) -> None:
    file, other = data.draw(st.permutations(honest))
    body, end = bytearray(file[4:]), data.draw(st.integers(0, len(file)))
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=3)):
        body[place] ^= 1 << data.draw(st.integers(0, 7))
    spliced = bytes(body[:end]) + data.draw(st.sampled_from([b"", other[4 + end :], bytes(body[end:])]))
    codec = WeightCodec()
    with suppress(WscoreError):
        state = codec.decompress(sealed(file[:2], codec.identity[:2] + spliced[2:]))
        assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())


def test_a_layout_that_claims_too_much_is_refused_before_memory_is_taken() -> None:
    plain = WeightCodec()
    entries = (TensorEntry("w", (1 << 20, 1 << 20), "float32"),)
    data = pack_file(Content(Mode.BLOCKS, entries, b"", {}, 0, b""), plain.identity, LayoutTable(()))
    with pytest.raises(DataError, match="more weights than its size allows"):
        plain.decompress(data)


def test_a_codec_is_read_back_and_decodes_in_another_process(codec: WeightCodec, tmp_path: Path) -> None:
    codec.save(tmp_path / "codec")
    again = WeightCodec.from_folder(tmp_path / "codec")
    assert again.identity == codec.identity
    state, reference = trained(6, 6).state_dict(), trained(6, 6).state_dict()
    own = nn.Linear(40, 30).state_dict()
    files = [codec.compress(state, ratio=8.0), codec.compress(state, ratio=4.0, reference=reference)]
    files.append(codec.compress(own, ratio=8.0))
    torch.save((files, reference), tmp_path / "files.pt")
    code = (
        "import sys, torch; from pathlib import Path; from wscore import WeightCodec\n"
        "folder = Path(sys.argv[1]); codec = WeightCodec.from_folder(folder / 'codec')\n"
        "files, reference = torch.load(folder / 'files.pt')\n"
        "torch.save([codec.decompress(data, reference) for data in files], folder / 'back.pt')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    for data, back in zip(files, torch.load(tmp_path / "back.pt"), strict=True):
        here = codec.decompress(data, reference)
        assert list(here) == list(back)
        assert all(torch.equal(here[name], back[name]) for name in here)


def agreement(network: nn.Module, state: dict[str, torch.Tensor], images: torch.Tensor) -> float:
    other = build(architecture(6, 6)) if "conv1.weight" in state else perceptron()
    other.load_state_dict(state)
    with torch.no_grad():
        same = network.eval()(images).argmax(-1) == other.eval()(images).argmax(-1)
    return float(same.float().mean())


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))


def test_the_search_keeps_outputs_better_at_the_same_size(codec: WeightCodec) -> None:
    torch.manual_seed(1)
    network, images, search = trained(6, 6).eval(), torch.randn(200, 1, 8, 8), SearchConfig(steps=100)
    with torch.no_grad():
        network.head.bias.sub_(network(images).mean(0))  # all classes occur
    files = [codec.compress(network, ratio=12.0)]
    files.append(codec.compress(network, ratio=12.0, images=images, search=search))
    files.append(codec.compress(network.state_dict(), ratio=12.0, images=images, architecture=architecture(6, 6),
                                search=search))  # fmt: skip
    single, *searched = [divergence(network, codec.decompress(data), images) for data in files]
    assert max(searched) < 0.85 * single
    assert max(map(len, files)) - min(map(len, files)) <= 3


def divergence(network: nn.Module, state: dict[str, torch.Tensor], images: torch.Tensor) -> float:
    """Return the mean KL divergence (nats) of a network's outputs after decoding."""
    other = build(architecture(6, 6))
    other.load_state_dict(state)
    with torch.no_grad():
        log_p, log_q = (one.eval()(images).log_softmax(-1) for one in (network, other))
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def test_a_module_unlike_any_zoo_is_searched_with_its_own_steps() -> None:
    torch.manual_seed(1)
    network, inputs, plain = perceptron(), torch.randn(400, 20), WeightCodec()
    data = plain.compress(network, ratio=12.0, images=inputs[:200], search=SearchConfig(steps=60))
    alone = plain.compress(network, ratio=12.0)
    found, before = (agreement(network, plain.decompress(one), inputs[200:]) for one in (data, alone))
    assert found > before


def test_networks_that_cannot_be_run_are_refused() -> None:
    plain, state = WeightCodec(), perceptron().state_dict()
    with pytest.raises(ModelError, match="a module, or an architecture"):
        plain.compress(state, images=torch.randn(4, 20))
    with pytest.raises(ModelError, match="can't be run"):
        plain.compress(perceptron(), images=torch.randn(4, 21))
    with pytest.raises(ModelError, match="another layout"):
        plain.compress(state, images=torch.randn(4, 20), architecture=nn.Linear(20, 5))
    with pytest.raises(ModelError, match="no classifier"):
        plain.compress(nn.Linear(20, 1), images=torch.randn(4, 20))


def test_forward_has_gradients_and_bits_near_those_of_the_file(codec: WeightCodec) -> None:
    vectors = torch.from_numpy(networks(2, 6, 6)).requires_grad_()
    layout = layout_of(build(architecture(6, 6)).state_dict())
    found = codec.forward(layout, vectors, ratio=8.0)
    assert (found.bits.detach() / (32 * layout.size / 8) - 1).abs().max() < 0.25
    (found.vectors.square().sum() + found.bits.sum()).backward()
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


def smooth_perceptron(*widths: int) -> nn.Module:
    """A perceptron whose units look at smooth patterns of an image."""
    network = trained(*widths, family="mlp")
    grid = torch.linspace(0, 3, 8)
    patterns = torch.stack([(a * grid)[:, None].cos() * (b * grid).cos() for a in (0, 1) for b in (0, 1)]).flatten(1)
    with torch.no_grad():
        first = next(tensor for name, tensor in network.state_dict().items() if name.endswith("weight"))
        first.copy_(0.3 * torch.randn(len(first), len(patterns)) @ patterns + 0.01 * torch.randn(first.shape))
    return network


@pytest.fixture(scope="module")
def shallow() -> WeightCodec:
    """A codec of perceptrons of one hidden layer."""
    torch.manual_seed(3)
    layout = layout_of(smooth_perceptron(12).state_dict())
    seen = np.stack([layout.flatten(smooth_perceptron(12).state_dict()) for _ in range(24)])
    answer = StackedAnswer(architecture(12, family="mlp"), layout)
    return WeightCodec.fit([Population(layout, seen, answer, torch.rand(32, 1, 8, 8))], images=4)


def test_networks_of_another_depth_are_coded_as_those_of_the_zoo_if_they_are_like_them(shallow: WeightCodec) -> None:
    files = [shallow.compress(smooth_perceptron(12, 12), ratio=ratio, search=None) for ratio in (5, 10, 15)]
    assert {Mode(data[1] >> 4 & 3) for data in files} == {Mode.BLOCKS}


def test_networks_of_other_inputs_or_that_vary_along_other_directions_are_not_like_the_zoo(
    shallow: WeightCodec,
) -> None:
    torch.manual_seed(6)
    state = smooth_perceptron(12, 12).state_dict()
    other = state | {"linear1.weight": torch.randn(12, 64)}
    fewer = state | {"linear1.weight": state["linear1.weight"][:, :50]}
    for weights, alike in ((state, True), (other, False), (fewer, False)):
        layout = layout_of(weights)
        vectors = torch.from_numpy(layout.flatten(weights))[None]
        assert shallow.coordinates(layout).like_zoo(vectors).tolist() == [alike]


def test_blocks_of_a_layer_cost_as_in_the_zoo_in_networks_of_another_depth(shallow: WeightCodec) -> None:
    layouts = [layout_of(smooth_perceptron(*widths).state_dict()) for widths in ((12,), (12, 12))]
    seen, deeper = ({piece.block.role: piece.shift for piece in shallow.coordinates(one).pieces} for one in layouts)
    roles = list(seen)
    for mean, deviations in (roles[:2], roles[2:]):  # of the first layer and of the last
        expected = seen[mean] - seen[deviations]
        assert abs(deeper[mean] - deeper[deviations] - expected) <= 1  # both are rounded


@pytest.mark.parametrize("ratio", [4, 10, 20])
def test_files_are_as_large_as_they_may_be(ratio: int) -> None:
    torch.manual_seed(4)
    for widths in ((12,), (16, 16), (40,)):
        state = trained(*widths, family="mlp").state_dict()
        asked = 4 * layout_of(state).size / ratio
        assert 0.9 * asked < len(WeightCodec().compress(state, ratio=ratio)) <= asked


@pytest.mark.parametrize(("ratio", "most"), [(6, 0.002), (10, 0.02), (20, 0.25)])
def test_networks_unlike_any_zoo_take_the_bytes_that_they_may(ratio: int, most: float) -> None:
    torch.manual_seed(0)
    state = nn.Sequential(nn.Linear(96, 128), nn.Linear(128, 64), nn.Linear(64, 32)).state_dict()
    layout = layout_of(state)
    code, size = WeightCodec().coordinates(layout, plain=True), 4 * layout.size // ratio
    originals = Originals(weights_of(layout, state))
    (data,), back = own_steps.compress(
        code, originals, torch.tensor([size]), lambda _, payload: payload, SearchConfig()
    )
    assert 0.98 * size < len(data) <= size
    assert (back - originals.vectors).square().sum() < most * originals.vectors.square().sum()


def test_a_search_that_leaves_bytes_over_is_done_again_in_finer_steps() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(30, 100), nn.ReLU(), nn.Linear(100, 60), nn.ReLU(), nn.Linear(60, 5)
    )  # fmt: skip
    images, state, layout = torch.randn(200, 30), network.state_dict(), layout_of(network.state_dict())
    code, answer, asked = (
        WeightCodec().coordinates(layout, plain=True),
        ModuleAnswer(network, layout),
        4 * layout.size // 50,
    )
    originals, slow = Originals(weights_of(layout, state), None, answer, images), SearchConfig(steps=60, lr=0.05)
    (data,), _ = own_steps.compress(code, originals, torch.tensor([asked]), lambda _, payload: payload, slow)
    assert 0.9 * asked < len(data) <= asked


def test_steps_that_leave_bytes_over_are_made_finer_and_numbers_lowered() -> None:
    torch.manual_seed(1)
    state = nn.Sequential(*[nn.Linear(24, 24) for _ in range(6)]).state_dict()
    layout = layout_of(state)
    originals, size = Originals(weights_of(layout, state)), layout.size // 14
    frame = lambda _, payload: payload  # noqa: E731
    code, asked = WeightCodec().coordinates(layout), torch.tensor([size])
    (data,), _ = one_step.compress(code, originals, asked, frame, SearchConfig())
    assert 0.99 * size <= len(data) <= size
