"""Batches in memory: every item once per epoch, in an order that depends on seed and epoch alone."""

import pytest
import torch

from wscore.errors import TrainingError
from wscore.training.batches import TensorBatches, derive_seed, permutation


def test_each_item_once_in_step_and_the_short_batch_last() -> None:
    x = torch.arange(10)
    made = TensorBatches(x, 10 * x, batch_size=4, seed=3)
    epoch = list(made.epoch(1))
    assert [len(batch[0]) for batch in epoch] == [4, 4, 2]
    assert len(made) == 3
    first, second = (torch.cat(parts) for parts in zip(*epoch, strict=True))
    assert sorted(first.tolist()) == x.tolist()
    assert torch.equal(second, 10 * first)


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    x = torch.arange(50)

    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat([batch[0] for batch in TensorBatches(x, batch_size=7, seed=seed).epoch(epoch)]).tolist()

    first = order(0, 5)
    torch.manual_seed(99)
    assert order(0, 5) == first
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_without_shuffling_the_order_is_the_given_one() -> None:
    x = torch.arange(5)
    made = TensorBatches(x, batch_size=2, shuffle=False)
    assert torch.cat([batch[0] for batch in made.epoch(3)]).tolist() == x.tolist()


def test_iterating_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(TensorBatches(torch.arange(9), batch_size=2).epoch(1))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("tensors", [(torch.zeros(3), torch.zeros(4)), (torch.zeros(0),), ()])
def test_unequal_or_no_items_are_refused(tensors: tuple[torch.Tensor, ...]) -> None:
    with pytest.raises(TrainingError, match="cannot make batches"):
        TensorBatches(*tensors, batch_size=2)


def test_seeds_and_orders_do_not_drift() -> None:
    """Literals: a silent change would change every trained model."""
    assert derive_seed(0, "epoch", 1) == 4012994307
    assert permutation(8, 0, 1).tolist() == [5, 4, 2, 0, 6, 3, 1, 7]
