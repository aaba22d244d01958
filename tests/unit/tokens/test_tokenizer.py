import numpy as np
import pytest
import torch
from torch import nn

from wscore.config import convert
from wscore.errors import ConfigError, DataError
from wscore.networks.layout import KINDS, layout_of
from wscore.tokens.tokenizer import FEATURES, Tokenizer

NETWORKS = {
    "mlp": lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)),
    "conv_bn": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)),
    "conv_norm_other_width": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(6)),
    "transposed": lambda: nn.ConvTranspose2d(2, 5, 3),
    "lstm": lambda: nn.LSTM(3, 2),
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 12),
    "scalar": lambda: nn.ParameterDict(
        {"scale": nn.Parameter(torch.zeros(())), "weight": nn.Parameter(torch.zeros(3, 2))}
    ),
    "empty_tensor": lambda: nn.ParameterDict({"a": nn.Parameter(torch.zeros(0, 4)), "b": nn.Parameter(torch.zeros(3))}),
}
GRANULARITIES = ("chunk", "neuron")
FC = layout_of({"fc.weight": torch.zeros(2, 3), "fc.bias": torch.zeros(2)})


@pytest.fixture(params=NETWORKS)
def layout(request):
    return layout_of(NETWORKS[request.param]().state_dict())


@pytest.fixture(params=GRANULARITIES)
def granularity(request):
    return request.param


def vectors(layout, n=3):
    return np.random.default_rng(0).standard_normal((n, layout.size)).astype(np.float32)


def index_of(tokenizer, layout):
    """Which weight stands where, seen from outside: tokens of the vector 1, 2, 3, ..., padding 0."""
    return tokenizer.encode(layout, np.arange(1, layout.size + 1, dtype=np.float32)[None])[0]


def test_chunk_tokens_by_hand():
    tokenizer = Tokenizer.fit("chunk", 4, [FC])
    assert tokenizer.token_dim == 4
    assert index_of(tokenizer, FC).tolist() == [[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 0, 0]]


def test_neuron_tokens_by_hand():
    tokenizer = Tokenizer.fit("neuron", 64, [FC])
    assert tokenizer.token_dim == 4
    assert index_of(tokenizer, FC).tolist() == [[1, 2, 3, 7], [4, 5, 6, 8]]


def test_wide_units_are_cut_in_several_tokens():
    tokenizer = Tokenizer.fit("neuron", 3, [FC])
    assert tokenizer.token_dim == 3
    assert index_of(tokenizer, FC).tolist() == [[1, 2, 3], [7, 0, 0], [4, 5, 6], [8, 0, 0]]


def test_a_norm_layer_joins_the_units_of_the_layer_before_it():
    state = {"0.weight": torch.zeros(2, 1, 1, 1), "0.bias": torch.zeros(2), "1.weight": torch.zeros(2)}
    state |= {f"1.{name}": torch.zeros(2) for name in ("bias", "running_mean", "running_var")}
    layout = layout_of(state)
    assert index_of(Tokenizer.fit("neuron", 64, [layout]), layout).tolist() == [
        [1, 3, 5, 7, 9, 11],
        [2, 4, 6, 8, 10, 12],
    ]


def test_a_norm_layer_of_another_width_has_tokens_of_its_own():
    layout = layout_of({"0.weight": torch.zeros(3, 2), "1.weight": torch.zeros(2), "1.bias": torch.zeros(2)})
    expected = [[1, 2], [3, 4], [5, 6], [7, 9], [8, 10]]
    assert index_of(Tokenizer.fit("neuron", 64, [layout]), layout).tolist() == expected


def test_a_bias_that_counts_other_units_has_tokens_of_its_own():
    layout = layout_of({"up.weight": torch.zeros(2, 3, 1, 1), "up.bias": torch.zeros(3)})
    expected = [[1, 2, 3], [4, 5, 6], [7, 0, 0], [8, 0, 0], [9, 0, 0]]
    assert index_of(Tokenizer.fit("neuron", 64, [layout]), layout).tolist() == expected


