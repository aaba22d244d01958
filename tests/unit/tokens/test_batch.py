import torch

from wscore.tokens.batch import TokenBatch


def test_a_token_counts_if_any_entry_does():
    mask = torch.tensor([[[True, False], [False, False]]])
    batch = TokenBatch(torch.zeros(1, 2, 2), mask, torch.zeros(1, 2, 5))
    assert batch.token_mask.tolist() == [[True, False]]
    assert batch.networks == 1


def test_it_moves_as_one():
    batch = TokenBatch(torch.zeros(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool), torch.zeros(1, 2, 5))
    moved = batch.to("meta")
    assert {part.device.type for part in moved} == {"meta"}
    assert isinstance(moved, TokenBatch)
