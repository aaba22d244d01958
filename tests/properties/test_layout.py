"""Flat vectors and state dicts are the same numbers, bit for bit."""

import msgspec
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wscore.networks.architectures import FAMILIES, TRAITS, Architecture, build
from wscore.networks.layout import Layout, layout_of

shapes = st.lists(st.integers(1, 4), max_size=4).map(tuple)
names = st.text(alphabet="abc", min_size=1, max_size=3)
states = st.dictionaries(
    st.tuples(names, st.sampled_from(["weight", "bias", "running_mean", "running_var", "scale"])).map(".".join),
    shapes.flatmap(lambda shape: hnp.arrays(np.uint32, shape)),
    min_size=1,
    max_size=6,
)
architectures = st.builds(
    lambda family, widths, size: Architecture(
        family=family, input=size, classes=3, widths=widths, activation="relu",
        pooling="max" if TRAITS[family].has_conv_layers else "none",
    ),
    st.sampled_from(sorted(FAMILIES)),
    st.lists(st.integers(1, 4), min_size=1, max_size=2).map(tuple),
    st.tuples(st.integers(1, 2), st.integers(4, 7), st.integers(4, 7)),
)  # fmt: skip


@given(states)
def test_any_bits_come_back(bits):
    state = {name: torch.from_numpy(np.asarray(value).view(np.float32)) for name, value in bits.items()}
    layout = layout_of(state)
    vector = layout.flatten(state)
    back = layout.unflatten(torch.from_numpy(vector))
    assert list(back) == list(state)
    assert vector.size == layout.size == sum(value.size for value in bits.values())
    for name, value in bits.items():
        assert back[name].shape == value.shape
        assert np.array_equal(back[name].contiguous().numpy().view(np.uint32), value)


@given(architectures)
def test_every_network_comes_back_through_text_and_vector(architecture):
    network = build(architecture)
    state = network.state_dict()
    layout = layout_of(state)
    same = msgspec.json.decode(msgspec.json.encode(layout), type=Layout)
    assert same.identity == layout.identity
    back = same.unflatten(torch.from_numpy(layout.flatten(state)))
    assert set(back) == set(state)
    network.load_state_dict(back, strict=True)
    assert all(torch.equal(back[name], value) for name, value in state.items() if value.is_floating_point())


@given(architectures, st.integers(0, 3))
def test_stacked_vectors_are_cut_as_single_ones(architecture, count):
    layout = layout_of(build(architecture).state_dict())
    vectors = torch.rand(count, layout.size)
    stacked = layout.unflatten(vectors)
    for place, vector in enumerate(vectors):
        assert all(torch.equal(stacked[name][place], value) for name, value in layout.unflatten(vector).items())
    pieces = [vectors[:, where] for where in layout.slices().values()]
    assert torch.equal(torch.cat(pieces, dim=1), vectors)