def test_token_dim_is_the_widest_unit_of_all_layouts_at_most_the_chunk_size():
    wide = layout_of(nn.Linear(40, 2).state_dict())
    assert Tokenizer.fit("neuron", 64, [FC, wide]).token_dim == 41
    assert Tokenizer.fit("neuron", 16, [FC, wide]).token_dim == 16
    assert Tokenizer.fit("chunk", 16, [FC]).token_dim == 16


@pytest.mark.parametrize("dim", [1, 3, 16])
def test_every_weight_stands_at_exactly_one_place(layout, granularity, dim):
    template = Tokenizer(granularity=granularity, chunk_size=dim, token_dim=dim).template(layout)
    assert np.array_equal(np.sort(template.gather[template.mask]), np.arange(layout.size))
    assert (template.gather[~template.mask] == -1).all()
    assert np.array_equal(template.gather.reshape(-1)[template.scatter], np.arange(layout.size))
    assert template.mask.any(axis=1).all()


@pytest.mark.parametrize("dim", [1, 5, 64])
def test_decode_is_the_exact_inverse(layout, granularity, dim):
    tokenizer = Tokenizer(granularity=granularity, chunk_size=dim, token_dim=dim)
    raw = vectors(layout)
    tokens = tokenizer.encode(layout, raw)
    assert (tokens[:, ~tokenizer.template(layout).mask] == 0).all()
    assert np.array_equal(tokenizer.decode(layout, tokens).view(np.uint32), raw.view(np.uint32))
    assert torch.equal(tokenizer.encode(layout, torch.from_numpy(raw)), torch.from_numpy(tokens))
    assert torch.equal(tokenizer.decode(layout, torch.from_numpy(tokens)), torch.from_numpy(raw))


def test_padding_does_not_reach_the_weights(layout, granularity):
    tokenizer = Tokenizer.fit(granularity, 8, [layout])
    raw = vectors(layout)
    tokens = tokenizer.encode(layout, raw)
    tokens[:, ~tokenizer.template(layout).mask] = np.nan
    assert np.array_equal(tokenizer.decode(layout, tokens), raw)


