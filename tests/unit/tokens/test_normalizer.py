import numpy as np
import pytest
import torch

from wscore.errors import ConfigError, DataError
from wscore.networks.layout import layout_of
from wscore.tokens import normalizer as module
from wscore.tokens.normalizer import (
    FLOOR,
    Normalizer,
    NormalizerFit,
    fit_normalizer,
    merge_moments,
    pool_moments,
    tensor_moments,
)

MODES = ("none", "zscore", "minmax", "layer")
FC = layout_of({"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)})
OTHER = layout_of({"other.weight": torch.zeros(1, 3), "other.bias": torch.zeros(1)})
NORM = layout_of({"norm.weight": torch.zeros(3), "norm.bias": torch.zeros(3)})
EMPTY = layout_of({"a.weight": torch.zeros(0, 2), "b.weight": torch.zeros(2, 1), "c.weight": torch.zeros(3, 0)})


def networks(layout, n, seed=0):
    scale = np.repeat(2.0 ** np.arange(len(layout.tensors)), [spec.size for spec in layout.tensors])
    return (np.random.default_rng(seed).standard_normal((n, layout.size)) * scale + scale).astype(np.float32)


def test_statistics_by_hand():
    vectors = np.array([[0, 2, 4, 6, 10, 30]], np.float32)  # weights 0 2 4 6, biases 10 30
    layer = fit_normalizer("layer", [(FC, vectors)])
    shift, scale = layer.statistics(FC)
    assert shift.tolist() == [3, 3, 3, 3, 20, 20]
    np.testing.assert_allclose(scale, [5**0.5] * 4 + [10] * 2)
    np.testing.assert_allclose(layer.normalize(FC, vectors)[0, 4:], [-1, 1])
    zscore = fit_normalizer("zscore", [(FC, vectors)])
    np.testing.assert_allclose(zscore.statistics(FC)[0], [52 / 6] * 6, rtol=1e-6)
    np.testing.assert_allclose(zscore.statistics(FC)[1], [np.std([0, 2, 4, 6, 10, 30])] * 6, rtol=1e-6)
    minmax = fit_normalizer("minmax", [(FC, vectors)])
    np.testing.assert_allclose(
        minmax.normalize(FC, vectors)[0], [-1, -13 / 15, -11 / 15, -9 / 15, -1 / 3, 1], rtol=1e-6
    )


@pytest.mark.parametrize("mode", MODES)
def test_restore_undoes_normalize(mode):
    blocks = [(FC, networks(FC, 20)), (OTHER, networks(OTHER, 5))]
    fitted = fit_normalizer(mode, blocks)
    for layout, vectors in blocks:
        back = fitted.restore(layout, fitted.normalize(layout, vectors))
        shift, scale = fitted.statistics(layout)
        limit = 3 * np.finfo(np.float32).eps * (np.abs(shift) + np.abs(vectors) + scale)
        assert (np.abs(back - vectors) <= limit).all()


def test_none_keeps_every_bit():
    odd = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 0x00000001, 0x7F800000, 0x7F7FFFFF], np.uint32).view(np.float32)
    fitted = fit_normalizer("none", [(FC, odd[None])])
    for change in (fitted.normalize, fitted.restore):
        assert np.array_equal(change(FC, odd[None]).view(np.uint32), odd[None].view(np.uint32))
    shift, scale = fitted.statistics(FC)
    assert set(shift) == {0}
    assert set(scale) == {1}


@pytest.mark.parametrize("mode", MODES)
def test_tensors_and_arrays_agree(mode):
    vectors = networks(FC, 4)
    fitted = fit_normalizer(mode, [(FC, vectors)])
    tensor = torch.from_numpy(vectors).requires_grad_()
    normal = fitted.normalize(FC, tensor)
    assert np.array_equal(normal.detach().numpy(), fitted.normalize(FC, vectors))
    assert np.array_equal(fitted.restore(FC, normal).detach().numpy(), fitted.restore(FC, normal.detach().numpy()))
    normal.sum().backward()
    np.testing.assert_allclose(tensor.grad.numpy(), np.broadcast_to(1 / fitted.statistics(FC)[1], vectors.shape))


