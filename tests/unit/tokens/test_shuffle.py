"""Random orders of hidden units: the same function, other weights, reproducible, nothing else touched."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wscore.errors import WscoreWarning
from wscore.networks.inference import StackedAnswer, logits
from wscore.symmetry.spec import PermutationSpec
from wscore.tokens.alignment import Alignment
from wscore.tokens.cache import TokenCache, build_cache
from wscore.tokens.config import TokensConfig
from wscore.tokens.shuffle import UnitShuffle
from wscore.zoo.store import Zoo


def cached(zoo: Path, folder: Path, **changes: object) -> TokenCache:
    options: dict = {
        "granularity": "neuron", "chunk_size": 24, "max_tokens": 512, "overflow": "window", "align": "none",
        "normalization": "layer", "validation_fraction": 0.3, "test_fraction": 0.3, "seed": 0,
    }  # fmt: skip
    build_cache(Zoo(zoo), TokensConfig(**{**options, **changes}), folder)
    return TokenCache(folder)


@pytest.mark.parametrize("granularity", ["neuron", "chunk"])
@pytest.mark.parametrize("normalization", ["none", "layer", "minmax"])
@pytest.mark.parametrize("align", ["none", "weights"])
def test_shuffled_networks_compute_the_same_with_other_weights(
    tiny_zoo: Path, tmp_path: Path, granularity: str, normalization: str, align: str
) -> None:
    cache = cached(tiny_zoo, tmp_path / "t", granularity=granularity, normalization=normalization, align=align)
    zoo, items, images = Zoo(tiny_zoo), np.arange(len(cache)), torch.rand(10, 1, 8, 8)
    batch = cache.batch(items)
    shuffled = UnitShuffle(cache)(batch, items, torch.Generator().manual_seed(1))
    before, after = (cache.to_weights(items, tokens) for tokens in (batch.tokens, shuffled.tokens))
    changed = [not np.array_equal(old, new) for old, new in zip(before, after, strict=True)]
    assert sum(changed) > 0.7 * len(changed)  # three units stay in their order once in six times
    for row, (old, new) in zip(cache.networks(items), zip(before, after, strict=True), strict=True):
        architecture, layout = str(zoo.table["architecture"].iloc[row]), zoo.layout(int(row))
        outputs = [
            logits(StackedAnswer(architecture, layout), torch.from_numpy(vector)[None], images) for vector in (old, new)
        ]
        assert torch.allclose(*outputs, atol=1e-4, rtol=1e-4)
    assert torch.equal(shuffled.mask, batch.mask)
    assert not shuffled.tokens[~batch.mask].any()


def test_the_same_generator_gives_the_same_orders_and_share_zero_none(tiny_zoo: Path, tmp_path: Path) -> None:
    cache = cached(tiny_zoo, tmp_path / "t")
    items = np.array([3, 1, 1, 8])
    batch = cache.batch(items)
    first, again, other = (UnitShuffle(cache)(batch, items, torch.Generator().manual_seed(n)) for n in (1, 1, 2))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, other.tokens)
    assert not torch.equal(first.tokens[1], first.tokens[2])
    still = UnitShuffle(cache, share=0.0)(batch, items, torch.Generator().manual_seed(1))
    assert torch.equal(still.tokens, batch.tokens)


def test_networks_in_windows_stay_as_they_are(tiny_zoo: Path, tmp_path: Path) -> None:
    cache = cached(tiny_zoo, tmp_path / "t", max_tokens=15)
    items = np.arange(len(cache))
    cut = np.array([cache.windows(item) > 1 for item in items])
    assert cut.any()
    batch = cache.batch(items)
    shuffled = UnitShuffle(cache)(batch, items, torch.Generator().manual_seed(1))
    assert torch.equal(shuffled.tokens[cut], batch.tokens[cut])


def test_it_warns_where_no_symmetry_is_known(tiny_zoo: Path, tmp_path: Path) -> None:
    cache = cached(tiny_zoo, tmp_path / "t")
    cache.alignment = Alignment({})
    with pytest.warns(WscoreWarning, match="no layout has a known symmetry"):
        UnitShuffle(cache)


def test_a_wrong_spec_would_be_noticed(tiny_zoo: Path, tmp_path: Path) -> None:
    cache = cached(tiny_zoo, tmp_path / "t")
    zoo, images = Zoo(tiny_zoo), torch.rand(10, 1, 8, 8)
    for name, spec in cache.alignment.specs.items():
        first = next(binding.tensor for binding in spec.bindings("g0"))
        cache.alignment.specs[name] = PermutationSpec(units={"g0": spec.units["g0"]}, axes={first: spec.axes[first]})
    batch = cache.batch([0])
    shuffled = UnitShuffle(cache)(batch, [0], torch.Generator().manual_seed(1))
    row = int(cache.networks([0])[0])
    vectors = [torch.from_numpy(cache.to_weights([0], tokens)[0])[None] for tokens in (batch.tokens, shuffled.tokens)]
    outputs = [
        logits(StackedAnswer(str(zoo.table["architecture"].iloc[row]), zoo.layout(row)), v, images) for v in vectors
    ]
    assert not torch.allclose(*outputs, atol=1e-2)