def test_no_token_crosses_tensors_or_units(layout):
    owner = np.repeat(np.arange(len(layout.tensors)), [spec.size for spec in layout.tensors])
    template = Tokenizer.fit("chunk", 8, [layout]).template(layout)
    assert all(len(set(owner[row[row >= 0]])) == 1 for row in template.gather)
    channel = np.concatenate(
        [np.arange(spec.size) // max(spec.size // max((*spec.shape, 1)[0], 1), 1) for spec in layout.tensors]
    )
    template = Tokenizer.fit("neuron", 8, [layout]).template(layout)
    assert all(len(set(channel[row[row >= 0]])) == 1 for row in template.gather)


def test_features_by_hand():
    layout = layout_of({"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2), "b.weight": torch.zeros(1, 2)})
    linear, bias = KINDS.index("linear"), KINDS.index("bias")
    assert FEATURES == ("layer", "kind", "position_in_layer", "log_size", "position_in_model")
    chunk = Tokenizer.fit("chunk", 4, [layout]).template(layout).features
    expected = [
        [0, linear, 0, np.log10(6), 0],
        [0, linear, 1 / 3, np.log10(6), 0.25],
        [0, bias, 2 / 3, np.log10(2), 0.5],
        [1, linear, 0, np.log10(2), 0.75],
    ]
    np.testing.assert_allclose(chunk, np.array(expected, np.float32))
    neuron = Tokenizer.fit("neuron", 4, [layout]).template(layout).features
    expected = [
        [0, linear, 0, np.log10(8), 0],
        [0, linear, 0.5, np.log10(8), 1 / 3],
        [1, linear, 0, np.log10(2), 2 / 3],
    ]
    np.testing.assert_allclose(neuron, np.array(expected, np.float32))


def test_a_piece_of_a_unit_has_the_kind_of_its_first_weight():
    template = Tokenizer.fit("neuron", 3, [FC]).template(FC)
    kinds = [KINDS[int(kind)] for kind in template.features[:, FEATURES.index("kind")]]
    assert kinds == ["linear", "bias", "linear", "bias"]


def test_gradients_flow_back_to_the_weights_and_to_the_tokens(granularity):
    tokenizer = Tokenizer.fit(granularity, 3, [FC])
    raw = torch.randn(2, FC.size, requires_grad=True)
    tokens = tokenizer.encode(FC, raw)
    tokenizer.decode(FC, 2 * tokens).sum().backward()
    assert raw.grad is not None
    assert torch.equal(raw.grad, torch.full_like(raw, 2.0))


def test_no_networks_give_no_tokens(layout, granularity):
    tokenizer = Tokenizer.fit(granularity, 8, [layout])
    tokens = tokenizer.encode(layout, np.zeros((0, layout.size), np.float32))
    assert tokens.shape == (0, tokenizer.count(layout), tokenizer.token_dim)
    assert tokenizer.decode(layout, tokens).shape == (0, layout.size)


def test_shapes_that_do_not_fit_are_refused(granularity):
    tokenizer = Tokenizer.fit(granularity, 4, [FC])
    with pytest.raises(DataError, match=r"do not fit the layout; expected \(8,\); got \(7,\)"):
        tokenizer.encode(FC, np.zeros((1, 7), np.float32))
    with pytest.raises(DataError, match="tokens do not fit"):
        tokenizer.decode(FC, np.zeros((1, 9, 4), np.float32))


def test_it_comes_back_from_its_file(tmp_path, granularity):
    tokenizer = Tokenizer.fit(granularity, 4, [FC])
    tokenizer.save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path / "tokenizer.json") == tokenizer


@pytest.mark.parametrize("change", [{"granularity": "word"}, {"token_dim": 0}, {"chunk_size": -1}, {"surplus": 1}])
def test_a_wrong_file_is_refused(change):
    good = {"granularity": "chunk", "chunk_size": 4, "token_dim": 4}
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        convert(good | change, Tokenizer, where="tokenizer.json")


def test_templates_are_remembered(layout, granularity):
    tokenizer = Tokenizer.fit(granularity, 8, [layout])
    assert tokenizer.template(layout) is tokenizer.template(layout)


@pytest.mark.parametrize("tile", [1, 300, 1 << 19])
@pytest.mark.parametrize("short", [0, 1 << 30])
def test_every_way_of_moving_gives_the_same_bytes(layout, granularity, tile, short, monkeypatch):
    """Tiles of any size, rows moved whole or as numbers, and the map of single weights."""
    monkeypatch.setattr("wscore.tokens.strided_copy.TILE", tile)
    monkeypatch.setattr("wscore.tokens.strided_copy.STRIP", tile // 4)
    monkeypatch.setattr("wscore.tokens.strided_copy.LONG", 7)
    monkeypatch.setattr("wscore.tokens.tokenizer.SHORT", short)
    tokenizer, raw = Tokenizer.fit(granularity, 6, [layout]), vectors(layout, 5)
    for some in (raw, raw.astype(np.float64), raw.astype(np.float16), np.asfortranarray(raw), raw[::2]):
        template = tokenizer.template(layout)
        expected = np.where(template.mask, some[:, template.gather], 0)
        out = np.full(expected.shape, np.nan, some.dtype)
        assert tokenizer.encode(layout, some, out) is out
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(tokenizer.encode(layout, some), expected)
        back = np.full(some.shape, np.nan, some.dtype)
        tokenizer.decode(layout, out, back)
        np.testing.assert_array_equal(back, some)
        np.testing.assert_array_equal(tokenizer.decode(layout, out[::-1]), some[::-1])


def test_bits_survive(granularity):
    """Negative zeros, infinities and the payloads of NaN come back as they were."""
    layout = layout_of(NETWORKS["conv_bn"]().state_dict())
    raw = np.random.default_rng(0).integers(0, 1 << 32, (9, layout.size), dtype=np.uint32).view(np.float32)
    tokenizer = Tokenizer.fit(granularity, 8, [layout])
    back = tokenizer.decode(layout, tokenizer.encode(layout, raw))
    np.testing.assert_array_equal(back.view(np.uint32), raw.view(np.uint32))
