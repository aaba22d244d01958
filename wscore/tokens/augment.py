"""Random views of tokenized networks for contrastive learning; padding stays zero."""

import torch
from jaxtyping import Float
from torch import Tensor

from wscore.tokens.batch import TokenBatch


def augment(batch: TokenBatch, *, noise: float, dropout: float, generator: torch.Generator) -> TokenBatch:
    """Return the batch with Gaussian noise added to its weights and then some of them set to zero.

    Args:
        batch: B networks; mask and features are shared with the result.
        noise: standard deviation of the noise relative to the standard deviation of each token's weights; tokens with a
            single weight get no noise.
        dropout: probability with which each weight is set to 0, the mean of normalized weights; the others are not
            rescaled.
        generator: of the draws, which are made on its device, so that a CPU generator gives the same views on any device.
    """
    tokens = batch.tokens
    if noise > 0:
        tokens = tokens + noise * token_deviation(batch) * _draw(torch.randn, tokens, generator)
    if dropout > 0:
        tokens = tokens * (_draw(torch.rand, tokens, generator) >= dropout)
    return batch._replace(tokens=torch.where(batch.mask, tokens, tokens.new_zeros(())))


def token_deviation(batch: TokenBatch) -> Float[Tensor, "batch token 1"]:
    """Return the (population) standard deviation of the weights of each token; 0 for padding tokens."""
    count = batch.mask.sum(-1, keepdim=True).clamp(min=1)
    zeros = batch.tokens.new_zeros(())
    mean = torch.where(batch.mask, batch.tokens, zeros).sum(-1, keepdim=True) / count
    return (torch.where(batch.mask, batch.tokens - mean, zeros).square().sum(-1, keepdim=True) / count).sqrt()


def _draw(sample, like: Tensor, generator: torch.Generator) -> Tensor:
    return sample(like.shape, generator=generator, device=generator.device, dtype=torch.float32).to(like)