@pytest.mark.parametrize("mode", MODES)
def test_streaming_equals_all_at_once(mode):
    vectors = networks(FC, 50)
    at_once = fit_normalizer(mode, [(FC, vectors)])
    streamed = NormalizerFit(mode)
    for part in np.array_split(vectors, [1, 2, 17, 17, 40]):
        streamed.add(FC, part)
    for one, other in zip(at_once.statistics(FC), streamed.finish().statistics(FC), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_moments_are_those_of_the_numbers():
    vectors = networks(FC, 9) * 1e-3 + 1000  # far from zero, where a one-pass formula fails
    parts = merge_moments(tensor_moments(FC, vectors[:4]), tensor_moments(FC, vectors[4:]))
    wide = vectors.astype(np.float64)
    for place, columns in enumerate((slice(0, 4), slice(4, 6))):
        numbers = wide[:, columns]
        assert parts.n[place] == numbers.size
        np.testing.assert_allclose(parts.mean[place], numbers.mean(), rtol=1e-14)
        np.testing.assert_allclose(parts.deviation[place], numbers.var() * numbers.size, rtol=1e-9)
        assert (parts.low[place], parts.high[place]) == (numbers.min(), numbers.max())
    pooled = pool_moments(parts)
    np.testing.assert_allclose(pooled.deviation, [wide.var() * wide.size], rtol=1e-9)


def test_empty_tensors_do_not_count():
    vectors = np.array([[1, 3]], np.float32)
    moments = tensor_moments(EMPTY, vectors)
    assert moments.n.tolist() == [0, 2, 0]
    assert moments.mean.tolist() == [0, 2, 0]
    fitted = fit_normalizer("layer", [(EMPTY, vectors)])
    assert fitted.normalize(EMPTY, vectors).tolist() == [[-1, 1]]


def test_an_unknown_layout_falls_back_to_its_kinds_and_then_to_all_weights():
    fitted = fit_normalizer("layer", [(FC, networks(FC, 10)), (OTHER, networks(OTHER, 10))])
    unseen = layout_of({"x.weight": torch.zeros(1, 2), "x.bias": torch.zeros(1), "y.weight": torch.zeros(2)})
    shift, scale = fitted.statistics(unseen)
    expected = [fitted.kinds["linear"]] * 2 + [fitted.kinds["bias"]] + [fitted.overall] * 2
    np.testing.assert_allclose(shift, [part.shift for part in expected], rtol=1e-6)
    np.testing.assert_allclose(scale, [part.scale for part in expected], rtol=1e-6)
    weights = np.concatenate([networks(FC, 10)[:, :4].ravel(), networks(OTHER, 10)[:, :3].ravel()])
    np.testing.assert_allclose([shift[0], scale[0]], [weights.mean(), weights.std()], rtol=1e-5)


def test_a_constant_tensor_does_not_blow_up():
    vectors = np.concatenate([np.ones((4, 3)), np.random.default_rng(0).standard_normal((4, 3))], axis=1).astype(
        np.float32
    )
    fitted = fit_normalizer("layer", [(NORM, vectors)])
    _, scale = fitted.statistics(NORM)
    np.testing.assert_allclose(scale[:3], FLOOR * fitted.overall.scale, rtol=1e-6)
    assert scale[3] > 0.1


@pytest.mark.parametrize("mode", MODES)
def test_equal_weights_are_only_shifted(mode):
    vectors = np.full((3, FC.size), 0.25, np.float32)
    fitted = fit_normalizer(mode, [(FC, vectors)])
    assert (fitted.normalize(FC, vectors) == (0.25 if mode == "none" else 0)).all()
    assert (fitted.restore(FC, fitted.normalize(FC, vectors)) == vectors).all()


def test_without_networks_nothing_changes():
    fitted = fit_normalizer("layer", [(FC, np.zeros((0, FC.size), np.float32))])
    assert fitted.normalize(FC, networks(FC, 1)).tolist() == networks(FC, 1).tolist()


@pytest.mark.parametrize("mode", MODES)
def test_it_comes_back_from_its_file_exactly(mode, tmp_path):
    fitted = fit_normalizer(mode, [(FC, networks(FC, 7)), (NORM, networks(NORM, 7))])
    fitted.save(tmp_path / "normalizer.json")
    assert Normalizer.load(tmp_path / "normalizer.json") == fitted


def test_a_wrong_file_is_refused(tmp_path):
    path = tmp_path / "normalizer.json"
    with pytest.raises(DataError, match="no such file"):
        Normalizer.load(path)
    path.write_text('{"mode": "median", "overall": {"shift": 0, "scale": 1}, "kinds": {}, "layouts": {}}')
    with pytest.raises(ConfigError, match=r"normalizer.json\.mode"):
        Normalizer.load(path)


def test_every_mode_is_tested():
    assert set(MODES) == set(module.Normalization.__args__)
