"""Networks of any layout come back from their tokens bit for bit, whatever their numbers."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wscore.networks.layout import KINDS, Layout, TensorSpec
from wscore.tokens.index import cut_windows
from wscore.tokens.normalizer import fit_normalizer
from wscore.tokens.tokenizer import Tokenizer

QUICK = settings(max_examples=60, deadline=None)
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
TENSORS = st.lists(st.tuples(SHAPES, st.sampled_from(KINDS), st.integers(0, 3)), min_size=1, max_size=6)
GRANULARITY = st.sampled_from(["chunk", "neuron"])
DIM = st.integers(1, 9)
SEED = st.integers(0, 10_000)


@st.composite
def layouts(draw):
    tensors = draw(TENSORS)
    return Layout(
        tensors=tuple(
            TensorSpec(name=f"t{number}", shape=shape, kind=kind, layer=layer)
            for number, (shape, kind, layer) in enumerate(tensors)
        )
    )


def any_bits(layout, seed, n=2):
    """Vectors of any 32 bits: NaNs with payloads, infinities, denormal numbers and negative zeros among them."""
    bits = np.random.default_rng(seed).integers(0, 2**32, (n, layout.size), dtype=np.uint32)
    special = np.array([0x7F800001, 0x7FC12345, 0xFF800000, 0x80000000, 0x00000001, 0x807FFFFF], np.uint32)
    bits.reshape(-1)[: special.size] = special[: bits.size]
    return bits.view(np.float32)


@QUICK
@given(layout=layouts(), granularity=GRANULARITY, dim=DIM, seed=SEED)
def test_the_round_trip_is_exact_bit_for_bit(layout, granularity, dim, seed):
    tokenizer = Tokenizer.fit(granularity, dim, [layout])
    raw = any_bits(layout, seed)
    back = tokenizer.decode(layout, tokenizer.encode(layout, raw))
    assert np.array_equal(back.view(np.uint32), raw.view(np.uint32))
    tensor = torch.from_numpy(raw)
    back = tokenizer.decode(layout, tokenizer.encode(layout, tensor))
    assert torch.equal(back.view(torch.int32), tensor.view(torch.int32))


@QUICK
@given(layout=layouts(), granularity=GRANULARITY, dim=DIM)
def test_every_weight_appears_exactly_once(layout, granularity, dim):
    tokenizer = Tokenizer.fit(granularity, dim, [layout])
    template = tokenizer.template(layout)
    assert np.array_equal(np.sort(template.gather[template.mask]), np.arange(layout.size))
    assert template.mask.sum() == layout.size
    assert template.mask.any(axis=1).all()
    assert np.isfinite(template.features).all()
    assert (template.features[:, 2:] >= 0).all()
    assert (template.features[:, [2, 4]] < 1).all()


@QUICK
@given(layout=layouts(), granularity=GRANULARITY, dim=DIM, seed=SEED)
def test_networks_do_not_know_each_other(layout, granularity, dim, seed):
    tokenizer = Tokenizer.fit(granularity, dim, [layout])
    raw = np.random.default_rng(seed).standard_normal((3, layout.size)).astype(np.float32)
    order = np.random.default_rng(seed).permutation(3)
    assert np.array_equal(tokenizer.encode(layout, raw[order]), tokenizer.encode(layout, raw)[order])
    assert np.array_equal(tokenizer.encode(layout, raw[:1]), tokenizer.encode(layout, raw)[:1])


@QUICK
@given(tokens=st.integers(1, 500), longest=st.integers(1, 500))
def test_windows_cover_all_tokens_once_and_are_of_nearly_equal_length(tokens, longest):
    windows = cut_windows(tokens, longest)
    lengths = [length for _, length in windows]
    assert [place for start, length in windows for place in range(start, start + length)] == list(range(tokens))
    assert len(windows) == -(-tokens // longest)
    assert max(lengths) <= longest
    assert max(lengths) - min(lengths) <= 1


@QUICK
@given(
    layout=layouts(),
    mode=st.sampled_from(["none", "zscore", "minmax", "layer"]),
    seed=SEED,
    scale=st.floats(1e-6, 1e6),
    shift=st.floats(-10, 10),
)
def test_normalisation_is_undone_to_float_precision(layout, mode, seed, scale, shift):
    numbers = np.random.default_rng(seed).standard_normal((5, layout.size))
    raw = ((numbers + shift) * scale).astype(np.float32)
    fitted = fit_normalizer(mode, [(layout, raw[:3])])
    normal = fitted.normalize(layout, raw)
    shifts, scales = fitted.statistics(layout)
    back = fitted.restore(layout, normal)
    limit = 4 * np.finfo(np.float32).eps * (np.abs(raw) + np.abs(shifts) + scales * np.abs(normal))
    assert np.isfinite(normal).all()
    assert (np.abs(back - raw) <= limit).all() or (mode == "none" and np.array_equal(back, raw))
    if mode == "minmax" and layout.size:
        assert np.abs(normal[:3]).max() <= 1 + 1e-5
