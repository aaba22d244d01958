import numpy as np
import torch

from wscore.tokens.batch import TokenBatch, layout_key


def batch(mask: torch.Tensor) -> TokenBatch:
    return TokenBatch(torch.zeros(mask.shape), mask, torch.zeros(*mask.shape[:2], 5), torch.arange(len(mask)))


def test_a_token_counts_if_any_entry_does():
    found = batch(torch.tensor([[[True, False], [False, False]]]))
    assert found.token_mask.tolist() == [[True, False]]
    assert found.networks == 1


def test_it_moves_as_one():
    moved = batch(torch.ones(1, 2, 2, dtype=torch.bool)).to("meta")
    assert {part.device.type for part in moved} == {"meta"}
    assert isinstance(moved, TokenBatch)


def test_copies_follow_each_other():
    found = batch(torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0)) < 0.5)
    twice = found.repeat(2)
    assert twice.layouts.tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(twice.mask, torch.cat([found.mask, found.mask]))


def test_a_key_knows_mask_and_features_and_no_padding_and_no_logarithm():
    rng = np.random.default_rng(0)
    mask, features = rng.random((4, 3)) < 0.7, rng.random((4, 5)).astype(np.float32)
    mask[:, 0] = True
    key = layout_key(mask, features)
    longer = np.pad(mask, ((0, 2), (0, 0))), np.pad(features, ((0, 2), (0, 0)), constant_values=7)
    assert layout_key(*longer) == key
    other = features.copy()
    other[:, 3] += 1  # log_size
    assert layout_key(mask, other) == key
    other[2, 0] += 1
    assert layout_key(mask, other) != key
    mask[1, 1] = not mask[1, 1]
    assert layout_key(mask, features) != key
