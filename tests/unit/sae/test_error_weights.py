"""Rows in which tensors count as the answers of networks depend on them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wscore.networks.images import Images
from wscore.networks.layout import layout_of
from wscore.sae.error_weights import emphasised, rescaled, tensor_sensitivities
from wscore.sae.rows import Scatter, UnitRows
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.tokens.normalizer import Affine, Normalizer
from wscore.zoo.store import Zoo


@pytest.fixture(scope="module")
def zoo(tiny_zoo: Path) -> Zoo:
    return Zoo(tiny_zoo)


@pytest.fixture(scope="module")
def cache(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    config = TokensConfig(
        granularity="neuron", chunk_size=40, max_tokens=512, align="none", normalization="layer",
        unseen_widths={}, validation_fraction=0.2, test_fraction=0.2, seed=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("emphasis") / "tokens"
    build_cache(zoo, config, folder)
    return TokenCache(folder)


def test_scales_are_divided_by_powers_of_the_sensitivity() -> None:
    layout = layout_of({"a.weight": torch.ones(2, 3), "a.bias": torch.ones(2), "b.weight": torch.ones(1, 2)})
    before = Normalizer(mode="layer", overall=Affine(shift=0.0, scale=9.0), kinds={},
                        layouts={layout.identity: (Affine(shift=1.0, scale=2.0),) * 3})  # fmt: skip
    made = rescaled(before, {layout.identity: layout}, {layout.identity: (1.0, 16.0, 0.0)}, 0.5)
    middle = 8.5  # the median of those above 0; the one at 0 counts as a thousandth of it
    factors = [(1 / middle) ** 0.25, (16 / middle) ** 0.25, 1e-3**0.25]
    assert [part.scale for part in made.layouts[layout.identity]] == pytest.approx([2 / one for one in factors])
    assert {part.shift for part in made.layouts[layout.identity]} == {1.0}
    assert made.kinds["linear"].scale == pytest.approx(9 / (factors[0] * factors[2]) ** 0.5)
    shift, scale = made.statistics(layout)
    assert (shift.shape, scale[0]) == ((10,), pytest.approx(2 / factors[0]))


def test_a_tensor_that_is_disturbed_more_is_found_to_matter_more(
    zoo: Zoo, cache: TokenCache, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tensor_sensitivities(zoo, cache, digits, seed=0)
    assert set(before) == set(cache.layouts)
    assert all(value >= 0 for values in before.values() for value in values)
    known = cache.normalizer
    wider = {
        name: tuple(
            Affine(shift=part.shift, scale=part.scale * (5 if place == 0 else 1)) for place, part in enumerate(parts)
        )
        for name, parts in known.layouts.items()
    }
    monkeypatch.setattr(cache, "normalizer", Normalizer(mode="layer", overall=known.overall, kinds={}, layouts=wider))
    after = tensor_sensitivities(zoo, cache, digits, seed=0)
    for name, values in before.items():
        assert after[name][0] > 1.5 * values[0]
        assert after[name][1:] == values[1:]


def test_without_power_or_images_that_fit_nothing_changes(zoo: Zoo, cache: TokenCache, digits: Images) -> None:
    assert emphasised(zoo, cache, digits, power=0.0, seed=0) == cache.normalizer
    wide = digits._replace(x_train=torch.zeros(4, 3, 8, 8))
    assert emphasised(zoo, cache, wide, power=0.5, seed=0) == cache.normalizer


def test_emphasised_rows_come_back_as_the_networks_they_were(zoo: Zoo, cache: TokenCache, digits: Images) -> None:
    normalizer = emphasised(zoo, cache, digits, power=0.5, seed=0)
    rows, plain = (UnitRows(cache, "tokens", one) for one in (normalizer, None))
    chosen = rows.rows_of_networks(np.array([3]))
    assert not torch.allclose(rows.batch(chosen).values, plain.batch(chosen).values)
    row = int(rows.networks[3])
    layout = zoo.layout(row)
    back = Scatter(rows.maps[layout.identity], layout, normalizer)(
        rows.batch(chosen).values.numpy()[None], np.zeros(layout.size)
    )
    assert np.allclose(back[0], zoo.weights([row])[0], atol=1e-5)
