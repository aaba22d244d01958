import pytest
import torch

from wscore.tokens.augment import augment, token_deviation
from wscore.tokens.batch import TokenBatch


def make_batch(networks=4, tokens=50, dim=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(networks, tokens, dim, generator=generator) * torch.arange(1, tokens + 1)[:, None] + 3
    mask = torch.rand(networks, tokens, dim, generator=generator) < 0.8
    mask[:, -5:] = False
    features = torch.randn(networks, tokens, 5, generator=generator)
    return TokenBatch(torch.where(mask, values, 0.0), mask, features, torch.zeros(networks).long())


def view(batch, *, noise, dropout, seed=1):
    return augment(batch, noise=noise, dropout=dropout, generator=torch.Generator().manual_seed(seed))


def test_deviation_by_hand():
    tokens = torch.tensor([[[1.0, 3.0, 99.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    mask = torch.tensor([[[True, True, False], [True, False, False], [False, False, False]]])
    batch = TokenBatch(tokens, mask, torch.zeros(1, 3, 5), torch.zeros(1).long())
    assert token_deviation(batch).flatten().tolist() == [1, 0, 0]


def test_noise_is_relative_to_the_deviation_of_each_token():
    batch = make_batch()
    added = (view(batch, noise=0.5, dropout=0.0).tokens - batch.tokens) / token_deviation(batch).clamp(min=1e-9)
    for part in (added[:, :5], added[:, 40:45]):  # tokens of very different scale
        valid = part[batch.mask[:, :5] if part is added[:, :5] else batch.mask[:, 40:45]]
        assert valid.std() == pytest.approx(0.5, rel=0.1)
        assert valid.mean() == pytest.approx(0.0, abs=0.05)


def test_a_token_of_one_weight_gets_no_noise():
    mask = torch.zeros(1, 2, 3, dtype=torch.bool)
    mask[0, 0, 0] = True
    batch = TokenBatch(mask * 7.0, mask, torch.zeros(1, 2, 5), torch.zeros(1).long())
    assert torch.equal(view(batch, noise=1.0, dropout=0.0).tokens, batch.tokens)


def test_dropout_zeroes_its_share_and_leaves_the_rest():
    batch = make_batch()
    tokens = view(batch, noise=0.0, dropout=0.3).tokens
    dropped = tokens[batch.mask] == 0
    assert dropped.float().mean() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(tokens[batch.mask][~dropped], batch.tokens[batch.mask][~dropped])


def test_nothing_changes_without_noise_and_dropout():
    batch = make_batch()
    assert torch.equal(view(batch, noise=0.0, dropout=0.0).tokens, batch.tokens)


def test_only_valid_entries_change():
    batch = make_batch()
    spoiled = batch._replace(tokens=torch.where(batch.mask, batch.tokens, torch.nan))
    changed = view(spoiled, noise=0.5, dropout=0.2)
    assert (changed.tokens[~batch.mask] == 0).all()
    assert torch.equal(changed.tokens, view(batch, noise=0.5, dropout=0.2).tokens)
    assert torch.equal(changed.mask, batch.mask)
    assert torch.equal(changed.features, batch.features)


def test_the_generator_decides():
    batch = make_batch()
    first, again, other = (view(batch, noise=0.5, dropout=0.2, seed=seed).tokens for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_views_differ_and_global_randomness_is_left_alone():
    batch, generator = make_batch(), torch.Generator().manual_seed(0)
    state = torch.get_rng_state()
    first, second = (augment(batch, noise=0.1, dropout=0.1, generator=generator) for _ in range(2))
    assert not torch.equal(first.tokens, second.tokens)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_original_is_left_alone():
    batch = make_batch()
    before = batch.tokens.clone()
    view(batch, noise=0.5, dropout=0.5)
    assert torch.equal(batch.tokens, before)
